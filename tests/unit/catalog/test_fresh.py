"""New catalogs."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT, Catalog, Defaults
from csi_slayer.catalog.fresh import RESERVE, create, image
from csi_slayer.catalog.schema import PAGE_SIZE

DEFAULTS = Defaults(0, 0, 0o644, 0o755)


def test_a_new_catalog_is_whole_and_has_room(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    create(path)
    assert os.listdir(tmp_path) == ["catalog.db"]
    assert path.stat().st_blocks * 512 >= RESERVE
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA page_size").fetchone() == (PAGE_SIZE,)
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        assert free * PAGE_SIZE >= RESERVE
    connection.close()
    assert image() is image()


@pytest.mark.parametrize("left", ["empty", "unfinished"])
def test_what_a_worker_left_that_died_while_it_made_one_is_no_catalog(
    tmp_path: Path, left: str
) -> None:
    if left == "empty":
        (tmp_path / "catalog.db").touch()
    else:
        (tmp_path / "catalog.db.new").write_bytes(b"half" * 1_000_000)
    catalog = Catalog(tmp_path / "catalog.db", DEFAULTS)
    assert asyncio.run(catalog.get(ROOT)).is_dir
    catalog.close()
    assert os.listdir(tmp_path) == ["catalog.db"]


@pytest.mark.parametrize("left", ["nothing", "empty"])
def test_a_lost_catalogs_journal_is_not_carried_into_the_new_one(tmp_path: Path, left: str) -> None:
    """The file alone was moved away, or emptied by a power loss."""
    path, killed = tmp_path / "catalog.db", tmp_path / "killed"
    catalog = Catalog(path, DEFAULTS)
    asyncio.run(catalog.make(ROOT, "old", mode=stat.S_IFREG | 0o644, uid=0, gid=0))
    shutil.copytree(tmp_path, killed, ignore=lambda *_: ["killed"])
    catalog.close()
    (killed / "catalog.db").unlink()
    if left == "empty":
        (killed / "catalog.db").touch()
    second = Catalog(killed / "catalog.db", DEFAULTS)
    assert asyncio.run(second.children(ROOT, 0, 10)) == []
    second.close()


def test_the_journals_reserved_blocks_are_no_part_of_what_was_committed(tmp_path: Path) -> None:
    """As a worker leaves it that is killed: the journal was never folded back."""
    catalog = Catalog(tmp_path / "catalog.db", DEFAULTS)
    wal = tmp_path / "catalog.db-wal"
    assert wal.stat().st_blocks * 512 >= RESERVE
    killed = tmp_path / "killed"
    for changes in range(3):
        shutil.copytree(tmp_path, killed, ignore=lambda *_: ["killed", "catalog.db-shm"])
        second = Catalog(killed / "catalog.db", DEFAULTS)
        names = asyncio.run(second.children(ROOT, 0, 10))
        assert [name for name, _inode in names] == [f"file{n}" for n in range(changes)]
        second.close()
        shutil.rmtree(killed)
        asyncio.run(catalog.make(ROOT, f"file{changes}", mode=stat.S_IFREG | 0o644, uid=0, gid=0))
    catalog.close()
