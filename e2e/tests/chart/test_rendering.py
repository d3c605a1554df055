"""The chart as Helm renders it, over many values."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.support.chart import CHART
from tests.support.chart_rules import RULES, Rule
from tests.support.helm import (
    HelmFailed,
    Object,
    containers,
    driver_config,
    helm,
    of_kind,
    one,
    template,
)

VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "secret": {
        "credentials": {"existingSecret": "s3"},
        "driver": {"store": {"endpoint": "http://10.0.0.1:9000", "bucket": "b"}},
    },
    "keys": {
        "credentials": {
            "accessKeyId": "AKIA1",
            "secretAccessKey": "hidden1",
            "sessionToken": "hidden2",
        },
        "caBundle": "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n",
    },
    "role": {
        "credentials": {"roleArn": "arn:aws:iam::111122223333:role/driver"},
        "podIdentity": {"audiences": ["sts.amazonaws.com", "minio"]},
    },
    "local": {"driver": {"store": {"local": "/var/lib/objects", "bucket": "b"}}},
    "empty sections": {"driver": dict.fromkeys(("store", "cache", "volumes", "node", "log"))},
    "places": {
        "kubeletDirectory": "/data/kubelet",
        "cacheDirectory": "/mnt/ssd/slayerfs",
        "metrics": {"port": 19464},
        "node": {"hostNetwork": True, "maxUnavailable": 1, "podAnnotations": {"a": "b"}},
    },
    "driver": {
        "driver": {
            "cache": {"capacity": 107374182400, "min_free": "5GiB", "segment_max": "1GiB"},
            "volumes": {"durability": "writeback", "metadataTtl": "30s", "uid": "1000"},
            "fuse": {"disable": ["passthrough"]},
            "node": {
                "worker_memory": "1GiB",
                "worker_cpus": 1.5,
                "max_volumes": 100,
                "topology": {"topology.kubernetes.io/zone": "a"},
            },
            "controller": {"parallel": 64, "wait": 5},
            "log": {"level": "debug"},
            "tracing": {"endpoint": "http://collector:4318/v1/traces"},
        }
    },
    "everything": {
        "snapshots": {"enabled": True},
        "volumeAttributesClasses": {"relaxed": {"metadataTtl": "5m"}},
        "metrics": {
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "serviceMonitor": {"enabled": True, "interval": "1m"},
            "alerts": {"enabled": True},
            "dashboard": {"enabled": True},
        },
        "controller": {"secretNamespaces": ["team-a", "team-b"]},
        "imagePullSecrets": [{"name": "registry"}],
    },
    "bare": {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "storageClasses": {"slayerfs": None, "slayerfs-dataset": None, "slayerfs-writeback": None},
        "controller": {"replicas": 1, "secretNamespaces": ["*"]},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Object]]:
    return {name: template(values) for name, values in VALUES.items()}


def test_lints() -> None:
    helm("lint", "--strict", str(CHART))


@pytest.mark.parametrize("check", RULES, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", VALUES)
def test_rule(rendered: dict[str, list[Object]], name: str, check: Rule) -> None:
    check(rendered[name])


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"storageClas": {}}, "storageClas"),
        ({"driver": {"store": {"secret_access_key": "hidden"}}}, "secret_access_key"),
        ({"driver": {"log": {"level": "loud"}}}, "level"),
        ({"storageClasses": {"slayerfs": {"parameters": {"durabilty": "x"}}}}, "durabilty"),
        ({"metrics": {"port": 80}}, "port"),
        ({"kubeletDirectory": "kubelet"}, "kubeletDirectory"),
    ],
)
def test_helm_refuses(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(HelmFailed, match=complaint) as refused:
        template(values)
    assert "hidden" not in str(refused.value)


def test_what_is_set_reaches_the_driver(rendered: dict[str, list[Object]]) -> None:
    config = driver_config(rendered["driver"])
    assert config.cache.capacity == 100 * 2**30
    assert config.cache.min_free == 5 * 2**30
    assert config.node.worker_memory == 2**30
    assert config.volumes == {"durability": "writeback", "metadataTtl": "30s", "uid": "1000"}
    assert config.fuse.disable == ("passthrough",)
    places = driver_config(rendered["places"])
    assert str(places.node.run_directory) == "/data/kubelet/plugins/csi.slayerfs.io"
    assert places.metrics.listen == "0.0.0.0:19464"


def test_keys_get_a_secret_with_the_names_that_the_driver_reads(
    rendered: dict[str, list[Object]],
) -> None:
    found = rendered["keys"]
    values = {k: base64.b64decode(v).decode() for k, v in one(found, "Secret")["data"].items()}
    assert values == {
        "access_key_id": "AKIA1",
        "secret_access_key": "hidden1",
        "session_token": "hidden2",
    }
    mounted_at(found, str(driver_config(found).store.secret_directory), "secret")


def mounted_at(found: list[Object], path: str, kind: str) -> None:
    """Node and controller have a volume of this kind there, read-only."""
    names = []
    for spec, container in containers(found):
        for mount in container["volumeMounts"]:
            if mount["mountPath"] == path:
                (volume,) = (v for v in spec["volumes"] if v["name"] == mount["name"])
                assert kind in volume
                assert mount["readOnly"] is True
                names.append(container["name"])
    assert sorted(names) == ["controller", "node"]


def test_a_role_is_taken_with_a_token_of_the_pods(rendered: dict[str, list[Object]]) -> None:
    found = rendered["role"]
    store = driver_config(found).store
    assert store.role_arn == "arn:aws:iam::111122223333:role/driver"
    assert store.web_identity_token_file is not None
    assert store.secret_directory is None
    mounted_at(found, str(store.web_identity_token_file.parent), "projected")


def test_a_role_is_assumed_with_the_key_pair_where_there_is_one() -> None:
    credentials = {"roleArn": "arn:aws:iam::111122223333:role/driver", "existingSecret": "s3"}
    found = template({"credentials": credentials})
    store = driver_config(found).store
    assert store.role_arn is not None
    assert store.secret_directory is not None
    assert store.web_identity_token_file is None
    assert "token" not in {v["name"] for spec, _ in containers(found) for v in spec["volumes"]}


def test_certificates_are_where_the_driver_looks(rendered: dict[str, list[Object]]) -> None:
    found = rendered["keys"]
    bundle = driver_config(found).store.ca_bundle
    assert bundle is not None
    assert "BEGIN CERTIFICATE" in one(found, "ConfigMap", "-config")["data"][bundle.name]
    mounted_at(found, str(bundle.parent), "configMap")


def test_tokens_are_asked_for_only_if_wanted(rendered: dict[str, list[Object]]) -> None:
    assert "tokenRequests" not in one(rendered["defaults"], "CSIDriver")["spec"]
    spec = one(rendered["role"], "CSIDriver")["spec"]
    assert [item["audience"] for item in spec["tokenRequests"]] == ["sts.amazonaws.com", "minio"]
    assert spec["serviceAccountTokenInSecrets"] is True
    older = template(VALUES["role"], "--kube-version", "1.34.0")
    assert "serviceAccountTokenInSecrets" not in one(older, "CSIDriver")["spec"]


def test_older_clusters_are_refused() -> None:
    with pytest.raises(HelmFailed, match="kubeVersion"):
        template({}, "--kube-version", "1.28.0")


def test_what_needs_crds_is_off_by_default(rendered: dict[str, list[Object]]) -> None:
    optional = {
        "VolumeSnapshotClass", "VolumeAttributesClass", "PodMonitor", "ServiceMonitor", "Service",
        "PrometheusRule",
    }  # fmt: skip
    assert not {item["kind"] for item in rendered["defaults"]} & optional
    assert {item["kind"] for item in rendered["everything"]} >= optional
    names = {container["name"] for _, container in containers(rendered["everything"])}
    assert "snapshotter" in names
    assert "snapshotter" not in {c["name"] for _, c in containers(rendered["defaults"])}


def test_a_null_removes_a_class(rendered: dict[str, list[Object]]) -> None:
    assert len(of_kind(rendered["defaults"], "StorageClass")) == 3
    assert of_kind(rendered["bare"], "StorageClass") == []


def test_secrets_of_classes_are_readable_where_they_were_allowed(
    rendered: dict[str, list[Object]],
) -> None:
    def readable(found: list[Object]) -> set[str]:
        return {
            item["metadata"].get("namespace", "*")
            for kind in ("Role", "ClusterRole")
            for item in of_kind(found, kind)
            if any("secrets" in entry["resources"] for entry in item["rules"])
        }

    assert readable(rendered["defaults"]) == {"slayerfs-system"}
    assert readable(rendered["everything"]) == {"slayerfs-system", "team-a", "team-b"}
    assert readable(rendered["bare"]) == {"*"}


def test_a_change_of_the_configuration_rolls_the_pods_and_nothing_else_does(
    rendered: dict[str, list[Object]],
) -> None:
    def sums(found: list[Object]) -> set[str]:
        return {
            item["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            for item in (one(found, "DaemonSet", "-node"), one(found, "Deployment"))
        }

    assert len(sums(rendered["defaults"])) == 1
    assert sums(rendered["defaults"]) == sums(rendered["everything"])
    assert sums(rendered["defaults"]) != sums(rendered["driver"])


def test_another_release_has_other_names() -> None:
    text = helm("template", "prod", str(CHART), "--namespace", "x")
    assert "name: prod-slayerfs-node" in text
    assert "name: slayerfs-node" not in text


def test_notes_say_what_is_missing() -> None:
    def notes(*options: str) -> str:
        return helm(
            "install", "slayerfs", str(CHART), "--namespace", "x", "--dry-run=client", *options
        ).partition("NOTES:")[2]

    assert "driver.store.bucket is not set" in notes()
    assert "no credentials are set" in notes()
    complete = notes(
        "--set", "driver.store.bucket=b", "--set", "credentials.existingSecret=s3",
        "--set", "snapshots.enabled=true",
    )  # fmt: skip
    assert "NOTE" not in complete
    assert "Snapshots are off" not in complete
