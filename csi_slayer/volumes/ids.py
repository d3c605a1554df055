"""Volume and snapshot ids, and the names in a bucket that belong to them.

An id says where the record is, so that a stateless controller finds it:
``slayer1:BUCKET[@REGION]:NAME[~BASE][:ENDPOINT]`` for a volume, ``snap1:...`` for a snapshot.

* BUCKET is the home bucket, the one with the record.
* REGION and ENDPOINT are there where the class named others than the driver's own.
* BASE is there where the volume's prefix is not just ``NAME/``: a digest of what comes before
  NAME. So the id alone says what may be deleted with the volume; the record, which anybody who
  can write to the bucket can change, cannot say otherwise.

CSI limits an id to 128 bytes.

The layout of a home bucket, for a volume or snapshot NAME::

    BASE/NAME/path/of/a/file               a volume's objects: the key is the path
    .slayerfs/volumes/NAME.json            its record
    .slayerfs/snapshots/NAME.json          a snapshot's record
    .slayerfs/snapshots/NAME/manifest/N    what it consists of
    .slayerfs/snapshots/NAME/data/path     its objects

A volume with a bucket of its own has its objects at that bucket's root and its record in the home
bucket. No mount shows ``.slayerfs`` at its root.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

import xxhash

from csi_slayer.config.store import check_endpoint
from csi_slayer.errors import ConfigError

LONGEST_ID = 128
"""Bytes (CSI spec, Size Limits)."""

LONGEST_BASE = 256
"""Bytes of what comes before NAME in a prefix: keys have 1,024 in all."""

SYSTEM = ".slayerfs/"
"""Prefix, in a home bucket, of everything that is no volume's content."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}", re.ASCII)
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,30}", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,44}", re.ASCII)
_BASE = re.compile(r"[0-9a-f]{8}", re.ASCII)
_PLACE = re.compile(r"([^@]*)(?:@(.+))?", re.DOTALL)
_WHAT = re.compile(r"([^~]*)(?:~(.+))?", re.DOTALL)
_SLUG = re.compile(r"[^a-z0-9]+")


class Kind(StrEnum):
    """What an id names; the value is the id's first part."""

    VOLUME = "slayer1"
    SNAPSHOT = "snap1"


@dataclass(frozen=True, slots=True)
class ObjectId:
    """A volume or snapshot. ``region``, ``endpoint`` None: the driver's own.

    ``base``: digest of the prefix before NAME, None if that is empty.
    """

    kind: Kind
    bucket: str
    name: str
    endpoint: str | None = None
    region: str | None = None
    base: str | None = None

    def __post_init__(self) -> None:
        if not valid_bucket(self.bucket):
            raise ConfigError(
                "the bucket's name must have 3 to 63 letters, digits, dots and hyphens"
            )
        if not _NAME.fullmatch(self.name):
            raise ConfigError("the name must have at most 45 lower-case letters, digits, hyphens")
        if self.region is not None and not _REGION.fullmatch(self.region):
            raise ConfigError("the region must have at most 31 lower-case letters, digits, hyphens")
        if self.base is not None and not _BASE.fullmatch(self.base):
            raise ConfigError("the digest of the prefix must have 8 hexadecimal digits")
        if len(str(self).encode()) > LONGEST_ID:
            raise ConfigError(
                f"endpoint, region and bucket make an id longer than {LONGEST_ID} bytes: name the"
                " endpoint in the driver's configuration instead of the storage class"
            )

    def __str__(self) -> str:
        place = self.bucket if self.region is None else f"{self.bucket}@{self.region}"
        what = self.name if self.base is None else f"{self.name}~{self.base}"
        text = f"{self.kind.value}:{place}:{what}"
        return text if self.endpoint is None else f"{text}:{self.endpoint}"

    @property
    def record_key(self) -> str:
        """Key of the record in the home bucket."""
        return record_prefix(self.kind) + self.name + RECORD_SUFFIX

    @property
    def snapshot_prefix(self) -> str:
        """Prefix of everything of a snapshot but its record."""
        return f"{record_prefix(Kind.SNAPSHOT)}{self.name}/"

    @property
    def copying_prefix(self) -> str:
        """Prefix of what is noted of a volume while it is made as a clone of another."""
        return f"{record_prefix(Kind.VOLUME)}{self.name}/"


RECORD_SUFFIX = ".json"


def record_prefix(kind: Kind) -> str:
    """Prefix of the records of all volumes or snapshots of a home bucket."""
    return f"{SYSTEM}{'volumes' if kind is Kind.VOLUME else 'snapshots'}/"


def valid_bucket(name: str) -> bool:
    """Whether a bucket, which in a local store is a directory, may have this name."""
    return _BUCKET.fullmatch(name) is not None and ".." not in name


def valid_name(name: str) -> bool:
    """Whether a volume or snapshot may have this NAME."""
    return _NAME.fullmatch(name) is not None


def parse(text: str, kind: Kind) -> ObjectId:
    """The id in ``text``. Raises ConfigError if it is none that this driver makes."""
    parts = text.split(":", 3)
    if len(parts) < 3 or parts[0] != kind.value or parts[-1] == "":
        raise ConfigError(f"not an id of this driver: expected {kind.value}:BUCKET:NAME")
    place, what = _PLACE.fullmatch(parts[1]), _WHAT.fullmatch(parts[2])
    if place is None or what is None:
        raise ConfigError(f"not an id of this driver: expected {kind.value}:BUCKET:NAME")
    endpoint = parts[3] if len(parts) == 4 else None
    if endpoint is not None and not _is_endpoint(endpoint):
        raise ConfigError("not an id of this driver: its endpoint is no http(s) URL of a service")
    return ObjectId(kind, place[1], what[1], endpoint, place[2], what[2])


def _is_endpoint(text: str) -> bool:
    try:
        return check_endpoint(text) == text
    except ValueError:
        return False


def safe_name(name: str) -> str:
    """A name for keys that is stable for, and unlike that of any other, CSI ``name``."""
    if _NAME.fullmatch(name):
        return name
    slug = _SLUG.sub("-", name.lower()).strip("-")[:20].rstrip("-")
    digest = xxhash.xxh3_128_hexdigest(name.encode())[:24]
    return f"{slug}-{digest}" if slug else digest


def normal_prefix(text: str) -> str:
    """A prefix of keys as this driver uses it: empty, or ending in a slash.

    Raises ConfigError for one with empty, ``.`` or ``..`` parts, control characters, or too long:
    such keys exist in S3, but no path leads there.
    """
    if not text:
        return ""
    prefix = text if text.endswith("/") else f"{text}/"
    parts = prefix[:-1].split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ConfigError("prefix: expected names with single slashes between, no . and no ..")
    if not prefix.isprintable():
        raise ConfigError("prefix: control characters are not allowed")
    if len(prefix.encode()) > LONGEST_BASE:
        raise ConfigError(f"prefix: longer than {LONGEST_BASE} bytes")
    return prefix


def base_digest(base: str) -> str | None:
    """What an id says of the prefix before NAME; None for an empty one."""
    return hashlib.sha256(base.encode()).hexdigest()[:8] if base else None


def own_bucket(home: ObjectId) -> str:
    """Name of the bucket that belongs to a volume alone: derived, so that a record cannot make
    another one be deleted, and with the home bucket in its digest, so that two clusters with one
    S3 account do not meet."""
    text = "\0".join((home.endpoint or "", home.bucket, home.name))
    stem = home.name[:45].strip("-")
    return f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def ephemeral_prefix(volume_id: str) -> str:
    """Prefix, in the driver's bucket, of an inline volume that lives as long as its pod."""
    return f"{SYSTEM}ephemeral/{hashlib.sha256(volume_id.encode()).hexdigest()[:32]}/"
