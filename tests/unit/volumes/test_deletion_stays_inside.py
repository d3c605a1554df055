"""Nothing outside a volume's own prefix is ever deleted, whatever ids and records say."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from csi_slayer.errors import SlayerError
from csi_slayer.volumes.ids import Kind, ephemeral_prefix, own_bucket, parse
from csi_slayer.volumes.records import VolumeRecord
from tests.unit.volumes.world import HOME, World, create, fast_directory

# Volumes whose names are prefixes of each other, and a class with a prefix of its own.
VOLUMES = {"a": "", "a-b": "", "ab": "", "a0": "base", "b": "base/deep"}
OWN = "own"
OTHER = "other-bucket"
STRANGE = [
    "-",
    "a-b-c",
    "a b/c",
    "a.json",
    "ab/x%2Fy",
    "base/a/x",
    "base/x/y",
    "base/a0x/f",
    "b/1",
    "ü/ä",
    "x/a/f",
    "x/..y/z",
    ".slayerfs/other",
    ".slayerfs/volumes-old/a/f",
    f"{ephemeral_prefix('csi-1')}f",
    ".slayerfs/snapshots/a/data/f",
    ".slayerfs/snapshots/a-b/data/f",
]


def prefix_of(name: str) -> str:
    base = VOLUMES[name]
    return f"{base}/{name}/" if base else f"{name}/"


def without(keys: dict[str, bytes], *prefixes: str) -> dict[str, bytes]:
    return {key: body for key, body in keys.items() if not key.startswith(prefixes)}


def kept(keys: dict[str, bytes]) -> dict[str, bytes]:
    """Without the records of volumes and snapshots, which change and go, and without directories
    of the local store that have become empty."""
    return {
        key: body
        for key, body in keys.items()
        if not (key.startswith((".slayerfs/volumes/", ".slayerfs/snapshots/")) and ".json" in key)
        and key not in ("base/", "base/deep/")
    }


async def build(root: Path) -> World:
    world = World(root)
    (root / OTHER).mkdir()
    await world.put(OTHER, "", {"a/f": b"1", "f": b"2"})
    for name, base in VOLUMES.items():
        parameters = {"prefix": base} if base else {}
        await create(world.provisioner, name, parameters=parameters)
        await world.put(HOME, prefix_of(name), {"f": name.encode(), "d/f": b"", "d/": b""})
    _, record = await create(world.provisioner, OWN, parameters={"provisioning": "bucket"})
    await world.put(record.bucket, "", {"f": b"1"})
    await world.put(HOME, "", dict.fromkeys(STRANGE, b"strange"))
    return world


async def everything(world: World) -> dict[str, dict[str, bytes]]:
    buckets = [path.name for path in world.root.iterdir() if not path.name.startswith(".")]
    return {bucket: kept(await world.keys(bucket)) for bucket in buckets}


def in_a_world(scenario: Any) -> None:
    with fast_directory() as directory, asyncio.Runner() as runner:
        world = runner.run(build(Path(directory)))
        try:
            runner.run(scenario(world))
        finally:
            runner.run(world.close())


pieces = st.sampled_from(
    ["a", "ab", "a-b", "..", ".", "", "/", "home", OTHER, "own", "*", "%2e%2e", "\x00", "~", "@"]
)
hostile_ids = st.one_of(
    st.text(max_size=40),
    st.lists(pieces, min_size=1, max_size=5).map(":".join),
    st.builds("slayer1:{}:{}".format, pieces, pieces),
    st.builds("slayer1:{}:{}".format, st.sampled_from([HOME, OTHER]), st.text(max_size=9)),
    st.builds("slayer1:{}:{}~{}".format, st.just(HOME), st.sampled_from(["a0", "b"]), pieces),
    st.builds("snap1:{}:{}".format, pieces, pieces),
)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.lists(hostile_ids, min_size=5, max_size=20))
def test_hostile_ids_delete_nothing_or_the_one_volume_that_they_name(volume_ids):
    async def scenario(world: World) -> None:
        before = await everything(world)
        for volume_id in volume_ids:
            for call in (
                lambda id=volume_id: world.provisioner.delete_volume(id, {}),
                lambda id=volume_id: world.provisioner.delete_snapshot(id, {}),
                lambda id=volume_id: world.provisioner.expand(id, 1, 0, {}),
            ):
                try:
                    await call()
                except SlayerError:
                    continue
        named = set()
        for volume_id in volume_ids:
            try:
                found = parse(volume_id, Kind.VOLUME)
            except SlayerError:
                continue
            if found.bucket == HOME and found.name in VOLUMES:
                named.add(prefix_of(found.name))
        own = own_bucket(parse(f"slayer1:{HOME}:{OWN}", Kind.VOLUME))
        after = await everything(world)
        if f"slayer1:{HOME}:{OWN}" in volume_ids:
            del before[own]
            assert own not in after
        for bucket, keys in before.items():
            if bucket == HOME and named:
                assert without(after[bucket], *named) == without(keys, *named)
            else:
                assert after[bucket] == keys

    in_a_world(scenario)


places = st.sampled_from(
    [
        "",
        "/",
        "a",
        "a/",
        "b/",
        "ab/",
        "a-b/",
        "./a/",
        "../a/",
        "a/a/",
        "x/a/",
        "base/a/",
        "base/",
        "/a/",
        "//a/",
        "x/../a/",
        ".slayerfs/a/",
        ".slayerfs/volumes/",
        ".slayerfs/snapshots/a/",
        ".slayerfs/ephemeral/a/",
        "a/\x00a/",
        "x\n/a/",
    ]
)
hostile_records = st.fixed_dictionaries(
    {
        "csi_name": st.just("a"),
        "bucket": st.sampled_from([HOME, OTHER, "..", "home/..", "", OWN]),
        "prefix": places | st.text(max_size=6).map(lambda text: f"{text}/a/"),
        "own_bucket": st.booleans(),
        "bucket_made": st.booleans(),
        "state": st.sampled_from(["ready", "creating", "deleting"]),
    }
)


def pointing_at_another_bucket(state: str) -> dict[str, Any]:
    """The record that would do most harm, if it were believed."""
    return {
        "csi_name": "a",
        "bucket": OTHER,
        "prefix": "",
        "own_bucket": True,
        "bucket_made": True,
        "state": state,
    }


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@example(pointing_at_another_bucket("ready"), "")
@example(pointing_at_another_bucket("creating"), "")
@example(pointing_at_another_bucket("deleting"), "")
@given(hostile_records, st.sampled_from(["", "~" + "0" * 8]))
def test_hostile_records_delete_nothing_but_the_volume_itself(record, base):
    async def scenario(world: World) -> None:
        before = await everything(world)
        body = json.dumps(record).encode()
        await world.put(HOME, "", {".slayerfs/volumes/a.json": body})
        volume_id = f"slayer1:{HOME}:a{base}"
        for call in (
            lambda: world.provisioner.create_snapshot("s", volume_id, {}, {}),
            lambda: world.provisioner.delete_volume(volume_id, {}),
        ):
            try:
                await call()
            except SlayerError:
                continue
        after = await everything(world)
        mine = (prefix_of("a"), ".slayerfs/snapshots/s/")
        assert without(after.pop(HOME), *mine) == without(before.pop(HOME), *mine)
        assert after == before

    in_a_world(scenario)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(VOLUMES)), st.binary(max_size=60) | st.just(b"[]"))
def test_records_of_any_bytes_delete_nothing(name, body):
    async def scenario(world: World) -> None:
        before = await everything(world)
        listed, _ = await world.provisioner.list_volumes("", 0)
        volume = next(found for found, _ in listed if found.name == name)
        await world.put(HOME, "", {volume.record_key: body})
        try:
            VolumeRecord.model_validate_json(body)
        except ValueError:
            pass
        else:
            return
        try:
            await world.provisioner.delete_volume(str(volume), {})
        except SlayerError:
            pass
        assert await everything(world) == before

    in_a_world(scenario)


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(sorted(VOLUMES)), unique=True, min_size=1), st.text(max_size=20))
def test_neighbours_of_a_deleted_volume_stay(names, pod_volume):
    async def scenario(world: World) -> None:
        before = await everything(world)
        listed, _ = await world.provisioner.list_volumes("", 0)
        for volume, _ in listed:
            if volume.name in names:
                await world.provisioner.delete_volume(str(volume), {})
        await world.provisioner.delete_ephemeral(pod_volume)
        gone = [prefix_of(name) for name in names]
        after = await everything(world)
        if pod_volume == "csi-1":
            gone.append(ephemeral_prefix("csi-1"))
        assert after.pop(HOME) == without(before.pop(HOME), *gone)
        assert after == before
        left, _ = await world.provisioner.list_volumes("", 0)
        assert {volume.name for volume, _ in left} == {*VOLUMES, OWN} - set(names)

    in_a_world(scenario)
