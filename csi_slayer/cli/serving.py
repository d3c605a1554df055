"""What the commands of the driver's processes have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import uvloop

from csi_slayer.cli.output import warn_of_exposed_secrets
from csi_slayer.config import DriverConfig, load_driver_config
from csi_slayer.csi.processes import until_told
from csi_slayer.observability import configure_logging
from csi_slayer.store.threads import Threads


def serve(path: Path, process: Callable[[DriverConfig], AbstractAsyncContextManager[None]]) -> None:
    """Run a process of the driver with the configuration at ``path`` until it is told to end.

    Raises SlayerError where it cannot start.
    """
    config = load_driver_config(path)
    warn_of_exposed_secrets(path)
    writer = configure_logging(config.log)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.get_loop().set_default_executor(Threads(thread_name_prefix="driver"))
            runner.run(until_told(process(config)))
    finally:
        writer.close()
