"""Ctrl-C while the command's modules are being loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["csi-slayer"]
MODULE, NAME = SCRIPT.split(":")

# As pip writes it into the script.
INSTALLED = f"import sys; from {MODULE} import {NAME}; sys.exit({NAME}())"


def command(way: str) -> list[str]:
    return [
        sys.executable,
        *(["-c", INSTALLED] if way == "installed" else ["-m", "csi_slayer.cli"]),
    ]


@pytest.mark.parametrize("way", ["installed", "module"])
@pytest.mark.parametrize("where", ["typer", "pydantic", "rich"])
def test_an_interrupt_while_it_loads(tmp_path: Path, way: str, where: str) -> None:
    (tmp_path / f"{where}.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    ended = subprocess.run(
        [*command(way), "status"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        timeout=50,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (ended.returncode, ended.stderr) == (130, b"csi-slayer: interrupted\n")


@pytest.mark.parametrize("way", ["installed", "module"])
def test_an_interrupt_between_loading_and_working(tmp_path: Path, way: str) -> None:
    """Arguments are read: an exception there would be click's to explain."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "def watch(event, arguments):\n"
        "    if event == 'import' and arguments[0] == 'csi_slayer.csi.processes':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(watch)\n"
    )
    ended = subprocess.run(
        [*command(way), "node", "--config", "none.yaml"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        timeout=50,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (ended.returncode, ended.stderr) == (130, b"csi-slayer: interrupted\n")


@pytest.mark.parametrize("way", ["installed", "module"])
@pytest.mark.parametrize("arguments", [["--help"], ["status"], ["status", "--json"]])
def test_standard_output_that_cannot_be_written(
    tmp_path: Path, way: str, arguments: list[str]
) -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [*command(way), *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(tmp_path)},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=50,
            check=False,
        )
    assert ended.stderr == b"csi-slayer: standard output: No space left on device\n"
    assert ended.returncode == 1


HELPER = [sys.executable, "-c", "from csi_slayer.cli.fstab import run; run()"]


@pytest.mark.parametrize("called", [[*command("module"), "status"], [*HELPER, "s3://b", "/mnt"]])
def test_closed_standard_streams_stay_nobody_elses(tmp_path: Path, called: list[str]) -> None:
    """They were taken by the sockets to the processes that a command starts."""
    (tmp_path / "rich.py").write_text(
        "import os\n"
        "places = [os.readlink(f'/proc/self/fd/{number}') for number in range(3)]\n"
        f"open({str(tmp_path / 'places')!r}, 'w').write(' '.join(places))\n"
        "os._exit(0)\n"
    )
    subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *called],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        timeout=50,
        check=True,
    )
    assert (tmp_path / "places").read_text() == "/dev/null /dev/null /dev/null"
