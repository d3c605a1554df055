"""What ``ls`` shows of names that others add and remove, whatever the kernel keeps of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MODES, MakeMount
from tests.support.mounts import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.mark.parametrize("mode", ["all", "none"])
def test_ls_shows_what_stat_has_found(make_mount: MakeMount, objects: Path, mode: str) -> None:
    """The look-up lists the directory: what it found is not to be missed by who lists it next."""
    (objects / "a").write_bytes(b"a")
    options = ["volume.metadata_ttl=1s", "volume.negative_ttl=0s", *MODES[mode]]
    root = make_mount(options=options).mount().root
    names = ["a"]
    for number in range(3):
        for _ in range(2):  # the second time the kernel has them
            assert sorted(os.listdir(root)) == names
        new = f"b{number}"
        (objects / new).write_bytes(b"b")
        wait_for(lambda new=new: (root / new).exists())
        names = [*names, new]
        assert sorted(os.listdir(root)) == names


@pytest.mark.parametrize("mode", ["all", "none"])
def test_ls_of_a_read_only_volume_shows_changes_after_the_ttl(
    make_mount: MakeMount, objects: Path, mode: str
) -> None:
    """Nobody else looks: with zero_upcall the kernel does not even say that it is listed."""
    for directory in ("d", "e"):
        (objects / directory).mkdir()
        (objects / directory / "a").write_bytes(b"a")
    options = ["volume.read_only=true", "volume.metadata_ttl=1s", *MODES[mode]]
    mount = make_mount(options=options).mount()
    for removed, added in (("a", "b"), ("b", "c")):
        for directory in ("d", "e"):
            for _ in range(2):  # the second time the kernel has them
                assert os.listdir(mount.root / directory) == [removed]
            (objects / directory / added).write_bytes(b"b")
            (objects / directory / removed).unlink()
        wait_for(lambda new=added: os.listdir(mount.root / "d") == [new])
        wait_for(lambda new=added: (mount.root / "e" / new).exists())
        wait_for(lambda new=added: os.listdir(mount.root / "e") == [new])


def test_ls_of_a_read_only_volume_shows_changes_after_a_restart_of_the_worker(
    make_mount: MakeMount, objects: Path
) -> None:
    (objects / "d").mkdir()
    (objects / "d/a").write_bytes(b"a")
    options = ["volume.read_only=true", "volume.metadata_ttl=4s"]
    mount = make_mount(options=options).mount()
    for _ in range(2):
        assert os.listdir(mount.root / "d") == ["a"]
    mount.wait_for_successor(mount.kill_worker())
    (objects / "d/b").write_bytes(b"b")
    wait_for(lambda: sorted(os.listdir(mount.root / "d")) == ["a", "b"])


def test_within_the_ttl_nothing_is_asked_for_the_names_of_a_read_only_volume(
    make_mount: MakeMount, objects: Path
) -> None:
    for number in range(20):
        (objects / f"d{number}").mkdir()
        (objects / f"d{number}/a").write_bytes(b"a")
    mount = make_mount(options=["volume.read_only=true"]).mount()

    def asked() -> int:
        before = mount.ask_status()["counters"]["operations"]
        assert sum(len(files) for _path, _dirs, files in os.walk(mount.root)) == 20
        return mount.ask_status()["counters"]["operations"] - before

    # In some rounds the kernel may be short of memory.
    wait_for(lambda: asked() == 0)
