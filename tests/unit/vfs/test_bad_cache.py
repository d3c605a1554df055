"""A disk of the cache that fails: what the store has can be read all the same."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from csi_slayer.cache import BLOCK
from csi_slayer.catalog import ROOT
from tests.unit.cache.helpers import reboot
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob

SIZES = {"small": 5000, "large": 3 << 20}
LINE = "the cache fails, data is handed on without being kept"

Failing = Callable[..., Any]


@pytest.fixture(params=SIZES)
def content(request: pytest.FixtureRequest) -> bytes:
    return random.Random(1).randbytes(SIZES[request.param])


@pytest.fixture
def volume(tmp_path: Path, content: bytes) -> Iterator[Volume]:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    volume.bucket.objects["f"] = Blob(content, '"one"', 10**18, {})
    yield volume
    volume.stop()


def read(volume: Volume, size: int) -> bytes:
    """The beginning of the file, by a program that opens and closes it."""
    ino = volume.run(volume.fs.lookup(volume.request(), ROOT, b"f")).attr.ino
    opened = volume.run(volume.fs.open(volume.request(), ino, os.O_RDONLY))
    data = volume.read(ino, opened, 0, size)
    volume.run(volume.fs.release(volume.request(), ino, opened.fh))
    volume.turn(3)
    return data


def cached(volume: Volume, size: int) -> None:
    """Read it, and have the cache as a later worker finds it."""
    read(volume, size)
    volume.run(volume.fs.content.smalls.close())
    volume.cache.shared.parts.clear()
    assert not volume.cache.shared.opened


def failing(real: Failing, number: int, where: Callable[..., bool]) -> Failing:
    def call(*args: Any, **kwargs: Any) -> Any:
        if where(*args):
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    return call


def in_segments(file: Any, *_rest: object) -> bool:
    path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else str(file)
    return "/segments/" in path


def creates(path: Any, flags: int, *_rest: object) -> bool:
    return in_segments(path) and bool(flags & os.O_CREAT)


@pytest.mark.parametrize(
    ("call", "number", "where"),
    [
        ("pwrite", errno.EIO, in_segments),
        ("open", errno.EROFS, creates),
        ("setxattr", errno.EIO, in_segments),
    ],
    ids=["write", "create", "header"],
)
def test_what_it_cannot_keep_is_handed_on(
    volume: Volume, content: bytes, monkeypatch: pytest.MonkeyPatch,
    call: str, number: int, where: Callable[..., bool],
) -> None:  # fmt: skip
    size = min(len(content), BLOCK)
    monkeypatch.setattr(os, call, failing(getattr(os, call), number, where))
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            assert read(volume, size) == content[:size]
    assert volume.cache.events.bypassed.value >= 3
    assert [line["event"] for line in lines].count(LINE) == 1, "not for each read"
    assert volume.cache.usage().used == 0


@pytest.mark.parametrize("call", ["open", "fstat"])
def test_what_it_cannot_open_is_read_past_it(
    volume: Volume, content: bytes, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    size = min(len(content), BLOCK)
    cached(volume, size)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(getattr(os, call), errno.EROFS, in_segments))
        assert read(volume, size) == content[:size]
    before = volume.cache.events.bypassed.value
    assert before
    assert read(volume, size) == content[:size]
    assert volume.cache.events.bypassed.value == before


@pytest.mark.parametrize("call", ["preadv", "getxattr"])
def test_what_it_has_lost_is_fetched_again(
    volume: Volume, content: bytes, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Noticed when it is verified after a boot."""
    size = min(len(content), BLOCK)
    cached(volume, size)
    reboot(volume.cache)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(getattr(os, call), errno.EIO, in_segments))
        assert read(volume, size) == content[:size]
    events = volume.cache.events
    assert events.corrupt_blocks.value + events.corrupt_segments.value == 1
    assert events.bypassed.value == 0
    assert read(volume, size) == content[:size]


def test_a_segment_that_cannot_be_verified_is_read_past_the_cache(
    volume: Volume, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = min(len(content), BLOCK)
    cached(volume, size)
    reboot(volume.cache)
    monkeypatch.setattr(os, "preadv", failing(os.preadv, errno.EPERM, in_segments))
    assert read(volume, size) == content[:size]
    assert volume.cache.events.bypassed.value
    assert not volume.cache.shared.opened
