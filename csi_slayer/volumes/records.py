"""What the bucket itself knows of a volume or snapshot: one small JSON object each."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from csi_slayer.volumes.ids import Kind, ObjectId, base_digest

Nanoseconds = Annotated[int, Field(ge=0)]


class State(StrEnum):
    """``creating``: content is being copied into it. ``deleting``: content is being deleted, and
    nothing but deletion is possible."""

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"


class Lease(BaseModel):
    """``beat`` grows with each renewal, so that others see by the record's etag that the owner
    lives. No clock is compared."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    owner: str
    beat: int = 0


class Record(BaseModel):
    # A later version may add fields; an earlier one must not lose a volume over them.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    version: Literal[1] = 1
    csi_name: str
    """The name that CreateVolume or CreateSnapshot was called with."""
    created_ns: Nanoseconds = Field(default_factory=time.time_ns)
    state: State = State.READY
    lease: Lease | None = None
    """Who copies or deletes content at present; see :mod:`csi_slayer.volumes.lease`."""


class VolumeRecord(Record):
    """``prefix`` ends in a slash; it is empty for a volume with a ``bucket`` of its own."""

    bucket: str
    prefix: str
    own_bucket: bool = False
    """Whether ``bucket`` is the volume's alone and goes with it."""
    bucket_made: bool = False
    """With ``own_bucket``: whether the bucket is known to have been made (or found empty) by us."""
    claimed: bool = True
    """Whether the prefix is known to be the volume's alone; before that nothing below it is
    deleted with the volume."""
    capacity_bytes: int = 0
    """0: unlimited."""
    parameters: dict[str, str] = Field(default_factory=dict)
    """As CreateVolume was given them, without the mutable ones."""
    mutable: dict[str, str] = Field(default_factory=dict)
    """Parameters that ControllerModifyVolume may change, as they are now."""
    source: str | None = None
    """Id of the snapshot or volume that it was made from."""
    copied: bool = False
    """While it is made: whether all of the source is here."""
    labels: dict[str, str] = Field(default_factory=dict)
    """``claim``, ``namespace`` and ``pv`` where the provisioner said them."""


class SnapshotRecord(Record):
    """A copy of a volume's objects as they were between ``created_ns`` and ``finished_ns``."""

    source: str
    """Id of the volume."""
    source_created_ns: Nanoseconds = 0
    """``created_ns`` of that volume, whose name may be another's later; 0: not known."""
    size_bytes: int = 0
    objects: int = 0
    capacity_bytes: int = 0
    """The volume's capacity; 0: unlimited."""
    finished_ns: Nanoseconds = 0
    """0 until all is copied."""
    parameters: dict[str, str] = Field(default_factory=dict)


def prefix_base(prefix: str, name: str) -> str | None:
    """What comes before ``name/`` in a volume's prefix; None if it does not end like that."""
    tail = f"{name}/"
    if not prefix.endswith(tail):
        return None
    base = prefix[: -len(tail)]
    return base if not base or base.endswith("/") else None


def id_of(home: ObjectId, record: VolumeRecord) -> ObjectId:
    """The full id of a volume whose record was found under ``home`` (without a base)."""
    base = "" if record.own_bucket else prefix_base(record.prefix, home.name)
    return ObjectId(
        Kind.VOLUME, home.bucket, home.name, home.endpoint, home.region, base_digest(base or "")
    )
