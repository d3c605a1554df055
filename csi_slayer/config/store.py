"""Where a volume's objects are and how to reach them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    SecretStr,
    SerializationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from csi_slayer.config.base import Section
from csi_slayer.config.plain import check_key, check_plain, check_region, check_text
from csi_slayer.config.units import Duration, HerePath

# Key of the serialisation context under which secrets are written out instead of masked.
REVEAL_SECRETS: Final = "reveal_secrets"

# Wider than S3's rules: other servers allow more, but none a character that ends a host name.
_BUCKET = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_ACCOUNT = re.compile(r"[0-9]{12}")
_CLASS = re.compile(r"[A-Z][A-Z0-9_]*")
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})


def check_endpoint(value: str) -> str:
    """The URL of a service without a slash at its end. Raises ValueError if it is none."""
    parts = urlsplit(check_url(value))
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("expected just scheme, host and port")
    return value.rstrip("/")


def check_url(value: str) -> str:
    """Any http(s) URL. Raises ValueError if it is none."""
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises if it is not a number in range
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("expected an http:// or https:// URL with a host name")
    return check_plain(value)


class Connection(Section):
    """The way to an S3 service and the identity there."""

    endpoint: str | None = Field(
        default=None,
        description="http(s) URL of the S3 service; none: from the environment"
        " (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL) or, without a key pair, the profile, else AWS, by"
        " region",
    )
    region: str | None = Field(
        default=None, description="S3 region; none: from the profile or environment, us-east-1"
    )
    path_style: bool | None = Field(
        default=None,
        description="bucket in the path instead of the host name; none: on with an own endpoint",
    )
    ca_bundle: HerePath | None = Field(
        default=None,
        description="PEM file with the authorities to trust; none: from the environment"
        " (AWS_CA_BUNDLE) or, without a key pair, the profile, else the system's",
    )
    verify_tls: bool = Field(default=True, description="check the server's certificate")
    proxy: str | None = Field(
        default=None,
        description="http://host:port of the proxy that https services are asked through; none:"
        " as HTTPS_PROXY says",
    )
    no_proxy: str | None = Field(
        default=None,
        description="names (with all below them), addresses and networks that are asked without"
        " the proxy, separated by commas; none: as NO_PROXY says",
    )
    profile: str | None = Field(
        default=None, description="profile of the AWS configuration files to take credentials from"
    )
    access_key_id: str | None = Field(default=None, description="explicit access key id")
    secret_access_key: SecretStr | None = Field(
        default=None, description="secret of the explicit access key"
    )
    session_token: SecretStr | None = Field(
        default=None, description="session token of the explicit access key"
    )
    role_arn: str | None = Field(
        default=None,
        description="role to assume, with the web identity token if one is given; a service"
        " other than AWS's may know the role for a token",
    )
    web_identity_token_file: HerePath | None = Field(
        default=None, description="file with the token that is exchanged for the role"
    )
    web_identity_token: SecretStr | None = Field(
        default=None,
        description="the token itself; whoever gives it brings a new one before it ends",
    )
    sts_endpoint: str | None = Field(
        default=None,
        description="http(s) URL of the service that exchanges tokens and roles; none: AWS's",
    )
    anonymous: bool = Field(default=False, description="send unsigned requests (public buckets)")
    storage_class: str | None = Field(
        default=None,
        description="class of the objects that are written, such as INTELLIGENT_TIERING; none: the"
        " bucket's default, and of what is renamed or changed in its attributes the one it has",
    )
    encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(
        default=None,
        description="server-side encryption of the objects that are written; none: the bucket's"
        " default",
    )
    kms_key_id: str | None = Field(
        default=None, description="key of encryption by aws:kms; none: the account's own for S3"
    )
    requester_pays: bool = Field(
        default=False, description="pay for the requests to a bucket whose owner does not"
    )
    bucket_owner: str | None = Field(
        default=None,
        description="number of the account that the bucket must belong to; none: whoever's it is",
    )
    request_timeout: Duration = Field(
        default=30.0, gt=0, description="longest silence of the server within one request"
    )
    connect_timeout: Duration = Field(
        default=5.0, gt=0, description="longest time to establish a connection"
    )
    retry_deadline: Duration = Field(
        default=60.0, description="how long one operation is retried before it fails"
    )
    transfer_threads: int = Field(
        default=4,
        ge=1,
        le=64,
        description="threads that move bulk data from S3 into files, and as many from files to S3",
    )
    max_connections: int = Field(
        default=64, ge=1, le=1024, description="most connections to the store at a time"
    )

    @field_validator("endpoint", "sts_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        return None if value is None else check_endpoint(value)

    @field_validator("storage_class")
    @classmethod
    def _check_storage_class(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not _CLASS.fullmatch(value):
            raise ValueError("expected a name such as STANDARD_IA")
        if value in _ARCHIVES:
            raise ValueError("objects of that class cannot be read before they are restored")
        return value

    @field_validator("bucket_owner")
    @classmethod
    def _check_owner(cls, value: str | None) -> str | None:
        if value is not None and not _ACCOUNT.fullmatch(value):
            raise ValueError("expected the twelve digits of an AWS account")
        return value

    @field_validator("proxy")
    @classmethod
    def _check_proxy(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(check_endpoint(value))
        if parts.scheme != "http":
            raise ValueError("expected an http:// URL: the proxy is spoken to without TLS")
        return value

    @field_validator("no_proxy")
    @classmethod
    def _check_no_proxy(cls, value: str | None) -> str | None:
        return None if value is None else check_text(value)

    @field_validator("region")
    @classmethod
    def _check_region(cls, value: str | None) -> str | None:
        return None if value is None else check_region(value)

    @field_validator("access_key_id", "kms_key_id")
    @classmethod
    def _check_key_id(cls, value: str | None) -> str | None:
        return None if value is None else check_plain(value)

    @field_validator("secret_access_key")
    @classmethod
    def _check_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_key(value.get_secret_value())
        return value

    @field_validator("session_token", "web_identity_token")
    @classmethod
    def _check_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_plain(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _check_encryption(self) -> Self:
        if self.kms_key_id is not None and self.encryption in (None, "AES256"):
            raise ValueError("kms_key_id needs encryption: aws:kms")
        return self

    @model_validator(mode="after")
    def _check_identity(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key belong together")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token needs access_key_id and secret_access_key")
        tokens = (self.web_identity_token, self.web_identity_token_file)
        if tokens != (None, None) and self.role_arn is None and self.sts_endpoint is None:
            raise ValueError(
                "a web identity token needs role_arn, or the sts_endpoint of a service that knows"
                " the token's role"
            )
        if None not in tokens:
            raise ValueError("web_identity_token excludes web_identity_token_file")
        explicit = (self.access_key_id, self.profile, self.role_arn, *tokens)
        if self.anonymous and any(value is not None for value in explicit):
            raise ValueError("anonymous excludes access_key_id, profile, role_arn and tokens")
        return self

    @field_serializer("secret_access_key", "session_token", "web_identity_token", when_used="json")
    def _serialize_secret(self, value: SecretStr | None, info: SerializationInfo) -> str | None:
        if value is None:
            return None
        reveal = info.context is not None and info.context.get(REVEAL_SECRETS) is True
        return value.get_secret_value() if reveal else str(value)


class StoreConfig(Connection):
    """The bucket (or local directory), the way there and the identity."""

    url: str = Field(description="s3://bucket[/prefix], or file:///directory for a local store")
    ambient: bool = Field(
        default=True,
        description="where no key pair or token is given: take credentials from the surroundings"
        " (environment, AWS configuration files, container, instance); false: refuse to mount",
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        check_text(value)
        scheme, separator, rest = value.partition("://")
        if not separator or scheme not in ("s3", "file"):
            raise ValueError("expected s3://bucket/prefix or file:///directory")
        if scheme == "file":
            if not rest.startswith("/"):
                raise ValueError("expected an absolute directory: file:///directory")
            return value
        bucket, _, prefix = rest.partition("/")
        if "@" in bucket:
            raise ValueError("credentials do not belong in the URL: use access_key_id and profile")
        if not bucket:
            raise ValueError("the bucket is missing: expected s3://bucket/prefix")
        if not _BUCKET.fullmatch(bucket):
            raise ValueError("a bucket's name has letters, digits, dots, hyphens and underscores")
        # Servers that keep objects as files store these under another key than the one we list.
        if prefix and any(part in ("", ".", "..") for part in prefix.removesuffix("/").split("/")):
            raise ValueError(
                "the prefix: expected names with single slashes between, no . and no .."
            )
        return value

    @property
    def scheme(self) -> str:
        """``s3`` or ``file``."""
        return self.url.partition("://")[0]

    @property
    def bucket(self) -> str:
        """Name of the bucket; empty for a local store."""
        rest = self.url.partition("://")[2]
        return rest.partition("/")[0] if self.scheme == "s3" else ""

    @property
    def prefix(self) -> str:
        """Key prefix of the volume, ending in a slash, or empty for the whole bucket."""
        if self.scheme != "s3":
            return ""
        prefix = self.url.partition("://")[2].partition("/")[2]
        return prefix if not prefix or prefix.endswith("/") else prefix + "/"

    @property
    def directory(self) -> Path:
        """Directory of a local store."""
        return Path(self.url.partition("://")[2])
