"""The configuration files of containerd, the pod network, the kubelet and kube-proxy."""

from __future__ import annotations

import json
from pathlib import Path

from e2e.cluster.settings import (
    BRIDGE,
    GATEWAY,
    GATEWAY_PREFIX,
    NODE,
    POD_NETWORK,
    Settings,
)

PAUSE_IMAGE = "localhost/pause:e2e"

GATES = {"CSIVolumeHealth": True}
"""Still alpha: the condition of a volume among the kubelet's metrics and events."""


def write_all(settings: Settings, runc: str, cni: str) -> None:
    """Into ``settings.config``. ``runc``: the program; ``cni``: the directory of the plugins."""
    files = {
        "containerd.toml": containerd(settings, runc, cni),
        "cni/10-e2e.conflist": json.dumps(cni_network(settings.root / "cni"), indent=1),
        "kubelet.json": json.dumps(kubelet(settings), indent=1),
        "proxy.json": json.dumps(proxy(settings), indent=1),
        # Pods have no name server: services are reached by address.
        "resolv.conf": "options ndots:1\n",
    }
    for name, text in files.items():
        path = settings.config / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def containerd(settings: Settings, runc: str, cni: str) -> str:
    """Nothing outside the state directory; no feature that reads or writes elsewhere."""
    root = settings.root

    def quoted(path: Path | str) -> str:
        return json.dumps(str(path))  # a JSON string is a TOML basic string

    return f"""\
version = 3
root = {quoted(root / "containerd" / "root")}
state = {quoted(root / "containerd" / "state")}
disabled_plugins = [
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.erofs",
]

[grpc]
  address = {quoted(settings.containerd_socket)}

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = {quoted(PAUSE_IMAGE)}

[plugins.'io.containerd.cri.v1.runtime']
  # Where CAP_SYS_RESOURCE is missing, runc cannot lower oom_score_adj and dies.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = [{quoted(cni)}]
  conf_dir = {quoted(settings.config / "cni")}
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = "runc"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = {quoted(runc)}
  Root = {quoted(root / "runc")}
  SystemdCgroup = false
"""


def cni_network(state: Path) -> dict[str, object]:
    """Pods on the bridge, with the node as gateway; addresses are noted down in ``state``."""
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(state),
            "ranges": [[{"subnet": POD_NETWORK, "gateway": GATEWAY}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return {"cniVersion": "1.0.0", "name": "slayerfs-e2e", "plugins": [bridge]}


def kubelet(settings: Settings) -> dict[str, object]:
    """Short periods, so that tests see statistics and restarts soon; no eviction."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": GATEWAY,
        "port": settings.ports["kubelet"],
        "healthzPort": settings.ports["kubelet-health"],
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(settings.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{settings.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        # There is no DNS: this address refuses at once, and the kubelet does not complain of none.
        "clusterDNS": ["127.0.0.1"],
        "clusterDomain": "cluster.local",
        "resolvConf": str(settings.config / "resolv.conf"),
        "podLogsDir": str(settings.root / "pods"),
        "volumePluginDir": str(settings.root / "volume-plugins"),
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "syncFrequency": "5s",
        "volumeStatsAggPeriod": "5s",
        "crashLoopBackOff": {"maxContainerRestartPeriod": "10s"},
        "featureGates": GATES,
    }


def proxy(settings: Settings) -> dict[str, object]:
    """Services by iptables; what kube-proxy would change on the machine besides stays as it is."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": POD_NETWORK,
        "hostnameOverride": NODE,
        "clientConnection": {"kubeconfig": str(settings.kubeconfig_of("proxy"))},
        "healthzBindAddress": f"127.0.0.1:{settings.ports['proxy']}",
        "metricsBindAddress": f"127.0.0.1:{settings.ports['proxy-metrics']}",
        "nodePortAddresses": [f"{GATEWAY}/{GATEWAY_PREFIX}"],
        "iptables": {"localhostNodePorts": False},
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }
