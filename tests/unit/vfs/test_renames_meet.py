"""Two nodes rename over one name at the same moment: nothing vanishes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import PreconditionFailed
from csi_slayer.store.local.open import open_local
from csi_slayer.store.options import StoreOptions
from tests.unit.vfs import calls
from tests.unit.vfs.harness import Volume

ONE, OTHER = b"of the one node", b"of the other"


class _Inline(Executor):
    """Work that is done when it is asked for: a run is a function of its seed alone."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **values: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*args, **values))
        except Exception as error:
            done.set_exception(error)
        return done


class _OverDirectory(Volume):
    """Its objects are files of a directory beside its own."""

    def open_store(self) -> Any:
        url = f"file://{self.root.parent}/objects"
        store = self.loop.run_until_complete(open_local(url, StoreOptions(allow_missing=True)))
        for crew in store._threads._crews.sending, store._threads._crews.others:
            crew.executor.shutdown()
            crew.executor = _Inline()  # type: ignore[assignment]
        return store


def _nodes(root: Path, kind: str) -> tuple[Volume, Volume]:
    node = Volume if kind == "memory" else _OverDirectory
    for name in ("one", "other"):
        (root / name).mkdir(parents=True)
    one = node(root / "one", passthrough=False, ttl=3600)
    other = node(root / "other", passthrough=False, ttl=3600)
    if kind == "memory":
        other.bucket = other.store.bucket = one.bucket
        one.store.turns = other.store.turns = 5  # time to meet
    return one, other


def _put(volume: Volume, name: bytes, data: bytes) -> None:
    volume.run(calls.create(volume, name, data))
    assert volume.run(volume.fs.drain(2.0)) == 0


def _contents(root: Path, volume: Volume, kind: str) -> list[bytes]:
    if kind == "memory":
        return list(volume.objects().values())
    files = [path for path in (root / "objects").rglob("*") if path.is_file()]
    return [path.read_bytes() for path in files]


async def _rename(volume: Volume, name: bytes, target: bytes) -> None:
    await volume.fs.rename(volume.request(), ROOT, name, ROOT, target, 0)


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("kind", ["memory", "directory"])
def test_two_nodes_rename_over_one_name(tmp_path: Path, kind: str, over: bool) -> None:
    """What each knows of the name is older than both renames."""
    one, other = nodes = _nodes(tmp_path, kind)
    targets = [b"t%d" % number for number in range(100)]
    if over:
        for target in targets:
            _put(one, target, b"what was there")
    chance = random.Random(7)
    for target in targets:
        _put(one, b"a", ONE + target)
        _put(other, b"b", OTHER + target)
        for node in nodes:
            entry = node.run(node.fs.lookup(node.request(), ROOT, target))
            assert (entry.attr is not None) is over
            node.turn(50)  # the pause after a pass is over
        renames = [
            node.loop.create_task(_rename(node, name, target))
            for node, name in ((one, b"a"), (other, b"b"))
        ]
        for _ in range(200):
            chance.choice(nodes).run(asyncio.sleep(0))
        assert all(rename.done() and rename.exception() is None for rename in renames)
        for node in nodes:
            assert node.run(node.fs.drain(2.0)) == 0
        left = _contents(tmp_path, one, kind)
        assert {ONE + target, OTHER + target} <= set(left)
    for node in nodes:
        node.stop()
    assert one.events.conflicts + other.events.conflicts == len(targets)


def test_what_is_in_the_way_and_cannot_be_copied_is_not_asked_for_all_the_time(
    tmp_path: Path,
) -> None:
    """Its copy is refused though it stays as it is: the rename fails, and is tried again later."""
    (tmp_path / "one").mkdir()
    volume = Volume(tmp_path / "one", passthrough=False, ttl=3600)
    _put(volume, b"a", ONE)
    entry = volume.run(volume.fs.lookup(volume.request(), ROOT, b"t"))
    assert entry.attr is None
    volume.run(volume.store.put("t", OTHER))
    copy, refused = volume.store.copy, True

    async def copied(source: str, *args: Any, **values: Any) -> Any:
        if refused and source == "t":
            raise PreconditionFailed("another etag than that of HEAD")
        return await copy(source, *args, **values)

    volume.store.copy = copied  # type: ignore[method-assign]
    volume.run(_rename(volume, b"a", b"t"))
    volume.store.heads = 0
    volume.turn(200)
    assert volume.events.conflicts == 0
    assert 0 < volume.store.heads < 100
    refused = False
    volume.stop()
    assert set(volume.objects().values()) == {ONE, OTHER}
