"""A kubelet, as it treats the sockets in its plugins_registry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from csi_slayer.config.driver import NodeConfig
from csi_slayer.csi.proto import pluginregistration_pb2 as registration_pb2
from csi_slayer.csi.registration import Registration
from csi_slayer.csi.rpc import Calls
from csi_slayer.errors import ConfigError
from tests.support.csi import CsiClient, connected
from tests.unit.csi.serving import Counted


def registered(
    directory: Path, check: Callable[[Registration, CsiClient], Awaitable[None]]
) -> None:
    async def run() -> None:
        config = NodeConfig(
            name="n", kubelet_directory=directory, run_directory=directory / "plugins"
        )
        registration = Registration(config, Calls(Counted()))
        await registration.start(look_after=0.01)
        try:
            async with (
                asyncio.timeout(20),
                connected(registration.path, registration_pb2.DESCRIPTOR) as kubelet,
            ):
                await check(registration, kubelet)
        finally:
            await registration.close()
        assert not registration.path.exists()

    asyncio.run(run())


def test_says_who_it_is(tmp_path: Path) -> None:
    async def check(registration: Registration, kubelet: CsiClient) -> None:
        assert registration.path == tmp_path / "plugins_registry" / "csi.slayerfs.io-reg.sock"
        info = await kubelet("GetInfo")
        assert (info.type, info.name) == ("CSIPlugin", "csi.slayerfs.io")
        assert info.endpoint == str(tmp_path / "plugins" / "csi.sock")
        assert list(info.supported_versions) == ["1.0.0"]

    registered(tmp_path, check)


def test_remembers_what_the_kubelet_made_of_it(tmp_path: Path) -> None:
    async def check(registration: Registration, kubelet: CsiClient) -> None:
        assert registration.problem is not None
        refusal = "no CSIDriver object of this name " * 20
        await kubelet("NotifyRegistrationStatus", plugin_registered=False, error=refusal)
        assert registration.problem == f"the kubelet refused the driver: {refusal}"
        await kubelet("NotifyRegistrationStatus", plugin_registered=True)
        assert registration.problem is None

    registered(tmp_path, check)


def test_a_removed_socket_is_served_again(tmp_path: Path) -> None:
    async def check(registration: Registration, kubelet: CsiClient) -> None:
        await kubelet("NotifyRegistrationStatus", plugin_registered=True)
        registration.path.unlink()
        while not registration.path.exists():  # noqa: ASYNC110 - by another process, in general
            await asyncio.sleep(0.005)
        assert registration.problem is not None
        async with connected(registration.path, registration_pb2.DESCRIPTOR) as again:
            await again("NotifyRegistrationStatus", plugin_registered=True)
        assert registration.problem is None

    registered(tmp_path, check)


def test_a_registry_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "plugins_registry").write_text("")

    async def check(registration: Registration, kubelet: CsiClient) -> None:
        pytest.fail("started")

    with pytest.raises(ConfigError, match="plugins_registry"):
        registered(tmp_path, check)
