"""What the catalog remembers of its tables is what they say, whatever is changed."""

from __future__ import annotations

import sqlite3
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from csi_slayer.catalog import ROOT, Catalog, Inode, Listed, Pending
from csi_slayer.catalog import rows as rows_module
from csi_slayer.catalog.rows import Rows
from csi_slayer.catalog.uses import Unused
from csi_slayer.errors import CatalogError
from tests.unit.catalog.test_catalog import DEFAULTS, run
from tests.unit.catalog.told import told

NAMES = st.sampled_from(["a", "b", "c", "d"])


def check(catalog: Catalog, path: Path) -> None:
    """Compare with what another connection reads."""
    rows: Rows = catalog._rows
    other = sqlite3.connect(path)
    try:
        inodes = {row[0]: Inode._make(row) for row in other.execute("SELECT * FROM inodes")}
        names = {(p, n): i for p, n, i in other.execute("SELECT parent, name, ino FROM dentries")}
        pending = {
            row[0]: Pending._make(row)
            for row in other.execute(
                "SELECT key, expect, since_ns, attempts, error, token, doubt FROM pending"
            )
        }
    finally:
        other.close()
    for ino, inode in rows._rows.items():
        assert inodes.get(ino) == inode
    for place, ino in rows._names.items():
        assert names.get(place) == ino
    for ino, place in rows._places.items():
        assert names.get(place) == ino
        assert inodes[ino].parent == place[0]
    assert not rows._absent & names.keys()
    for parent, whole in rows._whole.items():
        assert not whole or {place for place in names if place[0] == parent} <= rows._names.keys()
    for key, row in catalog._pending.items():
        assert pending.get(key) == row
    assert rows.origins or all(inode.origin is None for inode in inodes.values())
    assert rows.count() == len(names)


class SomeUsed(Unused):
    """Of the files some are read, some open otherwise and some staged and settled; the kernel knows
    some of the directories."""

    def is_open(self, ino: int) -> bool:
        return ino % 3 != 0

    def is_seen(self, ino: int) -> bool:
        return ino % 2 == 0

    def is_read(self, ino: int) -> bool:
        return ino % 3 == 1

    def is_settled(self, inode: Inode) -> bool:
        return inode.ino % 2 == 0


class Machine(RuleBasedStateMachine):
    """One level of directories below the root; every change that the catalog knows."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "catalog.db"
        self.catalog = Catalog(self.path, DEFAULTS)
        self.catalog.uses = SomeUsed()
        self.clock = 1

    def teardown(self) -> None:
        self.catalog.close()
        self.directory.cleanup()

    def parent(self, name: str | None) -> int:
        found = None if name is None else run(self.catalog.child(ROOT, name))
        return found.ino if found is not None and found.is_dir else ROOT

    @rule(where=st.none() | NAMES, name=NAMES, directory=st.booleans())
    def make(self, where: str | None, name: str, directory: bool) -> None:
        parent = self.parent(where)
        if run(self.catalog.child(parent, name)) is None:
            mode = stat.S_IFDIR | 0o755 if directory and parent == ROOT else stat.S_IFREG | 0o644
            run(self.catalog.make(parent, name, mode=mode, uid=0, gid=0, request=2))

    @rule(where=st.none() | NAMES, name=NAMES, keep=st.booleans())
    def remove(self, where: str | None, name: str, keep: bool) -> None:
        parent = self.parent(where)
        inode = run(self.catalog.child(parent, name))
        if inode is None or (inode.is_dir and not run(self.catalog.is_empty(inode.ino))):
            return
        run(self.catalog.remove(parent, name, inode, keep=keep))
        run(self.catalog.drop_orphan(inode.ino))

    @rule(where=st.none() | NAMES, name=NAMES, to=st.none() | NAMES, new=NAMES, swap=st.booleans())
    def rename(self, where: str | None, name: str, to: str | None, new: str, swap: bool) -> None:
        parent, target = self.parent(where), self.parent(to)
        inode = run(self.catalog.child(parent, name))
        there = run(self.catalog.child(target, new))
        if inode is None or inode == there or inode.is_dir or (there and there.is_dir):
            return
        if swap and there is not None:
            run(self.catalog.exchange(inode, parent, name, there, target, new))
        else:
            run(self.catalog.rename(inode, parent, name, target, new,
                                    displaced=there, keep_displaced=False))  # fmt: skip

    @rule(name=NAMES, new=NAMES)
    def rename_directory(self, name: str, new: str) -> None:
        inode = run(self.catalog.child(ROOT, name))
        if inode is not None and inode.is_dir and run(self.catalog.child(ROOT, new)) is None:
            run(self.catalog.rename(inode, ROOT, name, ROOT, new,
                                    displaced=None, keep_displaced=False))  # fmt: skip

    @rule(where=st.none() | NAMES, name=NAMES, values=st.sampled_from(
        [{"size": 7}, {"mode": 0o100600}, {"stage": "s", "stamp": 3}, {"origin": "x"}]
    ))  # fmt: skip
    def update(self, where: str | None, name: str, values: dict[str, Any]) -> None:
        inode = run(self.catalog.child(self.parent(where), name))
        if inode is not None and inode.is_file:
            run(self.catalog.update(inode.ino, **values))
            run(self.catalog.setxattr(inode.ino, b"user.x", b"1", None))

    @rule(where=st.none() | NAMES, name=NAMES)
    def store(self, where: str | None, name: str) -> None:
        inode = run(self.catalog.child(self.parent(where), name))
        key = run(self.catalog.path(inode.ino)) if inode is not None else None
        row = run(self.catalog.pending(key)) if key is not None else None
        if inode is not None and inode.is_file and row is not None:
            run(self.catalog.stored(inode.ino, row, "e1", stage=None, size=3))

    @rule(where=st.none() | NAMES, name=NAMES, etag=st.none() | st.just("e9"))
    def supersede(self, where: str | None, name: str, etag: str | None) -> None:
        inode = run(self.catalog.child(self.parent(where), name))
        if inode is not None and inode.is_file and inode.etag is not None:
            key = inode.origin or run(self.catalog.path(inode.ino)) or ""
            run(self.catalog.superseded(inode._replace(stage=None), key, etag, size=4))

    @rule(key=NAMES, what=st.sampled_from(["failed", "expect", "copy", "inherit", "removed"]))
    def pend(self, key: str, what: str) -> None:
        row = run(self.catalog.pending(key))
        assert run(self.catalog.by_origin(key)) is not None
        if what == "copy":
            run(self.catalog.copy_begins(key))
        elif what == "inherit":
            run(self.catalog.inherit_pending())
        elif row is not None and what == "failed":
            run(self.catalog.pending_failed(key, "no"))
        elif row is not None and what == "expect":
            run(self.catalog.pending_expect(key, "e7"))
        elif row is not None and run(self.catalog.resolve(key)) is None:
            run(self.catalog.removed([row]))

    @rule(where=st.none() | NAMES, found=st.dictionaries(NAMES, st.sampled_from(["e1", "e2", ""])))
    def listing(self, where: str | None, found: dict[str, str]) -> None:
        parent = self.parent(where)
        self.clock = 2**62 if self.clock == 1 else self.clock + 1
        items = [
            Listed(name, stat.S_IFREG, 1, 5, etag)
            if etag or parent != ROOT
            else Listed(name, stat.S_IFDIR, 0, 5, None)
            for name, etag in found.items()
        ]
        run(self.catalog.merge(parent, items, self.clock, DEFAULTS))
        for gone in told(self.catalog.sweep(parent, self.clock, large=False)):
            assert run(self.catalog.child(gone.parent, gone.name)) is None
            assert gone.kept == (run(self.catalog.find(gone.inode.ino)) is not None)
            run(self.catalog.drop_orphan(gone.inode.ino))

    @rule(where=st.none() | NAMES, name=NAMES)
    def look(self, where: str | None, name: str) -> None:
        """Fill what is remembered, one name and a directory's."""
        parent = self.parent(where)
        run(self.catalog.child(parent, name))
        for _name, inode in run(self.catalog.children(parent, 0, 10)):
            assert run(self.catalog.path(inode.ino)) is not None
        told(self.catalog.vanished(parent, name, time.time_ns()))

    @invariant()
    def same(self) -> None:
        check(self.catalog, self.path)
        assert self.catalog.used_bytes == self.catalog.used_now()


class CrowdedMachine(Machine):
    """Directories count as large, and little is remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(rows_module, "SMALL_DIRECTORY", 1)
        self.patches.setattr(rows_module, "ROWS_KEPT", 5)
        self.patches.setattr(rows_module, "ABSENT_KEPT", 2)

    def teardown(self) -> None:
        self.patches.undo()
        super().teardown()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=30)
TestCrowdedMachine = CrowdedMachine.TestCase
TestCrowdedMachine.settings = settings(max_examples=40, stateful_step_count=30)


def test_absent_names_of_a_small_directory_cost_one_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(tmp_path / "catalog.db", DEFAULTS)
    queries: list[str] = []
    database = catalog._db
    for name in ("one", "all"):
        real = getattr(database, name)

        def counted(sql: str, args: Any = (), *, real: Any = real) -> Any:
            queries.append(sql)
            return real(sql, args)

        monkeypatch.setattr(database, name, counted)
    for number in range(1000):
        assert run(catalog.child(ROOT, f"f{number}")) is None
        run(catalog.make(ROOT, f"f{number}", mode=stat.S_IFREG | 0o644, uid=0, gid=0))
    assert len([sql for sql in queries if "dentries" in sql]) == 1
    for number in range(1000):
        assert run(catalog.child(ROOT, f"f{number}")) is not None
    catalog.close()


def test_a_change_that_fails_is_not_remembered(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog.db", DEFAULTS)
    inode = run(catalog.make(ROOT, "a", mode=stat.S_IFREG | 0o644, uid=0, gid=0))
    with pytest.raises(CatalogError):
        run(catalog.make(ROOT, "a", mode=stat.S_IFREG | 0o644, uid=0, gid=0))
    with pytest.raises(CatalogError):
        run(catalog.update(inode.ino, size=5, no_such_column=1))
    check(catalog, tmp_path / "catalog.db")
    assert run(catalog.get(inode.ino)).size == 0
    assert catalog.used_bytes == catalog.used_now() == 0
    catalog.close()


def test_what_is_rolled_back_is_not_counted(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog.db", DEFAULTS)
    run(catalog.make(ROOT, "a", mode=stat.S_IFREG, uid=0, gid=0))
    assert run(catalog.count()) == 2

    def fails() -> None:
        raise CatalogError("no")

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(catalog, "_complete", lambda *_args: fails())
        with pytest.raises(CatalogError):
            run(catalog.make(ROOT, "b", mode=stat.S_IFREG, uid=0, gid=0))
    assert run(catalog.child(ROOT, "b")) is None
    assert run(catalog.count()) == 2
    catalog.close()
