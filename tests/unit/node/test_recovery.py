"""What a start finds: who is told of mounts that are dead."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.config import MountConfig
from csi_slayer.config.driver import DriverConfig
from csi_slayer.fuse import mount as mounts
from csi_slayer.node import registry
from csi_slayer.node.keeping import Held
from csi_slayer.node.records import Places, Record, Target
from csi_slayer.node.recovery import Recovery
from csi_slayer.node.requests import Pod

NAME = "a" * 16
CONNECTION = 4711
POD = Pod("pod", "team", "uid")


@pytest.fixture
def unmounted() -> list[str]:
    """Where something has been unmounted."""
    return []


@pytest.fixture
def places(tmp_path: Path, unmounted: list[str], monkeypatch: pytest.MonkeyPatch) -> Places:
    """With the mount of one volume, its connection dead, shown to a pod."""
    made = Places(tmp_path / "run", tmp_path / "cache")
    made.make()
    target = str(tmp_path / "target")
    record = Record(
        NAME, "volume", "secret", {}, targets={target: Target((), POD)}, connection=CONNECTION
    )
    made.write(record)
    found = [
        mounts.MountEntry(target, mounts.TYPE, "s3", CONNECTION),
        mounts.MountEntry(made.mountpoint(NAME), mounts.TYPE, "s3", CONNECTION),
    ]
    monkeypatch.setattr(mounts, "entries", lambda: found)
    monkeypatch.setattr(mounts, "abort", lambda connection: connection == CONNECTION)
    monkeypatch.setattr(mounts, "unmount", lambda mountpoint, *, lazy: unmounted.append(mountpoint))
    monkeypatch.setattr(registry, "remove", lambda name: None)
    return made


async def nothing_lives(record: Record, config: MountConfig, held: Held) -> None:
    raise AssertionError("nothing of it lives, and it is not the driver's own")


def leave_pending(places: Places) -> None:
    state = places.state(NAME)
    state.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(state / "catalog.db")) as database:
        database.execute("CREATE TABLE pending (key)")
        database.execute("INSERT INTO pending VALUES ('file')")
        database.execute("CREATE TABLE inodes (stage, stamp, nlink)")
        database.commit()


@pytest.mark.parametrize("pending", [False, True])
def test_pods_of_a_dead_mount_are_known_whether_or_not_something_is_pending(
    places: Places, pending: bool
) -> None:
    if pending:
        leave_pending(places)

    recovery = Recovery(DriverConfig(), places, nothing_lives)
    recovered = asyncio.run(recovery.run({}))
    (lost,) = recovered.lost
    assert [target.pod for target in lost.targets.values()] == [POD]
    assert [record.targets for record in places.read()] == ([{}] if pending else [])


def test_of_a_mount_that_no_pod_has_nobody_is_told(places: Places, unmounted: list[str]) -> None:
    (written,) = places.read()
    places.write(dataclasses.replace(written, targets={}))
    recovered = asyncio.run(Recovery(DriverConfig(), places, nothing_lives).run({}))
    assert recovered.lost == []
    assert unmounted == [places.mountpoint(NAME)]


def test_a_dead_mount_stays_at_its_target(places: Places, unmounted: list[str]) -> None:
    """A bare directory there would take what is written, and lose it."""
    asyncio.run(Recovery(DriverConfig(), places, nothing_lives).run({}))
    assert unmounted == [places.mountpoint(NAME)]


@pytest.mark.parametrize(("changes", "wanted"), [(3, "kept"), (2, "written"), (1, "written")])
def test_the_newer_record_counts(places: Places, changes: int, wanted: str) -> None:
    """Disk or keeper may have been out of reach when it was saved."""
    (written,) = places.read()
    places.write(dataclasses.replace(written, changes=2, volume_id="written"))
    kept = dataclasses.replace(written, changes=changes, volume_id="kept")
    state = {"record": kept.to_json(), "session": {}, "restarts": 0}
    recovery = Recovery(DriverConfig(), places, nothing_lives)
    recovered = asyncio.run(recovery.run({NAME: Held(state, b"{}")}))
    assert [lost.volume_id for lost in recovered.lost] == [wanted]


@pytest.mark.parametrize("state", [{}, {"session": None, "restarts": 0}, {"session": {}}])
def test_nonsense_of_the_keeper_keeps_no_node_service_from_its_volumes(
    places: Places, state: dict[str, Any]
) -> None:
    recovery = Recovery(DriverConfig(), places, nothing_lives)
    recovered = asyncio.run(recovery.run({NAME: Held(state, b"{}")}))
    assert [lost.mount_id for lost in recovered.lost] == [NAME]
    assert recovered.dead == {NAME}


def test_a_full_disk_keeps_no_node_service_from_its_volumes(places: Places) -> None:
    """What is pending of one volume is no reason to leave those of all others alone."""
    leave_pending(places)
    (places.records / f"{NAME}.tmp").mkdir()
    recovered = asyncio.run(Recovery(DriverConfig(), places, nothing_lives).run({}))
    assert [lost.mount_id for lost in recovered.lost] == [NAME]
