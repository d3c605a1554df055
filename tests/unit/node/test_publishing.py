"""What the node service says of the volumes that it has."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from csi_slayer.config import MountConfig
from csi_slayer.config.driver import NodeConfig
from csi_slayer.errors import (
    MountFailed,
    SlayerError,
    VolumeBusy,
    VolumeConflict,
    VolumeInUse,
)
from csi_slayer.node import publishing as publishing_module
from csi_slayer.node.publishing import Publishing
from csi_slayer.node.records import Record, Target
from csi_slayer.node.requests import PublishRequest
from csi_slayer.node.turns import Turns


def publishing(*caches: Path) -> Publishing:
    """With a volume of each cache directory."""
    node: Any = SimpleNamespace()
    made = Publishing(NodeConfig(), node, Turns())
    for number, directory in enumerate(caches):
        volume: Any = SimpleNamespace(
            config=SimpleNamespace(cache=SimpleNamespace(directory=directory))
        )
        made.volumes[str(number)] = volume
    return made


def test_a_cache_that_was_moved_away_from_volumes_in_use_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(MountFailed, match=str(gone)):
        publishing(tmp_path, gone).check_caches(tmp_path)


def test_volumes_go_on_with_an_earlier_cache_that_is_there(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    publishing(tmp_path, earlier).check_caches(tmp_path)


def test_the_configured_directory_need_not_be_there(tmp_path: Path) -> None:
    publishing(tmp_path / "new").check_caches(tmp_path / "new")


class Pretended:
    """A volume that is mounted."""

    def __init__(self, request: PublishRequest) -> None:
        self.record = Record(request.mount_id, request.volume_id, request.identity, {})
        self.config = request.config
        self.finishing = False

    async def renew(self, config: MountConfig, timeout: float, identity: str) -> None:
        self.config, self.record.identity = config, identity

    async def bind(self, path: str, target: Target) -> None:
        self.record.targets[path] = target


def asked(identity: str = "driver", *, exclusive: bool = False) -> PublishRequest:
    config = MountConfig.model_validate({"store": {"url": "s3://bucket"}})
    return PublishRequest("volume", "", identity, config, exclusive=exclusive)


def published(**targets: PublishRequest) -> Publishing:
    """With these targets, published one after the other."""
    made = publishing()
    for path, request in targets.items():
        volume: Any = made.volumes.get(request.mount_id) or Pretended(request)
        made.volumes[request.mount_id] = volume
        asyncio.run(made.publish(request, path))
    return made


@pytest.mark.parametrize("first", [True, False])
def test_a_volume_of_one_pod_alone_has_no_second_target(first: bool) -> None:
    made = published(a=asked(exclusive=first))
    with pytest.raises(VolumeInUse, match="unpublish"):
        asyncio.run(made.publish(asked(exclusive=not first), "b"))
    if not first:
        asyncio.run(made.publish(asked(), "b"))


@pytest.mark.parametrize("first", [True, False])
def test_another_access_mode_at_the_same_target_is_a_conflict(first: bool) -> None:
    made = published(a=asked(exclusive=first))
    asyncio.run(made.publish(asked(exclusive=first), "a"))
    with pytest.raises(VolumeConflict, match="access"):
        asyncio.run(made.publish(asked(exclusive=not first), "a"))


def test_a_target_of_an_earlier_version_learns_its_access_mode() -> None:
    made = published(a=asked())
    (volume,) = made.volumes.values()
    volume.record.targets["a"] = Target((), None, None)
    asyncio.run(made.publish(asked(exclusive=True), "a"))
    assert volume.record.targets["a"].exclusive is True


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ("driver", "key:AKIA", VolumeConflict),
        ("key:AKIA", "driver", VolumeConflict),
        ("pod:team/one:role", "pod:team/two:role", VolumeConflict),
        ("key:AKIA:arn:role", "key:AKIA", VolumeConflict),
        ("key:AKIA", "key:AKIB", None),
        ("key:AKIA:arn:role", "key:AKIB:arn:role", None),
        ("pod:team/one:role", "pod:team/one:role", None),
    ],
)
def test_a_target_keeps_its_identity_but_for_rotated_keys(
    before: str, after: str, error: type[SlayerError] | None
) -> None:
    made = published(a=asked(before))
    if error is None:
        asyncio.run(made.publish(asked(after), "a"))
        (volume,) = made.volumes.values()
        assert volume.record.identity == after
    else:
        with pytest.raises(error, match="identity"):
            asyncio.run(made.publish(asked(after), "a"))


def test_earlier_keys_do_not_come_back_under_another_target() -> None:
    made = published(a=asked("key:old"))
    asyncio.run(made.publish(asked("key:new"), "a"))
    with pytest.raises(VolumeConflict, match="newer keys"):
        asyncio.run(made.publish(asked("key:old"), "b"))


class Slow(Pretended):
    """One that takes its time to be shown at a target."""

    def __init__(self, request: PublishRequest) -> None:
        super().__init__(request)
        self.binding, self.go_on = asyncio.Event(), asyncio.Event()

    async def bind(self, path: str, target: Target) -> None:
        self.binding.set()
        await self.go_on.wait()
        await super().bind(path, target)


def test_two_volumes_do_not_meet_at_one_target() -> None:
    made = publishing()
    one, other = asked(), dataclasses.replace(asked(), volume_id="other")

    async def meet() -> None:
        slow: Any = Slow(one)
        made.volumes[one.mount_id] = slow
        first = asyncio.create_task(made.publish(one, "a"))
        await slow.binding.wait()
        with pytest.raises(VolumeBusy, match="another volume"):
            await made.publish(other, "a")
        with pytest.raises(VolumeBusy, match="another volume"):
            await made.unpublish("other", "a")
        slow.go_on.set()
        await first
        with pytest.raises(VolumeConflict):
            await made.publish(other, "a")

    asyncio.run(meet())


class Mounting:
    """A volume whose worker has died twice."""

    def __init__(self, _node: object, record: Record, config: MountConfig, _gone: object) -> None:
        self.id, self.record, self.config = record.mount_id, record, config
        self.restarts = 0

    @property
    def finishing(self) -> bool:
        return not self.record.targets

    async def mount(self, timeout: float) -> None:
        self.restarts = 2

    async def stop(self) -> None:
        pass

    async def bind(self, path: str, target: Target) -> None:
        self.record.targets[path] = target


def test_restarts_of_a_worker_that_still_uploaded_count_on_when_its_volume_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publishing_module, "Volume", Mounting)
    made = publishing()
    for number in range(3):
        asyncio.run(made.publish(asked(), "a"))
        (volume,) = made.volumes.values()
        volume.record.targets.clear()  # unpublished, while uploads go on
        assert made.restarts + volume.restarts == 2 * (number + 1)
