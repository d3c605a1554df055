"""Volume and snapshot ids, and the names in a bucket that belong to them.

An id says where the record is, so that a stateless controller finds it: ``slayer1:BUCKET:NAME`` or
``slayer1:BUCKET:NAME:ENDPOINT`` for a volume, ``snap1:...`` for a snapshot. BUCKET is the home
bucket, the one with the record; ENDPOINT is there where the class named a service that is not the
driver's own. CSI limits an id to 128 bytes.

The layout of a home bucket, for a volume or snapshot NAME::

    PREFIX NAME/path/of/a/file             a volume's objects: the key is the path
    .slayerfs/volumes/NAME.json            its record
    .slayerfs/snapshots/NAME.json          a snapshot's record
    .slayerfs/snapshots/NAME/manifest/N    what it consists of
    .slayerfs/snapshots/NAME/data/path     its objects

A volume with a bucket of its own has its objects at that bucket's root and its record in the home
bucket. No mount shows ``.slayerfs`` at its root.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

import xxhash

from csi_slayer.errors import ConfigError

LONGEST_ID = 128
"""Bytes (CSI spec, Size Limits)."""

SYSTEM = ".slayerfs/"
"""Prefix, in a home bucket, of everything that is no volume's content."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,44}", re.ASCII)
_SLUG = re.compile(r"[^a-z0-9]+")


class Kind(StrEnum):
    """What an id names; the value is the id's first part."""

    VOLUME = "slayer1"
    SNAPSHOT = "snap1"


@dataclass(frozen=True, slots=True)
class ObjectId:
    """A volume or snapshot. ``endpoint``: URL of its S3 service, None for the driver's own."""

    kind: Kind
    bucket: str
    name: str
    endpoint: str | None = None

    def __post_init__(self) -> None:
        if not _BUCKET.fullmatch(self.bucket) or ".." in self.bucket:
            raise ConfigError("the bucket has 3 to 63 letters, digits, dots and hyphens")
        if not _NAME.fullmatch(self.name):
            raise ConfigError("the name has at most 45 lower-case letters, digits and hyphens")
        if len(str(self).encode()) > LONGEST_ID:
            raise ConfigError(
                f"endpoint and bucket make an id longer than {LONGEST_ID} bytes: name the endpoint"
                " in the driver's configuration instead of the storage class"
            )

    def __str__(self) -> str:
        text = f"{self.kind.value}:{self.bucket}:{self.name}"
        return text if self.endpoint is None else f"{text}:{self.endpoint}"

    @property
    def record_key(self) -> str:
        """Key of the record in the home bucket."""
        kind = "volumes" if self.kind is Kind.VOLUME else "snapshots"
        return f"{SYSTEM}{kind}/{self.name}.json"

    @property
    def snapshot_prefix(self) -> str:
        """Prefix of everything of a snapshot but its record."""
        return f"{SYSTEM}snapshots/{self.name}/"


def parse(text: str, kind: Kind) -> ObjectId:
    """The id in ``text``. Raises ConfigError if it is none that this driver makes."""
    parts = text.split(":", 3)
    if len(parts) < 3 or parts[0] != kind.value or parts[-1] == "":
        raise ConfigError(f"not an id of this driver: expected {kind.value}:BUCKET:NAME")
    return ObjectId(kind, *parts[1:])


def safe_name(name: str) -> str:
    """A name for keys that is stable for, and unlike that of any other, CSI ``name``."""
    if _NAME.fullmatch(name):
        return name
    slug = _SLUG.sub("-", name.lower()).strip("-")[:20].rstrip("-")
    digest = xxhash.xxh3_128_hexdigest(name.encode())[:24]
    return f"{slug}-{digest}" if slug else digest
