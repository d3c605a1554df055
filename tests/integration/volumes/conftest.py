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
def provisioner(run: Run, config: DriverConfig) -> Iterator[Provisioner]:
    async def make() -> Provisioner:
        return Provisioner(config)

    made = run(make())
    yield made
    run(made.close())
