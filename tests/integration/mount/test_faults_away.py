"""A store that goes away: what is cached reads on, what is written stays and arrives later."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.integration.mount.test_faults import Faulty, at_once, content
from tests.support.faults import Blackhole
from tests.support.mounts import TestMount, slayer, wait_for
from tests.support.servers import S3Server

pytestmark = pytest.mark.integration

HOW = ["refused", "silent"]


@pytest.fixture
def faulty(versitygw: S3Server, tmp_path: Path) -> Iterator[Faulty]:
    made = Faulty(versitygw, tmp_path)
    yield made
    made.close()


def go(faulty: Faulty, how: str) -> None:
    """The store is away: either nobody listens, or connections are there and nobody answers."""
    if how == "refused":
        faulty.proxy.go_away()
    else:
        faulty.proxy.inject(Blackhole())


def come_back(faulty: Faulty) -> None:
    faulty.proxy.heal()
    faulty.proxy.come_back()
    faulty.proxy.drop_connections()


def is_error(call: object, *args: object) -> None:
    """The call ends, with EIO."""
    assert callable(call)
    with pytest.raises(OSError) as caught:
        call(*args)
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("how", HOW)
def test_reading(faulty: Faulty, how: str) -> None:
    """Names and attributes that are known and bytes that are cached; else EIO."""
    cached, large = content(100_000), content(3 << 20, 2)
    for name in ("cached", "other"):
        faulty.put(f"known/{name}", cached)
        faulty.put(f"known/large-{name}", large)
    faulty.put("unknown/file", cached)
    mount = faulty.mount("volume.prefetch=false")
    root = mount.root
    assert sorted(os.listdir(root / "known")) == ["cached", "large-cached", "large-other", "other"]
    assert (root / "known/cached").read_bytes() == cached
    assert (root / "known/large-cached").read_bytes() == large
    with (root / "known/cached").open("rb") as held:
        go(faulty, how)
        assert held.read() == cached
    assert (root / "known/cached").read_bytes() == cached
    assert (root / "known/large-cached").read_bytes() == large
    assert sorted(os.listdir(root / "known")) == ["cached", "large-cached", "large-other", "other"]
    assert (root / "known/other").stat().st_size == len(cached)
    with pytest.raises(FileNotFoundError):
        (root / "known/absent").stat()
    at_once(
        [
            lambda: is_error((root / "known/other").read_bytes),
            lambda: is_error((root / "known/large-other").read_bytes),
            lambda: is_error(os.listdir, root / "unknown"),
        ]
    )
    wait_for(lambda: "store is away, serving what is known" in mount.log)
    come_back(faulty)
    assert (root / "known/other").read_bytes() == cached
    assert (root / "known/large-other").read_bytes() == large
    assert os.listdir(root / "unknown") == ["file"]
    faulty.put("known/new", b"new")
    assert (root / "known/new").read_bytes() == b"new"
    wait_for(lambda: "store is back" in mount.log)


@pytest.mark.parametrize("how", HOW)
def test_writing_with_policy_close(faulty: Faulty, how: str) -> None:
    """close and fsync wait, then EIO; the bytes stay, can be read, and arrive in the end."""
    body, changed = content(200_000), content(2 << 20, 2)
    faulty.put("old", b"as it was")
    mount = faulty.mount()
    (mount.root / "old").read_bytes()
    go(faulty, how)

    def write(name: str, data: bytes) -> None:
        file = (mount.root / name).open("wb", buffering=0)
        file.write(data)
        is_error(os.fsync, file.fileno())
        is_error(file.close)
        assert (mount.root / name).read_bytes() == data

    at_once([partial(write, "new", body), partial(write, "old", changed)])
    status = mount.ask_status()
    assert status["pending_uploads"] == 2
    assert status["dirty_bytes"] >= len(body) + len(changed)
    assert {failure["key"] for failure in status["failing"]} <= {"new", "old"}
    come_back(faulty)
    mount.wait_idle()
    assert faulty.get("new") == body
    assert faulty.get("old") == changed
    assert mount.ask_status()["failing"] == []


def test_writing_with_policy_writeback(faulty: Faulty) -> None:
    """Nothing waits; all of it arrives, also what a worker that was killed had written."""
    faulty.put("d/old", b"as it was")
    faulty.put("d/gone", b"to be removed")
    faulty.put("d/here", b"to be moved")
    mount = faulty.mount("volume.durability=writeback")
    root = mount.root
    os.listdir(root / "d")
    go(faulty, "refused")
    wanted = {f"d/{number}": content(10_000 + number, number) for number in range(40)}
    for name, body in wanted.items():
        (root / name).write_bytes(body)
    (root / "d/old").write_bytes(b"changed")
    (root / "d/gone").unlink()
    (root / "d/here").rename(root / "d/there")
    (root / "sub").mkdir()
    with (root / "sub/synced").open("wb") as file:
        file.write(b"synced")
        os.fsync(file.fileno())
    mount.kill_worker()
    assert (root / "d/7").read_bytes() == wanted["d/7"]
    (root / "d/after").write_bytes(b"after")
    assert mount.ask_status()["pending_uploads"] >= 40
    wait_for(lambda: len(mount.ask_status()["failing"]) > 3)
    shown = " ".join(slayer("status", str(root)).stdout.split())
    assert "keys pending, the oldest for " in shown
    assert shown.count("failing") == 3
    assert "others: --json shows them" in shown
    assert re.search(r"nothing done (yet|for \d+ s); .*refused", shown)
    come_back(faulty)
    mount.wait_idle()
    wanted |= {
        "d/old": b"changed", "d/there": b"to be moved", "d/after": b"after",
        "sub/synced": b"synced", "sub/": b"",
    }  # fmt: skip
    assert {key: faulty.get(key) for key in faulty.listing()} == wanted


@pytest.mark.parametrize("how", HOW)
def test_directories_are_moved_and_removed_by_what_is_known_of_them(
    faulty: Faulty, how: str
) -> None:
    """Also when that is older than the TTL; what others put there meanwhile is not lost."""
    faulty.put("old/below/file", b"content")
    faulty.put("empty/file", b"to be removed")
    mount = faulty.mount("volume.durability=writeback", "volume.metadata_ttl=1s")
    root = mount.root
    (root / "made").mkdir()
    (root / "made/file").write_bytes(b"made")
    assert sorted(found for _, _, names in os.walk(root) for found in names) == ["file"] * 3
    mount.wait_idle()
    go(faulty, how)
    (root / "later").mkdir()
    (root / "later/file").write_bytes(b"later")
    time.sleep(1.5)
    (root / "old").rename(root / "new")
    (root / "made").rename(root / "moved")
    (root / "later").rename(root / "latest")
    (root / "empty/file").unlink()
    (root / "empty").rmdir()
    assert sorted(os.listdir(root)) == ["latest", "moved", "new"]
    assert (root / "new/below/file").stat().st_size == len(b"content")
    come_back(faulty)
    faulty.put("old/below/other", b"of somebody else")
    mount.wait_idle()
    wanted = {
        "new/below/file": b"content", "moved/file": b"made", "latest/file": b"later",
        "old/below/other": b"of somebody else",
    }  # fmt: skip
    there = {key for key in faulty.listing() if not key.endswith("/")}
    assert {key: faulty.get(key) for key in there} == wanted
    wait_for(lambda: "old" in os.listdir(root))
    assert (root / "old/below/other").read_bytes() == b"of somebody else"


def test_an_unmount_keeps_what_could_not_be_sent(faulty: Faulty) -> None:
    """Unmounted and mounted again: what was staged is sent by the next mount."""
    mount = faulty.mount("volume.durability=writeback")
    assert os.listdir(mount.root) == []
    go(faulty, "refused")
    (mount.root / "file").write_bytes(b"content")
    mount.umount("--force")
    assert not mount.mounted
    come_back(faulty)
    again = faulty.mount("volume.durability=writeback")
    again.wait_idle()
    assert faulty.get("file") == b"content"
    assert (again.root / "file").read_bytes() == b"content"


def test_a_restart_while_the_store_is_away(faulty: Faulty, tmp_path: Path) -> None:
    """A worker that is killed meanwhile: the next one serves what is known and cached."""
    body = content(100_000)
    faulty.put("d/file", body)
    mount: TestMount = faulty.mount()
    assert (mount.root / "d/file").read_bytes() == body
    assert os.listdir(mount.root / "d") == ["file"]
    go(faulty, "refused")
    mount.kill_worker()
    assert os.listdir(mount.root / "d") == ["file"]
    assert (mount.root / "d/file").read_bytes() == body
