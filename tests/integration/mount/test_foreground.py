"""``csi-slayer mount --foreground`` belongs to its terminal: Ctrl-C and a closed one end it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.mounts import CLI, wait_for

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unmounts_and_what_was_written_is_stored(
    tmp_path: Path, number: signal.Signals
) -> None:
    objects, root = tmp_path / "objects", tmp_path / "mnt"
    objects.mkdir()
    root.mkdir()
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [*CLI, "mount", f"file://{objects}", str(root), "--cache-dir", str(tmp_path / "cache"),
             "--durability", "writeback", "--foreground"],
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    wait_for(lambda: os.path.ismount(root) or process.poll() is not None, what="a mount")
    (root / "file").write_text("content")
    os.killpg(process.pid, number)  # as a terminal does: to all processes in the foreground
    assert process.wait(60) == 0, (tmp_path / "out").read_text()
    assert not os.path.ismount(root)
    assert (objects / "file").read_text() == "content"
    assert "Traceback" not in (tmp_path / "out").read_text()
