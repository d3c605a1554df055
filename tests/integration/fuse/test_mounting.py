"""Beginning and end of a mount, and what is left when something fails."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.errors import FsError
from csi_slayer.fuse import mount as mounts
from csi_slayer.fuse import session as sessions
from csi_slayer.fuse.session import Session
from tests.integration.fuse.serve import serving
from tests.support.memfs import Behaviour, MemFs
from tests.support.mounts import wait_for

pytestmark = pytest.mark.integration


def test_unmounting_ends_the_server(tmp_path: Path, engine: str) -> None:
    with serving(tmp_path, Behaviour(), files={"file": b"x"}, engine=engine) as server:
        assert mounts.is_mounted(str(server.mountpoint))
        assert (server.mountpoint / "file").read_bytes() == b"x"
        assert server.unmount() == 0
        assert not mounts.is_mounted(str(server.mountpoint))
        assert list(server.mountpoint.iterdir()) == []


def test_a_busy_mount_stays_and_can_be_detached(tmp_path: Path, engine: str) -> None:
    with serving(tmp_path, Behaviour(), files={"file": b"x"}, engine=engine) as server:
        fd = os.open(server.mountpoint / "file", os.O_RDONLY)
        with pytest.raises(OSError) as caught:
            mounts.unmount(str(server.mountpoint))
        assert caught.value.errno == errno.EBUSY
        mounts.unmount(str(server.mountpoint), lazy=True)
        assert not mounts.is_mounted(str(server.mountpoint))
        assert os.read(fd, 10) == b"x"
        os.close(fd)
        assert server.process is not None
        assert server.process.wait(20) == 0


def test_an_aborted_connection_ends_the_server_and_its_clients(tmp_path: Path, engine: str) -> None:
    with serving(
        tmp_path, Behaviour(direct_io=True), files={"file": b"x"}, engine=engine
    ) as server:
        fd = os.open(server.mountpoint / "file", os.O_RDONLY)
        assert mounts.abort(server.connection)
        with pytest.raises(OSError) as caught:
            os.read(fd, 10)
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        with contextlib.suppress(OSError):  # closing is a request, too
            os.close(fd)
        assert server.process is not None
        assert server.process.wait(20) == 0


def test_a_server_that_has_ended_takes_no_other_along(tmp_path: Path, engine: str) -> None:
    """The kernel gives the number of a connection that has ended to the next one."""
    with serving(tmp_path / "first", Behaviour(), engine=engine) as first:
        mounts.unmount(str(first.mountpoint))
        assert first.process is not None
        assert first.process.wait(20) == 0
        with serving(
            tmp_path / "second", Behaviour(), files={"file": b"x"}, engine=engine
        ) as second:
            first.clean_up()
            assert (second.mountpoint / "file").read_bytes() == b"x"


def test_the_mount_point_may_be_reached_by_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with serving(tmp_path / "link", Behaviour(), files={"file": b"x"}):
        assert mounts.is_mounted(str(tmp_path / "real/mnt"))


def test_readahead_is_raised(tmp_path: Path, engine: str) -> None:
    with serving(tmp_path, Behaviour(), engine=engine) as server:
        bdi = Path(f"/sys/class/bdi/0:{server.connection}/read_ahead_kb")
        # Where libfuse answers INIT, it is set just after that.
        wait_for(lambda: bdi.read_text() == "896\n", what="the new readahead")


def fails_to_mount(mountpoint: Path, store: Path) -> BaseException:
    async def attempt() -> None:
        await Session.mount(str(mountpoint), "memfs", MemFs(store, Behaviour()))

    descriptors = set(os.listdir("/proc/self/fd"))
    with pytest.raises((OSError, FsError)) as caught:
        asyncio.run(attempt())
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert not mounts.is_mounted(str(mountpoint))
    return caught.value


def test_a_mount_point_that_is_not_there(tmp_path: Path) -> None:
    error = fails_to_mount(tmp_path / "missing", tmp_path)
    assert isinstance(error, FileNotFoundError)
    assert error.filename == str(tmp_path / "missing")


def test_a_failed_negotiation_leaves_nothing_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise FsError(errno.EPROTO, "too old")

    monkeypatch.setattr(sessions, "negotiate", refuse)
    (tmp_path / "mnt").mkdir()
    error = fails_to_mount(tmp_path / "mnt", tmp_path)
    assert isinstance(error, FsError)
    assert error.errno == errno.EPROTO
