"""What is noted when a directory moves is what is noted when each of its files does."""

from __future__ import annotations

import asyncio
import contextlib
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from csi_slayer.catalog import ROOT, Catalog, Defaults, Mark

NAMES = ["a", "b", "ä'\"%_", "c d"]
KINDS = [stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK]


class File(NamedTuple):
    """One file before the move; ``noted`` are keys that are pending already, with what is known
    of them."""

    name: str
    kind: int
    etag: str | None
    origin: str | None
    noted: dict[str, tuple[str | None, int]]


def files() -> st.SearchStrategy[list[File]]:
    known = st.tuples(st.sampled_from([None, "", "other"]), st.integers(0, 3))
    one = st.builds(
        File, st.sampled_from(NAMES), st.sampled_from(KINDS), st.sampled_from([None, "e1"]),
        st.sampled_from([None, "else/where", "n/{}"]),
        st.dictionaries(st.sampled_from(["d/{}", "n/{}"]), known),
    )  # fmt: skip
    return st.lists(one, min_size=1, unique_by=lambda file: file.name)


@contextlib.contextmanager
def catalog() -> Iterator[Catalog]:
    with tempfile.TemporaryDirectory() as directory:
        table = Catalog(Path(directory, "c.db"), Defaults(0, 0, 0o644, 0o755))
        yield table
        table.close()


async def make(table: Catalog, parent: int, name: str) -> int:
    made = await table.make(parent, name, mode=stat.S_IFDIR | 0o755, uid=0, gid=0)
    await table.update(made.ino, clear=Mark.MARKER)
    return made.ino


async def fill(table: Catalog, directory: int, below: str, some: list[File]) -> None:
    for file in some:
        made = await table.make(directory, file.name, mode=file.kind | 0o644, uid=0, gid=0)
        name = below + file.name
        origin = file.origin and file.origin.format(name)
        await table.update(made.ino, etag=file.etag, origin=origin)
        table._db.execute("DELETE FROM pending")
        for key, (expect, doubt) in file.noted.items():
            table._db.execute(
                "INSERT INTO pending(key, expect, since_ns, attempts, token, doubt) "
                "VALUES (?,?,1,7,'t',?)",
                (key.format(name), expect, doubt),
            )
    table._pending.clear()


Shown = tuple[dict[str, tuple[object, ...]], dict[str, str | None]]


def shown(table: Catalog) -> Shown:
    """What is pending, and each file's origin by its name."""
    pending = {
        key: (expect, since > 1, attempts, len(token), doubt)
        for key, expect, since, attempts, token, doubt in table._db.all(
            "SELECT key, expect, since_ns, attempts, token, doubt FROM pending"
        )
    }
    origins = table._db.all(
        "SELECT d.name, i.origin FROM dentries d JOIN inodes i ON i.ino = d.ino "
        "WHERE i.mode & 61440 <> 16384"
    )
    return pending, dict(origins)


async def together(some: list[File], deep: bool) -> Shown:
    with catalog() as table:
        top = await make(table, ROOT, "d")
        inner = await make(table, top, "in") if deep else top
        await fill(table, inner, "in/" * deep, some)
        await table.rename(
            await table.get(top), ROOT, "d", ROOT, "n", displaced=None, keep_displaced=False
        )
        for file in some:
            found = await table.child(inner, file.name)
            assert found is not None
            assert await table.path(found.ino) == "n/" + "in/" * deep + file.name
            assert found.origin == shown(table)[1][file.name]
        return shown(table)


async def one_by_one(file: File, below: str) -> Shown:
    with catalog() as table:
        old, new = await make(table, ROOT, "d"), await make(table, ROOT, "n")
        if below:
            old, new = await make(table, old, "in"), await make(table, new, "in")
        await table.update(old, add=Mark.MARKER)  # it is empty afterwards, and stays
        await fill(table, old, below, [file])
        inode = await table.child(old, file.name)
        assert inode is not None
        await table.rename(
            inode, old, file.name, new, file.name, displaced=None, keep_displaced=False
        )
        return shown(table)


@settings(max_examples=60)
@given(files(), st.booleans())
def test_a_tree_moves_as_its_files_do(some: list[File], deep: bool) -> None:
    last = [file._replace(noted={}) for file in some[:-1]] + some[-1:]  # each begins anew
    pending: dict[str, tuple[object, ...]] = {}
    origins: dict[str, str | None] = {}
    for file in last:
        rows, found = asyncio.run(one_by_one(file, "in/" * deep))
        pending |= rows
        origins |= found
    assert asyncio.run(together(last, deep)) == (pending, origins)


def test_the_markers_of_directories_move(tmp_path: Path) -> None:
    async def move() -> dict[str, tuple[object, ...]]:
        with catalog() as table:
            top = await make(table, ROOT, "d")
            await make(table, top, "plain")
            await table.update(await make(table, top, "marked"), add=Mark.MARKER)
            table._db.execute("DELETE FROM pending")
            table._pending.clear()
            await table.rename(
                await table.get(top), ROOT, "d", ROOT, "n", displaced=None, keep_displaced=False
            )
            return shown(table)[0]

    pending = asyncio.run(move())
    assert {key: row[0] for key, row in pending.items()} == {"d/marked/": None, "n/marked/": ""}


async def swapped(count: int) -> tuple[int, dict[str, tuple[object, ...]]]:
    """Statements that the exchange of two directories took, and what is pending then."""
    with catalog() as table:
        first, second = await make(table, ROOT, "d"), await make(table, ROOT, "n")
        inner = await make(table, first, "in")
        for number in range(count):
            some = [
                File(f"stored{number}", stat.S_IFREG, "e1", None, {}),
                File(f"new{number}", stat.S_IFREG, None, None, {}),
                File(f"moved{number}", stat.S_IFREG, "e2", "else/where", {}),
            ]
            await fill(table, inner, "in/", some)
        await fill(table, second, "", [File("there", stat.S_IFLNK, "e3", None, {"n/{}": ("", 2)})])
        await table.update(inner, add=Mark.MARKER)
        statements: list[str] = []
        table._db._connection.set_trace_callback(statements.append)
        await table.exchange(await table.get(first), ROOT, "d", await table.get(second), ROOT, "n")
        table._db._connection.set_trace_callback(None)
        return len(statements), shown(table)[0]


def test_an_exchange_of_directories_notes_what_is_at_the_keys_of_both() -> None:
    _, pending = asyncio.run(swapped(1))
    assert {key: (row[0], row[4]) for key, row in pending.items()} == {
        "d/in/": (None, 0), "n/in/": ("", 0),
        "d/in/stored0": ("e1", 0), "n/in/stored0": ("", 0),
        "d/in/new0": ("", 0), "n/in/new0": ("", 0),
        "d/in/moved0": ("", 0), "n/in/moved0": ("", 0),
        "n/there": ("", 2), "d/there": ("", 0),
    }  # fmt: skip


def test_an_exchange_of_directories_asks_for_no_file_singly() -> None:
    """All other requests wait for it."""
    few, many = asyncio.run(swapped(1))[0], asyncio.run(swapped(50))[0]
    assert few == many
