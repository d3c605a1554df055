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
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            found: Any = self._session().get_credentials()
            frozen = None if found is None else found.get_frozen_credentials()
        except (BotoCoreError, ClientError, OSError) as error:
            raise AccessDenied(f"no credentials: {error}") from error
        except RuntimeError as error:  # what was just given has ended, by this machine's clock
            raise AccessDenied(f"no credentials: {error} Check this machine's clock") from error
        except (ValueError, TypeError, AttributeError) as error:  # of what a program answers
            raise AccessDenied(
                "no credentials: what gives them (credential_process, a container's service) "
                f"does not answer as the AWS tools expect: {error}"
            ) from error
        if frozen is None:
            raise AccessDenied(
                "no credentials found: give a key pair, a profile or a role, set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ask for anonymous access"
            )
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
        proxied = sts.proxy is not None and sts.proxy.setting == OPTION  # it knows the variables
        way = Config(proxies={"https": str(sts.proxy)} if proxied else None)

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
