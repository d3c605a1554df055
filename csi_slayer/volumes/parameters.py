"""What a StorageClass, a PersistentVolume's attributes, an inline volume or mount options may say.

One set of parameters for all of them, in camelCase as Kubernetes has it; values are texts. Where a
volume does not give one, the driver's configuration does (section ``volumes``), then the default.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from csi_slayer.config import Durability
from csi_slayer.config.plain import check_plain, check_region
from csi_slayer.config.store import check_endpoint
from csi_slayer.config.units import Duration, Mode, Size
from csi_slayer.errors import ConfigError
from csi_slayer.volumes.ids import normal_prefix, valid_bucket


def _boolean(value: object) -> object:
    if value in ("true", "false", True, False):
        return value in ("true", True)
    raise ValueError("expected true or false")


def _bucket(value: str) -> str:
    if not valid_bucket(value):
        raise ValueError("expected 3 to 63 letters, digits, dots and hyphens")
    return value


def _prefix(value: str) -> str:
    try:
        return normal_prefix(value)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("prefix: ")) from None


Boolean = Annotated[bool, BeforeValidator(_boolean)]
Bucket = Annotated[str, AfterValidator(_bucket)]
Prefix = Annotated[str, AfterValidator(_prefix)]
Endpoint = Annotated[str, AfterValidator(check_endpoint)]
Region = Annotated[str, AfterValidator(check_region)]
Role = Annotated[str, AfterValidator(check_plain)]


class Provisioning(StrEnum):
    """What a new volume is: a prefix in the shared ``bucket``, or a bucket of its own."""

    PREFIX = "prefix"
    BUCKET = "bucket"


class Authentication(StrEnum):
    """Whose identity the volume is read and written with."""

    AUTO = "auto"
    DRIVER = "driver"
    SECRET = "secret"
    POD = "pod"


def _field(default: Any, description: str, *, mutable: bool = False, **rest: Any) -> Any:
    return Field(
        default=default, description=description, json_schema_extra={"mutable": mutable}, **rest
    )


class VolumeParameters(BaseModel):
    """None: not said. ``mutable`` ones can be changed by a VolumeAttributesClass."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        alias_generator=to_camel,
        populate_by_name=False,
    )

    bucket: Bucket | None = _field(None, "bucket of the volume, or that new volumes are put into")
    prefix: Prefix | None = _field(
        None,
        "of an existing volume: prefix of its keys; of new ones: what their prefixes begin with",
    )
    provisioning: Provisioning | None = _field(
        None, "new volumes: prefix in the bucket (default), or a bucket of its own"
    )
    endpoint: Endpoint | None = _field(None, "http(s) URL of the S3 service")
    region: Region | None = _field(None, "S3 region")
    path_style: Boolean | None = _field(None, "bucket in the path instead of the host name")
    authentication: Authentication | None = _field(
        None,
        "whose identity: secret (of the volume), pod (its service account's token), driver;"
        " auto (default): secret where one is given, else pod where roleArn is, else driver",
    )
    role_arn: Role | None = _field(None, "role that the identity assumes")
    sts_endpoint: Endpoint | None = _field(
        None, "http(s) URL of the service that exchanges tokens; default: the endpoint, or AWS's"
    )
    audience: str | None = _field(
        None, "audience of the service account token to use, where the driver requests several"
    )
    read_only: Boolean | None = _field(
        None, "refuse every change; the kernel serves warm files alone"
    )
    enforce_capacity: Boolean | None = _field(
        None, "refuse writes beyond the claim's capacity (default), or let it be a mere number"
    )
    attributes: Literal["native", "posix"] | None = _field(
        None, "posix: mode, owner and times of each file are kept in its object's metadata"
    )
    uid: Annotated[int, Field(ge=0, le=0xFFFFFFFE)] | None = _field(
        None, "owner of objects that do not say"
    )
    gid: Annotated[int, Field(ge=0, le=0xFFFFFFFE)] | None = _field(
        None, "group of objects that do not say"
    )
    file_mode: Mode | None = _field(None, "permissions of files that do not say, in octal")
    dir_mode: Mode | None = _field(None, "permissions of directories that do not say, in octal")
    zero_upcall: Boolean | None = _field(
        None, "read-only volumes: open files without asking the worker; false: passthrough"
    )
    part_size: Annotated[Size, Field(ge=5 * 2**20, le=5 * 2**30)] | None = _field(
        None, "size of the parts of a multipart upload"
    )
    hydrate_max: Size | None = _field(
        None, "largest existing object that is fetched whole when opened for writing"
    )
    durability: Durability | None = _field(
        None, "when written data is in S3: close, fsync or writeback", mutable=True
    )
    metadata_ttl: Duration | None = _field(
        None, "how long names and attributes are trusted", mutable=True
    )
    negative_ttl: Duration | None = _field(
        None, "how long an absent name is trusted to be absent", mutable=True
    )
    close_to_open: Boolean | None = _field(
        None, "ask S3 for a file's version at each open", mutable=True
    )
    prefetch: Boolean | None = _field(
        None,
        "fetch ahead of sequential readers and directory scans; off: only what is asked for, in"
        " whole blocks, and small files whole",
        mutable=True,
    )
    open_wait: Duration | None = _field(
        None,
        "how long an open waits for all of a file, so that the kernel reads it by itself; none:"
        " only for large ones that come soon",
        mutable=True,
    )
    io_timeout: Annotated[Duration, Field(gt=0)] | None = _field(
        None, "how long an uncached read or a close waits for an unreachable S3 before EIO"
    )
