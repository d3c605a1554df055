"""Volumes that are made at the same time do not come to be within each other."""

from __future__ import annotations

import asyncio

import pytest

from csi_slayer.errors import VolumeConflict
from csi_slayer.volumes.ids import Kind, parse
from csi_slayer.volumes.provisioner import Provisioner
from tests.unit.volumes.nesting import made_at_once
from tests.unit.volumes.world import (
    HOME,
    LEASE,
    Pause,
    World,
    create,
    make_session,
    persistently,
)

INSTANTS = range(1, 12)
"""Operations of a creation, and some more."""


@pytest.mark.parametrize("done_before", [False, True])
@pytest.mark.parametrize("held", ["n0", "inner"])
def test_of_two_that_would_nest_at_most_one_is_made(run, world: World, held, done_before):
    async def scenario():
        for at in INSTANTS:
            pause = Pause(at, done_before)
            slow = Provisioner(world.config, make_session(world.config, pause, lease=LEASE))
            try:
                made = await made_at_once(slow, pause, world.provisioner, held)
                for volume, record in made:
                    await world.put(record.bucket, record.prefix, {"f": b"1"})
                    assert f"{record.prefix}f" in await world.keys()
                    await world.provisioner.delete_volume(str(volume), {})
                assert await world.keys() == {}, (at, "what was refused leaves nothing")
            finally:
                await slow.close()

    run(scenario())


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("done_before", [False, True])
def test_what_a_dead_creation_had_not_claimed_is_not_deleted(run, world: World, done_before, again):
    world.session.lease_seconds = LEASE

    async def scenario():
        kept = 0
        for at in INSTANTS:
            pause = Pause(at, done_before)
            dying = Provisioner(world.config, make_session(world.config, pause, lease=LEASE))
            calling = asyncio.ensure_future(create(dying, f"v{at}"))
            await pause.hold(calling)
            pause.buried = True
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
            await dying.close()
            await world.put(HOME, "", {f"v{at}/theirs": b"1"})
            volume = parse(f"slayer1:{HOME}:v{at}", Kind.VOLUME)
            record = (await world.keys()).get(volume.record_key, b'"claimed":false')
            if again and b'"claimed":false' in record:
                with pytest.raises(VolumeConflict, match="belong to no volume"):
                    await persistently(lambda at=at: create(world.provisioner, f"v{at}"))
            await persistently(lambda id=str(volume): world.provisioner.delete_volume(id, {}))
            left = await world.keys()
            assert volume.record_key not in left
            assert (f"v{at}/theirs" in left) == (b'"claimed":false' in record), (at, record)
            kept += f"v{at}/theirs" in left
        assert 0 < kept < len(INSTANTS)

    run(scenario())


def test_a_creation_that_was_refused_and_died_can_be_made_again(run, world: World):
    """Nobody but CreateVolume itself would end what it began to delete."""
    world.session.lease_seconds = LEASE

    async def scenario():
        await create(world.provisioner, "v")
        async with await world.open(HOME) as store:
            key = ".slayerfs/volumes/v.json"
            _, body = await store.get(key)
            await store.put(key, body.replace(b'"state":"ready"', b'"state":"deleting"'))
        _, record = await persistently(lambda: create(world.provisioner, "v"))
        assert record.prefix == "v/"

    run(scenario())
