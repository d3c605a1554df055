"""Configuration of the cluster's programs: everything stays below the state directory."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import yaml

from e2e.cluster import config, pki
from e2e.cluster.host import mounts_below
from e2e.cluster.settings import GATEWAY, NODE, Settings, free_ports

STATE = Path("/var/tmp/a state")


def settings() -> Settings:
    names = ("etcd", "etcd-peer", "apiserver", "kubelet", "kubelet-health", "proxy")
    ports = {name: 20000 + number for number, name in enumerate((*names, "proxy-metrics"))}
    return Settings(STATE, ports, "access", "very secret")


def paths(value: object) -> list[str]:
    """All strings in a structure that are absolute paths."""
    if isinstance(value, dict):
        return [path for item in value.values() for path in paths(item)]
    if isinstance(value, list):
        return [path for item in value for path in paths(item)]
    return [value] if isinstance(value, str) and value.startswith("/") else []


def test_containerd_writes_below_the_state_directory_only() -> None:
    text = config.containerd(settings(), "/usr/sbin/runc", "/usr/lib/cni")
    parsed = tomllib.loads(text)
    outside = [path for path in paths(parsed) if not path.startswith(f"{STATE}/")]
    assert sorted(outside) == ["/usr/lib/cni", "/usr/sbin/runc"]
    images = parsed["plugins"]["io.containerd.cri.v1.images"]
    assert images["pinned_images"]["sandbox"] == config.PAUSE_IMAGE


def test_the_kubelet_writes_below_the_state_directory_only() -> None:
    values = json.loads(json.dumps(config.kubelet(settings())))
    assert all(path.startswith(f"{STATE}/") for path in paths(values))
    assert values["address"] == GATEWAY


def test_pods_get_addresses_of_the_bridge_and_the_node_as_gateway() -> None:
    network = json.loads(json.dumps(config.cni_network(STATE / "cni")))
    (plugin,) = network["plugins"]
    assert plugin["ipam"]["dataDir"] == f"{STATE}/cni"
    assert plugin["ipam"]["ranges"][0][0]["gateway"] == GATEWAY


def test_the_proxy_listens_on_loopback() -> None:
    values = config.proxy(settings())
    assert str(values["healthzBindAddress"]).startswith("127.0.0.1:")
    assert str(values["metricsBindAddress"]).startswith("127.0.0.1:")


def test_a_kubeconfig_names_its_user_s_files() -> None:
    values = json.loads(json.dumps(pki.kubeconfig("https://10.0.0.1:6443", STATE / "pki", "proxy")))
    assert values["users"][0]["user"]["client-key"] == f"{STATE}/pki/proxy.key"
    assert values["clusters"][0]["cluster"]["server"] == "https://10.0.0.1:6443"


def test_the_kubelet_is_its_node_and_the_api_server_has_its_addresses() -> None:
    found = {identity.name: identity for identity in pki.identities(NODE)}
    assert found["kubelet"].subject == f"/O=system:nodes/CN=system:node:{NODE}"
    assert f"IP:{GATEWAY}" in pki.extensions(found["apiserver"])
    assert "subjectAltName" not in pki.extensions(found["admin"])


def test_settings_are_read_back_and_show_no_secret(tmp_path: Path) -> None:
    made = Settings.fresh(tmp_path)
    made.save()
    assert Settings.load(tmp_path) == made
    assert made.s3_secret not in repr(made)
    assert (tmp_path / "cluster.json").stat().st_mode & 0o777 == 0o600


def test_ports_differ() -> None:
    names = tuple(f"service-{number}" for number in range(20))
    assert len(set(free_ports(names).values())) == 20


def test_mounts_are_found_below_a_directory_the_last_first() -> None:
    mountinfo = (
        "22 27 0:21 / /proc rw - proc proc rw\n"
        r"30 27 0:30 / /var/tmp/a\040state rw shared:1 - ext4 /dev/a rw"
        "\n"
        r"31 30 0:31 / /var/tmp/a\040state/kubelet/x rw - tmpfs tmpfs rw"
        "\n"
        r"32 30 0:32 / /var/tmp/a\040state2 rw - tmpfs tmpfs rw"
        "\n"
    )
    assert mounts_below(STATE, mountinfo) == [f"{STATE}/kubelet/x", str(STATE)]


def test_kind_s_configuration_has_what_the_tests_need() -> None:
    values = yaml.safe_load(Path("e2e/kind/cluster.yaml").read_text())
    assert values["featureGates"] == config.GATES
    (node,) = values["nodes"]
    (kubelet,) = [yaml.safe_load(patch) for patch in node["kubeadmConfigPatches"]]
    own = config.kubelet(settings())
    assert kubelet["syncFrequency"] == own["syncFrequency"]
    assert kubelet["volumeStatsAggPeriod"] == own["volumeStatsAggPeriod"]
