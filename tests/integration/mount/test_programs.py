"""Programs that people run, on a mounted volume: over S3 and over a local directory."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.mount.s3volumes import s3_volume
from tests.support.mounts import TestMount
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

REPOSITORY = Path(__file__).parents[3]

_WHERE = ["local-all", "local-none", "versitygw-all", "minio-all"]


@pytest.fixture(scope="module", params=_WHERE)
def volume(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestMount]:
    """A volume on each store, and as on an older kernel."""
    kind, _dash, capabilities = request.param.partition("-")
    base = tmp_path_factory.mktemp("programs")
    options = [] if capabilities == "all" else ["fuse.disable=all"]
    if kind == "local":
        (base / "objects").mkdir()
        mount = TestMount(f"file://{base}/objects", base, options=options)
    else:
        server: S3Server = request.getfixturevalue(kind)
        mount = s3_volume(server, server.create_bucket(), base, options=options)
    yield mount.mount()
    mount.close()


@pytest.fixture
def place(volume: TestMount, request: pytest.FixtureRequest) -> Path:
    """A directory of the volume for one test."""
    path = volume.root / str(request.node.originalname)
    path.mkdir(exist_ok=True)
    return path


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """A program's output; its failure with all that it said is the test's."""
    result = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def tree_hashes(root: Path) -> dict[str, str]:
    """Every file below a directory by its contents, every symlink by its target."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def some_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of many sizes, an executable, a symlink, an empty file and an empty directory."""
    root = tmp_path_factory.mktemp("source") / "tree"
    for number in range(60):
        directory = root / f"d{number % 7}" / f"e{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_bytes(os.urandom(number * number * 40))
    (root / "big").write_bytes(os.urandom(5_000_000))
    (root / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("d1/e1")
    (root / "empty").write_bytes(b"")
    (root / "none").mkdir()
    return root


def test_git_clone_commit_and_fsck(place: Path, tmp_path: Path, some_tree: Path) -> None:
    needs("git")
    source = tmp_path / "source"
    shutil.copytree(some_tree, source, symlinks=True)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    run(*git, "init", "-q", "-b", "main", cwd=source)
    run(*git, "add", ".", cwd=source)
    run(*git, "commit", "-q", "-m", "first", cwd=source)
    run("git", "clone", "-q", "--no-local", f"file://{source}", place / "clone")
    clone = place / "clone"
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    (clone / "new").write_text("new")
    run(*git, "add", "new", cwd=clone)
    run(*git, "commit", "-q", "-m", "second", cwd=clone)
    run("git", "gc", "-q", cwd=clone)
    run("git", "fsck", "--full", "--strict", cwd=clone)
    run("git", "checkout", "-q", "HEAD~1", cwd=clone)
    found = tree_hashes(clone)
    assert {k: v for k, v in found.items() if not k.startswith(".git/")} == tree_hashes(some_tree)


def test_python_venv(place: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", place / "env")
    module = place / "env/lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    (module / "site-packages/hello.py").write_text("def greet():\n    return 'hello'\n")
    python = place / "env/bin/python"
    assert run(python, "-c", "import hello; print(hello.greet())") == "hello\n"
    assert run(python, "-c", "import hello; print(hello.__cached__)").strip().endswith(".pyc")


def test_tar_out_and_in(place: Path, tmp_path: Path, some_tree: Path) -> None:
    run("tar", "-cf", tmp_path / "a.tar", "-C", some_tree, ".")
    (place / "out").mkdir()
    run("tar", "-xf", tmp_path / "a.tar", "-C", place / "out")
    assert tree_hashes(place / "out") == tree_hashes(some_tree)
    run("tar", "-cf", place / "b.tar", "-C", place / "out", ".")
    (tmp_path / "back").mkdir()
    run("tar", "-xf", place / "b.tar", "-C", tmp_path / "back")
    assert tree_hashes(tmp_path / "back") == tree_hashes(some_tree)
    assert run(place / "out/run.sh") == "ran\n"


def test_rsync_with_checksums(place: Path, some_tree: Path) -> None:
    needs("rsync")
    run("rsync", "-a", f"{some_tree}/", place / "copy")
    difference = run(
        "rsync", "-anc", "--itemize-changes", "--delete", f"{some_tree}/", place / "copy"
    )
    assert difference == ""
    (place / "copy/big").open("r+b").close()
    (place / "copy/extra").write_text("x")
    run("rsync", "-a", "--delete", "--inplace", f"{some_tree}/", place / "copy")
    assert tree_hashes(place / "copy") == tree_hashes(some_tree)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_sqlite(place: Path, volume: TestMount, mode: str) -> None:
    path = place / f"{mode}.db"
    with sqlite3.connect(path, timeout=30) as database:
        assert database.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
        database.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)")
    database.close()
    sums: list[int] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            reader = sqlite3.connect(path, timeout=30)
            while not done.is_set():
                count, total = reader.execute(
                    "SELECT count(*), coalesce(sum(a), 0) FROM t"
                ).fetchone()
                assert total == count * (count + 1) // 2  # whole transactions only, in order
                sums.append(total)
            reader.close()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    writer = sqlite3.connect(path, timeout=30)
    for start in range(1, 400, 20):
        with writer:
            rows = [(number, os.urandom(900)) for number in range(start, start + 20)]
            writer.executemany("INSERT INTO t VALUES (?,?)", rows)
    done.set()
    thread.join()
    assert failures == []
    assert writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert writer.execute("SELECT count(*) FROM t").fetchone() == (400,)
    writer.close()
    assert sums


def test_fio_verify(place: Path) -> None:
    needs("fio")
    run(
        "fio", "--name=v", f"--directory={place}", "--size=8m", "--rw=randrw", "--bsrange=4k-64k",
        "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--ioengine=psync", "--numjobs=2",
        "--verify_state_save=0", "--randseed=7", cwd=place,
    )  # fmt: skip


def test_make_builds_a_c_project(place: Path) -> None:
    needs("gcc")
    needs("make")
    for number in range(8):
        (place / f"part{number}.c").write_text(f"int part{number}(void) {{ return {number}; }}\n")
    calls = "+".join(f"part{number}()" for number in range(8))
    declarations = "".join(f"int part{number}(void);\n" for number in range(8))
    (place / "main.c").write_text(
        f'#include <stdio.h>\n{declarations}int main(void) {{ printf("%d\\n", {calls}); }}\n'
    )
    (place / "Makefile").write_text(
        "SOURCES := $(wildcard *.c)\nprogram: $(SOURCES:.c=.o)\n\t$(CC) -o $@ $^\n"
    )
    run("make", "-j2", cwd=place)
    assert run(place / "program") == "28\n"
    assert "up to date" in run("make", cwd=place)
    (place / "part3.c").write_text("int part3(void) { return 30; }\n")
    run("make", cwd=place)
    assert run(place / "program") == "55\n"


def test_what_was_done_is_in_the_store(volume: TestMount) -> None:
    """The last of the module: after a remount without the cache the trees are the same."""
    found = tree_hashes(volume.root)
    volume.wait_idle(60)
    volume.umount()
    shutil.rmtree(volume.cache)
    volume.mount()
    again = tree_hashes(volume.root)
    assert {k: v for k, v in again.items() if found.get(k) != v} == {}
    assert sorted(found) == sorted(again)
