"""Mounts that cannot be: one clear line, soon, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.mount.conftest import MakeMount
from tests.integration.mount.volumes import files_with, processes_with, write_config
from tests.support.certs import make_certificate
from tests.support.faultproxy import FaultProxy
from tests.support.faults import Blackhole, Status
from tests.support.leaks import mount_points
from tests.support.mounts import CLI, TestMount, slayer, wait_for
from tests.support.processes import descendants
from tests.support.servers import S3Server, free_port

pytestmark = pytest.mark.integration

SOON = 25.0
"""Seconds within which a mount must have failed, with a busy machine in mind."""

SECRET = "a-secret-that-must-not-be-seen"
RUN = Path("/run/slayerfs")

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path) -> Iterator[Refused]:
    """Runs ``csi-slayer mount`` that must fail; returns the one line that says why."""
    root, cache = tmp_path / "mnt", tmp_path / "cache"
    root.mkdir()

    def run(*args: str, env: dict[str, str] | None = None) -> str:
        where = () if "--cache-dir" in args else ("--cache-dir", str(cache))
        result = slayer("mount", *args, *where, env=env, check=False, timeout=SOON)
        assert result.returncode == 1, result.stdout + result.stderr
        assert result.stdout == ""
        assert SECRET not in result.stderr
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("csi-slayer: ")
        return lines[0]

    yield run
    # The command does not wait for the end of all that it started.
    wait_for(lambda: not processes_with(str(tmp_path), but=[os.getpid(), *_servers()]))
    wait_for(lambda: not processes_with(SECRET, but=[os.getpid()]))
    assert not mount_points(root)
    assert not files_with(str(tmp_path), RUN)
    assert not files_with(SECRET, cache, RUN)


def _servers() -> list[int]:
    """The test's own servers, whose directories are below pytest's."""
    return descendants(os.getpid())


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "mnt")


def test_wrong_secret(refused: Refused, root: str, s3_server: S3Server, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", s3_server, secret_access_key=SECRET)
    line = refused("s3://any-bucket", root, "--config", str(config))
    assert "the secret key does not fit the access key: check the secret" in line


def test_log_that_cannot_be_written(refused: Refused, root: str, tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    log = tmp_path / "missing" / "log"
    line = refused(f"file://{tmp_path}/objects", root, "-o", f"log.file={log}")
    assert line == f"csi-slayer: log.file: {log}: No such file or directory"


def test_wrong_key(refused: Refused, root: str, s3_server: S3Server) -> None:
    env = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": SECRET}
    line = refused("s3://any-bucket", root, "--endpoint", s3_server.endpoint, env=env)
    assert "the access key is not known there: check the key id" in line


def test_no_credentials(refused: Refused, root: str, versitygw: S3Server, tmp_path: Path) -> None:
    env = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "HOME": str(tmp_path),
    }
    line = refused("s3://any-bucket", root, "--endpoint", versitygw.endpoint, env=env)
    assert "credentials" in line


def test_missing_bucket(refused: Refused, root: str, s3_server: S3Server, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", s3_server)
    line = refused("s3://no-such-bucket", root, "--config", str(config))
    assert "bucket 'no-such-bucket' does not exist: check its name and the endpoint" in line


def test_no_permission(refused: Refused, root: str, minio: S3Server, tmp_path: Path) -> None:
    bucket = minio.create_bucket()
    with FaultProxy(minio.endpoint) as proxy:
        proxy.inject(Status(403, "AccessDenied"))
        config = write_config(tmp_path / "c.yaml", minio, endpoint=proxy.endpoint)
        line = refused(f"s3://{bucket}", root, "--config", str(config))
    assert "the identity may not do this: check its policy and the bucket's" in line
    config = write_config(
        tmp_path / "c.yaml", minio, access_key_id=None, secret_access_key=None, anonymous=True
    )
    assert "AccessDenied" in refused(f"s3://{bucket}", root, "--config", str(config))
    minio.admin.delete_bucket(bucket)


def test_nobody_listens(refused: Refused, root: str, versitygw: S3Server, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    config = write_config(tmp_path / "c.yaml", versitygw, endpoint=endpoint)
    line = refused("s3://bucket", root, "--config", str(config))
    assert f"{endpoint}: connection refused: check the endpoint's address and port" in line


def test_unknown_host(refused: Refused, root: str, versitygw: S3Server, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", versitygw, endpoint="http://s3.invalid:9000")
    line = refused("s3://bucket", root, "--config", str(config))
    assert "s3.invalid" in line
    assert "cannot be resolved: check endpoint, region and DNS" in line or "no answer" in line


def test_silent_server(refused: Refused, root: str, versitygw: S3Server, tmp_path: Path) -> None:
    with FaultProxy(versitygw.endpoint) as proxy:
        proxy.inject(Blackhole())
        config = write_config(tmp_path / "c.yaml", versitygw, endpoint=proxy.endpoint)
        line = refused("s3://bucket", root, "--config", str(config))
    assert "no answer within" in line


def test_broken_server(refused: Refused, root: str, versitygw: S3Server, tmp_path: Path) -> None:
    with FaultProxy(versitygw.endpoint) as proxy:
        proxy.inject(Status(503, "SlowDown"))
        config = write_config(tmp_path / "c.yaml", versitygw, endpoint=proxy.endpoint)
        line = refused("s3://bucket", root, "--config", str(config))
    assert "HTTP 503 SlowDown" in line


def test_tls(refused: Refused, root: str, versitygw: S3Server, tmp_path: Path) -> None:
    authority, context = make_certificate(tmp_path)
    with FaultProxy(versitygw.endpoint, tls=context) as proxy:
        config = write_config(tmp_path / "c.yaml", versitygw, endpoint=proxy.endpoint)
        line = refused("s3://bucket", root, "--config", str(config))
        assert "the certificate is not trusted" in line
        assert "ca_bundle" in line
        config = write_config(
            tmp_path / "c.yaml", versitygw, endpoint=proxy.endpoint, ca_bundle=str(authority)
        )
        line = refused("s3://no-such-bucket", root, "--config", str(config))
        assert "bucket 'no-such-bucket' does not exist" in line
    https = versitygw.endpoint.replace("http:", "https:")
    config = write_config(tmp_path / "c.yaml", versitygw, endpoint=https)
    assert "check that the endpoint speaks https" in refused(
        "s3://bucket", root, "--config", str(config)
    )


def test_mount_points_that_cannot_be(refused: Refused, root: str, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/objects"
    absent = f"{root}/absent"
    assert f"{absent} does not exist: mkdir -p {absent} first" in refused(url, absent)
    file = Path(root, "file")
    file.write_bytes(b"")
    assert f"{file} is not a directory" in refused(url, str(file))
    assert f"'{tmp_path}/objects' is no directory: create it" in refused(url, root)


def test_mounted_already(make_mount: MakeMount) -> None:
    mount = make_mount().mount()
    result = slayer(
        "mount", mount.url, str(mount.root), "--cache-dir", str(mount.cache), check=False
    )
    assert result.returncode == 1
    assert f"{mount.root} is a mount point already" in result.stderr
    (mount.root / "file").write_bytes(b"still there")
    mount.umount()


def test_unknown_keys_name_the_nearest(refused: Refused, root: str, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/objects"
    line = refused(url, root, "-o", "volume.metdata_ttl=5s")
    assert "volume.metdata_ttl: unknown key; did you mean volume.metadata_ttl?" in line
    assert "did you mean volume.quota?" in refused(url, root, "-o", "quota=5")
    config = tmp_path / "c.yaml"
    config.write_text(f"store:\n  secret_acces_key: {SECRET}\n")
    line = refused(url, root, "--config", str(config))
    assert f"{config}: store.secret_acces_key: unknown key" in line
    assert "did you mean store.secret_access_key?" in line
    assert "secrets do not belong on a command line" in refused(
        url, root, "-o", f"store.secret_access_key={SECRET}"
    )
    assert "expected key=value" in refused(url, root, "-o", "nonsense")


def test_cache_directories_that_cannot_be(refused: Refused, root: str, tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    url = f"file://{tmp_path}/objects"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_bytes(b"mine")
    line = refused(url, root, "--cache-dir", str(foreign))
    assert "not empty and not a cache of this program (found 'thesis.tex')" in line
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_bytes(b"")
    line = refused(url, root, "--cache-dir", str(tmp_path / "file" / "cache"))
    assert "cache directory" in line
    line = refused(url, root, "--cache-dir", "/proc/slayerfs")
    assert "cache directory" in line


def test_a_metrics_address_in_use(refused: Refused, root: str, tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refused(f"file://{tmp_path}/objects", root, "-o", f"metrics.listen={address}")
    assert f"metrics.listen: cannot listen on {address}" in line


def test_no_secret_while_it_starts(versitygw: S3Server, tmp_path: Path) -> None:
    """A file's and the environment's secrets go to the worker through a socket only."""
    config = write_config(tmp_path / "c.yaml", versitygw, secret_access_key=SECRET)
    ways: list[tuple[list[str], dict[str, str]]] = [
        (["--config", str(config)], {}),
        ([], {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET}),
    ]
    commands = []
    with ExitStack() as stack:
        for number, (arguments, env) in enumerate(ways):
            proxy = stack.enter_context(FaultProxy(versitygw.endpoint))
            proxy.inject(Blackhole())
            root, cache = tmp_path / f"mnt{number}", tmp_path / f"cache{number}"
            root.mkdir()
            where = ["mount", "s3://bucket", str(root), "--cache-dir", str(cache)]
            command = subprocess.Popen(
                [*CLI, *where, *arguments, "--endpoint", proxy.endpoint],
                env={**os.environ, **env},
                stderr=subprocess.PIPE,
            )
            commands.append((command, cache))
            # At once: it waits for the server some seconds only.
            proxy.wait_for(1)
            started = descendants(command.pid)
            assert len(started) == 2  # supervisor and worker
            assert not set(processes_with(SECRET)) & set(started)
        for command, cache in commands:
            _out, err = command.communicate(timeout=SOON)
            assert b"no answer within" in err
            assert not files_with(SECRET, cache, RUN)


def test_no_secret_in_a_running_volume(
    make_mount: MakeMount, versitygw: S3Server, tmp_path: Path
) -> None:
    bucket = versitygw.create_bucket()
    env = {
        "AWS_ACCESS_KEY_ID": versitygw.access_key,
        "AWS_SECRET_ACCESS_KEY": versitygw.secret_key,
    }
    mount = make_mount(f"s3://{bucket}", env=env, options=["log.level=debug"])
    mount.mount("--endpoint", versitygw.endpoint)
    (mount.root / "file").write_bytes(b"content")
    mount.kill_worker()
    assert (mount.root / "file").read_bytes() == b"content"
    pids = {mount.entry()["supervisor"], mount.worker_pid()}
    assert not set(processes_with(versitygw.secret_key)) & pids
    assert not files_with(versitygw.secret_key, mount.cache, RUN)
    assert versitygw.secret_key not in json.dumps(mount.status())
    mount.umount()
    versitygw.admin.delete_bucket(bucket)


@pytest.mark.parametrize("how", ["stopped_serving", "hanging"])
def test_a_dead_mount_is_replaced(make_mount: MakeMount, objects: Path, how: str) -> None:
    """Supervisor and worker were killed: the next mount there notices and makes a new one."""
    (objects / "file").write_bytes(b"content")
    mount = make_mount().mount()
    entry: dict[str, Any] = mount.entry()
    worker = mount.worker_pid()
    os.kill(entry["supervisor"], signal.SIGSTOP)  # or it would start the next worker
    os.kill(worker, signal.SIGKILL)
    if how == "hanging":
        # Somebody else holds the connection, as a keeper would: requests wait for ever.
        keeper = subprocess.Popen(["sleep", "60"])
        fd = _fuse_descriptor(entry["supervisor"])
        keeper.kill()
        keeper.wait()
    os.kill(entry["supervisor"], signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{entry['supervisor']}/fd").exists(), what="its end")
    assert mount.mounted
    again = _mount_again(mount)
    assert "was left by a worker that is gone" in again
    assert (mount.root / "file").read_bytes() == b"content"
    if how == "hanging":
        os.close(fd)
    mount.umount()
    assert not mount.mounted


def _fuse_descriptor(pid: int) -> int:
    """A duplicate of the /dev/fuse descriptor of a process."""
    for path in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(path) == "/dev/fuse":
            pidfd = os.pidfd_open(pid)
            try:
                return _pidfd_getfd(pidfd, int(path.name))
            finally:
                os.close(pidfd)
    raise AssertionError("no /dev/fuse descriptor")


def _pidfd_getfd(pidfd: int, number: int) -> int:
    import ctypes

    fd: int = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, number, 0)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd


def _mount_again(mount: TestMount) -> str:
    result = slayer("mount", mount.url, str(mount.root), "--cache-dir", str(mount.cache))
    return result.stdout + result.stderr
