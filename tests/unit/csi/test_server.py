"""The socket: whose it is, who may connect, how it ends."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from csi_slayer.csi.proto import csi_pb2
from csi_slayer.csi.rpc import Calls, rpc
from csi_slayer.csi.server import Server
from csi_slayer.errors import ConfigError
from tests.support.csi import connected
from tests.unit.csi.serving import Counted, Serving, serve


class Empty:
    pass


def test_only_the_owner_may_connect(tmp_path: Path) -> None:
    async def check(it: Serving) -> None:
        assert (tmp_path / "csi.sock").stat().st_mode & 0o777 == 0o600
        assert os.umask(0o022) == 0o022

    mask = os.umask(0o022)
    try:
        serve(tmp_path, {"Controller": Empty()}, check)
    finally:
        os.umask(mask)


def test_what_others_make_while_the_socket_is_made_is_open_to_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made again while others work: a directory that one of them made meanwhile had no way
    in for an owner other than root."""
    seen: list[int] = []
    make = grpc.aio.server

    def watched(**options: Any) -> grpc.aio.Server:
        server = make(**options)
        bind = server.add_insecure_port

        def look(address: str) -> int:
            port = bind(address)
            (tmp_path / "made").mkdir()
            seen.append((tmp_path / "made").stat().st_mode & 0o700)
            return port

        server.add_insecure_port = look  # type: ignore[method-assign]
        return server

    monkeypatch.setattr(grpc.aio, "server", watched)

    async def check(it: Serving) -> None:
        assert (tmp_path / "csi.sock").stat().st_mode & 0o777 == 0o600

    serve(tmp_path, {"Controller": Empty()}, check)
    assert seen == [0o700]


@pytest.mark.allow_log("Traceback")
def test_whatever_goes_wrong_the_socket_is_looked_after(tmp_path: Path) -> None:
    """One error of another kind, and nobody looked any more: the driver stayed away for good."""

    async def run() -> None:
        path = tmp_path / "csi.sock"
        handler = Calls(Counted()).handler(
            Empty(), csi_pb2.DESCRIPTOR.services_by_name["Controller"]
        )

        def fail() -> None:
            raise LookupError("what nobody thought of")

        server = Server(path, [handler], fail)
        await server.start(look_after=0.01)
        async with asyncio.timeout(20):
            path.unlink()
            while not path.exists():  # noqa: ASYNC110 - by another process, in general
                await asyncio.sleep(0.005)
            async with connected(path) as client:
                with pytest.raises(grpc.aio.AioRpcError):
                    await client("ListVolumes")
        await server.close(0)

    asyncio.run(run())


def test_directory_is_made_and_a_dead_servers_socket_replaced(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def check(it: Serving) -> None:
        assert (await it.refused("ListVolumes"))[0] == "UNIMPLEMENTED"

    serve(tmp_path, {"Controller": Empty()}, check)
    serve(tmp_path / "a" / "b", {"Controller": Empty()}, check)


def test_a_living_servers_socket_stays(tmp_path: Path) -> None:
    async def check(it: Serving) -> None:
        with pytest.raises(ConfigError, match="is in use"):
            await Server(tmp_path / "csi.sock", []).start()
        assert (await it.refused("ListVolumes"))[0] == "UNIMPLEMENTED"

    serve(tmp_path, {"Controller": Empty()}, check)


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"csi\.sock is in use"):
        asyncio.run(Server(path, []).start())
    assert path.read_text() == "mine"


def test_where_nothing_can_listen_the_error_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot listen on .*/file/csi\.sock"):
        asyncio.run(Server(tmp_path / "file" / "csi.sock", []).start())


def test_calls_under_way_may_end(tmp_path: Path) -> None:
    class Slow:
        def __init__(self) -> None:
            self.entered, self.go_on = asyncio.Event(), asyncio.Event()

        @rpc()
        async def ListVolumes(
            self, request: csi_pb2.ListVolumesRequest
        ) -> csi_pb2.ListVolumesResponse:
            self.entered.set()
            await self.go_on.wait()
            return csi_pb2.ListVolumesResponse(next_token="t")

    async def run() -> None:
        service = Slow()
        handler = Calls(Counted()).handler(
            service, csi_pb2.DESCRIPTOR.services_by_name["Controller"]
        )
        server = Server(tmp_path / "csi.sock", [handler])
        await server.start()
        async with asyncio.timeout(20), connected(server.path) as client:
            call = asyncio.ensure_future(client("ListVolumes"))
            await service.entered.wait()
            closing = asyncio.create_task(server.close(15))
            await asyncio.sleep(0)
            service.go_on.set()
            assert (await call).next_token == "t"
            await closing

    asyncio.run(run())


def test_a_lost_socket_is_noticed(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "csi.sock"
        server = Server(path, [])
        await server.start()
        assert not server.lost()
        path.unlink()
        assert server.lost()
        path.touch()
        assert server.lost()
        path.unlink()
        await server.close(0)

    asyncio.run(run())


def test_a_lost_socket_is_served_again(tmp_path: Path) -> None:
    """With its directory, if that is gone as well."""

    async def run() -> None:
        path = tmp_path / "plugins" / "csi.sock"
        handler = Calls(Counted()).handler(
            Empty(), csi_pb2.DESCRIPTOR.services_by_name["Controller"]
        )
        lost = asyncio.Event()
        server = Server(path, [handler], lost.set)
        await server.start(look_after=0.01)
        async with asyncio.timeout(20):
            path.unlink()
            path.parent.rmdir()
            await lost.wait()
            while not path.exists():  # noqa: ASYNC110 - by another process, in general
                await asyncio.sleep(0.005)
            async with connected(path) as client:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await client("ListVolumes")
                assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await server.close(0)
        assert not path.exists()

    asyncio.run(run())
