"""A node service in a process of its own: ``python -m tests.support.node CONFIG FD``.

Reads one JSON object a line from the descriptor, answers with one a line. Calls overlap; ``id``
says which an answer belongs to.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, generate_latest

from csi_slayer.config import MountConfig
from csi_slayer.config.driver import DriverConfig
from csi_slayer.errors import SlayerError
from csi_slayer.node.requests import PublishRequest
from csi_slayer.node.service import NodeVolumes
from csi_slayer.observability import configure_logging


async def handle(volumes: NodeVolumes, request: dict[str, Any]) -> Any:
    op, values = request["op"], request["values"]
    if op == "publish":
        config = MountConfig.from_spec(values.pop("config").encode())
        values["flags"] = tuple(values.get("flags", ()))
        await volumes.publish(PublishRequest(config=config, **values))
        return None
    if op == "unpublish":
        return await volumes.unpublish(**values)
    if op == "stats":
        stats = await volumes.stats(**values)
        return {
            "used": stats.used_bytes,
            "capacity": stats.capacity_bytes,
            "abnormal": stats.condition.abnormal,
            "message": stats.condition.message,
        }
    if op == "expand":
        return await volumes.expand(**values)
    if op == "metrics":
        registry = CollectorRegistry()
        registry.register(volumes)
        return (await asyncio.to_thread(generate_latest, registry)).decode()
    raise ValueError(op)


async def answer(volumes: NodeVolumes, request: dict[str, Any]) -> None:
    try:
        said: dict[str, Any] = {"ok": await handle(volumes, request)}
    except SlayerError as error:
        said = {"error": str(error), "code": error.grpc_code}
    except Exception as error:
        said = {"error": repr(error), "code": "UNKNOWN"}
        raise
    finally:
        print(json.dumps({"id": request["id"], **said}), flush=True)


async def serve(config: DriverConfig, orders: TextIO) -> None:
    reader = asyncio.StreamReader(limit=16 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), orders)
    volumes = NodeVolumes(config)
    await volumes.start()
    print(json.dumps({"id": 0, "ok": "started"}), flush=True)
    async with asyncio.TaskGroup() as group:
        while line := await reader.readline():
            group.create_task(answer(volumes, json.loads(line)))
    await volumes.close()


def main() -> None:
    driver = DriverConfig.model_validate_json(sys.argv[1])
    configure_logging(driver.log)
    with open(int(sys.argv[2])) as orders:
        asyncio.run(serve(driver, orders))


if __name__ == "__main__":
    main()
