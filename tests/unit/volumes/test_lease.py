"""One process at a time works on a volume, although nobody coordinates them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from csi_slayer.errors import StoreUnavailable, VolumeBusy
from csi_slayer.volumes import lease as lease_module
from csi_slayer.volumes.ids import Kind, ObjectId
from csi_slayer.volumes.lease import Lease
from csi_slayer.volumes.records import State, VolumeRecord
from csi_slayer.volumes.session import volumes
from tests.unit.volumes.world import HOME, Faults, FaultyStore, World

SHORT, LONGER = 0.6, 4.0
VOLUME = ObjectId(Kind.VOLUME, HOME, "v")


class Stage:
    """A record, and leases on it through stores that can fail."""

    def __init__(self, world: World, store) -> None:
        self.faults = Faults()
        self.home = volumes(store)
        self.unreliable = volumes(FaultyStore(store, self.faults))  # type: ignore[arg-type]

    async def found(self):
        return await self.home.read(VOLUME)

    def lease(self, seconds: float = SHORT, *, unreliable: bool = False) -> Lease[VolumeRecord]:
        return Lease(self.unreliable if unreliable else self.home, VOLUME, seconds)


@pytest.fixture
def on_stage(run, world: World):
    def play(scenario):
        async def act():
            async with await world.open(HOME) as store:
                stage = Stage(world, store)
                record = VolumeRecord(csi_name="v", bucket=HOME, prefix="v/", state=State.CREATING)
                await stage.home.create(VOLUME, record)
                await scenario(stage)

        run(act())

    return play


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which no lease runs out, however busy the machine is; renewals go on."""
    clock = SimpleNamespace(monotonic=lambda: 0.0)
    monkeypatch.setattr(lease_module, "time", clock)


async def until_renewed(stage: Stage) -> None:
    etag = before = (await stage.found()).etag
    while etag == before:
        etag = (await stage.found()).etag


def test_work_is_done_under_a_lease_that_is_given_up(on_stage, still):
    async def scenario(stage: Stage):
        lease = stage.lease()
        await lease.take(await stage.found())

        async def work() -> str:
            assert (await stage.found()).record.lease is not None
            await until_renewed(stage)
            await until_renewed(stage)
            await lease.finish(state=State.READY)
            return "done"

        assert await lease.run(work) == "done"
        record = (await stage.found()).record
        assert (record.state, record.lease) == (State.READY, None)

    on_stage(scenario)


def test_a_finished_record_is_not_renewed(on_stage, still):
    async def scenario(stage: Stage):
        lease = stage.lease()
        await lease.take(await stage.found())

        async def work() -> None:
            await lease.finish(state=State.READY)
            etag = (await stage.found()).etag
            await asyncio.sleep(SHORT / 2)  # longer than between two renewals
            assert (await stage.found()).etag == etag

        await lease.run(work)

    on_stage(scenario)


def test_work_that_fails_gives_the_lease_up(on_stage):
    async def scenario(stage: Stage):
        lease = stage.lease()
        await lease.take(await stage.found())

        async def work() -> None:
            raise StoreUnavailable("away")

        with pytest.raises(StoreUnavailable, match="away"):
            await lease.run(work)
        assert (await stage.found()).record.lease is None

    on_stage(scenario)


def test_a_living_owner_is_left_alone(on_stage, still):
    async def scenario(stage: Stage):
        lease = stage.lease()
        await lease.take(await stage.found())
        release = asyncio.Event()
        working = asyncio.ensure_future(lease.run(release.wait))
        with pytest.raises(VolumeBusy, match="another controller"):
            await stage.lease(5 * SHORT).take(await stage.found())
        release.set()
        assert await working is True

    on_stage(scenario)


def test_the_lease_of_a_dead_owner_is_taken_over(on_stage):
    async def scenario(stage: Stage):
        dead = stage.lease()
        await dead.take(await stage.found())
        successor = stage.lease()
        await successor.take(await stage.found())
        with pytest.raises(VolumeBusy):
            await dead.write(state=State.READY)
        with pytest.raises(VolumeBusy):
            dead.check()
        assert (await successor.finish(state=State.READY)).state is State.READY

    on_stage(scenario)


def test_only_one_of_several_successors_takes_over(on_stage):
    async def scenario(stage: Stage):
        await stage.lease().take(await stage.found())
        found = await stage.found()
        results = await asyncio.gather(
            *(stage.lease().take(found) for _ in range(4)), return_exceptions=True
        )
        assert sum(result is None for result in results) == 1
        assert all(isinstance(result, VolumeBusy | None) for result in results)

    on_stage(scenario)


def test_an_owner_stops_when_his_lease_is_taken(on_stage):
    async def scenario(stage: Stage):
        lease = stage.lease(LONGER)
        await lease.take(await stage.found())
        stopped = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                stopped.set()

        working = asyncio.ensure_future(lease.run(work))
        deleter = stage.lease(LONGER)
        await deleter.take(await stage.found(), preempt=True, state=State.DELETING)

        async def deletion() -> bool:
            return stopped.is_set()

        assert await deleter.run(deletion), "it began while the other one was still at work"
        with pytest.raises(VolumeBusy):
            await working
        assert (await stage.found()).record.state is State.DELETING

    on_stage(scenario)


def test_an_owner_who_cannot_renew_stops_in_time(on_stage):
    async def scenario(stage: Stage):
        lease = stage.lease(unreliable=True)
        await lease.take(await stage.found())
        stage.faults.buried = True
        with pytest.raises(VolumeBusy, match="could not be renewed"):
            await lease.run(asyncio.get_running_loop().create_future)

    on_stage(scenario)


def test_a_short_outage_does_not_stop_the_work(on_stage):
    async def scenario(stage: Stage):
        lease = stage.lease(LONGER, unreliable=True)
        await lease.take(await stage.found())

        async def work() -> None:
            stage.faults.fail_at = stage.faults.count + 1
            while stage.faults.count < (stage.faults.fail_at or 0):
                await stage.found()
            await lease.finish(state=State.READY)

        await lease.run(work)
        assert (await stage.found()).record.state is State.READY

    on_stage(scenario)
