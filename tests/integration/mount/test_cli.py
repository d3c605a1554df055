"""The commands beside ``mount``, as a user meets them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_slayer.fuse.mount import unmount
from csi_slayer.node import registry
from csi_slayer.node.lock import is_locked
from tests.integration.mount.conftest import MakeMount
from tests.support.mounts import CLI, TestMount, slayer, wait_for

pytestmark = pytest.mark.integration


@pytest.fixture
def mount(make_mount: MakeMount, objects: Path) -> TestMount:
    (objects / "d").mkdir()
    for number in range(5):
        (objects / f"d/{number}").write_bytes(b"x" * 100_000)
    (objects / "large").write_bytes(b"y" * (3 << 20))
    return make_mount().mount()


def refused(*args: str, timeout: float = 60.0) -> str:
    """The one line of a command that must fail."""
    result = slayer(*args, check=False, timeout=timeout)
    assert result.returncode == 1, result.stdout + result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("csi-slayer: ")
    return line


def test_umount_of_a_busy_volume(mount: TestMount) -> None:
    with (mount.root / "d/0").open("rb") as held:
        line = refused("umount", str(mount.root))
        assert f"{mount.root} is in use" in line
        assert "fuser -vm" in line
        assert mount.mounted
        assert held.read(1) == b"x"
    assert (mount.root / "d/1").read_bytes() == b"x" * 100_000
    mount.umount()


def test_umount_of_what_is_not_mounted(tmp_path: Path) -> None:
    assert f"{tmp_path} is not mounted" in refused("umount", str(tmp_path))


@pytest.fixture
def frozen(mount: TestMount) -> Iterator[TestMount]:
    """A volume whose worker does not answer any more: whoever touches it waits."""
    pid = mount.worker_pid()
    os.kill(pid, signal.SIGSTOP)
    yield mount
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass


def test_umount_by_force_of_a_hanging_volume(frozen: TestMount) -> None:
    waiting = subprocess.Popen(["stat", str(frozen.root / "d")], stderr=subprocess.DEVNULL)
    worker = frozen.worker_pid()
    result = slayer("umount", str(frozen.root), "--force", "--timeout", "1")
    assert "unmounted" in result.stdout
    assert not frozen.mounted
    assert waiting.wait(10) != 0
    # It could not even be asked to end.
    wait_for(lambda: not Path(f"/proc/{worker}").exists(), what="the worker's end")


def test_status_of_a_worker_that_does_not_answer(frozen: TestMount) -> None:
    found = json.loads(slayer("status", "--json").stdout)
    (ours,) = [volume for volume in found if volume["mountpoint"] == str(frozen.root)]
    assert "does not answer" in ours["error"]
    shown = slayer("status", str(frozen.root)).stdout
    assert "does not answer" in " ".join(shown.split())


def kill_all(mount: TestMount) -> None:
    supervisor, worker = mount.entry()["supervisor"], mount.worker_pid()
    os.kill(supervisor, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: is_locked(mount.entry()["state"]) is False, what="the end of both")


def test_status_of_a_volume_whose_processes_were_killed(mount: TestMount) -> None:
    kill_all(mount)
    error = mount.status()["error"]
    assert f"nobody serves {mount.root} any more" in error
    assert f"mount {mount.url} there again" in error
    shown = "".join(slayer("status", str(mount.root)).stdout.split())
    assert error.replace(" ", "") in shown, "what is to be typed is shown whole"
    # What is mounted can still be replaced. Once somebody took it away there is nothing to tell.
    assert str(mount.root) in slayer("status", "--json").stdout
    unmount(str(mount.root), lazy=True)
    assert str(mount.root) not in slayer("status", "--json").stdout
    assert registry.find(str(mount.root)) is None


def test_status_keeps_what_was_not_uploaded(make_mount: MakeMount) -> None:
    mount = make_mount().mount()
    file = os.open(mount.root / "file", os.O_WRONLY | os.O_CREAT)
    os.write(file, b"data")
    kill_all(mount)
    with pytest.raises(OSError, match="not connected"):
        os.close(file)
    unmount(str(mount.root), lazy=True)
    (found,) = [v for v in json.loads(slayer("status", "--json").stdout) if v["url"] == mount.url]
    assert "nobody serves" in found["error"]
    mount.mount()
    assert (mount.root / "file").read_bytes() == b"data"


def test_status(mount: TestMount) -> None:
    (mount.root / "d/0").read_bytes()
    shown = slayer("status", str(mount.root)).stdout
    for text in (mount.url, str(mount.root), "durability close", "restarts", "keys pending",
                 "from the cache"):  # fmt: skip
        assert text in shown
    assert "is not in a mounted volume" in refused("status", "/proc")
    status = mount.status()
    assert status["read_only"] is False
    assert status["pending_uploads"] == 0
    assert status["counters"]["opens"] >= 1


def test_umount_of_a_volume_below_another_mount(mount: TestMount) -> None:
    """It said that it had unmounted it, and waited for the worker for five minutes."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mount.root], check=True)
    try:
        for options in ([], ["--force"]):
            assert "something else is mounted on top" in refused(
                "umount", str(mount.root), *options
            )
    finally:
        subprocess.run(["umount", mount.root], check=True)
    assert mount.status()["restarts"] == 0


def test_warm(mount: TestMount, tmp_path: Path) -> None:
    shown = slayer("warm", str(mount.root / "d")).stdout
    assert "5 files, 488.3 KiB are in the cache" in shown
    assert "6 files" in slayer("warm", str(mount.root)).stdout
    before = mount.ask_status()["counters"]["store_requests"]
    assert (mount.root / "large").read_bytes() == b"y" * (3 << 20)
    after = mount.ask_status()["counters"]
    assert after["store_requests"] == before
    assert "1 files, 3.0 MiB" in slayer("warm", str(mount.root / "large")).stdout
    assert "no such file or directory in the volume" in refused("warm", f"{mount.root}/absent")
    assert "is not in a mounted volume" in refused("warm", str(tmp_path))
    (mount.root / "link").symlink_to("d")
    for path in ("link", "link/0"):
        assert "'link' is a symbolic link" in refused("warm", str(mount.root / path))


def test_warm_of_files_in_many_segments(make_mount: MakeMount, objects: Path) -> None:
    (objects / "two").write_bytes(b"z" * (2 << 20) + b"end")
    mount = make_mount(options=["cache.segment_max=1MiB"]).mount()
    assert "1 files, 2.0 MiB are in the cache" in slayer("warm", str(mount.root / "two")).stdout
    before = mount.ask_status()["counters"]["store_requests"]
    assert (mount.root / "two").read_bytes() == b"z" * (2 << 20) + b"end"
    assert mount.ask_status()["counters"]["store_requests"] == before


def test_warm_names_what_it_could_not_fetch(make_mount: MakeMount, objects: Path) -> None:
    (objects / "large").write_bytes(b"y" * (3 << 20))
    mount = make_mount(options=["cache.capacity=1MiB"]).mount()
    result = slayer("warm", str(mount.root / "large"), check=False)
    assert result.returncode == 1
    assert '"key": "large", "error": "no room in the cache' in mount.log


def test_cache(mount: TestMount, objects: Path) -> None:
    where = ("--cache-dir", str(mount.cache))
    slayer("warm", str(mount.root))
    shown = slayer("cache", "usage", *where).stdout
    assert "cached in 6 segments" in shown
    assert "0 B staged besides" in shown
    assert "capacity 4.0 GiB" in shown
    usage = json.loads(slayer("cache", "usage", *where, "--json").stdout)
    assert usage["used"] >= 3 << 20
    assert (usage["staged"], usage["segments"], usage["capacity"]) == (0, 6, 4 << 30)
    assert usage["complete"]
    assert "6 segments" in slayer("cache", "verify", *where).stdout
    damaged = max((mount.cache / "segments").glob("*/" + "[0-9a-f]" * 32), key=os.path.getsize)
    with damaged.open("r+b") as file:
        file.seek(70_000)
        file.write(b"damage")
    result = slayer("cache", "verify", *where, check=False)
    assert result.returncode == 2
    assert "1 bad blocks in 1 segments dropped" in result.stdout
    assert (mount.root / "large").read_bytes() == b"y" * (3 << 20)
    mount.umount()
    assert "segments removed" in slayer("cache", "evict", *where).stdout
    usage = json.loads(slayer("cache", "usage", *where, "--json").stdout)
    assert (usage["used"], usage["segments"], usage["capacity"]) == (0, 0, None)
    shown = slayer("cache", "usage", *where).stdout
    assert "capacity not known: no volume with this cache is mounted" in shown
    assert (objects / "large").read_bytes() == b"y" * (3 << 20)


def test_doctor(objects: Path, tmp_path: Path) -> None:
    where = ("--cache-dir", str(tmp_path / "cache"))
    shown = slayer("doctor", f"file://{objects}", *where).stdout
    for text in ("kernel", "/dev/fuse can be opened", "CAP_SYS_ADMIN", "extended attributes",
                 "answers and can be listed"):  # fmt: skip
        assert text in shown
    result = slayer("doctor", f"file://{objects}/absent", *where, check=False)
    assert result.returncode == 1
    assert "is no directory" in result.stdout
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "command",
    ["", "mount", "umount", "status", "warm", "doctor", "cache", "cache usage", "cache evict",
     "cache verify"],
)  # fmt: skip
def test_help_shows_examples(command: str) -> None:
    shown = slayer(*command.split(), "--help", env={"COLUMNS": "120"}).stdout
    lines = [line.strip() for line in shown.splitlines()]
    assert "Examples" in lines or "Example" in lines
    assert any(line.startswith(f"csi-slayer {command}") for line in lines)
    assert "[bold]" not in shown


def test_an_interrupted_mount_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while the store does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        root = tmp_path / "mnt"
        root.mkdir()
        command = subprocess.Popen(
            [*CLI, "mount", "s3://bucket", str(root), "--cache-dir", str(tmp_path / "cache"),
             "--endpoint", f"http://127.0.0.1:{silent.getsockname()[1]}"],
            env={**os.environ, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y" * 20},
            stderr=subprocess.PIPE,
        )  # fmt: skip
        silent.settimeout(20)
        connection, _ = silent.accept()
        command.send_signal(signal.SIGINT)
        _out, err = command.communicate(timeout=20)
        connection.close()
    assert command.returncode == 130
    assert err == b"csi-slayer: interrupted\n"
    (state,) = (tmp_path / "cache/volumes").iterdir()
    wait_for(lambda: not is_locked(str(state)), what="the end of supervisor and worker")
    assert not os.path.ismount(root)
