"""Secrets go through inherited descriptors only, whatever happens to the processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.node.loads import s3_store
from tests.support.mounts import wait_for
from tests.support.nodes import Refused, TestNode, node_at
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

CANARY = "canary-f00d-0f-a-secret"


def everything_readable(node: TestNode) -> dict[str, bytes]:
    """Arguments and environment of every process, and each file below the test's directory but
    the mounts."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ", "comm"):
            try:
                found[str(process / name)] = (process / name).read_bytes()
            except OSError:
                continue
    targets = set(node.mounts())
    for root in (node.run, node.cache, node.log.parent, Path("/run/slayerfs")):
        for path in _files(root, targets):
            try:
                found[str(path)] = path.read_bytes()
            except OSError:
                continue
    return found


def _files(directory: Path, mounts: set[str]) -> list[Path]:
    found = []
    for path in directory.iterdir() if directory.exists() else ():
        if str(path) in mounts or path.is_symlink():
            continue
        if path.is_dir():
            found += _files(path, mounts)
        elif path.is_file():
            found.append(path)
    return found


def test_no_secret_shows(tmp_path: Path, versitygw: S3Server) -> None:
    bucket = versitygw.create_bucket()
    store = s3_store(versitygw)
    secret = str(store["secret_access_key"])
    with node_at(tmp_path) as node:
        path = node.publish("volume", "a", f"s3://{bucket}", store=store, identity="key:one")
        (path / "file").write_text("text")
        wrong = {**store, "secret_access_key": CANARY, "session_token": CANARY + "-token"}
        with pytest.raises(Refused) as refused:
            node.publish("volume", "b", f"s3://{bucket}", store=wrong, identity="key:one")
        assert CANARY not in str(refused.value)
        with pytest.raises(Refused) as refused:
            node.publish("other", "c", f"s3://{bucket}", store=wrong, identity="key:two")
        assert CANARY not in str(refused.value)
        node.kill_workers()
        node.kill()
        node.start()
        wait_for(lambda: len(node.workers()) == 1, what="a worker")
        assert (path / "file").read_text() == "text"
        for place, content in everything_readable(node).items():
            assert CANARY.encode() not in content, place
            if "servers" not in place and not _belongs_to(place, versitygw):
                assert secret.encode() not in content, place
        node.unpublish("volume", "a")


def _belongs_to(place: str, server: S3Server) -> bool:
    """The S3 server is told its secret by its environment; that is not the driver's doing."""
    return server.process is not None and place.startswith(f"/proc/{server.process.pid}/")
