"""From a publication's texts to the configuration of a mount."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.config import Durability
from csi_slayer.config.driver import DriverConfig
from csi_slayer.config.store import Connection
from csi_slayer.errors import (
    ConfigError,
    SlayerError,
    VolumeBusy,
    VolumeError,
    VolumeInUse,
    VolumeNotFound,
)
from csi_slayer.store.observe import NoObserver
from csi_slayer.volumes.context import volume_context
from csi_slayer.volumes.identity import IDENTITY_FIELDS
from csi_slayer.volumes.ids import ephemeral_prefix
from csi_slayer.volumes.options import KEYS as PARAMETERS
from csi_slayer.volumes.places import COMMON_FIELDS, OBJECT_FIELDS
from csi_slayer.volumes.pods import Pod
from csi_slayer.volumes.records import State
from csi_slayer.volumes.resolve import Resolved, resolve
from csi_slayer.worker.spec import store_options
from tests.unit.volumes.world import HOME, World, create

KEYS = {"access_key_id": "AKIA", "secret_access_key": "hunter2"}
POD = {
    "csi.storage.k8s.io/pod.name": "p",
    "csi.storage.k8s.io/pod.namespace": "ns",
    "csi.storage.k8s.io/pod.uid": "u",
    "csi.storage.k8s.io/serviceAccount.name": "sa",
}
TOKEN = {"csi.storage.k8s.io/serviceAccount.tokens": json.dumps({"a": {"token": "jwt"}})}
EPHEMERAL = {"csi.storage.k8s.io/ephemeral": "true"}
S3 = DriverConfig.model_validate(
    {
        "store": {
            "endpoint": "http://s3.test:9000",
            "region": "eu-1",
            "bucket": HOME,
            "access_key_id": "DRIVER",
            "secret_access_key": "d-secret",
            "retry_deadline": "7s",
        },
        "volumes": {"durability": "fsync", "ioTimeout": "5s"},
        "cache": {"directory": "/var/cache/test", "capacity": "1GiB"},
    }
)


async def publish(driver: DriverConfig, volume_id: str = "pv", **changes: Any) -> Resolved:
    fields: dict[str, Any] = {
        "context": {},
        "mount_flags": [],
        "secrets": {},
        "read_only_volume": False,
        "mount_group": "",
    }
    fields |= changes
    return await resolve(
        driver,
        volume_id,
        fields.pop("context"),
        fields.pop("mount_flags"),
        fields.pop("secrets"),
        **fields,
    )


def test_an_existing_bucket_is_mounted_as_its_attributes_say(run):
    async def scenario():
        found = await publish(
            S3,
            context={
                "bucket": "data-set",
                "prefix": "images/2024",
                "readOnly": "true",
                "capacityBytes": "10Gi",
                "uid": "5",
                "fileMode": "0600",
            }
            | POD,
            mount_flags=["noexec", "metadata-ttl=5m"],
        )
        config = found.config
        assert config.store.url == "s3://data-set/images/2024/"
        assert config.store.endpoint == "http://s3.test:9000"
        assert config.store.access_key_id == "DRIVER"
        assert config.store.retry_deadline == 7
        assert config.volume.read_only and config.volume.zero_upcall
        assert config.volume.quota == 10 << 30
        assert config.volume.durability is Durability.FSYNC
        assert (config.volume.uid, config.volume.file_mode) == (5, 0o600)
        assert config.volume.metadata_ttl == 300
        assert config.volume.io_timeout == 5
        assert config.cache.directory == Path("/var/cache/test")
        assert config.metrics.listen is None
        assert found.identity == "driver"
        assert found.flags == ("noexec",)
        assert found.labels == {"claim": "", "namespace": "ns"}
        assert found.pod == Pod("p", "ns", "u")
        assert not found.ephemeral

    run(scenario())


def test_a_patient_volume_outlasts_the_driver_s_own_patience(run):
    async def scenario():
        found = await publish(S3, context={"bucket": "data-set", "ioTimeout": "5m"})
        assert store_options(found.config, NoObserver()).retry_deadline == 300

    run(scenario())


def test_the_configuration_reaches_the_worker_with_its_secrets(run):
    async def scenario():
        found = await publish(S3, context={"bucket": "data-set"}, secrets=KEYS)
        spec = json.loads(found.config.to_spec())
        assert spec["store"]["secret_access_key"] == "hunter2"
        assert "hunter2" not in repr(found)

    run(scenario())


def test_the_volume_s_secret_brings_its_own_service(run):
    async def scenario():
        elsewhere = KEYS | {"endpoint": "https://other.test", "region": "us-2"}
        found = await publish(S3, context={"bucket": "data-set"}, secrets=elsewhere)
        store = found.config.store
        assert (store.endpoint, store.region) == ("https://other.test", "us-2")
        assert (store.access_key_id, store.profile) == ("AKIA", None)
        assert found.identity == "key:AKIA"
        context = {"bucket": "data-set", "endpoint": "https://third.test", "region": "r"}
        found = await publish(S3, context=context, secrets=elsewhere)
        assert (found.config.store.endpoint, found.config.store.region) == (
            "https://third.test",
            "r",
        )

    run(scenario())


def test_a_pod_s_token_is_its_identity(run):
    async def scenario():
        found = await publish(
            S3,
            context={"bucket": "data-set", "roleArn": "arn:r", "stsEndpoint": "http://sts.test"}
            | POD
            | TOKEN,
        )
        store = found.config.store
        assert store.web_identity_token is not None
        assert store.web_identity_token.get_secret_value() == "jwt"
        assert (store.role_arn, store.access_key_id) == ("arn:r", None)
        assert store.sts_endpoint == "http://sts.test"
        assert found.identity == "pod:ns/sa:arn:r"

    run(scenario())


def test_tokens_are_exchanged_where_the_volume_s_service_is(run):
    async def scenario():
        context = {"bucket": "data-set", "authentication": "pod"} | POD | TOKEN
        store = (await publish(S3, context=context)).config.store
        assert store.sts_endpoint == "http://s3.test:9000"
        store = (await publish(S3, context=context | {"endpoint": "http://x.test"})).config.store
        assert store.sts_endpoint == "http://x.test"
        aws = {"endpoint": "https://s3.eu-1.amazonaws.com", "roleArn": "arn:r"}
        driver = S3.model_copy(update={"store": S3.store.model_copy(update={"endpoint": None})})
        store = (await publish(driver, context=context | aws)).config.store
        assert store.sts_endpoint is None
        with pytest.raises(ConfigError, match="set roleArn"):
            await publish(driver, context=context)

    run(scenario())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": {}}, "bucket: missing in the volume's attributes"),
        ({"context": {"bucket": "data-set", "prefx": "a"}}, "did you mean prefix"),
        ({"context": {"bucket": "data-set", "region": "eu\x01"}}, "region: expected letters"),
        ({"context": {"bucket": "data-set", "roleArn": "arn:\n"}}, "roleArn: expected printable"),
        ({"context": {"bucket": "data-set", "prefix": "../b"}}, "attributes: prefix"),
        ({"context": {"bucket": "data-set", "capacityBytes": "big"}}, "capacityBytes"),
        ({"context": {"bucket": "data-set"}, "mount_flags": ["x"]}, "unknown option"),
        ({"context": {"bucket": "data-set"}, "mount_group": "staff"}, "number of a group"),
        ({"context": {"bucket": "data-set"}, "secrets": {"key": "x"}}, "unknown key"),
    ],
)
def test_what_is_wrong_is_said(run, changes, message):
    async def scenario():
        with pytest.raises(ConfigError, match=message):
            await publish(S3, **changes)

    run(scenario())


def test_a_group_that_shares_the_volume_may_write(run):
    async def scenario():
        context = {"bucket": "data-set"}
        volume = (await publish(S3, context=context, mount_group="2000")).config.volume
        assert (volume.gid, volume.file_mode, volume.dir_mode) == (2000, 0o664, 0o2775)
        context["fileMode"] = "0640"
        volume = (await publish(S3, context=context, mount_group="2000")).config.volume
        assert (volume.file_mode, volume.dir_mode) == (0o640, 0o2775)

    run(scenario())


def test_a_provisioned_volume_is_what_its_record_says_now(run, world: World):
    async def scenario():
        p = world.provisioner
        volume, record = await create(
            p,
            "v",
            parameters={"uid": "3", "prefix": "base", "durability": "fsync"},
            required_bytes=100,
            labels={"claim": "c", "namespace": "n", "pv": "pvc-1"},
        )
        context = volume_context(record)
        await p.expand(str(volume), 200, 0, {})
        await p.modify(str(volume), {"metadataTtl": "90s"}, {})
        found = await publish(world.config, str(volume), context=context)
        assert found.config.store.url == f"file://{world.root}/home/base/v"
        assert found.config.volume.quota == 200
        assert found.config.volume.uid == 3
        assert found.config.volume.metadata_ttl == 90
        assert found.config.volume.durability is Durability.FSYNC
        assert found.labels == {"claim": "c", "namespace": "n", "volume": "pvc-1"}
        found = await publish(
            world.config, str(volume), context=context, mount_flags=["durability=writeback"]
        )
        assert found.config.volume.durability is Durability.WRITEBACK
        with pytest.raises(ConfigError, match="fixed for a volume of a class"):
            await publish(world.config, str(volume), context=context, mount_flags=["bucket=xyz"])
        unlimited = context | {"enforceCapacity": "false"}
        found = await publish(world.config, str(volume), context=unlimited)
        assert found.config.volume.quota is None

    run(scenario())


def test_without_its_record_a_volume_is_what_its_context_says(run, world: World):
    async def scenario():
        volume, record = await create(
            world.provisioner, "v", parameters={"prefix": "base"}, required_bytes=100
        )
        context = volume_context(record)
        async with await world.open(HOME) as store:
            await store.delete(volume.record_key)
        with pytest.raises(VolumeNotFound):  # it has been deleted
            await publish(world.config, str(volume), context=context)
        await world.put(HOME, "base/v/", {"file": b"content"})
        found = await publish(world.config, str(volume), context=context)
        assert found.config.store.url == f"file://{world.root}/home/base/v"
        assert found.config.volume.quota == 100
        for wrong in ({"prefix": "other/v"}, {"bucket": "other-one"}, {"prefix": "base"}):
            with pytest.raises(VolumeError, match="not that of volume"):
                await publish(world.config, str(volume), context=context | wrong)

    run(scenario())


@pytest.mark.parametrize(
    ("state", "error"), [(State.DELETING, VolumeInUse), (State.CREATING, VolumeBusy)]
)
def test_a_volume_that_comes_or_goes_is_not_mounted(run, world: World, state, error):
    async def scenario():
        volume, record = await create(world.provisioner, "v")
        changed = record.model_copy(update={"state": state})
        await world.put(HOME, "", {volume.record_key: changed.model_dump_json().encode()})
        with pytest.raises(error):
            await publish(world.config, str(volume), context=volume_context(record))

    run(scenario())


def test_parameters_of_a_later_version_do_not_stop_a_mount(run, world: World):
    async def scenario():
        volume, record = await create(world.provisioner, "v")
        changed = record.model_copy(update={"mutable": {"novelty": "1", "prefetch": "false"}})
        await world.put(HOME, "", {volume.record_key: changed.model_dump_json().encode()})
        found = await publish(world.config, str(volume), context=volume_context(record))
        assert found.config.volume.prefetch is False

    run(scenario())


def test_an_inline_volume_is_scratch_space_of_its_own(run, world: World):
    async def scenario():
        context = EPHEMERAL | POD | {"uid": "7", "durability": "writeback"}
        found = await publish(world.config, "csi-1", context=context)
        assert found.ephemeral
        assert found.config.store.url == (
            f"file://{world.root}/home/{ephemeral_prefix('csi-1')}".rstrip("/")
        )
        assert found.config.store.directory.is_dir()
        assert found.identity == "driver"
        other = await publish(world.config, "csi-2", context=context)
        assert other.config.store.url != found.config.store.url

    run(scenario())


@pytest.mark.parametrize(
    "said",
    [
        {"prefix": ""},
        {"prefix": "pvc-of-somebody"},
        {"endpoint": "http://evil.test"},
        {"region": "eu-2"},
        {"roleArn": "arn:admin"},
        {"stsEndpoint": "http://evil.test"},
        {"authentication": "driver"},
        {"authentication": "secret"},
        {"authentication": "pod"},
        {"audience": "x"},
        {"pathStyle": "true"},
        {"provisioning": "bucket"},
        {"bucket": "data-set"},
        {"bucket": "data-set", "authentication": "driver"},
        {"bucket": "data-set", "endpoint": "http://evil.test"},
        {"bucket": HOME, "prefix": "pvc-1"},
    ],
)
@pytest.mark.parametrize("flags", [False, True])
def test_an_inline_volume_never_gets_the_driver_s_identity_elsewhere(run, said, flags):
    async def scenario():
        given = {"mount_flags": [f"{key}={text}" for key, text in said.items()]} if flags else {}
        context = EPHEMERAL | POD | TOKEN | ({} if flags else said)
        with pytest.raises(ConfigError):
            await publish(S3, "csi-1", context=context, **given)

    run(scenario())


def test_an_inline_volume_on_a_bucket_has_the_pod_s_own_identity(run):
    async def scenario():
        context = EPHEMERAL | POD | TOKEN | {"bucket": "data-set", "endpoint": "http://x.test"}
        found = await publish(S3, "csi-1", context=context, secrets=KEYS)
        assert (found.identity, found.ephemeral) == ("key:AKIA", False)
        assert found.config.store.access_key_id == "AKIA"
        found = await publish(S3, "csi-1", context=context | {"authentication": "pod"})
        assert (found.identity, found.ephemeral) == ("pod:ns/sa:", False)
        assert found.config.store.access_key_id is None
        with pytest.raises(ConfigError, match="needs a bucket"):
            await publish(S3, "csi-1", context=EPHEMERAL | POD, secrets=KEYS)

    run(scenario())


def test_only_the_driver_s_own_volumes_may_have_what_surrounds_the_driver(run):
    async def scenario():
        context = {"bucket": "data-set"}
        assert (await publish(S3, context=context)).config.store.ambient
        assert (await publish(S3, "csi-1", context=EPHEMERAL | POD)).config.store.ambient
        assert not (await publish(S3, context=context, secrets=KEYS)).config.store.ambient
        pod = context | POD | TOKEN | {"authentication": "pod"}
        assert not (await publish(S3, context=pod)).config.store.ambient

    run(scenario())


def test_the_author_of_a_pod_cannot_label_a_volume_as_somebody_else_s(run):
    async def scenario():
        forged = {
            "csi.storage.k8s.io/pvc/name": "data-web-0",
            "csi.storage.k8s.io/pvc/namespace": "shop",
            "csi.storage.k8s.io/pv/name": "pvc-1",
        }
        found = await publish(S3, "csi-1", context=EPHEMERAL | POD | forged)
        assert found.labels == {"claim": "", "namespace": "ns"}

    run(scenario())


def test_an_inline_volume_cannot_pose_as_a_provisioned_one(run, world: World):
    async def scenario():
        volume, _ = await create(world.provisioner, "v")
        found = await publish(world.config, str(volume), context=EPHEMERAL | POD)
        assert found.config.store.url.endswith(ephemeral_prefix(str(volume)).rstrip("/"))

    run(scenario())


def test_driver_defaults_do_not_move_scratch_space(run):
    async def scenario():
        driver = S3.model_copy(
            update={
                "volumes": {
                    "authentication": "pod",
                    "endpoint": "http://elsewhere.test",
                    "bucket": "classes",
                }
            }
        )
        found = await publish(driver, "csi-1", context=EPHEMERAL | POD)
        assert found.config.store.endpoint == "http://s3.test:9000"
        assert found.config.store.bucket == HOME
        assert found.identity == "driver"

    run(scenario())


def test_each_field_of_a_connection_is_the_service_the_identity_or_common():
    """A field that is new must be put into one of these: an identity must not be passed on."""
    service = {"endpoint", "region", "path_style"}
    token = {"web_identity_token"}
    listed = {*IDENTITY_FIELDS, *COMMON_FIELDS, *OBJECT_FIELDS}
    assert listed | service | token == set(Connection.model_fields)


def test_how_objects_are_written_is_for_the_drivers_own_service_and_identity(run):
    own = {
        "storage_class": "STANDARD_IA", "encryption": "aws:kms", "kms_key_id": "k",
        "requester_pays": True, "bucket_owner": "123456789012",
    }  # fmt: skip
    driver = S3.model_copy(update={"store": S3.store.model_copy(update=own)})

    async def scenario():
        for context, secrets, expected in [
            ({}, {}, True),
            ({"endpoint": "https://third.test"}, {}, False),
            ({}, KEYS, False),
        ]:
            context = {"bucket": "data-set"} | context
            found = await publish(driver, context=context, secrets=secrets)
            values = found.config.store.model_dump(include=set(own))
            assert (values == own) is expected, context

    run(scenario())


texts = st.text(max_size=12) | st.sampled_from(
    ["true", "false", "1", "10Gi", "1m", "0644", "data-set", "secret", "pod", "driver", "http://x"]
)
keys = st.sampled_from([*PARAMETERS, *POD, *TOKEN, *EPHEMERAL, "capacityBytes"]) | st.text(
    max_size=8
)
# A key's name and a role are no secrets: an accepted configuration shows them, an error does not.
SECRETS = {key: st.just("hunter1") for key in ("access_key_id", "role_arn")} | {
    key: st.just("hunter2") for key in ("secretAccessKey", "session_token", "endpoint", "x")
}


@given(
    st.sampled_from(["pv", "csi-1", "slayer1:home:v~00"]) | st.text(max_size=20),
    st.dictionaries(keys, texts, max_size=6),
    st.lists(texts | st.tuples(keys, texts).map("=".join), max_size=3),
    st.fixed_dictionaries({}, optional=SECRETS),
    st.sampled_from(["", "1000", "x", "-1", "²"]),
)
def test_any_texts_are_understood_or_refused_without_a_secret(
    volume, context, flags, secret, group
):
    async def scenario() -> None:
        # Not an id of ours: nothing is asked over the network.
        try:
            found = await publish(
                S3,
                volume,
                context=context,
                mount_flags=flags,
                secrets=secret,
                mount_group=group,
            )
        except SlayerError as error:
            said, hidden = str(error), "hunter"
        else:
            assert found.config.store.bucket
            said, hidden = repr(found), "hunter2"
        assert hidden not in said

    asyncio.run(scenario())


def test_an_inline_volume_gets_no_directory_of_a_local_store(run, world: World):
    """There any key pair would do."""

    async def scenario():
        context = EPHEMERAL | POD | {"bucket": HOME, "prefix": "pvc-1"}
        with pytest.raises(ConfigError, match="local directory"):
            await publish(world.config, "csi-1", context=context, secrets=KEYS)

    run(scenario())


@pytest.mark.parametrize("prefix", [".slayerfs", ".slayerfs/volumes/"])
def test_what_the_driver_keeps_is_no_volume(run, prefix: str):
    async def scenario():
        with pytest.raises(ConfigError, match="records"):
            await publish(S3, context={"bucket": HOME, "prefix": prefix})

    run(scenario())


def test_an_inline_volume_is_known_by_its_id(run):
    """Where the kubelet is not asked for the pod, a pod's author may write what it would say."""

    async def scenario():
        id = "csi-" + "0123456789abcdef" * 4
        for said in ({}, {"csi.storage.k8s.io/ephemeral": "false"}):
            with pytest.raises(ConfigError, match="identity of its own"):
                await publish(S3, id, context=said | {"bucket": HOME})

    run(scenario())
