"""What is known of a published volume beyond the life of any process, without a secret.

One small file per volume in ``<run_directory>/volumes``, and the same in the keeper beside the
descriptors: what a new node service finds its predecessor's mounts and workers by.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from csi_slayer.cache.layout import staging_of
from csi_slayer.config import MountConfig
from csi_slayer.config.driver import DriverConfig
from csi_slayer.node.requests import Pod
from csi_slayer.observability import get_logger

log = get_logger(__name__)

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Target:
    """One place where a volume is bound. ``options`` are keys of BIND_FLAGS, sorted.
    ``exclusive``: no other may be beside it; None if it was published by an earlier version, which
    did not write that down."""

    options: tuple[str, ...] = ()
    pod: Pod | None = None
    exclusive: bool | None = False


@dataclass(frozen=True, slots=True)
class WorkerMark:
    """A process, and when it started in clock ticks since boot: both together are unique."""

    pid: int
    started: int


@dataclass(slots=True)
class Record:
    """``mount_id`` names it. ``config`` is the volume's configuration without its secrets.
    ``boot``: the boot during which it was written. ``connection``: of the kernel's FUSE.
    ``changes``: grows with each one that is saved, so that the newer of two is known."""

    mount_id: str
    volume_id: str
    identity: str
    config: dict[str, Any]
    labels: dict[str, str] = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)
    worker: WorkerMark | None = None
    connection: int | None = None
    boot: str = field(default_factory=lambda: boot_id())
    changes: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Record:
        """Raises TypeError, KeyError, ValueError for what :meth:`to_json` did not write. What a
        later version may have added is left out: going back to this one must not cost a mount."""
        record = Record(**_known(Record, data))
        if Path(record.mount_id).name != record.mount_id or not isinstance(record.config, dict):
            raise ValueError("malformed record")
        record.changes = int(record.changes)
        record.targets = {
            path: Target(tuple(target["options"]), _pod(target["pod"]), target.get("exclusive"))
            for path, target in data["targets"].items()
        }
        worker = data["worker"]
        record.worker = None if worker is None else WorkerMark(**_known(WorkerMark, worker))
        return record

    def copy(self) -> Record:
        return replace(self, targets=dict(self.targets), labels=dict(self.labels))


def public(config: MountConfig) -> dict[str, Any]:
    """A configuration without its credentials."""
    secrets = {"access_key_id", "secret_access_key", "session_token", "web_identity_token"}
    return config.model_dump(mode="json", exclude={"store": secrets})


def _pod(data: dict[str, Any] | None) -> Pod | None:
    return None if data is None else Pod(**_known(Pod, data))


def _known(model: type[Record | WorkerMark | Pod], data: dict[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(model)}
    return {name: value for name, value in data.items() if name in names}


def boot_id() -> str:
    """Another one after each start of the machine."""
    return _BOOT.read_text().strip()


def mark(pid: int) -> WorkerMark | None:
    """What a process is recognised by later; None if there is none, or it has ended and only
    nobody has waited for it."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name may contain anything; the fields after it do not (proc_pid_stat(5): starttime is 22).
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else WorkerMark(pid, int(fields[19]))


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are on this machine."""

    run: Path
    cache: Path

    @staticmethod
    def of(config: DriverConfig) -> Places:
        # mountinfo has no symlinks in it, so neither may what is compared with it.
        return Places(Path(os.path.realpath(config.node.run_directory)), config.cache.directory)

    def make(self) -> None:
        for path in (self.run, self.mounts, self.sockets, self.records):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def mounts(self) -> Path:
        return self.run / "mounts"

    @property
    def sockets(self) -> Path:
        return self.run / "run"

    @property
    def records(self) -> Path:
        return self.run / "volumes"

    def mountpoint(self, mount_id: str) -> str:
        """Where a worker mounts; nobody but the node service looks there."""
        return str(self.mounts / mount_id)

    def control(self, mount_id: str) -> str:
        return str(self.sockets / f"{mount_id}.sock")

    def state(self, mount_id: str) -> Path:
        """Directory of the volume's catalog."""
        return self.cache / "volumes" / mount_id

    def staging(self, mount_id: str) -> Path:
        return staging_of(self.cache, mount_id)

    def write(self, record: Record) -> None:
        """Replace a record, atomically and durably: after a power loss it says whose the staged
        uploads are. If that cannot be (a full disk) the earlier one stays: the keeper knows the
        newer one, and nobody is kept from a volume for it."""
        path = self.records / f"{record.mount_id}.json"
        temporary = path.with_suffix(".tmp")
        try:
            self.records.mkdir(mode=0o700, parents=True, exist_ok=True)
            with temporary.open("w") as file:
                file.write(json.dumps(record.to_json()))
                file.flush()
                os.fsync(file.fileno())  # else a power loss may leave the name alone
            temporary.rename(path)
        except OSError as error:
            log.error("record_not_written", volume=record.mount_id, reason=error.strerror)
            with contextlib.suppress(OSError):
                temporary.unlink()

    def forget(self, mount_id: str) -> None:
        (self.records / f"{mount_id}.json").unlink(missing_ok=True)

    def read(self) -> Iterator[Record]:
        """All records that can be read; a damaged one is logged, and removed, one that cannot be
        read now stays."""
        for path in sorted(self.records.glob("*.json")):
            try:
                yield Record.from_json(json.loads(path.read_text()))
            except OSError as error:
                log.error("record_not_read", path=str(path), reason=error.strerror)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                log.error("record_damaged", path=str(path), error=type(error).__name__)
                path.unlink(missing_ok=True)
