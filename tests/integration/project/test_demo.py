"""``make demo`` shows what it says, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

DEMO = [sys.executable, str(Path(__file__).resolve().parents[3] / "scripts" / "demo")]


def start(tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        DEMO,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def mounted_below(directory: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line for line in lines if str(directory) in line]


def test_demo(tmp_path: Path) -> None:
    with start(tmp_path) as demo:
        output, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, output
    assert "every checksum right" in output
    assert "still mounted: no" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["is mounted at", "kill -9"])
def test_an_interrupted_demo_leaves_nothing(
    tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    with start(tmp_path) as demo:
        assert demo.stdout is not None
        output = ""
        for line in demo.stdout:
            output += line
            if moment in line and not line.startswith("==>"):
                demo.send_signal(number)
                break
        output += demo.communicate(timeout=100)[0]
    assert demo.returncode in (128 + number, -number), output
    assert "Traceback" not in output
    assert mounted_below(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
