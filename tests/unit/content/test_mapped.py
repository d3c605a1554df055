"""Who has a staged file open or mapped, and what is done about it."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.content import mapped
from csi_slayer.errors import CatalogError
from tests.support.mappings import mapped as mapping


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[str, int]]:
    path = tmp_path / "file"
    path.write_bytes(bytes(8192))
    fd = os.open(path, os.O_RDWR)
    yield str(path), fd
    os.close(fd)


def test_the_only_user(file: tuple[str, int]) -> None:
    path, fd = file
    assert not mapped.is_used_elsewhere(fd)
    other = os.open(path, os.O_RDONLY)
    assert mapped.is_used_elsewhere(fd)
    os.close(other)
    assert not mapped.is_used_elsewhere(fd)


def test_a_mapping_without_a_descriptor_is_a_user(file: tuple[str, int]) -> None:
    path, fd = file
    with mapping(Path(path), 8192) as (_memory, own):
        os.close(own)
        assert mapped.is_used_elsewhere(fd)
    assert not mapped.is_used_elsewhere(fd)


def test_after_writing_back_a_store_changes_the_time(file: tuple[str, int]) -> None:
    _path, fd = file
    with mmap.mmap(fd, 8192) as memory:
        memory[0:5] = b"first"
        for text in (b"again", b"third"):
            before = os.fstat(fd).st_mtime_ns
            mapped.write_back(fd)
            memory[0:5] = text
            assert os.fstat(fd).st_mtime_ns != before


def test_file_systems(tmp_path: Path) -> None:
    assert mapped.tells_of_stores(str(tmp_path))
    assert not mapped.tells_of_stores("/dev/shm")
    with pytest.raises(FileNotFoundError):
        mapped.tells_of_stores(str(tmp_path / "absent"))


def test_what_is_mapped_is_asked_about_until_it_is_not(
    file: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "PAUSE", 0.001)
    asyncio.run(watch_until_it_is_free(*file))


async def watch_until_it_is_free(path: str, fd: int) -> None:
    tasks: list[asyncio.Task[None]] = []
    mappable, asked = {1, 2}, 0
    own: int | None = os.open(path, os.O_RDONLY)

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        tasks.append(asyncio.get_running_loop().create_task(work))

    async def retire(ino: int) -> None:
        nonlocal asked, own
        asked += 1
        if asked == 2:
            raise CatalogError("not now")
        if asked == 5:
            assert own is not None
            os.close(own)
        watch.is_mapped(ino, path, fd)

    watch = mapped.Mapped(mappable, retire, spawn)
    assert watch.is_mapped(1, path, fd)
    (task,) = tasks
    await task
    assert asked == 5
    assert mappable == {2}


@pytest.mark.parametrize("error", [OSError(5, "EIO"), KeyError("a bug")])
@pytest.mark.allow_log("Traceback")
def test_one_that_cannot_be_looked_at_is_no_end_of_looking_at_others(
    file: tuple[str, int], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(mapped, "PAUSE", 0.0)

    async def run() -> None:
        path, fd = file
        tasks: list[asyncio.Task[None]] = []
        asked: list[int] = []
        mappable = {1, 2}

        def spawn(work: Coroutine[Any, Any, None]) -> None:
            tasks.append(asyncio.get_running_loop().create_task(work))

        async def retire(ino: int) -> None:
            asked.append(ino)
            if asked.count(ino) == 3:
                mappable.discard(ino)
            if ino == 1:
                raise error

        watch = mapped.Mapped(mappable, retire, spawn)
        with mapping(Path(path), 8192) as (_memory, own):
            os.close(own)
            for ino in (1, 2):
                assert watch.is_mapped(ino, path, fd)
            await tasks[0]
            assert asked == [1, 2] * 3
            mappable.add(1)
            assert watch.is_mapped(1, path, fd), "once more: it is watched anew"
            mappable.discard(1)
            await tasks[1]
        assert len(tasks) == 2

    asyncio.run(run())
