"""Stores of each kind, opened on a loop that the test drives."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from csi_slayer.store.base import ObjectStore
from csi_slayer.store.options import StoreOptions
from tests.integration.store.stores import close_all, open_store, options_for
from tests.support.servers import S3Server

T = TypeVar("T")

Run = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture
def run() -> Iterator[Run[Any]]:
    """Runs coroutines, all on the same loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run
        runner.run(close_all())


@pytest.fixture(params=["local", "versitygw", "minio"])
def store(request: pytest.FixtureRequest, run: Run[Any], tmp_path: Path) -> Iterator[ObjectStore]:
    """An empty store with a prefix of its own, of each kind in turn."""
    if request.param == "local":
        url, options = f"file://{tmp_path}/objects", StoreOptions(allow_missing=True)
        store: ObjectStore = run(open_store(url, options))
        yield store
        run(store.close())
        return
    server: S3Server = request.getfixturevalue(request.param)
    bucket = server.create_bucket()
    store = run(open_store(f"s3://{bucket}/a prefix/ü", options_for(server)))
    yield store
    run(store.close())
    server.admin.delete_bucket(bucket)


@pytest.fixture
def file_of(tmp_path: Path) -> Iterator[Callable[[bytes], int]]:
    """Makes descriptors of files with given bytes."""
    opened: list[int] = []

    def make(content: bytes) -> int:
        path = tmp_path / f"file-{len(opened)}"
        path.write_bytes(content)
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    yield make
    for fd in opened:
        os.close(fd)
