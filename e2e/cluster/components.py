"""Each program of the cluster: its command line and how one sees that it is ready."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import stat
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from e2e.cluster.processes import ClusterError, Service
from e2e.cluster.settings import GATEWAY, NODE, SERVICE_NETWORK, Settings
from tests.support import binaries

_REQUEST_TIMEOUT = 5.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def system_program(name: str) -> str:
    """A program of the distribution. Raises ClusterError: not installed."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise ClusterError(f"{name} is not installed: run `make e2e`, or scripts/install-packages")
    return found


def environment(settings: Settings) -> dict[str, str]:
    """Nothing of the caller's, save for its proxies."""
    kept = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    # Go's tests of the machine's certificates are not wanted here: all trust is in our own.
    return kept | {"PATH": f"{settings.bin}:{_PATH}", "HOME": str(settings.root)}


def link_programs(settings: Settings) -> None:
    """The built programs by their plain names. Raises ClusterError: one is not built."""
    settings.bin.mkdir()
    for program in (*binaries.CLUSTER_PROGRAMS, binaries.VERSITYGW, binaries.MINIO):
        if not program.path.exists():
            raise ClusterError(f"{program.path} is missing: run `scripts/install-go-programs`")
        (settings.bin / program.name).symlink_to(program.path)


def https_ready(settings: Settings, url: str) -> bool:
    """Whether the administrator gets 200 there."""
    context = ssl.create_default_context(cafile=str(settings.pki / "ca.crt"))
    context.load_cert_chain(settings.pki / "admin.crt", settings.pki / "admin.key")
    return _answers(url, context)


def _answers(url: str, context: ssl.SSLContext | None = None) -> bool:
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=_REQUEST_TIMEOUT):
            return True
    except (OSError, urllib.error.URLError):
        return False


def listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(_REQUEST_TIMEOUT)
        return probe.connect_ex((address, port)) == 0


def is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except FileNotFoundError:
        return False


def etcd(settings: Settings) -> Service:
    pki, ports = settings.pki, settings.ports
    client = f"https://127.0.0.1:{ports['etcd']}"
    peer = f"https://127.0.0.1:{ports['etcd-peer']}"
    tls = [f"--{side}{option}={pki}/{file}"
           for side in ("", "peer-")
           for option, file in (("cert-file", "etcd.crt"), ("key-file", "etcd.key"),
                                ("trusted-ca-file", "ca.crt"))]  # fmt: skip
    command = [
        system_program("etcd"), "--name=e2e", f"--data-dir={settings.root}/etcd",
        f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=e2e={peer}", "--client-cert-auth", "--peer-client-cert-auth", *tls,
        # A cluster that lives for minutes: what a power failure would lose is not wanted back.
        "--unsafe-no-fsync",
    ]  # fmt: skip
    ready = f"{client}/health"
    return _service(settings, "etcd", command, lambda: https_ready(settings, ready))


def apiserver(settings: Settings) -> Service:
    pki, port = settings.pki, settings.ports["apiserver"]
    command = [
        f"{settings.bin}/kube-apiserver",
        # Pods must reach it, so it listens on the bridge and not on loopback.
        f"--bind-address={GATEWAY}", f"--advertise-address={GATEWAY}", f"--secure-port={port}",
        f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--etcd-servers=https://127.0.0.1:{settings.ports['etcd']}",
        f"--etcd-cafile={pki}/ca.crt", f"--etcd-certfile={pki}/etcd.crt",
        f"--etcd-keyfile={pki}/etcd.key",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-key-file={pki}/service-account.pub",
        f"--service-account-signing-key-file={pki}/service-account.key",
        f"--service-account-issuer={settings.apiserver}",
        f"--service-account-jwks-uri={settings.apiserver}/openid/v1/jwks",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged", "--profiling=false",
    ]  # fmt: skip
    ready = f"{settings.apiserver}/readyz"
    return _service(settings, "apiserver", command, lambda: https_ready(settings, ready))


def controller_manager(settings: Settings) -> Service:
    pki, port = settings.pki, settings.ports["controller-manager"]
    command = [
        f"{settings.bin}/kube-controller-manager", "--bind-address=127.0.0.1",
        f"--secure-port={port}", f"--kubeconfig={settings.kubeconfig_of('controller-manager')}",
        f"--service-account-private-key-file={pki}/service-account.key",
        f"--root-ca-file={pki}/ca.crt", "--use-service-account-credentials",
        "--leader-elect=false", "--profiling=false",
    ]  # fmt: skip
    return _service(settings, "controller-manager", command, lambda: listens("127.0.0.1", port))


def scheduler(settings: Settings) -> Service:
    port = settings.ports["scheduler"]
    command = [
        f"{settings.bin}/kube-scheduler", "--bind-address=127.0.0.1", f"--secure-port={port}",
        f"--kubeconfig={settings.kubeconfig_of('scheduler')}", "--leader-elect=false",
        "--profiling=false",
    ]  # fmt: skip
    return _service(settings, "scheduler", command, lambda: listens("127.0.0.1", port))


def containerd(settings: Settings) -> Service:
    command = [f"{settings.bin}/containerd", f"--config={settings.config}/containerd.toml"]
    path = settings.containerd_socket
    return _service(settings, "containerd", command, lambda: is_socket(path))


def kubelet(settings: Settings) -> Service:
    command = [
        f"{settings.bin}/kubelet", f"--config={settings.config}/kubelet.json",
        f"--kubeconfig={settings.kubeconfig_of('kubelet')}", f"--root-dir={settings.kubelet}",
        f"--cert-dir={settings.kubelet}/pki", f"--hostname-override={NODE}",
        f"--node-ip={GATEWAY}",
    ]  # fmt: skip
    port = settings.ports["kubelet-health"]
    health = f"http://127.0.0.1:{port}/healthz"
    return _service(settings, "kubelet", command, lambda: _answers(health))


def proxy(settings: Settings) -> Service:
    command = [f"{settings.bin}/kube-proxy", f"--config={settings.config}/proxy.json"]
    health = f"http://127.0.0.1:{settings.ports['proxy']}/healthz"
    return _service(settings, "proxy", command, lambda: _answers(health))


def snapshot_controller(settings: Settings) -> Service:
    port = settings.ports["snapshot-controller"]
    command = [
        f"{settings.bin}/snapshot-controller", f"--kubeconfig={settings.kubeconfig}",
        f"--http-endpoint=127.0.0.1:{port}", "--feature-gates=CSIVolumeGroupSnapshot=false",
    ]  # fmt: skip
    return _service(settings, "snapshot-controller", command, lambda: listens("127.0.0.1", port))


def _service(
    settings: Settings, name: str, command: list[str], ready: Callable[[], bool]
) -> Service:
    return Service(name, command, environment(settings), ready)


COMPONENTS: dict[str, Callable[[Settings], Service]] = {
    "etcd": etcd,
    "containerd": containerd,
    "apiserver": apiserver,
    "controller-manager": controller_manager,
    "scheduler": scheduler,
    "kubelet": kubelet,
    "proxy": proxy,
    "snapshot-controller": snapshot_controller,
}
"""In the order of their start."""
