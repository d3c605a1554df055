"""What holds for the rendered chart whatever its values: a rule fails with AssertionError."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from csi_slayer.config.driver import DRIVER_NAME
from tests.support.helm import (
    Object,
    containers,
    driver_config,
    of_kind,
    one,
    workloads,
)

Rule = Callable[[list[Object]], None]
RULES: list[Rule] = []


def rule(check: Rule) -> Rule:
    RULES.append(check)
    return check


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield str(key)
            yield from _texts(child)
    elif isinstance(node, list):
        for child in node:
            yield from _texts(child)
    elif isinstance(node, str):
        yield node


def _container(found: list[Object], name: str) -> tuple[Object, Object]:
    ((spec, container),) = (it for it in containers(found) if it[1]["name"] == name)
    return spec, container


def _host_paths(spec: Object) -> dict[str, str]:
    """Path on the node by the volume's name."""
    return {v["name"]: v["hostPath"]["path"] for v in spec["volumes"] if "hostPath" in v}


@rule
def driver_yaml_is_valid(found: list[Object]) -> None:
    driver_config(found)


@rule
def names_are_unique(found: list[Object]) -> None:
    keys = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in found]
    assert len(set(keys)) == len(keys)


@rule
def only_what_has_a_namespace_gets_one(found: list[Object]) -> None:
    cluster = {
        "ClusterRole", "ClusterRoleBinding", "CSIDriver", "Namespace", "StorageClass",
        "VolumeAttributesClass", "VolumeSnapshotClass",
    }  # fmt: skip
    for item in found:
        assert ("namespace" in item["metadata"]) == (item["kind"] not in cluster), item["kind"]


@rule
def everything_is_of_this_driver(found: list[Object]) -> None:
    assert one(found, "CSIDriver")["metadata"]["name"] == DRIVER_NAME
    for kind, key in (
        ("StorageClass", "provisioner"),
        ("VolumeSnapshotClass", "driver"),
        ("VolumeAttributesClass", "driverName"),
    ):
        for item in of_kind(found, kind):
            assert item[key] == DRIVER_NAME


@rule
def secrets_are_in_secrets_only(found: list[Object]) -> None:
    for _, container in containers(found):
        assert "envFrom" not in container
        for variable in container.get("env", []):
            assert "secretKeyRef" not in variable.get("valueFrom", {}), variable["name"]
    for item in of_kind(found, "ConfigMap"):
        words = {"access_key_id", "secret_access_key", "session_token", "web_identity_token:"}
        assert not any(word in text for text in _texts(item["data"]) for word in words)
    values = {value for item in of_kind(found, "Secret") for value in item.get("data", {}).values()}
    for item in found:
        if item["kind"] != "Secret":
            assert not values & set(_texts(item))


@rule
def selectors_find_their_pods_and_no_others(found: list[Object]) -> None:
    for item in workloads(found):
        wanted = item["spec"]["selector"]["matchLabels"].items()
        selected = [
            other["metadata"]["name"]
            for other in workloads(found)
            if wanted <= other["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert selected == [item["metadata"]["name"]]
    for kind in ("NetworkPolicy", "PodDisruptionBudget"):
        for item in of_kind(found, kind):
            selector = item["spec"].get("podSelector") or item["spec"]["selector"]
            assert any(
                selector["matchLabels"].items()
                <= other["spec"]["template"]["metadata"]["labels"].items()
                for other in workloads(found)
            ), item["metadata"]["name"]


@rule
def what_is_mounted_is_there(found: list[Object]) -> None:
    for item in workloads(found):
        spec = item["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        mounts = [m["name"] for c in spec["containers"] for m in c["volumeMounts"]]
        assert set(mounts) == volumes
    names = {o["metadata"]["name"] for o in of_kind(found, "ConfigMap")}
    for spec, _ in containers(found):
        for volume in spec["volumes"]:
            assert volume.get("configMap", {}).get("name") in {None, *names}


@rule
def root_file_systems_are_read_only(found: list[Object]) -> None:
    for _, container in containers(found):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


@rule
def only_the_node_service_is_privileged(found: list[Object]) -> None:
    for spec, container in containers(found):
        context = container["securityContext"]
        if container["name"] == "node":
            assert context["privileged"] is True
            continue
        assert not spec.get("hostPID") and not spec.get("hostNetwork")
        assert not context.get("privileged")
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


@rule
def the_node_service_finds_its_directories(found: list[Object]) -> None:
    config = driver_config(found)
    spec, container = _container(found, "node")
    paths = _host_paths(spec)
    mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
    kubelet = str(config.node.kubelet_directory)
    # The same path in the pod and on the node: the kubelet's paths mean the same to both.
    assert paths[mounts[kubelet]["name"]] == kubelet
    assert mounts[kubelet]["mountPropagation"] == "Bidirectional"
    assert config.node.run_directory.is_relative_to(kubelet)
    assert paths[mounts[str(config.cache.directory)]["name"]] == str(config.cache.directory)
    (name,) = (variable for variable in container["env"] if variable["name"] == "NODE_NAME")
    assert name["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"


@rule
def the_keeper_is_where_the_node_service_looks(found: list[Object]) -> None:
    config = driver_config(found)
    spec, container = _container(found, "keeper")
    assert container["args"] == ["keeper", "--socket", str(config.node.keeper_socket)]
    directory = str(config.node.keeper_socket.parent)
    (mount,) = container["volumeMounts"]
    assert mount["mountPath"] == directory == _host_paths(spec)[mount["name"]]
    # A directory with volumes below it would keep them mounted in the keeper's namespace.
    assert directory != str(config.node.run_directory)
    assert PurePosixPath(directory).is_relative_to(config.node.run_directory)


@rule
def the_keeper_stays_when_the_driver_is_upgraded(found: list[Object]) -> None:
    keeper = one(found, "DaemonSet", "-keeper")
    assert keeper["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert keeper["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    node = one(found, "DaemonSet", "-node")
    assert node["spec"]["updateStrategy"]["type"] == "RollingUpdate"


@rule
def probes_ask_what_the_driver_serves(found: list[Object]) -> None:
    config = driver_config(found)
    assert config.metrics.listen is not None
    port = int(config.metrics.listen.rpartition(":")[2])
    for name in ("node", "controller"):
        _, container = _container(found, name)
        assert {p["name"]: p["containerPort"] for p in container["ports"]} == {"metrics": port}
        paths = {
            probe: (container[probe]["httpGet"]["path"], container[probe]["httpGet"]["port"])
            for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        }
        assert paths == {
            "startupProbe": ("/healthz", "metrics"),
            "livenessProbe": ("/healthz", "metrics"),
            "readinessProbe": ("/readyz", "metrics"),
        }


@rule
def sidecars_speak_to_the_controller(found: list[Object]) -> None:
    config = driver_config(found)
    deployment = one(found, "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    sidecars = [c for c in spec["containers"] if c["name"] != "controller"]
    assert {c["name"] for c in sidecars} >= {"provisioner", "resizer"}
    (socket,) = (v for v in spec["volumes"] if v["name"] == "socket")
    assert "emptyDir" in socket
    ports = [p["containerPort"] for c in spec["containers"] for p in c["ports"]]
    assert len(set(ports)) == len(ports)
    for container in spec["containers"]:
        (mount,) = (m for m in container["volumeMounts"] if m["name"] == "socket")
        assert config.controller.socket.is_relative_to(mount["mountPath"])
    for container in sidecars:
        assert f"--csi-address={config.controller.socket}" in container["args"]
        assert "--leader-election" in container["args"]
        (port,) = container["ports"]
        assert f"--http-endpoint=:{port['containerPort']}" in container["args"]
        assert container["livenessProbe"]["httpGet"]["port"] == port["name"]


@rule
def accounts_are_bound_to_roles_that_exist(found: list[Object]) -> None:
    accounts = {o["metadata"]["name"] for o in of_kind(found, "ServiceAccount")}
    roles = {
        (o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"])
        for kind in ("Role", "ClusterRole")
        for o in of_kind(found, kind)
    }
    bound = set()
    for item in [*of_kind(found, "RoleBinding"), *of_kind(found, "ClusterRoleBinding")]:
        reference = item["roleRef"]
        bound.add((reference["kind"], item["metadata"].get("namespace"), reference["name"]))
        assert {s["name"] for s in item["subjects"]} <= accounts
    assert bound == roles
    assert {
        o["spec"]["template"]["spec"]["serviceAccountName"] for o in workloads(found)
    } == accounts


@rule
def nothing_has_more_rights_than_listed(found: list[Object]) -> None:
    read, event = {"get", "list", "watch"}, {"create", "patch"}
    most = {
        "events": event,
        "persistentvolumes": read | {"create", "patch", "delete"},
        "persistentvolumeclaims": read | {"update"},
        "persistentvolumeclaims/status": {"patch"},
        "storageclasses": read,
        "volumeattributesclasses": read,
        "nodes": read,
        "csinodes": read,
        "volumesnapshots": read | {"update"},
        "volumesnapshotclasses": read,
        "volumesnapshotcontents": read | {"patch"},
        "volumesnapshotcontents/status": {"update", "patch"},
        "secrets": {"get"},
        "leases": {"get", "create", "update"},
    }
    for role in [*of_kind(found, "Role"), *of_kind(found, "ClusterRole")]:
        for entry in role["rules"]:
            for resource in entry["resources"]:
                assert set(entry["verbs"]) <= most[resource], resource
    node = one(found, "ClusterRole", "-node")
    assert [(e["resources"], e["verbs"]) for e in node["rules"]] == [(["events"], ["create"])]


@rule
def the_provisioner_leaves_snapshots_alone_unless_it_may_touch_them(found: list[Object]) -> None:
    _, provisioner = _container(found, "provisioner")
    (interval,) = (a for a in provisioner["args"] if "snapshot-orphan-sweep" in a)
    may = any(
        "volumesnapshots" in entry["resources"]
        for role in of_kind(found, "ClusterRole")
        for entry in role["rules"]
    )
    assert (interval.partition("=")[2] != "0") is may


@rule
def pods_roll_when_the_configuration_changes(found: list[Object]) -> None:
    for kind, name in (("DaemonSet", "-node"), ("Deployment", "-controller")):
        template = one(found, kind, name)["spec"]["template"]
        assert len(template["metadata"]["annotations"]["checksum/config"]) == 64
    keeper = one(found, "DaemonSet", "-keeper")["spec"]["template"]["metadata"]
    assert "checksum/config" not in keeper.get("annotations", {})


@rule
def the_kubelet_does_what_the_driver_relies_on(found: list[Object]) -> None:
    spec = one(found, "CSIDriver")["spec"]
    assert spec["attachRequired"] is False
    assert spec["podInfoOnMount"] is True
    assert spec["requiresRepublish"] is True
    assert spec["fsGroupPolicy"] == "None"
    assert spec["seLinuxMount"] is False
    assert set(spec["volumeLifecycleModes"]) == {"Persistent", "Ephemeral"}


@rule
def everything_has_requests(found: list[Object]) -> None:
    for _, container in containers(found):
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
