"""Two node services never work in one run directory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from csi_slayer.errors import ConfigError
from csi_slayer.node.sole import sole


def test_a_second_one_is_told_who_is_in_the_way(tmp_path: Path) -> None:
    async def run() -> None:
        async with sole(tmp_path / "run"):
            with pytest.raises(ConfigError, match=f"{tmp_path}/run is in use"):
                async with sole(tmp_path / "run", timeout=0.01):
                    raise AssertionError("two at once")

    asyncio.run(run())


def test_a_successor_waits_for_the_end_of_its_predecessor(tmp_path: Path) -> None:
    async def run() -> None:
        entered = asyncio.Event()

        async def successor() -> None:
            async with sole(tmp_path, timeout=30):
                entered.set()

        async with sole(tmp_path):
            task = asyncio.create_task(successor())
            await asyncio.sleep(0)
            assert not entered.is_set()
        await task
        assert entered.is_set()

    asyncio.run(run())


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        async with sole(tmp_path / "file/run"):
            raise AssertionError("not a directory")

    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"node\.run_directory"):
        asyncio.run(run())
