"""Fetching a tree ahead: what is counted, what fails, and what is left when nobody waits."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.errors import FsError, StoreUnavailable
from csi_slayer.worker.warm import Warmer
from tests.unit.vfs.calls import Gate
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob

BODIES = {"d/f": bytes(1000), "g": bytes(3 << 20), "empty": b""}


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    for name, body in BODIES.items():
        volume.bucket.objects[name] = Blob(body, f'"{name}"', 10**18, {})
    yield volume
    volume.stop()


async def warmed(volume: Volume, path: str) -> dict[str, Any]:
    """The last report."""
    reports = [report async for report in Warmer(volume.fs).run(path)]
    return reports[-1]


def test_a_file_that_cannot_be_fetched_is_counted_and_the_others_are(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = volume.store.get

    async def broken(key: str, **how: Any) -> Any:
        if key == "d/f":
            raise StoreUnavailable("no answer")
        return await get(key, **how)

    with monkeypatch.context() as patch:
        patch.setattr(volume.store, "get", broken)
        report = volume.run(warmed(volume, ""))
    assert (report["files"], report["failed"], report["bytes"]) == (2, 1, 3 << 20)
    assert (report["total_files"], report["listed"]) == (2, True)
    report = volume.run(warmed(volume, "/d/"))
    assert (report["files"], report["failed"], report["bytes"]) == (1, 0, 1000)


@pytest.mark.parametrize(
    ("path", "number"), [("nothing", errno.ENOENT), ("g/x", errno.ENOTDIR), ("..", errno.ENOENT)]
)
def test_a_path_that_is_not_there(volume: Volume, path: str, number: int) -> None:
    with pytest.raises(FsError) as failed:
        volume.run(warmed(volume, path))
    assert failed.value.errno == number


def test_nothing_goes_on_when_nobody_waits_any_more(volume: Volume) -> None:
    async def run() -> None:
        before = asyncio.all_tasks()
        gate = Gate(volume, "get")
        async with contextlib.aclosing(Warmer(volume.fs).run("")) as reports:
            async for _report in reports:
                if gate.reached.is_set():
                    break
        gate.open.set()
        gate.remove()
        await asyncio.sleep(10)
        assert asyncio.all_tasks() == before
        assert len(volume.fs.opened) == 0

    volume.run(run())
