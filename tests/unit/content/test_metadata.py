"""POSIX attributes survive as user metadata, and strangers' metadata does no harm."""

from __future__ import annotations

import stat
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.catalog import Defaults, Inode
from csi_slayer.content import metadata
from csi_slayer.store.s3.headers import encode_value

DEFAULTS = Defaults(0, 0, 0o644, 0o755)

names = st.builds(
    lambda space, rest: space + b"." + rest.replace(b"\0", b"0"),
    st.sampled_from([b"user", b"trusted", b"security"]),
    st.binary(min_size=1, max_size=40),
)
xattrs = st.dictionaries(names, st.binary(max_size=60), max_size=4)


def inode(**values: object) -> Inode:
    row = Inode(7, 1, stat.S_IFREG | 0o644, 1, 0, 0, 0, 10, 5, 5, 5, "e", None, None, None, None,
                0, 0, 0, 7, None)  # fmt: skip
    return row._replace(**values)


regular = st.builds(
    inode,
    mode=st.integers(0, 0o7777).map(lambda bits: stat.S_IFREG | bits),
    uid=st.integers(0, 2**32 - 2),
    gid=st.integers(0, 2**32 - 2),
    mtime_ns=st.integers(1 - 2**63, 2**63 - 1),
)


@given(regular, xattrs)
def test_what_is_written_is_read_back(found: Inode, values: dict[bytes, bytes]) -> None:
    written = metadata.encode(found, values, DEFAULTS, full=True)
    assert metadata.decode(written, inode()) == {
        "mode": found.mode, "uid": found.uid, "gid": found.gid, "mtime_ns": found.mtime_ns,
    }  # fmt: skip
    assert metadata.decode_xattrs(written) == values
    assert all(text.isascii() and "\n" not in text for text in written.values())


def test_an_ordinary_file_needs_no_metadata() -> None:
    assert metadata.encode(inode(mtime_ns=99), {}, DEFAULTS, full=False) == {}


@given(st.text(min_size=1, max_size=200).filter(lambda text: "\0" not in text))
def test_a_symlink_keeps_its_target(target: str) -> None:
    link = inode(mode=stat.S_IFLNK | 0o777, target=target, size=0)
    read = metadata.decode(metadata.encode(link, {}, DEFAULTS, full=False), inode(size=0))
    assert (read["mode"], read["target"]) == (stat.S_IFLNK | 0o777, target)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR])
def test_metadata_cannot_hide_content(kind: int) -> None:
    """Only an empty object may become something else than a file."""
    written = {"mode": str(kind | 0o600), "slayerfs-target": "/etc/passwd"}
    assert metadata.decode(written, inode(size=10)) == {"mode": stat.S_IFREG | 0o600}


def test_no_metadata_makes_a_device_or_a_directory() -> None:
    for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFDIR):
        written = {"mode": str(kind | 0o666)}
        assert metadata.decode(written, inode(size=0)) == {"mode": stat.S_IFREG | 0o666}


keys = st.sampled_from(
    ["mode", "uid", "gid", "mtime", "slayerfs-target", "slayerfs-xattrs", "slayerfs-rdev"]
)
texts = st.one_of(
    st.text(string.printable, max_size=30),
    st.sampled_from(["NaN", "inf", "-1", "1e400", "9" * 40, "٣", "{}", "[]", '{"a":1}', "null"]),
)


@given(st.dictionaries(keys, texts), st.sampled_from([0, 10]))
def test_malformed_metadata_is_ignored(values: dict[str, str], size: int) -> None:
    read = metadata.decode(values, inode(size=size))
    assert set(read) <= {"mode", "uid", "gid", "mtime_ns", "target"}
    for name in ("uid", "gid"):
        assert 0 <= read.get(name, 0) < 2**32 - 1
    assert -(2**63) <= read.get("mtime_ns", 0) < 2**63
    assert isinstance(metadata.decode_xattrs(values), dict)


@pytest.mark.parametrize("mtime", ["1E999990", "9E999999", "1" * 100_000, "1_000", "0x10", "."])
def test_numbers_that_would_take_for_ever_are_none(mtime: str) -> None:
    assert metadata.decode({"mtime": mtime}, inode()) == {}


def test_times_before_the_epoch() -> None:
    written = metadata.encode(inode(mtime_ns=-5_500_000_000), {}, DEFAULTS, full=True)
    assert written["mtime"] == "-5.500000000"
    assert metadata.decode({"mtime": "-5.5"}, inode())["mtime_ns"] == -5_500_000_000


@pytest.mark.parametrize(
    "text",
    ["[" * 1700, '{"":""}', '{"AA==":"AA=="}', '{"Zm9v":"YmFy"}', '{"dXNlci4=":""}',
     '{"c3lzdGVtLmE=":""}'],
)  # fmt: skip
def test_attributes_that_nobody_could_set_are_not_shown(text: str) -> None:
    assert metadata.decode_xattrs({"slayerfs-xattrs": text}) == {}


@pytest.mark.parametrize("target", ["", "a\0b"])
def test_a_target_that_no_symlink_can_have(target: str) -> None:
    written = {"mode": str(stat.S_IFLNK | 0o777), "slayerfs-target": target}
    assert "target" not in metadata.decode(written, inode(size=0))


@given(st.text(max_size=40))
def test_a_value_takes_no_more_than_is_reckoned_with(text: str) -> None:
    assert len(encode_value(text)) <= metadata.stored_length(text)
