"""``csi-slayer mount --foreground`` belongs to its terminal: Ctrl-C and a closed one end it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import CLI, wait_for
from tests.support.servers import S3Server

pytestmark = pytest.mark.integration


@contextmanager
def started(
    root: Path, cache: Path, log: Path, url: str, *options: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The command, with a mount; whatever happens, neither is left."""
    root.mkdir()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*CLI, "mount", url, str(root), "--cache-dir", str(cache),
             "--durability", "writeback", "--foreground", *options],
            stdout=out, stderr=out, start_new_session=True, env={**os.environ, **environment},
        )  # fmt: skip
    try:
        wait_for(lambda: os.path.ismount(root) or process.poll() is not None, what="a mount")
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if os.path.ismount(root):
            subprocess.run(["umount", "--lazy", root], check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unmounts_and_what_was_written_is_stored(
    tmp_path: Path, number: signal.Signals
) -> None:
    objects, root, log = tmp_path / "objects", tmp_path / "mnt", tmp_path / "out"
    objects.mkdir()
    with started(root, tmp_path / "cache", log, f"file://{objects}") as process:
        (root / "file").write_text("content")
        os.killpg(process.pid, number)  # as a terminal does: to all processes in the foreground
        assert process.wait(60) == 0, log.read_text()
        assert not os.path.ismount(root)
    assert (objects / "file").read_text() == "content"
    assert "Traceback" not in log.read_text()
    assert "not uploaded" not in log.read_text()


def test_a_second_one_ends_the_uploads_and_says_what_is_left(
    tmp_path: Path, minio: S3Server
) -> None:
    bucket, root, log = minio.create_bucket(), tmp_path / "mnt", tmp_path / "out"
    with started(
        root, tmp_path / "cache", log, f"s3://{bucket}", "--endpoint", minio.endpoint,
        "--region", minio.region,
        AWS_ACCESS_KEY_ID=minio.access_key, AWS_SECRET_ACCESS_KEY=minio.secret_key,
    ) as process:  # fmt: skip
        assert os.listdir(root) == []
        minio.pause()
        try:
            (root / "file").write_text("content")
            os.killpg(process.pid, signal.SIGINT)
            wait_for(lambda: not os.path.ismount(root), what="the end of the mount")
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(30) == 0, log.read_text()
        finally:
            minio.resume()
    said = log.read_text()
    assert f"1 keys are not uploaded yet, and staged in {tmp_path / 'cache'}" in said
    assert f"to finish: mount s3://{bucket} at {root} again" in said
