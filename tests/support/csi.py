"""A CSI client for tests: calls by name, on a unix socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from csi_slayer.csi.proto import csi_pb2

TIMEOUT = 60.0


class CsiClient:
    """``await client("NodePublishVolume", volume_id=...)``, of any service of a file's.

    A call waits for a server that is just being started.
    """

    def __init__(
        self, channel: grpc.aio.Channel, file: FileDescriptor = csi_pb2.DESCRIPTOR
    ) -> None:
        self._calls: dict[str, tuple[type[Message], Any]] = {}
        for service in file.services_by_name.values():
            for method in service.methods:
                request = GetMessageClass(method.input_type)
                call = channel.unary_unary(
                    f"/{service.full_name}/{method.name}",
                    request_serializer=request.SerializeToString,
                    response_deserializer=GetMessageClass(method.output_type).FromString,
                )
                self._calls[method.name] = (request, call)

    async def __call__(self, method: str, /, request: Message | None = None, **fields: Any) -> Any:
        """Raises grpc.aio.AioRpcError as gRPC does."""
        message, call = self._calls[method]
        return await call(request or message(**fields), timeout=TIMEOUT, wait_for_ready=True)

    def request(self, method: str) -> type[Message]:
        return self._calls[method][0]


def channel_to(path: Path) -> grpc.aio.Channel:
    """Connects again soon after the server was away."""
    return grpc.aio.insecure_channel(
        f"unix:{path}",
        options=[
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 200),
        ],
    )


@asynccontextmanager
async def connected(
    path: Path, file: FileDescriptor = csi_pb2.DESCRIPTOR
) -> AsyncIterator[CsiClient]:
    async with channel_to(path) as channel:
        yield CsiClient(channel, file)


def mount_capability(mode: str = "MULTI_NODE_MULTI_WRITER", **mount: Any) -> Any:
    """A mounted volume in this access mode."""
    capability = csi_pb2.VolumeCapability(access_mode={"mode": mode})
    capability.mount.SetInParent()
    capability.mount.MergeFrom(csi_pb2.VolumeCapability.MountVolume(**mount))
    return capability


def block_capability() -> csi_pb2.VolumeCapability:
    capability = mount_capability()
    capability.block.SetInParent()
    return csi_pb2.VolumeCapability.FromString(capability.SerializeToString())
