"""Decoding: what was packed by the layouts of linux/fuse.h comes out again."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.fuse import protocol as p
from csi_slayer.fuse import requests
from csi_slayer.vfs.types import SetAttr

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
NSEC = st.integers(0, 999_999_999)
NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name)


@given(NAMES, st.binary(max_size=16))
def test_a_name_ends_at_its_nul_whatever_follows(name: bytes, extension: bytes) -> None:
    body = memoryview(b"head" + name + b"\0" + extension)
    assert requests.name(body, 4) == name


@given(NAMES, NAMES)
def test_two_names(first: bytes, second: bytes) -> None:
    body = memoryview(b"12345678" + first + b"\0" + second + b"\0")
    assert requests.two_names(body, 8) == (first, second)


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_a_name_without_an_end_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="without its end"):
        requests.name(memoryview(body))


def test_a_second_name_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="without its end"):
        requests.two_names(memoryview(b"first\0second"))


@given(st.data())
def test_setattr_carries_exactly_what_is_valid(data: st.DataObject) -> None:
    wanted = SetAttr(
        mode=data.draw(st.none() | U32),
        uid=data.draw(st.none() | U32),
        gid=data.draw(st.none() | U32),
        size=data.draw(st.none() | U64),
        atime_ns=data.draw(st.none() | I64),
        mtime_ns=data.draw(st.none() | I64),
        ctime_ns=data.draw(st.none() | I64),
        fh=data.draw(st.none() | U64),
    )
    kill = data.draw(st.booleans())
    bits = {
        "mode": p.FATTR_MODE, "uid": p.FATTR_UID, "gid": p.FATTR_GID, "size": p.FATTR_SIZE,
        "atime_ns": p.FATTR_ATIME, "mtime_ns": p.FATTR_MTIME, "ctime_ns": p.FATTR_CTIME,
        "fh": p.FATTR_FH,
    }  # fmt: skip
    valid = p.FATTR_KILL_SUIDGID if kill else 0
    for name, value in wanted._asdict().items():
        valid |= bits[name] if value is not None else 0
    times = [divmod(t or 0, 10**9) for t in (wanted.atime_ns, wanted.mtime_ns, wanted.ctime_ns)]
    body = p.SETATTR_IN.pack(
        valid, 0, wanted.fh or 0, wanted.size or 0, 77, *(t[0] for t in times),
        *(t[1] for t in times), wanted.mode or 0, 0, wanted.uid or 0, wanted.gid or 0, 0,
    )  # fmt: skip
    assert requests.setattr_in(memoryview(body)) == (wanted, kill)


def test_setattr_to_now_is_a_time_of_our_clock() -> None:
    valid = p.FATTR_MTIME | p.FATTR_MTIME_NOW | p.FATTR_ATIME
    body = p.SETATTR_IN.pack(valid, 0, 0, 0, 0, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    changes, _ = requests.setattr_in(memoryview(body))
    assert changes.atime_ns == 5 * 10**9
    assert changes.mtime_ns is not None
    assert changes.mtime_ns > 10**18


@given(NAMES, st.binary(max_size=300), U32, st.booleans())
def test_xattr(name: bytes, value: bytes, flags: int, extended: bool) -> None:
    head = struct.pack("<II", len(value), flags) + (b"\1\0\0\0\0\0\0\0" if extended else b"")
    body = memoryview(head + name + b"\0" + value)
    assert requests.xattr_in(body, extended) == (name, value, flags)


def test_an_xattr_shorter_than_its_size_is_refused() -> None:
    body = memoryview(p.SETXATTR_IN.pack(9, 0) + b"user.x\0short")
    with pytest.raises(ValueError, match="shorter"):
        requests.xattr_in(body, False)


@given(U64, U64, U32, U32, st.binary(max_size=300), st.binary(max_size=8))
def test_write(
    fh: int, offset: int, flags: int, open_flags: int, data: bytes, extension: bytes
) -> None:
    head = p.WRITE_IN.pack(fh, offset, len(data), flags, 3, open_flags, 0)
    *got, append, view = requests.write_in(memoryview(head + data + extension))
    assert (*got, bytes(view)) == (fh, offset, flags, data)
    by_pages = flags & p.WRITE_CACHE
    wanted = open_flags & os.O_APPEND and not (open_flags & os.O_DIRECT or by_pages)
    assert append == bool(wanted)


def test_a_write_with_less_data_than_it_says_is_refused() -> None:
    with pytest.raises(ValueError, match="less data"):
        requests.write_in(memoryview(p.WRITE_IN.pack(1, 0, 10, 0, 0, 0, 0) + b"short"))


@given(st.lists(st.tuples(U64, U64), max_size=50))
def test_forgets(pairs: list[tuple[int, int]]) -> None:
    body = p.BATCH_FORGET_IN.pack(len(pairs), 0) + b"".join(
        p.FORGET_ONE.pack(*pair) for pair in pairs
    )
    assert list(requests.forgets(memoryview(body))) == pairs
