"""Programs on several nodes change one file in turn: each finds what the one before it left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MakeMount
from tests.support.mounts import TestMount, wait_for

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("capabilities", ["all", "none", "libfuse"], indirect=True),
]

MakeNode = Callable[[str], TestMount]
TURNS = 60
ACCESS = {"w": os.O_WRONLY, "rw": os.O_RDWR}


@pytest.fixture
def node(make_mount: MakeMount, capabilities: list[str], tmp_path: Path) -> MakeNode:
    """Make a node: a mount with a cache of its own. Who opens a file there sees the last version
    that another node has closed."""

    def make(name: str) -> TestMount:
        options = [*capabilities, "volume.close_to_open=true", "volume.metadata_ttl=1s"]
        return make_mount(options=options, name=name, cache=tmp_path / f"cache-{name}").mount()

    return make


def read_by_parts(path: Path) -> bytes:
    """What a program finds that does not ask for the size first."""
    fd, found = os.open(path, os.O_RDONLY), b""
    try:
        while part := os.read(fd, 1 << 16):
            found += part
    finally:
        os.close(fd)
    return found


@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.parametrize("access", ACCESS)
def test_two_nodes_append_in_turn(
    node: MakeNode, objects: Path, access: str, is_read: bool
) -> None:
    nodes, want = [node("a"), node("b")], b""
    for turn in range(TURNS):
        fd = os.open(nodes[turn % 2].root / "f", ACCESS[access] | os.O_APPEND | os.O_CREAT, 0o644)
        line = b"%06d\n" % turn
        os.write(fd, line)
        os.close(fd)
        want += line
        assert (objects / "f").read_bytes() == want
        if is_read:
            assert read_by_parts(nodes[(turn + 1) % 2].root / "f") == want
    assert all(read_by_parts(node.root / "f") == want for node in nodes)


@pytest.mark.parametrize("access", ACCESS)
def test_what_others_cut_is_appended_to_where_it_ends_now(
    node: MakeNode, objects: Path, access: str
) -> None:
    a, b = node("a"), node("b")
    (a.root / "f").write_bytes(b"a long line that is in the way\n")
    assert (b.root / "f").read_bytes()
    os.truncate(b.root / "f", 2)
    b.wait_idle()
    fd = os.open(a.root / "f", ACCESS[access] | os.O_APPEND)
    os.write(fd, b"x")
    os.write(fd, b"y")
    os.close(fd)
    assert (objects / "f").read_bytes() == b"a xy"
    assert (b.root / "f").read_bytes() == b"a xy"


def test_who_still_reads_what_it_wrote_hides_no_change_by_others(
    node: MakeNode, objects: Path
) -> None:
    a, b = node("a"), node("b")
    (a.root / "f").write_bytes(b"one")
    with (a.root / "f").open("ab") as file:
        held = os.open(a.root / "f", os.O_RDONLY)
        file.write(b", two")
    try:
        with (b.root / "f").open("ab") as file:
            file.write(b", three")
        assert (a.root / "f").read_bytes() == b"one, two, three"
        with (a.root / "f").open("ab") as file:
            file.write(b", four")
        assert (objects / "f").read_bytes() == b"one, two, three, four"
        assert os.pread(held, 100, 0) == b"one, two"
        assert os.fstat(held).st_size == len(b"one, two")
    finally:
        os.close(held)
    assert a.status()["conflicts"] == b.status()["conflicts"] == 0
    (b.root / "f").unlink()
    wait_for(lambda: not (a.root / "f").exists())
