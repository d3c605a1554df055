"""Whatever process of the driver is killed: programs with open files see no error, nothing that
was acknowledged is lost, and nobody has to do anything for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.node.loads import s3_store
from tests.support.disturb import hashes, left_names, run_load
from tests.support.load import big_file
from tests.support.mounts import wait_for
from tests.support.nodes import TestNode
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]


def kill_worker(node: TestNode) -> None:
    killed = wait_for(node.workers, what="a record that names the new worker")
    assert node.kill_workers() == 1
    wait_for(lambda: not set(killed) & set(node.workers()), what="its end")


def kill_node(node: TestNode) -> None:
    node.kill()
    node.start()


def kill_keeper(node: TestNode) -> None:
    """Nothing but the workers and the node service has the mounts until the new one was given
    them: the next to die may not come before that."""
    node.kill_keeper()
    node.wait_for_keeper(there=False)
    node.start_keeper()
    node.wait_for_keeper(there=True)


def kill_node_and_workers(node: TestNode) -> None:
    """As when the node's container is restarted."""
    node.kill_workers()
    node.kill()
    node.start()


@pytest.mark.parametrize("durability", ["close", "fsync", "writeback"])
@pytest.mark.parametrize(
    ("kill", "times"),
    [(kill_worker, 6), (kill_node, 5), (kill_keeper, 5), (kill_node_and_workers, 5)],
)
def test_nobody_notices(
    node: TestNode,
    objects: Path,
    url: str,
    disabled: list[str],
    kill: Callable[[TestNode], None],
    times: int,
    durability: str,
) -> None:
    (objects / "big").write_bytes(big_file())
    path = node.publish(
        "volume", "pod", url, options={"durability": durability}, fuse={"disable": disabled}
    )
    try:
        files = run_load(path, 5, lambda: kill(node), times=times, serving=node.workers)
    except AssertionError:
        print(node.log.read_text()[-30_000:])  # its directory is removed
        raise
    assert node.release("volume", "pod") == ["volume"]
    assert hashes(objects) == files
    assert list((objects / "names").iterdir()) == []
    assert node.mounts() == []
    assert '"conflict"' not in node.log.read_text()


@pytest.mark.parametrize(
    "options",
    [{}, {"durability": "fsync", "attributes": "posix"}],
    ids=["close", "fsync-posix"],
)
def test_nobody_notices_over_s3(
    node: TestNode, versitygw: S3Server, options: dict[str, str]
) -> None:
    """Keeper and node service die in turn, the workers with the latter."""
    bucket = versitygw.create_bucket()
    versitygw.admin.put(bucket, "big", big_file())
    path = node.publish(
        "volume", "pod", f"s3://{bucket}", options=options, store=s3_store(versitygw)
    )
    turns = iter([kill_keeper, kill_node_and_workers, kill_worker] * 2)
    files = run_load(path, 6, lambda: next(turns)(node), times=6, serving=node.workers)
    node.release("volume", "pod")
    keys = versitygw.admin.keys(bucket)
    assert {key for key in keys if not key.endswith("/")} == set(files)
    assert left_names(keys) == []


def test_files_that_are_open_are_read_and_written_while_nothing_of_the_driver_runs(
    node: TestNode, url: str
) -> None:
    """The kernel serves them, as long as the keeper holds the connection."""
    path = node.publish("volume", "pod", url)
    script = (
        "import os, sys\n"
        f"fd = os.open({str(path / 'file')!r}, os.O_RDWR | os.O_CREAT)\n"
        # The first write of a file asks for its capabilities (file_remove_privs).
        "os.pwrite(fd, b'x', 0)\n"
        "print('open', flush=True); sys.stdin.readline()\n"
        "for i in range(1000): os.pwrite(fd, b'%d' % (i % 10), i)\n"
        "assert os.pread(fd, 1000, 0) == b'0123456789' * 100\n"
        "print('written', flush=True); sys.stdin.readline()\n"
        "os.close(fd)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None and program.stdout is not None
        assert program.stdout.readline() == "open\n"
        node.kill_workers()
        node.kill()
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "written\n"
        node.start()
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.wait(60) == 0
    assert (path / "file").read_text() == "0123456789" * 100
    node.unpublish("volume", "pod")
