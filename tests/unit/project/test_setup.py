"""What sets a machine up, where the machine is not ready for it yet."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.binaries import ModuleFiles, fetch, workspace

PROJECT = Path(__file__).resolve().parents[3]


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o755)
    return path


def test_an_environment_without_pip_is_made_again(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "hatch_build.py"):
        shutil.copy(PROJECT / name, tmp_path)
    # pip builds below the environment: it loads what it builds, and /tmp may be noexec.
    below = 'case $TMPDIR in */.venv/tmp) [ -d "$TMPDIR" ];; *) false; esac'
    pip = script(tmp_path / "pip", f'[ "$1" = -I ] || {below}')
    made = f"mkdir -p .venv/bin; ln -sf {pip} .venv/bin/python"
    # As venv does where Debian's python3-venv is missing: what was made stays.
    fails = script(tmp_path / "fails", '[ "$1" = -m ] || exit 0', made, "exit 1")
    works = script(tmp_path / "works", '[ "$1" = -m ] || exit 0', made, "touch .venv/bin/pip")
    # What the link was made for has nothing for the Python that is there after an upgrade. That
    # looks elsewhere, too (PYTHONPATH), if it is not told otherwise.
    newer = script(tmp_path / "newer", '[ "$*" != "-I -c import pip" ]')
    for python, status in ((fails, 2), (works, 0), (fails, 0)):
        make = ["make", "-C", str(tmp_path), f"PYTHON={python}", ".venv/.run"]
        assert subprocess.run(make, stdout=subprocess.DEVNULL).returncode == status
        assert (tmp_path / ".venv/bin/pip").exists() == (status == 0)
    for python in (tmp_path / "a Python that is gone", newer):
        (tmp_path / ".venv/bin/python").unlink()
        (tmp_path / ".venv/bin/python").symlink_to(python)
        assert subprocess.run([*make[:-2], f"PYTHON={works}", make[-1]]).returncode == 0
        assert (tmp_path / ".venv/bin/python").resolve() == pip
        assert (tmp_path / ".venv/.run").exists()


@pytest.mark.parametrize("target", ["test", "e2e"])
def test_who_is_not_root_is_told_before_anything_is_built(tmp_path: Path, target: str) -> None:
    script(tmp_path / "id", "echo 1000")
    result = subprocess.run(
        ["make", "-C", str(PROJECT), target],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert f"run them as root (sudo make {target})" in result.stderr
    assert "==>" not in result.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="installs as root only")
def test_packages_wait_for_who_updates_the_machine(tmp_path: Path) -> None:
    script(tmp_path / "dpkg-query", "exit 1")
    script(tmp_path / "sleep", f"touch {tmp_path}/slept")
    script(
        tmp_path / "apt-get",
        f'echo "$*" >> {tmp_path}/asked',
        '[ "$1" = update ] || exit 0',
        f"[ -e {tmp_path}/slept ] && exit 0",
        'echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)"',
        "exit 100",
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = subprocess.run(
        [PROJECT / "scripts/install-packages", "fuse3"],
        env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.splitlines() == [
        "installing: fuse3",
        "waiting for another program that updates the lists",
    ]
    first, second, install = (tmp_path / "asked").read_text().splitlines()
    assert first == second == "update -qq"
    assert "DPkg::Lock::Timeout=600" in install
    assert install.endswith(" fuse3")


def test_two_set_ups_at_once_fetch_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "csi.proto").write_text("syntax")
    go = script(tmp_path / "go", f"""echo '{{"Dir": "{tmp_path}"}}'""")
    files = ModuleFiles("csi-proto", "example.org/spec", "v1", ("*.proto",))
    fetch(files, str(go))
    fetch(files, str(go))
    assert [path.name for path in files.path.iterdir()] == ["csi.proto"]
    assert [path.name for path in files.path.parent.iterdir()] == ["csi-proto-v1"]


def test_what_a_killed_build_left_goes_the_next_day(tmp_path: Path) -> None:
    for name, age in ((".build-old", 90_000), (".build-new", 600), ("program-v1", 90_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "program").touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    with workspace(tmp_path) as directory:
        assert {path.name for path in tmp_path.iterdir()} == {
            ".build-new", "program-v1", directory.name,
        }  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {".build-new", "program-v1"}


def test_what_cannot_be_removed_there_stops_no_build(tmp_path: Path) -> None:
    """It may be root's, of a set-up under sudo."""
    old = tmp_path / ".build-old"
    old.touch()  # which rmtree refuses
    os.utime(old, (time.time() - 90_000,) * 2)
    with workspace(tmp_path) as directory:
        assert directory.is_dir()
    assert [*tmp_path.iterdir()] == [old]
