"""Volumes on versitygw and MinIO; boto3 looks at what is there."""

from __future__ import annotations

import asyncio
import json

import pytest

from csi_slayer.config.driver import DriverConfig
from csi_slayer.errors import AccessDenied, BucketNotFound, SlayerError, StoreError, VolumeConflict
from csi_slayer.volumes.context import volume_context
from csi_slayer.volumes.ids import own_bucket
from csi_slayer.volumes.provisioner import Provisioner
from csi_slayer.volumes.records import State
from csi_slayer.volumes.resolve import resolve
from tests.integration.volumes.filling import many
from tests.support.servers import S3Server
from tests.unit.volumes.nesting import made_at_once
from tests.unit.volumes.world import Pause, create, persistently

pytestmark = pytest.mark.integration

CONTENT = {
    "a/b": b"hello",
    "a/deep/er": b"x" * 100_000,
    "dir/": b"",
    "plus + and % and ü": b"odd",
    "z": b"",
}


def fill(server: S3Server, bucket: str, prefix: str, content: dict[str, bytes]) -> None:
    for key, body in content.items():
        server.admin.put(bucket, prefix + key, body, {"mode": "0600"})


def content_of(server: S3Server, bucket: str, prefix: str = "") -> dict[str, bytes]:
    """Objects below a prefix, without the one that is the prefix itself."""
    admin = server.admin
    keys = [key for key in admin.keys(bucket, prefix) if key != prefix]
    return {key.removeprefix(prefix): admin.get(bucket, key) for key in keys}


@pytest.mark.parametrize("kind", ["prefix", "bucket"])
def test_from_creation_to_deletion(run, provisioner: Provisioner, s3_server, bucket, config, kind):
    async def scenario():
        p = provisioner
        await p.probe()
        parameters = {"provisioning": kind, "uid": "5"}
        volume, record = await create(p, "pvc-1", parameters=parameters, required_bytes=1 << 30)
        assert await create(p, "pvc-1", parameters=parameters, required_bytes=1 << 30) == (
            volume,
            record,
        )
        with pytest.raises(VolumeConflict):
            await create(p, "pvc-1", parameters=parameters, required_bytes=2 << 30)
        fill(s3_server, record.bucket, record.prefix, CONTENT)
        s3_server.admin.client.create_multipart_upload(
            Bucket=record.bucket, Key=record.prefix + "unfinished"
        )
        assert await p.expand(str(volume), 2 << 30, 0, {}) == 2 << 30
        await p.modify(str(volume), {"durability": "writeback"}, {})
        found = await resolve(
            config,
            str(volume),
            volume_context(record),
            [],
            {},
            read_only_volume=False,
            mount_group="",
        )
        assert found.config.store.url == f"s3://{record.bucket}/{record.prefix}"
        assert found.config.volume.quota == 2 << 30
        assert found.config.volume.durability == "writeback"
        assert await p.condition(str(volume), {}) == (False, "bucket and record answer")

        snapshot, made = await p.create_snapshot("snap-1", str(volume), {}, {})
        assert (made.state, made.objects) == (State.READY, len(CONTENT))
        assert made.size_bytes == sum(map(len, CONTENT.values()))
        clone, cloned = await create(
            p, "pvc-2", parameters=parameters, source=str(volume), required_bytes=2 << 30
        )
        await p.delete_volume(str(volume), {})
        assert content_of(s3_server, bucket, "pvc-1/") == {}
        restored, again = await create(
            p, "pvc-3", parameters=parameters, source=str(snapshot), required_bytes=2 << 30
        )
        for there in (cloned, again):
            assert content_of(s3_server, there.bucket, there.prefix) == CONTENT
            head = s3_server.admin.head(there.bucket, there.prefix + "a/b")
            assert head is not None and head["Metadata"]["mode"] == "0600"
        listed, _ = await p.list_volumes("", 0)
        assert [found.name for found, _ in listed] == ["pvc-2", "pvc-3"]
        await p.delete_snapshot(str(snapshot), {})
        await p.delete_volume(str(clone), {})
        await p.delete_volume(str(restored), {})
        assert s3_server.admin.keys(bucket) == []
        if kind == "bucket":
            buckets = [b["Name"] for b in s3_server.admin.client.list_buckets()["Buckets"]]
            assert own_bucket(volume) not in buckets and own_bucket(clone) not in buckets

    run(scenario())


def test_thousands_of_keys_go_and_their_neighbours_stay(
    run, provisioner: Provisioner, s3_server, bucket, config
):
    async def scenario():
        volume, record = await create(provisioner, "v")
        await many(config, bucket, record.prefix, 2500)
        # None is called just "v": these two servers have files and directories below.
        neighbours = {"v-1/a": b"2", "v0": b"3", "va/v/b": b"4", "u/v/c": b"5"}
        fill(s3_server, bucket, "", neighbours)
        await persistently(lambda: provisioner.delete_volume(str(volume), {}))
        assert content_of(s3_server, bucket) == neighbours

    run(scenario())


def test_thousands_of_objects_are_copied(run, provisioner: Provisioner, s3_server, bucket, config):
    async def scenario():
        volume, record = await create(provisioner, "v")
        await many(config, bucket, record.prefix, 1200)
        before = s3_server.admin.keys(bucket, record.prefix)
        snapshot, made = await persistently(
            lambda: provisioner.create_snapshot("s", str(volume), {}, {})
        )
        assert (made.objects, made.size_bytes) == (1200, 1200)
        _, restored = await persistently(lambda: create(provisioner, "r", source=str(snapshot)))
        after = s3_server.admin.keys(bucket, restored.prefix)
        assert [key.removeprefix("r/") for key in after] == [
            key.removeprefix("v/") for key in before
        ]
        for name in ("v", "r"):
            await persistently(
                lambda n=name: provisioner.delete_volume(f"slayer1:{bucket}:{n}", {})
            )
        await persistently(lambda: provisioner.delete_snapshot(str(snapshot), {}))
        assert s3_server.admin.keys(bucket) == []

    run(scenario())


def test_large_objects_are_copied_by_the_server(run, provisioner: Provisioner, s3_server, bucket):
    async def scenario():
        volume, record = await create(provisioner, "v")
        body = bytes(range(256)) * (20 << 12)
        client = s3_server.admin.client
        key = record.prefix + "large"
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        parts = []
        for number, start in enumerate(range(0, len(body), 8 << 20), 1):
            part = client.upload_part(
                Bucket=bucket,
                Key=key,
                UploadId=upload,
                PartNumber=number,
                Body=body[start : start + (8 << 20)],
            )
            parts.append({"PartNumber": number, "ETag": part["ETag"]})
        client.complete_multipart_upload(
            Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
        )
        _, cloned = await create(provisioner, "c", source=str(volume))
        assert s3_server.admin.get(bucket, cloned.prefix + "large") == body

    run(scenario())


def test_a_wrong_secret_is_said_clearly(run, provisioner: Provisioner, s3_server, config):
    wrong = {"access_key_id": s3_server.access_key, "secret_access_key": "hunter2hunter2"}
    unknown = {"access_key_id": "AKIANOBODY", "secret_access_key": "hunter2hunter2"}

    async def scenario():
        volume, record = await create(provisioner, "v")
        for secrets in (wrong, unknown):
            calls = [
                create(provisioner, "w", secrets=secrets),
                provisioner.delete_volume(str(volume), secrets),
                provisioner.expand(str(volume), 1, 0, secrets),
                provisioner.create_snapshot("s", str(volume), {}, secrets),
            ]
            for call in calls:
                with pytest.raises(AccessDenied, match=r"check the (secret|key id)") as caught:
                    await call
                assert caught.value.grpc_code == "PERMISSION_DENIED"
                assert "hunter2" not in str(caught.value)
            abnormal, message = await provisioner.condition(str(volume), secrets)
            assert abnormal and "check the" in message
        # The node goes on with what the context says; the mount itself then says the same.
        found = await resolve(
            config,
            str(volume),
            volume_context(record),
            [],
            wrong,
            read_only_volume=False,
            mount_group="",
        )
        assert found.config.store.prefix == record.prefix

    run(scenario())


def test_a_missing_bucket_is_named(run, make, provisioner: Provisioner, config):
    async def scenario():
        calls = [
            lambda: create(provisioner, "v", parameters={"bucket": "no-such-bucket"}),
            lambda: provisioner.expand("slayer1:no-such-bucket:v", 1, 0, {}),
            lambda: provisioner.create_snapshot("s", "slayer1:no-such-bucket:v", {}, {}),
        ]
        for call in calls:
            with pytest.raises(BucketNotFound, match=r"no-such-bucket.*check its name") as caught:
                await call()
            assert caught.value.grpc_code == "NOT_FOUND"
        await provisioner.delete_volume("slayer1:no-such-bucket:v", {})
        store = config.store.model_copy(update={"bucket": "no-such-bucket"})
        other = make(config.model_copy(update={"store": store}))
        with pytest.raises(BucketNotFound, match="no-such-bucket"):
            await other.probe()

    run(scenario())


def test_a_name_that_no_bucket_can_have_is_wrong_and_not_away(run, provisioner: Provisioner):
    async def scenario():
        with pytest.raises(BucketNotFound, match=r"A_B.*no such name") as caught:
            await create(provisioner, "v", parameters={"bucket": "A_B"})
        assert caught.value.grpc_code == "INVALID_ARGUMENT"
        await provisioner.delete_volume("slayer1:A_B:v", {})
        await provisioner.delete_snapshot("snap1:A_B:v", {})
        listed = await provisioner.list_snapshots(
            "", 0, snapshot_id="snap1:A_B:v", source=None, secrets={}
        )
        assert listed == ([], "")

    run(scenario())


@pytest.mark.parametrize("s3_server", ["minio"], indirect=True)  # versitygw's have no versions
def test_old_versions_in_an_own_bucket_are_said(run, provisioner: Provisioner, s3_server, bucket):
    async def scenario():
        client = s3_server.admin.client
        volume, record = await create(provisioner, "v", parameters={"provisioning": "bucket"})
        client.put_bucket_versioning(
            Bucket=record.bucket, VersioningConfiguration={"Status": "Enabled"}
        )
        client.put_object(Bucket=record.bucket, Key="f", Body=b"1")
        with pytest.raises(StoreError, match="lifecycle rule") as caught:
            await provisioner.delete_volume(str(volume), {})
        assert caught.value.grpc_code == "FAILED_PRECONDITION"
        there = client.list_object_versions(Bucket=record.bucket)
        for version in [*there.get("Versions", []), *there.get("DeleteMarkers", [])]:
            client.delete_object(
                Bucket=record.bucket, Key=version["Key"], VersionId=version["VersionId"]
            )
        await provisioner.delete_volume(str(volume), {})
        assert s3_server.admin.keys(bucket) == []

    run(scenario())


def test_a_secret_may_bring_the_whole_service(run, make, s3_server, bucket, tmp_path):
    """The driver itself knows no service and has no identity there."""

    async def scenario():
        config = DriverConfig.model_validate(
            {"store": {"anonymous": True}, "cache": {"directory": str(tmp_path)}}
        )
        p = make(config)
        secrets = {
            "access_key_id": s3_server.access_key,
            "secret_access_key": s3_server.secret_key,
            "endpoint": s3_server.endpoint,
            "region": s3_server.region,
        }
        volume, _ = await create(p, "v", parameters={"bucket": bucket}, secrets=secrets)
        assert volume.endpoint is None
        await p.delete_volume(str(volume), secrets)
        # Named by the class, the endpoint becomes a part of the id.
        parameters = {"bucket": bucket, "endpoint": s3_server.endpoint}
        volume, _ = await create(p, "w", parameters=parameters, secrets=secrets)
        assert volume.endpoint == s3_server.endpoint
        del secrets["endpoint"]
        assert (await p.get_volume(str(volume), secrets))[0] == volume
        await p.delete_volume(str(volume), secrets)
        assert s3_server.admin.keys(bucket) == []

    run(scenario())


def test_a_bucket_of_an_own_volume_that_is_taken_stays(
    run, provisioner: Provisioner, s3_server, bucket
):
    async def scenario():
        volume, record = await create(provisioner, "v", parameters={"provisioning": "bucket"})
        await provisioner.delete_volume(str(volume), {})
        s3_server.create_bucket(record.bucket)
        s3_server.admin.put(record.bucket, "theirs", b"1")
        with pytest.raises(VolumeConflict, match="not empty"):
            await create(provisioner, "v", parameters={"provisioning": "bucket"})
        await provisioner.delete_volume(str(volume), {})
        assert s3_server.admin.keys(record.bucket) == ["theirs"]
        s3_server.admin.delete_bucket(record.bucket)

    run(scenario())


def test_objects_of_somebody_else_are_seen_behind_a_directory_s_marker(
    run, provisioner: Provisioner, s3_server, bucket
):
    async def scenario():
        theirs = {"v/": b"", "v/theirs": b"1"}
        fill(s3_server, bucket, "", theirs)
        with pytest.raises(VolumeConflict, match="belong to no volume"):
            await create(provisioner, "v")
        assert content_of(s3_server, bucket) == theirs

    run(scenario())


def test_two_controllers_at_once_make_one_volume(run, make, config, s3_server, bucket):
    async def scenario():
        both = [make(config), make(config)]

        async def one(p: Provisioner, number: int):
            return await persistently(
                lambda: create(
                    p, f"v{number}", parameters={"provisioning": ("prefix", "bucket")[number % 2]}
                )
            )

        made = await asyncio.gather(*(one(p, n) for n in range(6) for p in both))
        assert made[0::2] == made[1::2]
        ids = [str(volume) for volume, _ in made[0::2]]
        deletions = [
            persistently(lambda p=p, id=id: p.delete_volume(id, {})) for id in ids for p in both
        ]
        await asyncio.gather(*deletions)
        assert s3_server.admin.keys(bucket) == []

    run(scenario())


@pytest.mark.parametrize("held", ["n0", "inner"])
def test_two_controllers_at_once_make_no_volume_within_another(
    run, make, config, s3_server, bucket, held
):
    async def scenario():
        other = make(config)
        for at in range(1, 12):
            pause = Pause(at, done_before=at % 2 == 0)
            slow = make(config, faults=pause)
            for volume, record in await made_at_once(slow, pause, other, held):
                fill(s3_server, bucket, record.prefix, {"f": b"1"})
                await other.delete_volume(str(volume), {})
            assert s3_server.admin.keys(bucket) == [], at

    run(scenario())


def test_records_are_readable_by_people(run, provisioner: Provisioner, s3_server, bucket):
    async def scenario():
        volume, _ = await create(provisioner, "v", labels={"claim": "data", "namespace": "shop"})
        record = json.loads(s3_server.admin.get(bucket, volume.record_key))
        assert record["labels"] == {"claim": "data", "namespace": "shop"}
        assert (record["version"], record["state"], record["prefix"]) == (1, "ready", "v/")

    run(scenario())


def test_a_server_that_is_away_is_unavailable_and_comes_back(run, make, config, s3_server):
    async def scenario():
        quick = config.model_copy(
            update={"controller": config.controller.model_copy(update={"wait": 1.0})}
        )
        # While the server is away; a server that is there may need more than a second.
        impatient, p = make(quick, wait=1.0), make(config)
        volume, _ = await create(p, "v")
        s3_server.stop()
        try:
            with pytest.raises(SlayerError) as caught:
                await impatient.expand(str(volume), 1, 0, {})
            assert caught.value.grpc_code == "UNAVAILABLE"
            abnormal, _ = await impatient.condition(str(volume), {})
            assert abnormal
        finally:
            s3_server.start()
        async with asyncio.timeout(60):
            while (await impatient.condition(str(volume), {}))[0]:
                pass  # it has tried for a second
        assert await p.condition(str(volume), {}) == (False, "bucket and record answer")
        await p.delete_volume(str(volume), {})

    run(scenario())
