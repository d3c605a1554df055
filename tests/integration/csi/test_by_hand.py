"""The lines of docs/csi.md that start the driver by hand and run csi-sanity against it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.binaries import CSI_SANITY
from tests.support.leaks import mount_points
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TIMEOUT = 180

DOCS = Path(__file__).resolve().parents[3] / "docs" / "csi.md"


def documented() -> str:
    found = re.search(r"<!-- run: by-hand -->\n```sh\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.timeout(TIMEOUT + 60)
def test_the_documented_lines_run(
    versitygw: S3Server, short_directory: Path, tmp_path: Path
) -> None:
    bucket = versitygw.create_bucket()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "csi-sanity").symlink_to(CSI_SANITY.path)
    env = {
        **os.environ,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DIR": str(short_directory),
        "ENDPOINT": versitygw.endpoint,
        "BUCKET": bucket,
        "ACCESS_KEY": versitygw.access_key,
        "SECRET_KEY": versitygw.secret_key,
    }
    output = tmp_path / "output.txt"
    with output.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", documented()],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        code = process.wait(TIMEOUT)
    finally:
        # Whatever of the driver a failure leaves is in the group of the shell.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL if process.poll() is None else signal.SIGTERM)
        process.wait()
        for point in sorted(mount_points(short_directory), reverse=True):
            subprocess.run(["umount", "-l", str(point)], check=False, timeout=20)
    text = output.read_text(errors="replace")
    assert code == 0, text[-4000:]
    assert re.search(r"SUCCESS! -- \d+ Passed.* 0 Failed", re.sub(r"\x1b\[[0-9;]*m", "", text)), (
        text[-2000:]
    )
    assert versitygw.admin.keys(bucket) == []
