"""Mount points as the kernel lists them; directories of a mount; names of datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import mounts
from bench.dataset import Blobs, Tree
from bench.errors import BenchError
from bench.targets.base import MountOptions, Place
from bench.targets.local import Local
from bench.targets.scratch import scratch

MOUNTINFO = r"""25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
90 25 0:51 / /var/tmp/with\040space/mnt rw - fuse.slayerfs bucket rw
91 25 0:50 / /mnt rw - fuse a rw
92 91 0:52 / /mnt rw - fuse b rw
"""


def test_mount_points_are_unescaped_and_the_one_on_top_counts() -> None:
    assert mounts.parse(MOUNTINFO) == {
        Path("/"): 0,
        Path("/var/tmp/with space/mnt"): 51,
        Path("/mnt"): 52,
    }


def test_waiting_ends_with_the_daemon(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="ended before"):
        mounts.wait_until_mounted(tmp_path, lambda: False, timeout=60)
    with pytest.raises(BenchError, match="within"):
        mounts.wait_until_mounted(tmp_path, lambda: True, timeout=0)


def test_what_is_not_mounted_is_left_alone(tmp_path: Path) -> None:
    mounts.unmount(tmp_path)
    mounts.force(tmp_path)
    assert mounts.force_all_below(tmp_path) == []


def test_scratch_directories_are_fresh_and_lose_what_is_large(tmp_path: Path) -> None:
    with scratch(tmp_path, "x") as first, scratch(tmp_path, "x") as second:
        assert first.root != second.root
        (first.cache / "small").write_text("cached")
        (first.cache / "d").mkdir()
        (first.cache / "d" / "large").write_bytes(bytes(1 << 20))
        first.log.write_text("one\ntwo\nthree\nfour\n")
        assert first.tail() == "two / three / four"
        assert second.tail() == ""
    assert [path.name for path in first.cache.rglob("*") if path.is_file()] == ["small"]


def test_what_is_in_a_mount_point_is_never_removed(tmp_path: Path) -> None:
    with scratch(tmp_path, "x") as paths:
        (paths.point / "object").touch()
    assert (paths.point / "object").exists()


def test_the_local_target_keeps_what_was_prepared_and_removes_what_was_written_large(
    tmp_path: Path,
) -> None:
    local = Local(Place("http://127.0.0.1", "r", "b", "a", "s", tmp_path, "minio"))
    prepared = local.directory("ready")
    prepared.mkdir(parents=True)
    (prepared / "old").write_bytes(bytes(1 << 20))
    with local.mounted(MountOptions("ready")) as mounted:
        (mounted.path / "large").write_bytes(bytes(1 << 20))
        (mounted.path / "small").touch()
    assert sorted(path.name for path in prepared.iterdir()) == ["old", "small"]
    with local.mounted(MountOptions("empty/1")) as mounted:
        assert list(mounted.path.iterdir()) == []


def test_a_place_does_not_show_its_secret(tmp_path: Path) -> None:
    place = Place("http://127.0.0.1", "r", "b", "access", "hidden", tmp_path, "minio")
    assert "hidden" not in repr(place)


def test_datasets_name_their_objects_in_key_order() -> None:
    tree = Tree("p", 5, per_directory=2)
    assert list(tree.object_keys()) == [
        "p/d0000/f000000", "p/d0000/f000001", "p/d0001/f000002",
        "p/d0001/f000003", "p/d0002/f000004",
    ]  # fmt: skip
    assert list(Tree("q", 2).object_keys()) == ["q/f000000", "q/f000001"]
    assert list(Blobs("r", 10, 2).object_keys()) == ["r/blob00", "r/blob01"]
