"""What the supervisor of a mount does at a signal."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.fuse import mount
from csi_slayer.fuse.mount import TYPE, MountEntry
from csi_slayer.node import registry
from csi_slayer.node import supervise as module
from csi_slayer.worker import channel

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Fake:
    """A supervisor of a volume that was mounted anew as another connection since it was ready."""

    def __init__(self, *_: object, **__: object) -> None:
        self.connection: int | None = 7
        self.is_unmounted = self.abandoned = False

    def run(self) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return int(self.abandoned)

    def give_up(self) -> bool:
        return False

    def abandon(self) -> None:
        self.abandoned = True


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("there", "connection", "fstype", "ours"),
    [
        (7, 7, TYPE, True),
        (7, None, TYPE, True),  # a worker mounts anew
        (8, 7, TYPE, False),  # another volume
        (7, 7, "ext4", False),
    ],
)
def test_a_signal_unmounts_what_is_this_volume(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: int,
    connection: int | None,
    fstype: str,
    ours: bool,
) -> None:
    unmounted: list[str] = []

    def unmount(mountpoint: str, *, lazy: bool) -> None:
        unmounted.append(mountpoint)

    def supervisor(*args: Any, **values: Any) -> Fake:
        made = Fake(*args, **values)
        made.connection = connection
        monkeypatch.setattr(
            mount, "find", lambda path, _: MountEntry(path, fstype, "source", there)
        )
        return made

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(module, "Supervisor", supervisor)
    monkeypatch.setattr(module, "unmount", unmount)
    monkeypatch.setattr(module.registry, "remove", lambda volume: None)
    entry = {"mountpoint": "/m", "state": str(tmp_path), "volume": "v"}
    client, other = socket.socketpair()
    with client, other:
        abandoned = module.supervise({}, entry, 2, client)
    assert (unmounted, abandoned) == ((["/m"], 0) if ours else ([], 1))


class Ready(Fake):
    """One whose volume is mounted, and then unmounted."""

    def __init__(
        self, _spec: object, _log: int, ready: Callable[[int], None], *_: object, **rest: Any
    ) -> None:
        super().__init__()
        self._ready, self._look_after = ready, rest["look_after"]
        self.between: Callable[[], object] = lambda: None

    def run(self) -> int:
        self._ready(4711)
        self.between()
        self._look_after()
        return 0


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of a volume to be mounted; the run directory is the test's."""
    (tmp_path / "run").mkdir()
    (tmp_path / "mnt").mkdir()
    monkeypatch.setattr(registry, "run_directory", lambda: tmp_path / "run")
    return {
        "volume": "v", "url": "s3://bucket", "mountpoint": str(tmp_path / "mnt"),
        "control": str(tmp_path / "run/v.sock"), "state": str(tmp_path / "state"),
        "cache": str(tmp_path),
    }  # fmt: skip


def test_a_run_directory_that_is_full_costs_no_mount(
    tmp_path: Path, entry: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command said that it had failed, and left a mount without a supervisor."""
    in_the_way = tmp_path / "run/v.tmp"
    in_the_way.mkdir()
    found: list[registry.Mounted | None] = []

    def supervisor(*args: Any, **values: Any) -> Ready:
        made = Ready(*args, **values)
        made.between = in_the_way.rmdir
        return made

    monkeypatch.setattr(module, "Supervisor", supervisor)
    remove = registry.remove
    monkeypatch.setattr(
        registry, "remove", lambda v: (found.append(registry.find(entry["mountpoint"])), remove(v))
    )
    client, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with client, other:
        assert module.supervise({}, entry, 2, client) == 0
        assert channel.receive(other) == ({"ready": 4711}, [])
    assert [each and each.supervisor for each in found] == [os.getpid()]


def test_nothing_is_mounted_over_what_another_command_mounts_there(
    entry: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Supervisor", Ready)

    def said() -> dict[str, Any]:
        client, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with client, other:
            module.supervise({}, entry, 2, client)
            received = channel.receive(other)
            assert received is not None
            return received[0]

    with module._alone_at(entry["mountpoint"]):
        assert "meanwhile" in said()["error"]
    assert said() == {"ready": 4711}
    monkeypatch.setattr(module, "is_mounted", lambda path: True)
    assert "meanwhile" in said()["error"]
