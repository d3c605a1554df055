"""Where credentials come from: given, a role, or the standard AWS chain.

Each source is a blocking ``load`` and an ``identity``: text that stays the same while the keys of
temporary credentials come and go, and names no secret. botocore is imported only by the chain.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from csi_slayer.errors import AccessDenied
from csi_slayer.store.options import CredentialOptions
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.keys import AccessKeys
from csi_slayer.store.s3.proxy import OPTION
from csi_slayer.store.s3.sts import StsEndpoint, assume_with_keys, assume_with_token
from csi_slayer.store.s3.tokens import GivenToken, TokenFile, TokenSource, subject

# What tells apart two workloads whose credentials come from their surroundings.
_CHAIN_VARIABLES = (
    "AWS_PROFILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
)


class CredentialSource(Protocol):
    """Blocking; called in a thread. ``identity`` may be asked for after the first ``load``."""

    def load(self) -> AccessKeys: ...

    @property
    def identity(self) -> str: ...


@dataclass(frozen=True, slots=True)
class GivenKeys:
    """An explicit key pair."""

    keys: AccessKeys

    def load(self) -> AccessKeys:
        return self.keys

    @property
    def identity(self) -> str:
        return f"key:{self.keys.access_key}"


class WebIdentity:
    """A token is exchanged (Kubernetes service accounts): for this role, or for the one that the
    service knows for whom the token is about."""

    def __init__(
        self, endpoint: StsEndpoint, role: str | None, token: TokenSource, session: str
    ) -> None:
        self._endpoint = endpoint
        self._role = role
        self._token = token
        self._session = session
        self._identity = ""

    def load(self) -> AccessKeys:
        token = self._token.read()
        keys = assume_with_token(self._endpoint, self._role, token, self._session)
        # Whom the token is about counts beside the role: policies can tell them apart.
        # And so does who exchanged it: another service may take a role's name for anybody.
        self._identity = f"role:{self._role or ''}:{self._endpoint.url}:{subject(token)}"
        return keys

    @property
    def identity(self) -> str:
        return self._identity


@dataclass(frozen=True, slots=True)
class AssumedRole:
    """A role that is assumed by another identity."""

    endpoint: StsEndpoint
    role: str
    session: str
    source: CredentialSource

    def load(self) -> AccessKeys:
        return assume_with_keys(self.endpoint, self.role, self.session, self.source.load())

    @property
    def identity(self) -> str:
        # Roles of the same name at another service are others, and so may be what it was told.
        return f"role:{self.role}:{self.endpoint.url}"


def _may_pass(answer: Mapping[str, Any]) -> bool:
    """Whether a service that gives no credentials now, as botocore read its answer, may later."""
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    throttled = "Throttling" in answer.get("Error", {}).get("Code", "")
    return bool(status >= 500 or status == 429 or throttled)


class ChainCredentials:
    """botocore's chain: environment, profile, shared files, container, instance.

    Gone through anew each time: by itself botocore keeps what has not ended by this machine's
    clock, although the server may have refused it.
    """

    def __init__(self, profile: str | None, sts: StsEndpoint, sts_given: bool) -> None:
        self._profile = profile
        self._sts = sts
        self._sts_given = sts_given
        self._identity = ""

    def load(self) -> AccessKeys:
        """Raises Transient where a token service does not answer, AccessDenied otherwise."""
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectionError,
            HTTPClientError,
        )
        from botocore.parsers import ResponseParserError

        try:
            keys = self._load()
        except (ConnectionError, HTTPClientError) as error:
            raise Transient(f"no credentials: {error}") from error
        except ResponseParserError as error:  # has all of the answer in its text
            raise Transient("no credentials: what the token service answers is no XML") from error
        except ClientError as error:
            if _may_pass(error.response):
                raise Transient(f"no credentials: {error}") from error
            raise AccessDenied(f"no credentials: {error}") from error
        except (BotoCoreError, OSError) as error:
            raise AccessDenied(f"no credentials: {error}") from error
        except RuntimeError as error:  # what was just given has ended, by this machine's clock
            raise AccessDenied(f"no credentials: {error} Check this machine's clock") from error
        except (ValueError, TypeError, AttributeError, KeyError) as error:  # of what was answered
            why = f"{error} is missing" if isinstance(error, KeyError) else error
            raise AccessDenied(
                "no credentials: what gives them (credential_process, a container's service, a "
                f"token service) does not answer as the AWS tools expect: {why}"
            ) from error
        if keys is None:
            raise AccessDenied(
                "no credentials found: give a key pair, a profile or a role, set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ask for anonymous access"
            )
        return keys

    def _load(self) -> AccessKeys | None:
        found: Any = self._session().get_credentials()
        if found is None:
            return None
        frozen = found.get_frozen_credentials()
        expiry = getattr(found, "_expiry_time", None)
        keys = AccessKeys(
            access_key=frozen.access_key,
            secret_key=frozen.secret_key,
            session_token=frozen.token or None,
            expires=expiry.timestamp() if expiry is not None else None,
        )
        self._identity = self._name(str(found.method), keys)
        return keys

    def _session(self) -> Any:
        """botocore's, whose requests for a profile's role go the way that the store's own go."""
        from botocore.config import Config
        from botocore.session import Session

        sts, url = self._sts, self._sts.url if self._sts_given else None
        proxy = sts.proxy
        if proxy is not None and proxy.setting != OPTION:
            proxy = None  # it knows the variables
        way = Config(
            connect_timeout=sts.timeout,
            read_timeout=sts.timeout,
            proxies=None if proxy is None else {"https": proxy.url},
        )

        class OnOurWay(Session):  # type: ignore[misc]  # botocore has no types
            def create_client(self, service_name: str, *args: Any, **given: Any) -> Any:
                if service_name == "sts" and url is not None:
                    given["endpoint_url"] = url
                config = given.pop("config", None)
                given["config"] = way if config is None else config.merge(way)
                return super().create_client(service_name, *args, verify=sts.verify, **given)

        session = OnOurWay(profile=self._profile)
        session.set_config_variable("region", sts.region)
        return session

    def _name(self, method: str, keys: AccessKeys) -> str:
        if keys.session_token is None:
            return f"key:{keys.access_key}"
        around = [f"{name}={os.environ.get(name, '')}" for name in _CHAIN_VARIABLES]
        if self._sts_given:  # roles of the same name at another service are others
            around.append(self._sts.url)
        return "\n".join(["chain", method, self._profile or "", *around])

    @property
    def identity(self) -> str:
        return self._identity


def choose_source(
    options: CredentialOptions,
    sts: StsEndpoint,
    environment: Mapping[str, str] = os.environ,
) -> CredentialSource:
    """The source that the options and the environment ask for. Raises AccessDenied where they ask
    for the process's own identity and may not have it."""
    session = environment.get("AWS_ROLE_SESSION_NAME") or f"slayerfs-{socket.gethostname()}"[:64]
    if options.token is not None:
        return WebIdentity(sts, options.role_arn, GivenToken(options.token), session)
    if options.token_file is not None:
        return WebIdentity(sts, options.role_arn, TokenFile(options.token_file), session)
    source: CredentialSource
    token_file = environment.get("AWS_WEB_IDENTITY_TOKEN_FILE")
    role = environment.get("AWS_ROLE_ARN")
    if options.access_key is not None and options.secret_key is not None:
        source = GivenKeys(
            AccessKeys(options.access_key, options.secret_key, options.session_token)
        )
    elif not options.ambient:
        raise AccessDenied(
            "no credentials came for this volume, and those of this process's own surroundings"
            " are not for it"
        )
    elif (
        token_file
        and role
        and options.profile is None
        and not environment.get("AWS_PROFILE")
        and not environment.get("AWS_ACCESS_KEY_ID")
    ):
        source = WebIdentity(sts, role, TokenFile(token_file), session)
    else:
        source = ChainCredentials(options.profile, sts, options.sts_endpoint is not None)
    if options.role_arn is not None:
        return AssumedRole(sts, options.role_arn, session, source)
    return source
