"""The S3 servers that pods reach: versitygw on a directory, and MinIO, which also knows STS."""

from __future__ import annotations

import urllib.error
import urllib.request

from e2e.cluster.components import environment
from e2e.cluster.processes import Service
from e2e.cluster.settings import GATEWAY, Settings
from e2e.environment import AUDIENCE
from tests.support.servers import supports_xattrs


def versitygw(settings: Settings) -> Service:
    directory = settings.root / "s3" / "versitygw"
    directory.mkdir(parents=True, exist_ok=True)
    address = f"{GATEWAY}:{settings.ports['versitygw']}"
    accounts = settings.root / "s3" / "versitygw-accounts"
    accounts.mkdir(exist_ok=True)
    command = [f"{settings.bin}/versitygw", "--port", address, "--keep-alive"]
    # A key that a test takes away must be refused from then on.
    command += ["--iam-dir", str(accounts), "--iam-cache-disable", "posix"]
    if not supports_xattrs(directory):
        metadata = settings.root / "s3" / "versitygw-metadata"
        metadata.mkdir(exist_ok=True)
        command += ["--sidecar", str(metadata)]
    secrets = {"ROOT_ACCESS_KEY": settings.s3_access, "ROOT_SECRET_KEY": settings.s3_secret}
    return Service(
        "versitygw",
        [*command, str(directory)],
        environment(settings) | secrets,
        lambda: _answers(settings.s3_endpoint("versitygw") + "/"),
    )


def minio(settings: Settings) -> Service:
    """Trusts tokens that the cluster's API server signed; needs it at its start."""
    directory = settings.root / "s3" / "minio"
    directory.mkdir(parents=True, exist_ok=True)
    trusted = settings.root / "s3" / "minio-certs" / "CAs"
    trusted.mkdir(parents=True, exist_ok=True)
    (trusted / "cluster.crt").write_bytes((settings.pki / "ca.crt").read_bytes())
    discovery = f"{settings.apiserver}/.well-known/openid-configuration"
    secrets = {
        "MINIO_ROOT_USER": settings.s3_access,
        "MINIO_ROOT_PASSWORD": settings.s3_secret,
        "MINIO_BROWSER": "off",
        "MINIO_IDENTITY_OPENID_CONFIG_URL": discovery,
        "MINIO_IDENTITY_OPENID_CLIENT_ID": AUDIENCE,
        "MINIO_IDENTITY_OPENID_ROLE_POLICY": "readwrite",
    }
    command = [
        f"{settings.bin}/minio", "server",
        "--address", f"{GATEWAY}:{settings.ports['minio']}",
        "--console-address", f"127.0.0.1:{settings.ports['minio-console']}",
        "--certs-dir", str(trusted.parent), str(directory),
    ]  # fmt: skip
    ready = settings.s3_endpoint("minio") + "/minio/health/ready"
    return Service("minio", command, environment(settings) | secrets, lambda: _answers(ready))


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500  # it wants a signature: it is there
    except OSError:
        return False
