"""What surrounds every call: status codes, logs without secrets, order, cancellation."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc.aio
import pytest

from csi_slayer import errors
from csi_slayer.csi.proto import csi_pb2
from csi_slayer.csi.rpc import LONGEST_MESSAGE, rpc
from csi_slayer.errors import SlayerError
from tests.unit.csi.serving import Serving, serve

SECRET = "AKIA/secret+value=="


class Service:
    """A part of the Controller whose DeleteVolume does what the test wants."""

    def __init__(self) -> None:
        self.raises: Exception | None = None
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.cancelled = asyncio.Event()
        self.running = 0
        self.most_running = 0

    @rpc("volume_id", one_at_a_time="volume_id")
    async def DeleteVolume(
        self, request: csi_pb2.DeleteVolumeRequest
    ) -> csi_pb2.DeleteVolumeResponse:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.entered.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.running -= 1
        if self.raises is not None:
            raise self.raises
        return csi_pb2.DeleteVolumeResponse()

    @rpc(quiet=True)
    async def ControllerGetCapabilities(
        self, request: csi_pb2.ControllerGetCapabilitiesRequest
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        return csi_pb2.ControllerGetCapabilitiesResponse()


def _errors() -> list[type[SlayerError]]:
    found, todo = [], [SlayerError]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind.__module__ == errors.__name__ and kind is not errors.FsError:
            found.append(kind)
    return found


@pytest.mark.parametrize("kind", _errors(), ids=lambda kind: kind.__name__)
def test_each_error_has_its_status(kind: type[SlayerError], tmp_path: Path) -> None:
    async def check(it: Serving) -> None:
        service.raises = kind("what is wrong and what to do")
        code, message = await it.refused("DeleteVolume", volume_id="v")
        assert (code, message) == (kind.grpc_code, "what is wrong and what to do")
        assert it.observer.calls == [("DeleteVolume", kind.grpc_code)]

    service = Service()
    serve(tmp_path, {"Controller": service}, check)


def test_missing_field_never_reaches_the_service(tmp_path: Path) -> None:
    async def check(it: Serving) -> None:
        code, message = await it.refused("DeleteVolume")
        assert code == "INVALID_ARGUMENT" and "volume_id is missing" in message
        assert not service.entered.is_set()

    service = Service()
    serve(tmp_path, {"Controller": service}, check)


def test_what_is_not_offered_is_unimplemented(tmp_path: Path) -> None:
    async def check(it: Serving) -> None:
        code, message = await it.refused("ControllerPublishVolume", volume_id="v")
        assert code == "UNIMPLEMENTED" and "no ControllerPublishVolume" in message
        code, _ = await it.refused("GroupControllerGetCapabilities")
        assert code == "UNIMPLEMENTED"

    serve(tmp_path, {"Controller": Service()}, check)


def test_unexpected_errors_are_internal_and_keep_secrets(tmp_path: Path) -> None:
    async def check(it: Serving) -> None:
        service.raises = ValueError(f"cannot use {SECRET}")
        code, message = await it.refused("DeleteVolume", volume_id="v", secrets={"k": SECRET})
        assert code == "INTERNAL" and SECRET not in message and "ValueError" in message
        [line] = [line for line in it.logs if line.get("method") == "DeleteVolume"]
        assert "cannot use ***" in line["trace"] and line["code"] == "INTERNAL"
        assert SECRET not in repr(it.logs)

    service = Service()
    serve(tmp_path, {"Controller": service}, check)


def test_an_errors_own_words_are_scrubbed_and_bounded(tmp_path: Path) -> None:
    async def check(it: Serving) -> None:
        service.raises = errors.AccessDenied(f"{SECRET} is wrong" + "." * 10000)
        code, message = await it.refused("DeleteVolume", volume_id="v", secrets={"k": SECRET})
        assert code == "PERMISSION_DENIED" and message.startswith("*** is wrong")
        assert len(message) == LONGEST_MESSAGE

    service = Service()
    serve(tmp_path, {"Controller": service}, check)


def test_a_line_a_call(tmp_path: Path) -> None:
    async def check(it: Serving) -> None:
        await it.client("DeleteVolume", volume_id="v", secrets={"k": SECRET})
        await it.client("ControllerGetCapabilities")
        first, second = (line for line in it.logs if "method" in line)
        assert first["fields"] == {"volume_id": "v", "secrets": {"k": "***"}}
        assert (first["code"], first["log_level"]) == ("OK", "info")
        assert (second["code"], second["log_level"]) == ("OK", "debug")

    serve(tmp_path, {"Controller": Service()}, check)


def test_calls_of_one_volume_take_turns(tmp_path: Path) -> None:
    async def check(it: Serving) -> None:
        same = [it.client("DeleteVolume", volume_id="v") for _ in range(8)]
        await asyncio.gather(*same)
        assert service.most_running == 1
        service.go_on.clear()
        others = [asyncio.ensure_future(it.client("DeleteVolume", volume_id=f"{n}"))
                  for n in range(8)]  # fmt: skip
        while service.running < 8:
            service.entered.clear()
            await service.entered.wait()
        service.go_on.set()
        await asyncio.gather(*others)

    service = Service()
    serve(tmp_path, {"Controller": service}, check)


def test_second_call_is_told_to_come_again(tmp_path: Path) -> None:
    async def check(it: Serving) -> None:
        service.go_on.clear()
        first = asyncio.ensure_future(it.client("DeleteVolume", volume_id="v"))
        await service.entered.wait()
        code, message = await it.refused("DeleteVolume", volume_id="v")
        assert code == "ABORTED" and "try again" in message
        service.go_on.set()
        await first
        await it.client("DeleteVolume", volume_id="v")

    service = Service()
    serve(tmp_path, {"Controller": service}, check, longest_wait=0.05)


def test_a_call_that_the_caller_gives_up_is_cancelled(tmp_path: Path) -> None:
    async def check(it: Serving) -> None:
        service.go_on.clear()
        call = asyncio.ensure_future(it.client("DeleteVolume", volume_id="v"))
        await service.entered.wait()
        call.cancel()
        await service.cancelled.wait()
        service.go_on.set()
        await it.client("DeleteVolume", volume_id="v")
        assert it.observer.calls[0] == ("DeleteVolume", "CANCELLED")

    service = Service()
    serve(tmp_path, {"Controller": service}, check)


def test_garbage_is_refused(tmp_path: Path) -> None:
    async def check(it: Serving) -> None:
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/csi.sock") as channel:
            call = channel.unary_unary("/csi.v1.Controller/DeleteVolume")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\xff\xff\xff")
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await it.client("DeleteVolume", volume_id="v")

    serve(tmp_path, {"Controller": Service()}, check)
