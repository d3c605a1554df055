"""Snapshots, restores and clones over a local store."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from csi_slayer.errors import (
    BucketNotFound,
    CapacityOutOfRange,
    ConfigError,
    VolumeBusy,
    VolumeConflict,
    VolumeNotFound,
)
from csi_slayer.volumes import rounds
from csi_slayer.volumes.copying import copy_frozen
from csi_slayer.volumes.jobs import Progress, StillRunning
from csi_slayer.volumes.manifest import CHANGED, GONE, read_page
from csi_slayer.volumes.provisioner import Provisioner
from csi_slayer.volumes.records import State
from tests.unit.volumes.world import (
    HOME,
    LEASE,
    Faults,
    World,
    create,
    make_session,
    persistently,
    until_dead,
)

CONTENT = {"a/b": b"hello", "dir/": b"", "z": b"zz", "ü %2F": b"odd"}


def test_a_snapshot_is_a_copy_that_outlives_its_volume(run, world: World):
    async def scenario():
        p = world.provisioner
        volume, record = await create(p, "v", required_bytes=100)
        await world.put(HOME, record.prefix, CONTENT, metadata={"mode": "0600"})
        snapshot, made = await p.create_snapshot("s", str(volume), {}, {})
        assert str(snapshot) == "snap1:home:s"
        assert (made.state, made.objects, made.size_bytes) == (State.READY, 4, 10)
        assert made.finished_ns >= made.created_ns
        assert await p.create_snapshot("s", str(volume), {}, {}) == (snapshot, made)
        await world.put(HOME, record.prefix, {"a/b": b"later", "new": b"1"})
        await p.delete_volume(str(volume), {})
        restored, again = await create(p, "r", source=str(snapshot))
        assert await world.keys(HOME, again.prefix) == CONTENT
        async with await world.open(HOME, again.prefix) as store:
            assert (await store.head("a/b")).metadata == {"mode": "0600"}
        assert again.source == str(snapshot) and again.capacity_bytes == 100
        await p.delete_snapshot(str(snapshot), {})
        await p.delete_volume(str(restored), {})
        assert await world.keys() == {}

    run(scenario())


@pytest.mark.parametrize("source_kind", ["prefix", "bucket"])
@pytest.mark.parametrize("target_kind", ["prefix", "bucket"])
def test_a_clone_has_the_content_of_its_source(run, world: World, source_kind, target_kind):
    async def scenario():
        p = world.provisioner
        volume, record = await create(p, "v", parameters={"provisioning": source_kind})
        await world.put(record.bucket, record.prefix, CONTENT)
        _, cloned = await create(
            p, "c", parameters={"provisioning": target_kind}, source=str(volume)
        )
        assert await world.keys(cloned.bucket, cloned.prefix) == CONTENT
        snapshot, _ = await p.create_snapshot("s", str(volume), {}, {})
        _, restored = await create(
            p, "r", parameters={"provisioning": target_kind}, source=str(snapshot)
        )
        assert await world.keys(restored.bucket, restored.prefix) == CONTENT

    run(scenario())


def test_the_same_name_of_another_volume_is_a_conflict(run, world: World):
    async def scenario():
        p = world.provisioner
        volume, _ = await create(p, "v")
        other, _ = await create(p, "w")
        await p.create_snapshot("s", str(volume), {}, {})
        with pytest.raises(VolumeConflict, match="of another volume"):
            await p.create_snapshot("s", str(other), {}, {})
        with pytest.raises(ConfigError, match="has none"):
            await p.create_snapshot("t", str(volume), {"compression": "on"}, {})

    run(scenario())


def test_a_bucket_that_is_gone_has_no_snapshots(run, world: World):
    async def scenario():
        listed = world.provisioner.list_snapshots
        nothing = ([], "")
        one = {"snapshot_id": "snap1:gone:s", "source": None, "secrets": {}}
        of_volume = {"snapshot_id": None, "source": "slayer1:gone:v", "secrets": {}}
        for asked in (one, of_volume):
            assert await listed("", 0, **asked) == nothing
        (world.root / HOME).rename(world.root / "away")
        with pytest.raises(BucketNotFound):  # the driver's own: nothing is well
            await listed("", 0, snapshot_id=None, source=None, secrets={})

    run(scenario())


@pytest.mark.parametrize("what", ["snapshot", "clone"])
def test_of_a_volume_whose_own_bucket_is_gone_nothing_is_made(run, world: World, what):
    async def scenario():
        p = world.provisioner
        volume, record = await create(p, "v", parameters={"provisioning": "bucket"})
        (world.root / record.bucket).rename(world.root / ".away")
        before = await world.keys()
        calls = {
            "snapshot": lambda: p.create_snapshot("s", str(volume), {}, {}),
            "clone": lambda: create(p, "c", source=str(volume)),
        }
        with pytest.raises(BucketNotFound):
            await calls[what]()
        assert await world.keys() == before

    run(scenario())


def test_a_snapshot_of_an_earlier_volume_of_that_name_is_another_one(run, world: World):
    async def scenario():
        p = world.provisioner
        volume, _ = await create(p, "v")
        snapshot, made = await p.create_snapshot("s", str(volume), {}, {})
        await p.delete_volume(str(volume), {})
        assert await p.create_snapshot("s", str(volume), {}, {}) == (snapshot, made)
        await create(p, "v")
        with pytest.raises(VolumeConflict, match="an earlier volume"):
            await p.create_snapshot("s", str(volume), {}, {})

    run(scenario())


def test_a_restored_volume_must_have_room(run, world: World):
    async def scenario():
        p = world.provisioner
        volume, record = await create(p, "v", required_bytes=100)
        await world.put(HOME, record.prefix, {"a": b"12345"})
        snapshot, _ = await p.create_snapshot("s", str(volume), {}, {})
        for source in (str(volume), str(snapshot)):
            with pytest.raises(CapacityOutOfRange, match="needs as many"):
                await create(p, "r", source=source, required_bytes=50)
            with pytest.raises(CapacityOutOfRange, match="more than limit"):
                await create(p, "r", source=source, limit_bytes=50)

    run(scenario())


def test_snapshots_are_listed_by_id_by_source_and_in_pages(run, world: World):
    async def scenario():
        p = world.provisioner
        first, _ = await create(p, "v")
        second, _ = await create(p, "w")
        made = {}
        for number in range(6):
            source = (first, second)[number % 2]
            snapshot, _ = await p.create_snapshot(f"s{number}", str(source), {}, {})
            made[str(snapshot)] = str(source)

        async def names(limit=0, **which):
            which = {"snapshot_id": None, "source": None} | which
            found, token, pages = [], "", 0
            while True:
                page, token = await p.list_snapshots(token, limit, secrets={}, **which)
                assert not limit or len(page) <= limit
                found += [str(snapshot) for snapshot, _ in page]
                pages += 1
                if not token:
                    return found

        for limit in (0, 1, 4):
            assert await names(limit) == sorted(made)
            wanted = sorted(key for key, source in made.items() if source == str(second))
            assert await names(limit, source=str(second)) == wanted
        one = next(iter(made))
        assert await names(snapshot_id=one) == [one]
        assert await names(snapshot_id=one, source=made[one]) == [one]
        assert await names(snapshot_id=one, source="slayer1:home:zz") == []
        for nothing in ("x", "snap1:home:zz", "slayer1:home:v"):
            assert await names(snapshot_id=nothing) == []
            assert await names(source=nothing) == [] or nothing == "slayer1:home:v"
        with pytest.raises(VolumeBusy):
            await p.list_snapshots("bad", 0, snapshot_id=None, source=None, secrets={})

    run(scenario())


class Gate:
    """Holds copies until it is opened, and says when the first one is there."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.reached = asyncio.Event()


@contextlib.contextmanager
def gated_pages(monkeypatch):
    """Stops copies of volumes between listing and copying."""
    gate = Gate()
    real = rounds.Rounds._copy

    async def held(*args, **rest):
        gate.reached.set()
        await gate.open.wait()
        return await real(*args, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(rounds.Rounds, "_copy", held)
        yield gate


def test_what_changes_while_it_is_copied_is_noted(run, world: World, monkeypatch):
    async def scenario():
        p = world.provisioner
        volume, record = await create(p, "v")
        await world.put(HOME, record.prefix, {"a": b"1", "b": b"22", "c": b"333"})
        with gated_pages(monkeypatch) as gate:
            making = asyncio.ensure_future(p.create_snapshot("s", str(volume), {}, {}))
            await gate.reached.wait()
            async with await world.open(HOME, record.prefix) as store:
                await store.put("b", b"newer")
                await store.delete("c")
            gate.open.set()
            snapshot, made = await making
        assert (made.objects, made.size_bytes) == (2, 6)
        async with await world.open(HOME, snapshot.snapshot_prefix) as store:
            page = await read_page(store, 0, 0)
        assert page.done and page.last
        assert {entry.key: (entry.note, entry.size) for entry in page.entries} == {
            "a": ("", 1),
            "b": (CHANGED, 5),
            "c": (GONE, 3),
        }
        _, restored = await create(p, "r", source=str(snapshot))
        assert await world.keys(HOME, restored.prefix) == {"a": b"1", "b": b"newer"}

    run(scenario())


def test_a_snapshot_of_a_volume_deleted_meanwhile_is_never_ready(run, world: World, monkeypatch):
    async def scenario():
        p = world.provisioner
        volume, record = await create(p, "v")
        await world.put(HOME, record.prefix, {"a": b"1"})
        with gated_pages(monkeypatch) as gate:
            making = asyncio.ensure_future(p.create_snapshot("s", str(volume), {}, {}))
            await gate.reached.wait()
            await p.delete_volume(str(volume), {})
            gate.open.set()
            with pytest.raises(VolumeNotFound):
                await making
        assert await world.keys() == {}, "nobody knows the id that would have to be deleted"

    run(scenario())


def test_a_call_does_not_wait_for_a_long_copy(run, world: World, monkeypatch):
    async def scenario():
        session = make_session(world.config, wait=0.01)
        p = Provisioner(world.config, session)
        volume, record = await create(p, "v")
        await world.put(HOME, record.prefix, CONTENT)
        with gated_pages(monkeypatch) as gate:
            for _ in range(2):
                with pytest.raises(StillRunning, match="is being made: 0 objects so far"):
                    await p.create_snapshot("s", str(volume), {}, {})
            for which in ({}, {"snapshot_id": "snap1:home:s"}, {"source": str(volume)}):
                which = {"snapshot_id": None, "source": None} | which
                found = await p.list_snapshots("", 0, secrets={}, **which)
                assert found == ([], ""), "it has not been cut"
            with pytest.raises(VolumeBusy, match="is being made"):
                await create(p, "r", source="snap1:home:s")
            gate.open.set()
            _, made = await persistently(lambda: p.create_snapshot("s", str(volume), {}, {}))
        assert (made.state, made.objects) == (State.READY, len(CONTENT))
        await p.close()

    run(scenario())


def test_a_snapshot_being_made_can_be_deleted(run, world: World, monkeypatch):
    async def scenario(other_process: bool):
        world.session.lease_seconds = LEASE
        p = Provisioner(world.config, make_session(world.config, wait=0.01, lease=LEASE))
        volume, record = await create(p, "v")
        await world.put(HOME, record.prefix, CONTENT)
        with gated_pages(monkeypatch) as gate:
            while not gate.reached.is_set():
                with pytest.raises(StillRunning):
                    await p.create_snapshot("s", str(volume), {}, {})
            deleter = world.provisioner if other_process else p
            await persistently(lambda: deleter.delete_snapshot("snap1:home:s", {}))
            assert not any("snapshots" in key for key in await world.keys())
            gate.open.set()
        await p.close()
        assert not any("snapshots" in key for key in await world.keys())

    run(scenario(False))
    run(scenario(True))


def test_an_interrupted_copy_goes_on(run, world: World, monkeypatch):
    """Each process dies one operation later than the one before it, until one gets through."""
    monkeypatch.setattr(rounds, "PAGE", 3)

    async def scenario():
        volume, record = await create(world.provisioner, "v")
        content = {f"f{number:02}": b"x" * number for number in range(10)}
        await world.put(HOME, record.prefix, content)
        for operation in ("snapshot", "restore", "delete", "clone", "delete"):
            for die_at in range(1, 200):
                faults = Faults()
                faults.die_at, faults.done_before = die_at, die_at % 2 == 0
                p = Provisioner(world.config, make_session(world.config, faults, lease=LEASE))
                calls = {
                    "snapshot": lambda p=p: p.create_snapshot("s", str(volume), {}, {}),
                    "restore": lambda p=p: create(p, "r", source="snap1:home:s"),
                    "clone": lambda p=p: create(p, "r", source=str(volume)),
                    "delete": lambda p=p: p.delete_volume("slayer1:home:r", {}),
                }
                await until_dead(persistently(calls[operation]), p, faults)
                if not faults.buried:
                    await p.close()
                    break
            else:
                raise AssertionError("it never got through")
            if operation in ("restore", "clone"):
                assert await world.keys(HOME, "r/") == content
        assert not (world.root / HOME / "r").exists()
        found, _ = await world.provisioner.list_volumes("", 0)
        assert [volume.name for volume, _ in found] == ["v"]

    run(scenario())


def test_a_restore_that_goes_on_copies_anew_what_has_another_size(run, world: World):
    async def scenario():
        async with (
            await world.open(HOME, "s") as source,
            await world.open(HOME, "r") as target,
        ):
            await world.put(HOME, "s", {"data/a": b"1", "data/b": b"22", "data/c": b"333"})
            await world.put(HOME, "r", {"a": b"1", "b": b""})
            before = await target.head("a")
            progress = Progress("restore")
            await copy_frozen(source, "data/", target, progress, 2, lambda: None)
            assert await world.keys(HOME, "r") == {"a": b"1", "b": b"22", "c": b"333"}
            assert (progress.objects, progress.bytes) == (2, 5)
            assert await target.head("a") == before, "it was there"

    (world.root / HOME / "s").mkdir()
    (world.root / HOME / "r").mkdir()
    run(scenario())


@pytest.mark.parametrize("own", [False, True])
def test_a_clone_whose_source_goes_meanwhile_leaves_nothing(run, world: World, monkeypatch, own):
    async def scenario():
        p = world.provisioner
        volume, record = await create(p, "v")
        await world.put(HOME, record.prefix, CONTENT)
        real = rounds.Rounds.run

        async def held(*args, **rest):
            await real(*args, **rest)
            await p.delete_volume(str(volume), {})

        monkeypatch.setattr(rounds.Rounds, "run", held)
        parameters = {"provisioning": "bucket"} if own else {}
        with pytest.raises(VolumeNotFound):
            await create(p, "c", source=str(volume), parameters=parameters)
        assert await world.keys() == {}
        assert [path.name for path in world.root.iterdir() if path.name[0] != "."] == [HOME]

    run(scenario())
