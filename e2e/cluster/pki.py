"""Certificates, keys and kubeconfigs of a cluster, made by the ``openssl`` program."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.settings import GATEWAY, SERVICE_ADDRESS, Settings

_DAYS = "30"
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate of the cluster's authority: Kubernetes takes CN as user and O as group."""

    name: str
    subject: str
    addresses: tuple[str, ...] = ()


def identities(node: str) -> list[Identity]:
    """Everybody who talks TLS."""
    etcd = Identity("etcd", "/CN=etcd", ("IP:127.0.0.1",))
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
    server = (f"IP:{GATEWAY}", f"IP:{SERVICE_ADDRESS}", *(f"DNS:{name}" for name in names))
    return [
        etcd,
        Identity("apiserver", "/CN=kube-apiserver", server),
        Identity("admin", "/O=system:masters/CN=admin"),
        Identity("kubelet-client", "/O=system:masters/CN=apiserver-kubelet-client"),
        Identity("controller-manager", "/CN=system:kube-controller-manager"),
        Identity("scheduler", "/CN=system:kube-scheduler"),
        Identity("proxy", "/CN=system:kube-proxy"),
        Identity("kubelet", f"/O=system:nodes/CN=system:node:{node}"),
    ]


USERS = ("admin", "controller-manager", "scheduler", "proxy", "kubelet")
"""Those who need a kubeconfig."""


def make(settings: Settings, node: str) -> None:
    """Everything into ``settings.pki``, and a kubeconfig for each user."""
    settings.pki.mkdir(mode=0o700)
    _openssl(settings.pki, "req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.crt",
             "-days", _DAYS, "-subj", "/CN=slayerfs-e2e",
             "-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature")  # fmt: skip
    for number, identity in enumerate(identities(node), start=1):
        _issue(settings.pki, identity, number)
    _openssl(settings.pki, "ecparam", "-name", "prime256v1", "-genkey", "-noout",
             "-out", "service-account.key")  # fmt: skip
    _openssl(settings.pki, "ec", "-in", "service-account.key", "-pubout",
             "-out", "service-account.pub")  # fmt: skip
    for user in USERS:
        path = settings.kubeconfig_of(user)
        path.touch(mode=0o600)
        path.write_text(json.dumps(kubeconfig(settings.apiserver, settings.pki, user), indent=1))


def kubeconfig(server: str, pki: Path, user: str) -> dict[str, object]:
    """A client configuration that refers to the files in ``pki``."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "e2e",
                "cluster": {"server": server, "certificate-authority": str(pki / "ca.crt")},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate": str(pki / f"{user}.crt"),
                    "client-key": str(pki / f"{user}.key"),
                },
            }
        ],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": user}}],
        "current-context": "e2e",
    }


def extensions(identity: Identity) -> str:
    """The certificate's extensions, as openssl x509 -extfile takes them."""
    lines = ["keyUsage=critical,digitalSignature", "extendedKeyUsage=clientAuth,serverAuth"]
    if identity.addresses:
        lines.append(f"subjectAltName={','.join(identity.addresses)}")
    return "\n".join(lines) + "\n"


def _issue(pki: Path, identity: Identity, serial: int) -> None:
    name = identity.name
    (pki / f"{name}.ext").write_text(extensions(identity))
    _openssl(pki, "req", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr",
             "-subj", identity.subject)  # fmt: skip
    _openssl(pki, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
             "-set_serial", str(serial), "-days", _DAYS, "-extfile", f"{name}.ext",
             "-out", f"{name}.crt")  # fmt: skip


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(
        ["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=60
    )
