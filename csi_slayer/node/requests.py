"""What the node service is asked to do with a volume, and what it says of one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from csi_slayer.config import MountConfig
from csi_slayer.volumes.pods import Pod as Pod


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """One NodePublishVolume, understood and validated.

    ``identity``: names who reads and writes (no secret in it); volume and identity together have
    one worker. ``config``: everything the worker needs, secrets included. ``read_only``: of this
    target alone; ``config.volume.read_only`` is of the whole worker. ``flags``: options of the
    bind mount (``noexec``, ``nosuid``, ``nodev``, ``noatime``...). ``exclusive``: no other target
    of the volume may exist on this node. ``labels``: for metrics and log lines.
    """

    volume_id: str
    target: str
    identity: str
    config: MountConfig
    read_only: bool = False
    flags: tuple[str, ...] = ()
    exclusive: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    pod: Pod | None = None

    @property
    def mount_id(self) -> str:
        """16 hexadecimal digits: names the worker and its places on this machine. Stable, so that
        what was staged is found again."""
        kind = "r" if self.config.volume.read_only else "w"
        text = "\0".join((self.volume_id, self.identity, kind))
        # A pod's author may choose parts of the text: nobody may find one that gives another's id.
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Condition:
    """Whether a volume is well; ``message`` says what is wrong and what to do, or that all is."""

    abnormal: bool
    message: str


@dataclass(frozen=True, slots=True)
class VolumeStats:
    """Bytes and inodes of a published volume; None where there is no limit to show."""

    used_bytes: int
    capacity_bytes: int | None
    used_inodes: int
    condition: Condition
