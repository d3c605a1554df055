"""Encoding: a reader that knows linux/fuse.h gets back what was put in."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.fuse import replies
from csi_slayer.vfs.types import Attr, DirItem, Entry, Opened, OpenFlags, StatFs

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
NANOSECONDS = st.integers(-(10**18), 2**62)
TTL = st.floats(0, 10**6)

attrs = st.builds(
    Attr, U64, U32, U32, U32, U32, U32, U64, U64, NANOSECONDS, NANOSECONDS, NANOSECONDS
)
entries = st.builds(Entry, st.none() | attrs, TTL, TTL)
items = st.builds(
    DirItem,
    st.binary(min_size=1, max_size=255),
    U64,
    st.sampled_from([0o100644, 0o040755, 0o120777, 0o010600, 0o140600, 0]),
    U64,
    st.none() | entries,
)


def read_attr(data: bytes) -> Attr:
    assert len(data) == 88
    (ino, size, blocks, atime, mtime, ctime, ansec, mnsec, cnsec, mode, nlink, uid, gid, rdev,
     blksize, flags) = struct.unpack("<QQQqqqIIIIIIIIII", data)  # fmt: skip
    assert blksize == 4096
    assert flags == 0
    assert max(ansec, mnsec, cnsec) < 10**9
    return Attr(
        ino, mode, nlink, uid, gid, rdev, size, blocks,
        atime * 10**9 + ansec, mtime * 10**9 + mnsec, ctime * 10**9 + cnsec,
    )  # fmt: skip


def read_entry(data: bytes) -> Entry:
    nodeid, generation, entry_s, attr_s, entry_ns, attr_ns = struct.unpack("<QQQQII", data[:40])
    assert generation == 0
    attr = read_attr(data[40:128]) if nodeid else None
    if attr is not None:
        assert attr.ino == nodeid
    return Entry(attr, entry_s + entry_ns / 1e9, attr_s + attr_ns / 1e9)


def same(got: Entry, wanted: Entry) -> None:
    assert got.attr == (wanted.attr if wanted.attr is not None and wanted.attr.ino else None)
    assert got.entry_ttl == pytest.approx(wanted.entry_ttl, abs=2e-9)
    assert got.attr_ttl == pytest.approx(wanted.attr_ttl, abs=2e-9)


@given(attrs, TTL)
def test_attributes(attr: Attr, ttl: float) -> None:
    data = replies.attr_out(attr, ttl)
    seconds, nsec, _ = struct.unpack("<QII", data[:16])
    assert seconds + nsec / 1e9 == pytest.approx(ttl, abs=2e-9)
    assert read_attr(data[16:]) == attr


@given(entries)
def test_entries_positive_and_negative(entry: Entry) -> None:
    data = replies.entry_out(entry)
    assert len(data) == 128
    same(read_entry(data), entry)


@pytest.mark.parametrize(
    ("ttl", "parts"),
    [(0, (0, 0)), (-1, (0, 0)), (1.5, (1, 500_000_000)), (float("inf"), (2**32 - 1, 0))],
)
def test_cache_times_keep_within_what_the_kernel_takes(ttl: float, parts: tuple[int, int]) -> None:
    assert replies.ttl_parts(ttl) == parts


def test_an_open_reply_names_the_backing_file() -> None:
    data = replies.open_out(Opened(7, OpenFlags.PASSTHROUGH, 3))
    assert struct.unpack("<QIi", data) == (7, 1 << 7, 3)


def test_a_create_reply_is_an_entry_and_an_open() -> None:
    entry, opened = Entry(Attr(5, 0o100600, 1, 0, 0, 0, 0, 0, 0, 0, 0), 1, 2), Opened(9)
    data = replies.create_out(entry, opened)
    assert data == replies.entry_out(entry) + replies.open_out(opened)


def test_statfs() -> None:
    data = replies.statfs_out(StatFs(1, 2, 3, 4, 5, 6, 7, 8))
    assert len(data) == 80
    assert struct.unpack("<QQQQQIIII24x", data) == (1, 2, 3, 4, 5, 6, 8, 7, 0)


def read_dirents(data: bytes, plus: bool) -> list[tuple[bytes, int, int, int, Entry | None]]:
    found = []
    at = 0
    while at < len(data):
        entry = None
        if plus:
            raw = data[at : at + 128]
            entry = read_entry(raw) if any(raw) else None
            at += 128
        ino, cookie, length, kind = struct.unpack("<QQII", data[at : at + 24])
        name = data[at + 24 : at + 24 + length]
        at += (24 + length + 7) & ~7
        found.append((name, ino, cookie, kind, entry))
    assert at == len(data)
    return found


@given(st.lists(items, max_size=30), st.integers(416, 4096), st.booleans())
def test_a_listing_holds_a_prefix_that_fits(names: list[DirItem], size: int, plus: bool) -> None:
    data, sent = replies.dirents(names, size, plus)
    assert len(data) <= size
    assert len(data) % 8 == 0
    found = read_dirents(data, plus)
    assert len(found) == sent
    for (name, ino, cookie, kind, entry), item in zip(found, names, strict=False):
        assert (name, ino, cookie, kind) == (item.name, item.ino, item.cookie, item.mode >> 12)
        if plus and item.entry is not None and item.name not in (b".", b".."):
            same(entry or Entry(None, 0, 0), item.entry)
        elif plus:
            assert entry is None
    if sent < len(names):
        assert len(data) + replies.record_size(len(names[sent].name), plus) > size


@pytest.mark.parametrize("plus", [False, True])
def test_as_many_names_are_asked_for_as_can_be_sent(plus: bool) -> None:
    limit = replies.most_records(4096, plus)
    shortest = [DirItem(b"x", 1, 0o100644, n, None) for n in range(limit + 5)]
    assert replies.dirents(shortest, 4096, plus)[1] == limit


def test_the_dots_are_sent_without_a_node_id() -> None:
    attr = Attr(5, 0o040755, 2, 0, 0, 0, 0, 0, 0, 0, 0)
    data, _ = replies.dirents([DirItem(b"..", 5, 0o040755, 2, Entry(attr, 1, 1))], 4096, True)
    assert data[:128] == bytes(128)
