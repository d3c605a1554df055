"""Random sequences of calls, with failures, deaths and a second controller, against a model.

Each call is made until it has an outcome. Before that, a process may fail at any operation of the
store, or die at it; or two controllers make the same call at once. The outcome, and what is in the
buckets, must be as if the call had been made once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from csi_slayer.errors import (
    CapacityOutOfRange,
    ConfigError,
    SlayerError,
    VolumeConflict,
    VolumeNotFound,
)
from csi_slayer.volumes.provisioner import Provisioner
from csi_slayer.volumes.records import State
from tests.unit.volumes.world import (
    HOME,
    LEASE,
    Faults,
    Meanwhile,
    World,
    create,
    fast_directory,
    make_session,
    persistently,
    until_dead,
)

Call = Callable[[Provisioner], Coroutine[Any, Any, Any]]

names = st.sampled_from(["a", "ab", "a-b"])
snapshot_names = st.sampled_from(["s", "s-1"])
sizes = st.sampled_from([0, 10, 20, 30])
NONE = ("none", 0, False)
disturbances = st.one_of(
    st.just(NONE),
    st.tuples(st.sampled_from(["fail", "die"]), st.integers(1, 25), st.booleans()),
    st.just(("both", 0, False)),
)


@dataclass
class Volume:
    capacity: int
    parameters: dict[str, str]
    source: str | None
    mutable: dict[str, str] = field(default_factory=dict)
    content: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Snapshot:
    source: str
    capacity: int
    content: dict[str, bytes]
    earlier: bool = False
    """Whether its volume was deleted since."""


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = fast_directory()
        self.runner = asyncio.Runner()
        self.volumes: dict[str, Volume] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.made = 0

    @initialize()
    def start(self) -> None:
        async def make() -> tuple[World, Provisioner]:
            world = World(Path(self.directory.name))
            world.session.lease_seconds = LEASE
            other = Provisioner(world.config, make_session(world.config, lease=LEASE))
            return world, other

        self.world, self.other = self.runner.run(make())

    def teardown(self) -> None:
        async def close() -> None:
            await self.other.close()
            await self.world.close()

        self.runner.run(close())
        self.runner.close()
        self.directory.cleanup()

    # Calls.

    def outcome(self, call: Call, disturbance: tuple[str, int, bool]) -> Any:
        """The result of a call, or the type of its error."""
        return self.runner.run(self._disturbed(call, *disturbance))

    async def _disturbed(self, call: Call, how: str, at: int, done_before: bool) -> Any:
        if how == "both":
            first, second = await asyncio.gather(
                _settled(call, self.world.provisioner), _settled(call, self.other)
            )
            assert first == second, (first, second)
            return first
        if how in ("fail", "die"):
            faults = Faults()
            faults.done_before = done_before
            faults.fail_at, faults.die_at = (at, None) if how == "fail" else (None, at)
            session = make_session(self.world.config, faults, lease=LEASE)
            faulty = Provisioner(self.world.config, session)
            try:
                await until_dead(call(faulty), faulty, faults)
            except SlayerError:
                pass
            if not faults.buried:
                await faulty.close()
        return await _settled(call, self.world.provisioner)

    def id_of(self, name: str) -> str:
        return f"slayer1:{HOME}:{name}"

    # Rules.

    @rule(
        name=names,
        required=sizes,
        limit=sizes,
        own=st.booleans(),
        source=st.none() | names | snapshot_names,
        disturbance=disturbances,
    )
    def create(self, name, required, limit, own, source, disturbance) -> None:
        parameters = {"provisioning": "bucket"} if own else {}
        from_snapshot = source in ("s", "s-1")
        source_id = None if source is None else self.id_of(source)
        if from_snapshot:
            source_id = f"snap1:{HOME}:{source}"
        got = self.outcome(
            lambda p: create(
                p,
                name,
                parameters=parameters,
                required_bytes=required,
                limit_bytes=limit,
                source=source_id,
            ),
            disturbance,
        )
        there = self.volumes.get(name)
        if limit and limit < required:
            assert got is CapacityOutOfRange
        elif there is not None:
            fits = there.capacity >= required and (not limit or there.capacity <= limit)
            if there.capacity == 0:
                fits = limit == 0
            same = there.parameters == parameters and there.source == source_id
            if fits and same:
                assert got[1].capacity_bytes == there.capacity
            else:
                assert got is VolumeConflict
        else:
            self._created(name, required, limit, parameters, source, source_id, got)

    def _created(self, name, required, limit, parameters, source, source_id, got) -> None:
        found = None if source is None else self.volumes.get(source, self.snapshots.get(source))
        if source is not None and found is None:
            assert got is VolumeNotFound
            return
        capacity, least = 0, 0
        if found is not None:
            capacity = least = found.capacity
            if isinstance(found, Snapshot):
                least = max(least, sum(map(len, found.content.values())))
        chosen = required or capacity or limit
        if (limit and chosen > limit) or (chosen and chosen < least):
            assert got is CapacityOutOfRange
            return
        _, record = got
        assert (record.capacity_bytes, record.state) == (chosen, State.READY)
        content = {} if found is None else dict(found.content)
        self.volumes[name] = Volume(chosen, parameters, source_id, content=content)

    def _deleted(self, name: str) -> None:
        self.volumes.pop(name, None)
        for snapshot in self.snapshots.values():
            snapshot.earlier |= snapshot.source == self.id_of(name)

    @rule(name=names, disturbance=disturbances)
    def delete(self, name, disturbance) -> None:
        assert self.outcome(lambda p: p.delete_volume(self.id_of(name), {}), disturbance) is None
        self._deleted(name)

    @rule(name=names, own=st.booleans(), one_controller=st.booleans())
    def create_and_delete_at_once(self, name, own, one_controller) -> None:
        parameters = {"provisioning": "bucket"} if own else {}
        first = self.world.provisioner
        second = first if one_controller else self.other

        async def both() -> list[Any]:
            return await asyncio.gather(
                _settled(lambda p: create(p, name, parameters=parameters), first),
                _settled(lambda p: p.delete_volume(self.id_of(name), {}), second),
            )

        made, deleted = self.runner.run(both())
        assert isinstance(made, tuple) or made is VolumeConflict, made
        assert deleted is None
        # Either may have been first; in the end there is nothing left of it.
        assert self.outcome(lambda p: p.delete_volume(self.id_of(name), {}), NONE) is None
        self._deleted(name)

    @rule(outer=names, own=st.booleans())
    def create_one_within_another_at_once(self, outer, own) -> None:
        parameters = {"provisioning": "bucket"} if own else {}

        async def both() -> list[Any]:
            return await asyncio.gather(
                _settled(lambda p: create(p, outer, parameters=parameters), self.world.provisioner),
                _settled(lambda p: create(p, "in", parameters={"prefix": outer}), self.other),
            )

        outside, inside = self.runner.run(both())
        there = self.volumes.get(outer)
        assert inside is VolumeConflict or isinstance(inside, tuple), inside
        if isinstance(inside, tuple):
            assert outside is VolumeConflict or outside[1].own_bucket
            assert there is None or "provisioning" in there.parameters
            delete = str(inside[0])
            assert self.outcome(lambda p: p.delete_volume(delete, {}), NONE) is None
        if there is None:
            assert self.outcome(lambda p: p.delete_volume(self.id_of(outer), {}), NONE) is None
        if there is None or "provisioning" in there.parameters:
            self.runner.run(self._remove_directory(outer))

    async def _remove_directory(self, name: str) -> None:
        """One that another volume was to be in; in S3 a prefix of nothing is nothing."""
        left = [key for key in await self.world.keys() if key.startswith(f"{name}/")]
        assert left in ([], [f"{name}/"])
        await (await self.world.session.driver_access()).remove(HOME, f"{name}/")

    @rule(name=names, required=sizes, limit=sizes, disturbance=disturbances)
    def expand(self, name, required, limit, disturbance) -> None:
        got = self.outcome(lambda p: p.expand(self.id_of(name), required, limit, {}), disturbance)
        there = self.volumes.get(name)
        if limit and limit < required:
            assert got is CapacityOutOfRange
        elif there is None:
            assert got is VolumeNotFound
        elif there.capacity and limit and there.capacity > limit:
            assert got is CapacityOutOfRange
        elif there.capacity == 0:
            assert got == required
        else:
            there.capacity = max(there.capacity, required)
            assert got == there.capacity

    @rule(
        name=names,
        changes=st.dictionaries(
            st.sampled_from(["durability", "prefetch", "uid"]), st.just("false"), min_size=1
        ),
        disturbance=disturbances,
    )
    def modify(self, name, changes, disturbance) -> None:
        if "durability" in changes:
            changes["durability"] = "fsync"
        if "uid" in changes:
            changes["uid"] = "1"
        got = self.outcome(lambda p: p.modify(self.id_of(name), changes, {}), disturbance)
        if "uid" in changes:
            assert got is ConfigError
        elif name not in self.volumes:
            assert got is VolumeNotFound
        else:
            assert got is None
            self.volumes[name].mutable |= changes

    @rule(name=snapshot_names, source=names, disturbance=disturbances)
    def snapshot(self, name, source, disturbance) -> None:
        got = self.outcome(
            lambda p: p.create_snapshot(name, self.id_of(source), {}, {}), disturbance
        )
        there, volume = self.snapshots.get(name), self.volumes.get(source)
        if there is not None:
            again = there.earlier and volume is not None
            if there.source == self.id_of(source) and not again:
                assert got[1].objects == len(there.content)
            else:
                assert got is VolumeConflict
        elif volume is None:
            assert got is VolumeNotFound
        else:
            _, record = got
            assert record.size_bytes == sum(map(len, volume.content.values()))
            assert record.objects == len(volume.content)
            self.snapshots[name] = Snapshot(
                self.id_of(source), volume.capacity, dict(volume.content)
            )

    @rule(
        name=snapshot_names | names,
        source=names,
        change=st.sampled_from(["rename", "write"]),
        at=st.integers(1, 40),
    )
    def copy_while_it_changes(self, name, source, change, at) -> None:
        """A snapshot or clone has what its source had before the change or after it."""
        volume = self.volumes.get(source)
        if volume is None or name in self.volumes or name in self.snapshots:
            return
        before = dict(volume.content)
        if change == "rename" and "f" not in before:
            return
        got = self.runner.run(self._copied_meanwhile(name, volume, source, change, at))
        if name in ("s", "s-1"):
            content = self.runner.run(self._found(HOME, f".slayerfs/snapshots/{name}/data/"))
            assert (got.objects, got.size_bytes) == (
                len(content),
                sum(map(len, content.values())),
            )
            self.snapshots[name] = Snapshot(self.id_of(source), volume.capacity, content)
        else:
            content = self.runner.run(self._found(got.bucket, got.prefix))
            self.volumes[name] = Volume(
                volume.capacity, {}, self.id_of(source), content=dict(content)
            )
        assert content in (before, volume.content)

    async def _found(self, bucket: str, prefix: str) -> dict[str, bytes]:
        keys = await self.world.keys(bucket)
        return {
            key.removeprefix(prefix): body
            for key, body in keys.items()
            if key.startswith(prefix) and key != prefix
        }

    async def _copied_meanwhile(
        self, name: str, volume: Volume, source: str, change: str, at: int
    ) -> Any:
        _, record = await self.world.provisioner.get_volume(self.id_of(source), {})

        async def act() -> None:
            async with await self.world.open(record.bucket, record.prefix) as store:
                if change == "write":
                    self.made += 1
                    volume.content["f"] = str(self.made).encode()
                    await store.put("f", volume.content["f"])
                else:
                    volume.content["moved"] = volume.content.pop("f")
                    await store.copy("f", "moved")
                    await store.delete("f")

        p = Provisioner(
            self.world.config, make_session(self.world.config, Meanwhile(at, act), lease=LEASE)
        )
        try:
            if name in ("s", "s-1"):
                return (await p.create_snapshot(name, self.id_of(source), {}, {}))[1]
            return (await create(p, name, source=self.id_of(source)))[1]
        finally:
            await p.close()

    @rule(name=snapshot_names, disturbance=disturbances)
    def delete_snapshot(self, name, disturbance) -> None:
        snapshot_id = f"snap1:{HOME}:{name}"
        assert self.outcome(lambda p: p.delete_snapshot(snapshot_id, {}), disturbance) is None
        self.snapshots.pop(name, None)

    @rule(name=names, key=st.sampled_from(["f", "d/f", "d/g/h", "e/"]), data=st.data())
    def write(self, name, key, data) -> None:
        volume = self.volumes.get(name)
        if volume is None:
            return
        self.made += 1
        body = b"" if key.endswith("/") else str(self.made).encode()

        async def put() -> None:
            _, record = await self.world.provisioner.get_volume(self.id_of(name), {})
            await self.world.put(record.bucket, record.prefix, {key: body})

        self.runner.run(put())
        volume.content[key] = body

    # What must hold after each call.

    @invariant()
    def everything_is_there_and_nothing_else(self) -> None:
        if hasattr(self, "world"):
            self.runner.run(self._check())

    async def _check(self) -> None:
        p = self.world.provisioner
        listed, token = await p.list_volumes("", 0)
        assert token == ""
        assert [volume.name for volume, _ in listed] == _by_key(self.volumes)
        expected: dict[str, bytes] = {}
        records = set()
        buckets = {HOME}
        for volume, record in listed:
            model = self.volumes[volume.name]
            assert record.capacity_bytes == model.capacity
            assert record.mutable == model.mutable
            assert record.lease is None
            records.add(volume.record_key)
            if record.own_bucket:
                buckets.add(record.bucket)
                assert await self.world.keys(record.bucket) == model.content
            else:
                expected |= {f"{record.prefix}{key}": body for key, body in model.content.items()}
        shown, _ = await p.list_snapshots("", 0, snapshot_id=None, source=None, secrets={})
        assert [snapshot.name for snapshot, _ in shown] == _by_key(self.snapshots)
        for snapshot, record in shown:
            assert record.state is State.READY
            model = self.snapshots[snapshot.name]
            prefix = f"{snapshot.snapshot_prefix}data/"
            records.add(snapshot.record_key)
            expected |= {f"{prefix}{key}": body for key, body in model.content.items()}
        keys = await self.world.keys()
        assert {key: keys[key] for key in keys if key in records}.keys() == records
        manifests = f"{'.slayerfs/snapshots/'}"
        rest = {
            key: body
            for key, body in keys.items()
            if key not in records and not (key.startswith(manifests) and "/manifest/" in key)
        }
        assert rest == expected
        there = {path.name for path in self.world.root.iterdir() if path.name[0] != "."}
        assert there == buckets


def _by_key(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: f"{name}.json")


async def _settled(call: Call, p: Provisioner) -> Any:
    try:
        return await persistently(lambda: call(p))
    except SlayerError as error:
        return type(error)


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    suppress_health_check=list(HealthCheck),
)
