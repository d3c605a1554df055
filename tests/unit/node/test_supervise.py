"""What the supervisor of a mount does at a signal."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.fuse import mount
from csi_slayer.fuse.mount import TYPE, MountEntry
from csi_slayer.node import supervise as module

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
        return made

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(module, "Supervisor", supervisor)
    monkeypatch.setattr(module, "unmount", unmount)
    monkeypatch.setattr(module.registry, "remove", lambda volume: None)
    monkeypatch.setattr(mount, "find", lambda path, _: MountEntry(path, fstype, "source", there))
    entry = {"mountpoint": "/m", "state": str(tmp_path), "volume": "v"}
    client, other = socket.socketpair()
    with client, other:
        abandoned = module.supervise({}, entry, 2, client)
    assert (unmounted, abandoned) == ((["/m"], 0) if ours else ([], 1))
