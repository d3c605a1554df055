"""What a store is opened with."""

from __future__ import annotations

from dataclasses import dataclass, field

from csi_slayer.errors import ConfigError
from csi_slayer.store.observe import NoObserver, RequestObserver


@dataclass(frozen=True, slots=True, repr=False)
class CredentialOptions:
    """Where credentials come from; none of the fields set: the standard AWS chain.

    ``access_key`` and ``secret_key`` (and ``session_token``): these, nothing else is looked at.
    ``profile``: this profile of the AWS configuration files. ``role_arn``: this role is assumed,
    with the web identity token (``token``, or read from ``token_file`` each time) if given, else
    with the credentials of the other fields or of the chain. ``sts_endpoint``: URL of the service
    that does it, if not AWS's; another one may exchange a token for a role that it knows itself.
    ``ambient`` False: the chain and profiles, which are the process's own identity, are not for
    this store; one without a key pair or a token is refused.
    """

    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    token: str | None = None
    token_file: str | None = None
    sts_endpoint: str | None = None
    ambient: bool = True

    def __post_init__(self) -> None:
        if (self.access_key is None) != (self.secret_key is None):
            raise ConfigError("access key and secret key belong together: one of them is missing")
        if self.token is not None and self.token_file is not None:
            raise ConfigError("a web identity token excludes a file with one: give one of them")
        if self.has_token and self.role_arn is None and self.sts_endpoint is None:
            raise ConfigError("a web identity token needs the role_arn to assume, or the "
                              "sts_endpoint of a service that needs none")  # fmt: skip
        for name in ("access_key", "secret_key", "token"):
            if getattr(self, name) == "":
                raise ConfigError(f"{name.replace('_', ' ')}: empty")

    @property
    def has_token(self) -> bool:
        """Whether a web identity token is exchanged for credentials."""
        return self.token is not None or self.token_file is not None

    def __repr__(self) -> str:
        """Say nothing: reprs end up in logs."""
        return "CredentialOptions(...)"


@dataclass(frozen=True, slots=True)
class ObjectOptions:
    """What S3 is told of requests and of the objects that they write; None: nothing.

    ``owner``: the account that the bucket must belong to.
    """

    storage_class: str | None = None
    encryption: str | None = None
    kms_key_id: str | None = None
    requester_pays: bool = False
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to reach the objects of a volume. Times are seconds.

    ``path_style`` None: on with an endpoint of its own, off for AWS. ``request_timeout``: longest
    silence of the server within a request. ``retry_deadline``: no new attempt of an operation
    begins later than this after its first failure. ``check_deadline``: the same for ``check()``,
    short so that a mount fails soon. ``max_connections`` bounds those of small requests,
    ``transfer_threads`` those of bulk transfers. ``allow_missing``: a local directory that does
    not exist is created. ``lazy``: credentials are not asked for before the first request; a store
    whose identity is not known by then has none.

    ``proxy``: URL of the one that https services are asked through, but for those that ``no_proxy``
    lists; None: as the environment says.
    """

    endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    ca_bundle: str | None = None
    verify_tls: bool = True
    proxy: str | None = None
    no_proxy: str | None = None
    credentials: CredentialOptions = field(default_factory=CredentialOptions)
    objects: ObjectOptions = ObjectOptions()
    anonymous: bool = False
    request_timeout: float = 30.0
    connect_timeout: float = 5.0
    retry_deadline: float = 60.0
    check_deadline: float = 6.0
    max_connections: int = 32
    transfer_threads: int = 8
    allow_missing: bool = False
    lazy: bool = False
    observer: RequestObserver = field(default_factory=NoObserver)
