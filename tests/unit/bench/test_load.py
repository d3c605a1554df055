"""The load generator does what it reports, on a local directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.load import Load, compile_load

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_load(tmp_path_factory.mktemp("load"))


@pytest.fixture
def load(binary: Path) -> Load:
    return Load(binary, lambda: None, timeout=60)


def test_creates_files_with_several_writers(load: Load, tmp_path: Path) -> None:
    work = load.run("create", tmp_path, 37, 8, 4096)
    assert (work.operations, work.bytes) == (37, 37 * 4096)
    assert sorted(os.listdir(tmp_path)) == [f"f{index:06d}" for index in range(37)]
    assert {path.stat().st_size for path in tmp_path.iterdir()} == {4096}


def test_refuses_to_create_over_existing_files(load: Load, tmp_path: Path) -> None:
    (tmp_path / "f000002").touch()
    with pytest.raises(BenchError, match="f000002: File exists"):
        load.run("create", tmp_path, 5, 2, 4096)


@pytest.mark.parametrize("command", ["walkread", "warmread", "warmstat", "list", "find"])
def test_finds_every_file(load: Load, tmp_path: Path, command: str) -> None:
    for index in range(10):
        path = tmp_path / f"d{index % 3}" / f"f{index}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100 + index))
    if command == "find":
        assert load.find(tmp_path, 1e-9).operations == 10
    elif command == "list":
        assert load.run("list", tmp_path).operations == 3
    elif command == "walkread":
        work = load.run("walkread", tmp_path)
        assert (work.operations, work.bytes) == (10, 1045)
    else:
        # In turn until the time is over, which is looked at after every 16 operations.
        work = load.run(command, tmp_path, 0)
        assert work.operations == 16
        assert 10 * 100 < work.bytes - 6 * 100 < 11 * 110


def test_reads_and_writes_whole_files(load: Load, tmp_path: Path) -> None:
    path, size = tmp_path / "blob", 300_000
    assert load.run("seqwrite", path, size).bytes == size
    assert path.stat().st_size == size
    once = load.run("seqread", path, 0)
    assert (once.operations, once.bytes) == (1, size)
    again = load.run("seqread", path, 0.01)
    assert again.bytes == again.operations * size
    assert load.run("streams", path, path, path).bytes == 3 * size


def test_random_access_stays_within_the_file(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "blob"
    work = load.run("randwrite", path, 1 << 20, 0.01)
    assert path.stat().st_size == 1 << 20
    assert work.bytes == work.operations * 4096
    assert load.run("randread", path, 0.01).operations > 0
    assert path.read_bytes()[:4096].strip(b"\0")  # not zeros


def test_a_missing_file_is_an_error_with_its_name(load: Load, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="absent: No such file"):
        load.run("seqread", tmp_path / "absent", 0)
    with pytest.raises(BenchError, match="No such file"):
        load.run("warmread", tmp_path, 0)


def test_removes_a_file(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    load.remove(path)
    assert not path.exists()


def test_what_takes_too_long_is_ended(binary: Path, tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(bytes(4096))
    load = Load(binary, lambda: None, timeout=0.1)
    with pytest.raises(BenchError, match="took longer"):
        load.run("randread", path, 3600)


def test_a_load_that_cannot_be_ended_is_unblocked_first(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, unblocked = tmp_path / "blob", list[float]()
    path.write_bytes(bytes(4096))
    real_wait = subprocess.Popen.wait

    def wait(process: subprocess.Popen[str], timeout: float | None = None) -> int:
        if timeout == 1 and not unblocked:
            raise subprocess.TimeoutExpired("load", 1)  # as one in a dead file system does
        return real_wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    load = Load(binary, lambda: unblocked.append(time.monotonic()), timeout=0.1)
    with pytest.raises(BenchError, match="took longer"):
        load.run("randread", path, 3600)
    assert len(unblocked) == 1
