"""A world of its own for each test, on a loop that the test drives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.volumes.world import World, fast_directory

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def world(run: Run) -> Iterator[World]:
    with fast_directory() as directory:

        async def make() -> World:
            return World(Path(directory))

        made = run(make())
        yield made
        run(made.close())
