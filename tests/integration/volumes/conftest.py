"""Provisioners on real servers, on a loop that the test drives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from csi_slayer.config.driver import DriverConfig
from csi_slayer.volumes.provisioner import Provisioner
from tests.support.servers import S3Server
from tests.unit.volumes.world import make_session

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run


@pytest.fixture
def config(s3_server: S3Server, bucket: str, tmp_path: Path) -> DriverConfig:
    """A driver whose own bucket is ``bucket``."""
    return DriverConfig.model_validate(
        {
            "store": {
                "endpoint": s3_server.endpoint,
                "bucket": bucket,
                "access_key_id": s3_server.access_key,
                "secret_access_key": s3_server.secret_key,
            },
            "cache": {"directory": str(tmp_path), "capacity": "1GiB"},
        }
    )


@pytest.fixture
def make(run: Run) -> Iterator[Callable[..., Provisioner]]:
    """Makes provisioners, within the loop, that are closed in the end; with the arguments of
    :func:`tests.unit.volumes.world.make_session`."""
    made: list[Provisioner] = []

    def one(config: DriverConfig, **rest: Any) -> Provisioner:
        made.append(Provisioner(config, make_session(config, **rest)))
        return made[-1]

    yield one
    for provisioner in made:
        run(provisioner.close())


@pytest.fixture
def provisioner(run: Run, config: DriverConfig, make: Callable[..., Provisioner]) -> Provisioner:
    async def one() -> Provisioner:
        return make(config)

    found: Provisioner = run(one())
    return found
