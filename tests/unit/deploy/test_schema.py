"""The chart's schema takes its defaults and refuses mistakes, saying where they are."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from jsonschema.exceptions import best_match

from csi_slayer.config import describe_fields
from csi_slayer.config.driver import DriverConfig
from csi_slayer.volumes.options import KEYS, MUTABLE
from tests.support import chart

DEFAULTS: dict[str, Any] = yaml.safe_load((chart.CHART / "values.yaml").read_text())
SCHEMA = chart.schema()
VALIDATOR = Draft7Validator(SCHEMA)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The defaults with one value set, by its path with slashes."""
    values = copy.deepcopy(DEFAULTS)
    place = values
    *parents, last = path.split("/")
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = value
    return values


def places(values: dict[str, Any]) -> set[str]:
    """Paths of all mistakes, those inside alternatives included."""

    def walk(errors: Any, parent: str = "") -> Iterator[str]:
        for error in errors:
            path = "/".join([*filter(None, [parent]), *map(str, error.relative_path)])
            yield path
            yield from walk(error.context or (), path)

    return set(walk(VALIDATOR.iter_errors(values)))


def test_generated_parts_are_what_the_code_says() -> None:
    assert chart.SCHEMA.read_text() == chart.schema_text(), "run: make docs"


def test_the_schema_is_one() -> None:
    Draft7Validator.check_schema(SCHEMA)


def test_the_defaults_are_right() -> None:
    assert best_match(VALIDATOR.iter_errors(DEFAULTS)) is None


GOOD = [
    ("driver/store/bucket", "volumes"),
    ("driver/store/endpoint", "http://10.0.0.1:9000"),
    ("driver/store/path_style", True),
    ("driver/cache/capacity", "100GiB"),
    ("driver/cache/capacity", 107374182400),
    ("driver/cache/min_free", "5GiB"),
    ("driver/fuse/disable", ["passthrough", "resend"]),
    ("driver/log/level", "debug"),
    ("driver/node/worker_memory", "1GiB"),
    ("driver/node/worker_cpus", 1.5),
    ("driver/node/topology", {"topology.kubernetes.io/zone": "a"}),
    ("driver/volumes", {"durability": "writeback", "metadataTtl": "30s"}),
    ("credentials/existingSecret", "slayerfs-s3"),
    ("credentials/roleArn", "arn:aws:iam::111122223333:role/slayerfs"),
    ("caBundle", "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"),
    ("podIdentity/audiences", ["sts.amazonaws.com", "minio"]),
    ("image/repository", "localhost:5000/slayerfs/csi-slayer"),
    ("image/pullPolicy", "Never"),
    ("kubeletDirectory", "/var/snap/microk8s/common/var/lib/kubelet"),
    ("node/maxUnavailable", 1),
    ("node/resources/limits", {"memory": "8Gi", "cpu": 2}),
    ("keeper/seLinuxType", "spc_t"),
    ("controller/secretNamespaces", ["*"]),
    ("controller/secretNamespaces", ["team-a", "team-b"]),
    ("storageClasses/slayerfs-writeback", None),
    ("storageClasses/fast", {"parameters": {"durability": "writeback", "uid": "1000"}}),
    (
        "storageClasses/slayerfs/parameters",
        {
            "csi.storage.k8s.io/secret-name": "s3",
            "csi.storage.k8s.io/secret-namespace": "${pvc.namespace}",
        },
    ),
    ("snapshots/enabled", True),
    ("controller/replicas", 0),
    ("volumeAttributesClasses/relaxed", {"metadataTtl": "5m", "prefetch": "false"}),
]


@pytest.mark.parametrize(("path", "value"), GOOD)
def test_takes(path: str, value: Any) -> None:
    error = best_match(VALIDATOR.iter_errors(changed(path, value)))
    assert error is None, error.message


# Each with the place that the mistake is reported at.
BAD = [
    ("unknown", 1, ""),
    ("driver/unknown", 1, "driver"),
    ("driver/store/buckets", "b", "driver/store"),
    ("driver/store/path_style", "yes", "driver/store/path_style"),
    ("driver/cache/capacity", True, "driver/cache/capacity"),
    ("driver/cache/directory", "/cache", "driver/cache"),
    ("driver/fuse/disable", "passthrough", "driver/fuse/disable"),
    ("driver/fuse/engine", "libfuse", "driver/fuse/engine"),
    ("driver/log/level", "verbose", "driver/log/level"),
    ("driver/node/run_directory", "/run", "driver/node"),
    ("driver/node/max_volumes", -1, "driver/node/max_volumes"),
    ("driver/node/worker_cpus", 0, "driver/node/worker_cpus"),
    ("driver/controller/parallel", 1000, "driver/controller/parallel"),
    ("driver/volumes", {"durabilty": "close"}, "driver/volumes"),
    ("driver/volumes", {"durability": "maybe"}, "driver/volumes/durability"),
    ("driver/metrics", {"listen": "0.0.0.0:1"}, "driver"),
    # Secrets have no place where they would end in a ConfigMap.
    ("driver/store/access_key_id", "AKIA", "driver/store"),
    ("driver/store/secret_access_key", "secret", "driver/store"),
    ("driver/store/session_token", "token", "driver/store"),
    ("driver/store/web_identity_token", "token", "driver/store"),
    ("credentials/accessKeyId", "AKIA", "credentials/secretAccessKey"),
    ("credentials/secretAccessKey", "secret", "credentials/secretAccessKey"),
    ("credentials/existingSecret", "Not_A_Name", "credentials/existingSecret"),
    ("credentials/tokenAudience", "", "credentials/tokenAudience"),
    ("caBundle", "/etc/ssl/ca.pem", "caBundle"),
    ("podIdentity/audiences", "sts.amazonaws.com", "podIdentity/audiences"),
    ("podIdentity/expirationSeconds", 60, "podIdentity/expirationSeconds"),
    ("image/tag", "a b", "image/tag"),
    ("image/pullPolicy", "Sometimes", "image/pullPolicy"),
    ("imagePullSecrets", ["name"], "imagePullSecrets/0"),
    ("kubeletDirectory", "var/lib/kubelet", "kubeletDirectory"),
    ("kubeletDirectory", "/var/lib/kubelet/", "kubeletDirectory"),
    ("kubeletDirectory", "/var/lib/../kubelet", "kubeletDirectory"),
    ("cacheDirectory", "/", "cacheDirectory"),
    ("node/maxUnavailable", 0, "node/maxUnavailable"),
    ("node/maxUnavailable", "200%", "node/maxUnavailable"),
    ("node/resource", {}, "node"),
    ("node/resources/limits", {"memory": "8 GB"}, "node/resources/limits/memory"),
    ("controller/replicas", -1, "controller/replicas"),
    ("controller/replicas", "2", "controller/replicas"),
    ("controller/secretNamespaces", ["Team A"], "controller/secretNamespaces/0"),
    ("sidecars/resizer/tag", "", "sidecars/resizer/tag"),
    ("storageClasses/Fast", {}, "storageClasses"),
    ("storageClasses/fast", {"reclaimPolicy": "Recycle"}, "storageClasses/fast/reclaimPolicy"),
    ("storageClasses/fast", {"provisioner": "other"}, "storageClasses/fast"),
    ("storageClasses/fast", {"parameters": {"uid": 1000}}, "storageClasses/fast/parameters/uid"),
    ("storageClasses/slayerfs/parameters/readOnly", "yes",
     "storageClasses/slayerfs/parameters/readOnly"),
    ("storageClasses/slayerfs/parameters/secretAccessKey", "secret",
     "storageClasses/slayerfs/parameters"),
    ("snapshots/classes/s", {"deletionPolicy": "Keep"}, "snapshots/classes/s/deletionPolicy"),
    ("volumeAttributesClasses/v", {"bucket": "b"}, "volumeAttributesClasses/v"),
    ("metrics/port", 80, "metrics/port"),
    ("metrics/port", 8081, "metrics/port"),
    ("metrics/podMonitor/interval", "often", "metrics/podMonitor/interval"),
    ("metrics/serviceMonitor/interval", "often", "metrics/serviceMonitor/interval"),
    ("networkPolicy", False, "networkPolicy"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "place"), BAD)
def test_refuses(path: str, value: Any, place: str) -> None:
    assert place in places(changed(path, value))


@pytest.mark.parametrize(
    ("path", "place"),
    [("driver", ""), ("kubeletDirectory", ""), ("cacheDirectory", ""), ("networkPolicy", ""),
     ("image/repository", "image"), ("controller/secretNamespaces", "controller"),
     ("sidecars/logLevel", "sidecars"), ("snapshots/enabled", "snapshots"),
     ("metrics/port", "metrics")],
)  # fmt: skip
def test_what_the_templates_need_cannot_be_left_empty(path: str, place: str) -> None:
    """A null, as a section has in which all is commented out, removes a default."""
    values = changed(path, None)
    parent, _, last = path.rpartition("/")
    del (values[parent] if parent else values)[last]
    assert places(values) == {place}


def schemas(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of an object in the schema."""
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield path, node
        for name, child in node.items():
            yield from schemas(child, f"{path}/{name}")
    elif isinstance(node, list):
        for number, child in enumerate(node):
            yield from schemas(child, f"{path}/{number}")


# What Kubernetes itself checks, and what charts above this one may share.
OPEN = {"affinity", "global", "items"}


def test_every_object_says_what_may_be_in_it() -> None:
    loose = {
        path
        for path, found in schemas(SCHEMA)
        if "additionalProperties" not in found and path.rpartition("/")[2] not in OPEN
    }
    assert loose == set()


def test_every_value_of_the_schema_has_a_default_to_read() -> None:
    def compare(schema: dict[str, Any], values: dict[str, Any], path: str) -> Iterator[str]:
        for name, found in schema["properties"].items():
            if name not in values:
                yield f"{path}{name}"
            elif "properties" in found:
                yield from compare(found, values[name], f"{path}{name}/")

    assert set(compare(SCHEMA, DEFAULTS, "")) == {"global"}


def test_each_key_of_the_driver_is_offered_or_left_out_for_a_reason() -> None:
    def leaves(found: dict[str, Any], path: str) -> Iterator[str]:
        for name, child in found["properties"].items():
            if child.get("properties") and name != "volumes":
                yield from leaves(child, f"{path}{name}.")
            else:
                yield path + name

    offered = set(leaves(SCHEMA["definitions"]["driver"], ""))
    left_out = chart.SET_BY_CHART | chart.NOT_IN_A_POD
    assert offered | left_out == {field.path for field in describe_fields(DriverConfig)}
    assert offered & left_out == set()


def test_classes_take_the_parameters_that_volumes_have() -> None:
    own = {
        name
        for name in SCHEMA["definitions"]["parameters"]["properties"]
        if not name.startswith("csi.storage.k8s.io/")
    }
    assert own == set(KEYS)
    assert set(SCHEMA["definitions"]["mutableParameters"]["properties"]) == MUTABLE
