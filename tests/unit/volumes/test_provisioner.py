"""CreateVolume and its neighbours over a local store."""

from __future__ import annotations

import asyncio

import pytest

from csi_slayer.errors import (
    CapacityOutOfRange,
    ConfigError,
    StoreUnavailable,
    VolumeBusy,
    VolumeConflict,
    VolumeError,
    VolumeNotFound,
)
from csi_slayer.volumes import options
from csi_slayer.volumes.capacity import LARGEST
from csi_slayer.volumes.context import volume_context
from csi_slayer.volumes.ids import Kind, ephemeral_prefix, own_bucket, parse
from csi_slayer.volumes.provisioner import Provisioner
from csi_slayer.volumes.records import State
from tests.unit.volumes.world import HOME, Faults, Meanwhile, World, create, make_session


def test_a_volume_is_a_prefix_with_a_record(run, world: World):
    async def scenario():
        volume, record = await create(
            world.provisioner,
            "pvc-1",
            parameters={"durability": "fsync", "uid": "7", "csi.storage.k8s.io/pvc/name": "c"},
            mutable={"prefetch": "false"},
            required_bytes=10,
            labels={"claim": "c", "namespace": "n"},
        )
        assert str(volume) == "slayer1:home:pvc-1"
        assert (record.bucket, record.prefix, record.state) == (HOME, "pvc-1/", State.READY)
        assert record.parameters == {"uid": "7"}
        assert record.mutable == {"durability": "fsync", "prefetch": "false"}
        assert await world.provisioner.get_volume(str(volume), {}) == (volume, record)
        assert volume_context(record) == {
            "uid": "7",
            "bucket": HOME,
            "prefix": "pvc-1/",
            "capacityBytes": "10",
            "csi.storage.k8s.io/pvc/name": "c",
            "csi.storage.k8s.io/pvc/namespace": "n",
        }
        assert list(await world.keys()) == [".slayerfs/volumes/pvc-1.json"]

    run(scenario())


def test_the_probe_asks_the_bucket_itself(run, world: World):
    async def scenario():
        faults = Faults()
        p = Provisioner(world.config, make_session(world.config, faults))
        try:
            await p.probe()
            assert faults.count == 1
            faults.fail_at = 2
            with pytest.raises(StoreUnavailable):
                await p.probe()
        finally:
            await p.close()

    run(scenario())


def test_the_same_call_again_answers_the_same_volume(run, world: World):
    async def scenario():
        changes = {"required_bytes": 10, "limit_bytes": 20, "parameters": {"uid": "1"}}
        first = await create(world.provisioner, "v", **changes)
        assert await create(world.provisioner, "v", **changes) == first
        assert await create(world.provisioner, "v", **(changes | {"required_bytes": 5})) == first
        together = await asyncio.gather(
            *(create(world.provisioner, "w", **changes) for _ in range(8))
        )
        assert all(made == together[0] for made in together)

    run(scenario())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"required_bytes": 11}, "capacity"),
        ({"required_bytes": 1, "limit_bytes": 9}, "capacity"),
        ({"parameters": {"uid": "2"}}, "parameters"),
        ({"source": "slayer1:home:other"}, "source"),
        ({"parameters": {"uid": "2"}, "required_bytes": 11}, "capacity and another parameters"),
    ],
)
def test_the_same_name_with_something_else_is_a_conflict(run, world: World, changes, what):
    async def scenario():
        same = {"required_bytes": 10, "parameters": {"uid": "1"}}
        await create(world.provisioner, "v", **same)
        with pytest.raises(VolumeConflict, match=f"with another {what}"):
            await create(world.provisioner, "v", **(same | changes))

    run(scenario())


def test_a_name_that_looks_like_the_safe_form_of_another_is_a_conflict(run, world: World):
    async def scenario():
        volume, _ = await create(world.provisioner, "Ünsafe/../name")
        with pytest.raises(VolumeConflict, match="with another name"):
            await create(world.provisioner, volume.name)

    run(scenario())


@pytest.mark.parametrize(
    ("required", "limit", "error"),
    [
        (-1, 0, ConfigError),
        (0, -1, ConfigError),
        (10, 9, CapacityOutOfRange),
        (LARGEST + 1, 0, CapacityOutOfRange),
    ],
)
def test_capacities_that_cannot_be_are_refused(run, world: World, required, limit, error):
    async def scenario():
        with pytest.raises(error, match="capacity_range"):
            await create(world.provisioner, "v", required_bytes=required, limit_bytes=limit)
        assert await world.keys() == {}

    run(scenario())


@pytest.mark.parametrize("at", range(1, 6))  # then it has its own record
def test_what_another_controller_copies_meanwhile_is_the_volume_s_own(run, world: World, at: int):
    """Not somebody else's, to be removed."""

    async def scenario():
        source, record = await create(world.provisioner, "source")
        await world.put(HOME, record.prefix, {"file": b"x"})
        snapshot, _ = await world.provisioner.create_snapshot("s", str(source), {}, {})

        async def other() -> None:
            await create(world.provisioner, "v", source=str(snapshot))

        late = Provisioner(world.config, make_session(world.config, Meanwhile(at, other)))
        volume, made = await create(late, "v", source=str(snapshot))
        assert made.state is State.READY
        assert set(await world.keys(HOME, f"{volume.name}/")) == {"file"}
        await late.close()

    run(scenario())


def test_an_upper_limit_beyond_the_largest_volume_makes_that(run, world: World):
    async def scenario():
        _, record = await create(world.provisioner, "v", limit_bytes=2**63 - 1)
        assert record.capacity_bytes == LARGEST

    run(scenario())


def test_without_a_bucket_the_message_says_where_to_set_one(run, world: World):
    async def scenario():
        store = world.config.store.model_copy(update={"bucket": None})
        object.__setattr__(
            world.session, "config", world.config.model_copy(update={"store": store})
        )
        with pytest.raises(ConfigError, match=r"storage class nor store\.bucket"):
            await create(world.provisioner, "v")
        assert await world.provisioner.list_volumes("", 0) == ([], "")
        await world.provisioner.probe()

    run(scenario())


def test_a_bucket_that_does_not_exist_is_named(run, world: World):
    async def scenario():
        with pytest.raises(Exception, match="nowhere") as caught:
            await create(world.provisioner, "v", parameters={"bucket": "nowhere"})
        assert caught.value.grpc_code == "NOT_FOUND"

    run(scenario())


def test_a_prefix_with_objects_of_somebody_else_is_left_alone(run, world: World):
    async def scenario():
        await world.put(HOME, "", {"v/theirs": b"1"})
        with pytest.raises(VolumeConflict, match="belong to no volume"):
            await create(world.provisioner, "v")
        await world.provisioner.delete_volume("slayer1:home:v", {})
        assert await world.keys() == {"v/theirs": b"1"}

    run(scenario())


def test_volumes_do_not_lie_within_each_other(run, world: World):
    async def scenario():
        await create(world.provisioner, "outer")
        with pytest.raises(VolumeConflict, match="belongs to volume"):
            await create(world.provisioner, "inner", parameters={"prefix": "outer/x"})
        volume, _ = await create(world.provisioner, "inner", parameters={"prefix": "base/x"})
        assert volume.base is not None
        with pytest.raises(VolumeConflict, match="belong to no volume"):
            await create(world.provisioner, "base")

    run(scenario())


def test_records_are_not_for_volumes(run, world: World):
    async def scenario():
        with pytest.raises(ConfigError, match="keeps its records"):
            await create(world.provisioner, "v", parameters={"prefix": ".slayerfs/volumes"})

    run(scenario())


def test_an_own_bucket_comes_and_goes_with_its_volume(run, world: World):
    async def scenario():
        volume, record = await create(
            world.provisioner, "v", parameters={"provisioning": "bucket", "prefix": "ignored"}
        )
        assert record.own_bucket and record.prefix == "" and record.bucket == own_bucket(volume)
        assert "prefix" not in volume_context(record)
        await world.put(record.bucket, "", {"a/b": b"1", "c": b""})
        await world.provisioner.delete_volume(str(volume), {})
        assert not (world.root / record.bucket).exists()
        assert await world.keys() == {}

    run(scenario())


def test_a_bucket_that_is_there_and_not_empty_is_not_taken(run, world: World):
    async def scenario():
        own = own_bucket(parse("slayer1:home:v", Kind.VOLUME))
        (world.root / own).mkdir()
        await world.put(own, "", {"theirs": b"1"})
        for _ in range(2):
            with pytest.raises(VolumeConflict, match="not empty"):
                await create(world.provisioner, "v", parameters={"provisioning": "bucket"})
        assert await world.keys(own) == {"theirs": b"1"}
        assert await world.keys() == {}, "nobody knows the id that would have to be deleted"

    run(scenario())


def test_deleting_what_is_not_there_is_no_error(run, world: World):
    async def scenario():
        for volume_id in (
            "",
            "csi-123",
            "slayer1:home:v",
            "slayer1:nowhere:v",
            "../../etc",
            "slayer1:home:v:garbage",
        ):
            await world.provisioner.delete_volume(volume_id, {})
        await world.provisioner.delete_snapshot("snap1:home:v", {})
        await world.provisioner.delete_snapshot("x", {})

    run(scenario())


def test_an_identity_that_could_not_delete_the_volume_makes_none(run, world: World):
    keys = {"access_key_id": "AK", "secret_access_key": "SK"}

    async def scenario():
        with pytest.raises(ConfigError, match="remove the secret from the class"):
            await create(
                world.provisioner, "v", parameters={"authentication": "driver"}, secrets=keys
            )
        await create(world.provisioner, "v", parameters={"authentication": "driver"})
        world.session.defaults = options.parse({"authentication": "driver"}, "driver")
        await create(world.provisioner, "w", secrets=keys)
        with pytest.raises(ConfigError, match="remove the secret from the class"):
            await create(
                world.provisioner, "x", parameters={"authentication": "secret"}, secrets=keys
            )

    run(scenario())


def test_what_is_not_there_is_not_found(run, world: World):
    async def scenario():
        for volume_id in ("", "csi-123", "slayer1:home:v", "snap1:home:v"):
            with pytest.raises(VolumeNotFound):
                await world.provisioner.get_volume(volume_id, {})
            with pytest.raises(VolumeNotFound):
                await world.provisioner.condition(volume_id, {})
            with pytest.raises(VolumeNotFound):
                await world.provisioner.expand(volume_id, 1, 0, {})
            with pytest.raises(VolumeNotFound):
                await world.provisioner.create_snapshot("s", volume_id, {}, {})
        with pytest.raises(VolumeNotFound):
            await create(world.provisioner, "v", source="snap1:home:none")

    run(scenario())


def test_volumes_grow_and_never_shrink(run, world: World):
    async def scenario():
        volume, _ = await create(world.provisioner, "v", required_bytes=10)
        expand = world.provisioner.expand
        assert await expand(str(volume), 30, 40, {}) == 30
        assert await expand(str(volume), 20, 0, {}) == 30
        assert await expand(str(volume), 30, 40, {}) == 30
        with pytest.raises(CapacityOutOfRange, match="do not shrink"):
            await expand(str(volume), 5, 20, {})
        with pytest.raises(CapacityOutOfRange):
            await expand(str(volume), 50, 40, {})
        together = [expand(str(volume), 100 + size, 0, {}) for size in range(5)]
        assert max(await asyncio.gather(*together)) == 104
        assert (await world.provisioner.get_volume(str(volume), {}))[1].capacity_bytes == 104

    run(scenario())


def test_a_volume_without_a_limit_stays_without(run, world: World):
    async def scenario():
        volume, _ = await create(world.provisioner, "v")
        assert await world.provisioner.expand(str(volume), 30, 0, {}) == 30
        assert (await world.provisioner.get_volume(str(volume), {}))[1].capacity_bytes == 0

    run(scenario())


def test_modification_changes_what_it_names(run, world: World):
    async def scenario():
        volume, _ = await create(world.provisioner, "v", mutable={"durability": "fsync"})
        await world.provisioner.modify(str(volume), {"metadataTtl": "1m"}, {})
        _, record = await world.provisioner.get_volume(str(volume), {})
        assert record.mutable == {"durability": "fsync", "metadataTtl": "1m"}
        with pytest.raises(ConfigError, match="fixed"):
            await world.provisioner.modify(str(volume), {"uid": "1"}, {})

    run(scenario())


def test_listing_pages_through_everything_once(run, world: World):
    async def scenario():
        # Some names begin with others: keys end in .json, and "-" comes before ".".
        names = sorted(
            [f"v{number:02}" for number in range(20)] + ["v0", "v0-a", "v00-a"],
            key=lambda name: f"{name}.json",
        )
        for name in names:
            await create(world.provisioner, name)
        for limit in (0, 1, 7, 23, 100):
            found, token = [], ""
            while True:
                page, token = await world.provisioner.list_volumes(token, limit)
                assert limit == 0 or len(page) <= limit
                found += [volume.name for volume, _ in page]
                if not token:
                    break
            assert found == names
        assert await world.provisioner.list_volumes("", 0) == (
            [await world.provisioner.get_volume(f"slayer1:home:{name}", {}) for name in names],
            "",
        )

    run(scenario())


def test_a_listing_survives_deletions_and_damage_between_its_pages(run, world: World):
    async def scenario():
        for name in ("a", "b", "c", "d"):
            await create(world.provisioner, name)
        page, token = await world.provisioner.list_volumes("", 2)
        assert [volume.name for volume, _ in page] == ["a", "b"]
        await world.provisioner.delete_volume("slayer1:home:b", {})
        await world.put(HOME, ".slayerfs/volumes", {"c.json": b"{", "cc.json": b"", "X!": b""})
        page, token = await world.provisioner.list_volumes(token, 5)
        assert [volume.name for volume, _ in page] == ["d"]
        assert token == ""

    run(scenario())


@pytest.mark.parametrize("token", ["x", "invalid-token", "Li4=", "c25hcDEvYQ==", "\x00", "ü"])
def test_a_token_of_something_else_is_aborted(run, world: World, token):
    async def scenario():
        with pytest.raises(VolumeBusy, match="starting_token"):
            await world.provisioner.list_volumes(token, 1)
        assert VolumeBusy.grpc_code == "ABORTED"

    run(scenario())


def test_the_condition_says_what_is_wrong(run, world: World):
    async def scenario():
        volume, _ = await create(world.provisioner, "v")
        assert await world.provisioner.condition(str(volume), {}) == (
            False,
            "bucket and record answer",
        )
        await world.put(HOME, "", {volume.record_key: b"{}"})
        abnormal, message = await world.provisioner.condition(str(volume), {})
        assert abnormal and "damaged" in message

    run(scenario())


def test_a_damaged_record_deletes_nothing(run, world: World):
    async def scenario():
        volume, _ = await create(world.provisioner, "v")
        await world.put(HOME, "", {"v/a": b"1", volume.record_key: b'{"csi_name": "v"}'})
        with pytest.raises(VolumeError, match="damaged"):
            await world.provisioner.delete_volume(str(volume), {})
        assert "v/a" in await world.keys()

    run(scenario())


def test_ephemeral_content_goes_and_nothing_else(run, world: World):
    async def scenario():
        mine, other = ephemeral_prefix("csi-1"), ephemeral_prefix("csi-2")
        await world.put(HOME, "", {f"{mine}a/b": b"1", f"{mine}c": b"", f"{other}a": b"2"})
        await world.provisioner.delete_ephemeral("csi-1")
        await world.provisioner.delete_ephemeral("csi-1")
        assert await world.keys() == {f"{other}a": b"2"}

    run(scenario())


def test_capacity_of_a_local_store_is_what_is_free(run, world: World):
    async def scenario():
        assert 0 < await world.provisioner.capacity({}) < LARGEST
        with pytest.raises(ConfigError, match="did you mean bucket"):
            await world.provisioner.capacity({"bukket": "x"})

    run(scenario())
