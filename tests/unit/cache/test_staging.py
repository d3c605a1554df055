"""Staged files and conflicts."""

from __future__ import annotations

import errno
import json
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from csi_slayer.cache import Cache, Governor, Stage, Staging
from csi_slayer.cache.staging import SIDECAR
from csi_slayer.errors import CacheError, CacheFull


@pytest.fixture
def staging(cache: Cache) -> Staging:
    return cache.staging("pvc/1")


def written(staging: Staging, data: bytes = b"data", *, sidecar: bool = False) -> Stage:
    stage = staging.create()
    os.write(stage.fd, data)
    os.close(stage.fd)
    if sidecar:
        Path(f"{stage.path}{SIDECAR}").write_bytes(b"blocks")
    return stage


def test_a_staged_file_can_be_opened_again_and_removed(staging: Staging) -> None:
    stage = written(staging)
    again = staging.open(stage.id)
    assert again.path == staging.path(stage.id) == stage.path
    assert os.read(again.fd, 9) == b"data"
    os.close(again.fd)
    assert [found.id for found in staging.list()] == [stage.id]
    staging.remove(stage.id)
    staging.remove(stage.id)
    assert list(staging.list()) == []
    with pytest.raises(CacheError):
        staging.open(stage.id)


def test_files_are_private(staging: Staging) -> None:
    assert written(staging).path.stat().st_mode & 0o777 == 0o600


def test_volumes_do_not_see_each_other(cache: Cache, staging: Staging) -> None:
    written(staging)
    assert list(cache.staging("pvc/2").list()) == []


def test_a_reserved_path_is_free(staging: Staging) -> None:
    stage = staging.reserve()
    assert stage.fd == -1
    assert not stage.path.exists()
    assert stage.path.parent.is_dir()


def test_a_sidecar_belongs_to_its_file(staging: Staging) -> None:
    stage = written(staging, sidecar=True)
    assert [found.id for found in staging.list()] == [stage.id]
    staging.remove(stage.id)
    assert list(staging.directory.iterdir()) == []


def test_usage_is_what_the_disk_says(staging: Staging) -> None:
    written(staging, b"x" * 10_000)
    written(staging, b"x")
    assert staging.usage() == 12288 + 4096


def test_staged_data_that_fills_the_cache_refuses_more(root: Path) -> None:
    cache = Cache(root, 1 << 20)
    staging = cache.staging("v")
    governor = Governor(cache)
    governor.take_over()
    written(staging, bytes(1 << 20))
    governor.look()
    with pytest.raises(CacheFull):
        staging.create()
    with pytest.raises(CacheFull):
        staging.reserve()
    governor.step_down()
    cache.close()


def test_an_almost_full_disk_refuses_more(root: Path) -> None:
    free = os.statvfs(root.parent)
    cache = Cache(root, 1 << 20, min_free=4 * free.f_bavail * free.f_frsize)
    with pytest.raises(CacheFull):
        cache.staging("v").create()
    cache.close()


@pytest.mark.parametrize(
    ("share", "names", "stages"), [(2, True, True), (1.2, False, True), (0.4, False, False)]
)
def test_names_are_refused_before_staged_files(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, share: float, names: bool, stages: bool
) -> None:
    """``share``: of what is just enough for staged files."""
    ledger = cache.shared.ledger
    monkeypatch.setattr(ledger, "min_free", 1 << 30)
    monkeypatch.setattr(ledger, "free_space", lambda: int(share * (1 << 29)))
    for call, allowed in ((cache.check_names, names), (cache.staging("v").reserve, stages)):
        with nullcontext() if allowed else pytest.raises(CacheFull):
            call()


def test_a_conflict_is_kept_with_a_note(cache: Cache, staging: Staging) -> None:
    conflicts = cache.conflicts("pvc/1")
    assert list(conflicts.list()) == []
    stage = written(staging, b"mine")
    path = conflicts.keep(staging, stage.id, key="a/b c.json", expected='"1"', found='"2"')
    assert path.read_bytes() == b"mine"
    assert "b_c.json" in path.name
    note = json.loads(Path(f"{path}.json").read_text())
    assert note.pop("time")
    assert note == {
        "key": "a/b c.json",
        "expected_etag": '"1"',
        "found_etag": '"2"',
        "partial": False,
    }
    assert not stage.path.exists()
    assert list(conflicts.list()) == [path]
    assert conflicts.usage() >= 4096


def test_two_conflicts_of_one_object_are_both_kept(cache: Cache, staging: Staging) -> None:
    conflicts = cache.conflicts("pvc/1")
    stages = [written(staging, data) for data in (b"one", b"two")]
    kept = [
        conflicts.keep(staging, stage.id, key="k", expected=None, found=None) for stage in stages
    ]
    assert [path.read_bytes() for path in kept] == [b"one", b"two"]
    assert sorted(conflicts.list()) == sorted(kept)


def test_a_partial_file_keeps_its_sidecar(cache: Cache, staging: Staging) -> None:
    stage = written(staging, sidecar=True)
    path = cache.conflicts("pvc/1").keep(staging, stage.id, key="k/", expected=None, found="e")
    assert Path(f"{path}{SIDECAR}").read_bytes() == b"blocks"
    assert json.loads(Path(f"{path}.json").read_text())["partial"] is True
    assert list(staging.directory.iterdir()) == []


def test_a_missing_stage_is_an_error(cache: Cache, staging: Staging) -> None:
    with pytest.raises(CacheError):
        cache.conflicts("v").keep(staging, "nothing", key="k", expected=None, found=None)


def test_odd_keys_make_plain_names(cache: Cache, staging: Staging) -> None:
    for key in ("", "/", "..", "\udcff\n", "x" * 1000):
        path = cache.conflicts("v").keep(
            staging, written(staging).id, key=key, expected=None, found=None
        )
        assert path.parent == cache.conflicts("v").directory
        assert path.name.isascii()
        assert path.name.isprintable()
        assert json.loads(Path(f"{path}.json").read_text())["key"] == key


def test_a_file_that_has_moved_to_the_conflicts_is_there_whatever_follows(
    cache: Cache, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is told that it stays staged would look for it there for ever."""

    def failing(*_args: object, **_values: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    stage, conflicts = written(staging, sidecar=True), cache.conflicts("pvc/1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing)
        kept = conflicts.keep(staging, stage.id, key="k", expected=None, found=None)
    assert kept.read_bytes() == b"data"
    conflicts.give_back(kept, staging, stage.id)
    assert stage.path.read_bytes() == b"data"
    assert Path(f"{stage.path}{SIDECAR}").read_bytes() == b"blocks"
    assert conflicts.list() == [] == os.listdir(conflicts.directory)
