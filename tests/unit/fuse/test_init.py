"""INIT: what is asked of which kernel, and what is made of the answer."""

from __future__ import annotations

import errno
import json
import mmap
import struct

import pytest

from csi_slayer.errors import ConfigError, FsError
from csi_slayer.fuse.init import ALL, BASELINE, Capabilities, SessionState, negotiate
from csi_slayer.fuse.protocol import InitFlag

EVERY_FLAG = (1 << 64) - 1
FLAGS_5_4 = (1 << 30) - 1 - (1 << 28) - (1 << 29)


def init(
    minor: int = 45,
    flags: int = EVERY_FLAG,
    wanted: Capabilities | None = None,
    zero_upcall: bool = False,
) -> tuple[SessionState, tuple[int, ...]]:
    body = struct.pack("<IIIIII40x", 7, minor, 131072, flags & 0xFFFFFFFF, flags >> 32, 0)
    state, reply = negotiate(
        memoryview(body), wanted or Capabilities(), connection=9, zero_upcall=zero_upcall
    )
    assert len(reply) == 64
    return state, struct.unpack("<IIIIHHIIHHIIH22x", reply)


def test_a_new_kernel_gets_everything() -> None:
    state, out = init()
    major, minor, readahead, flags, background, congestion, max_write, gran, pages = out[:9]
    assert (major, minor, readahead, gran) == (7, 45, 131072, 1)
    assert pages * mmap.PAGESIZE == max_write
    assert background >= 64
    assert congestion <= background
    assert max_write == 896 << 10
    assert out[11] == 1, "max_stack_depth"
    flags |= out[10] << 32
    assert flags == state.flags
    assert flags & InitFlag.PASSTHROUGH
    assert flags & InitFlag.HAS_RESEND
    assert set(state.capabilities) == ALL


@pytest.mark.parametrize(
    "bit",
    [1, 10, 12, 16, 20, 25],
    ids=["posix_locks", "flock", "auto_inval", "writeback", "posix_acl", "explicit_inval"],
)
def test_what_is_never_asked_for(bit: int) -> None:
    assert not init()[0].flags & (1 << bit)


def test_a_newer_kernel_is_answered_our_version() -> None:
    state, out = init(minor=60)
    assert out[1] == state.minor == 45


def test_an_older_kernel_is_answered_its_version_and_no_second_word() -> None:
    state, out = init(minor=31, flags=FLAGS_5_4)
    assert out[1] == 31
    assert out[10] == 0
    assert out[11] == 0
    assert not {"passthrough", "resend", "expire_only", "setxattr_ext"} & set(state.capabilities)
    assert {"readdirplus", "no_open", "max_pages", "fallocate"} <= set(state.capabilities)


@pytest.mark.parametrize("page", [4 << 10, 16 << 10, 64 << 10])
def test_requests_are_as_large_on_machines_with_larger_pages(
    monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(mmap, "PAGESIZE", page)
    state, out = init()
    assert out[8] * page == state.max_write == 896 << 10


@pytest.mark.parametrize("minor", [8, 30])
def test_a_kernel_too_old_is_refused(minor: int) -> None:
    with pytest.raises(FsError) as caught:
        init(minor=minor, flags=0)
    assert caught.value.errno == errno.EPROTO
    assert f"7.{minor}" in str(caught.value)


def test_everything_off() -> None:
    state, out = init(wanted=Capabilities.without({"all"}), zero_upcall=True)
    assert state.capabilities == tuple(sorted(BASELINE))
    baseline = InitFlag.ASYNC_READ | InitFlag.BIG_WRITES | InitFlag.MAX_PAGES
    assert state.flags == InitFlag.INIT_EXT | baseline
    assert out[6] == state.max_write == 896 << 10
    assert not state.zero_open
    assert not state.zero_opendir


@pytest.mark.parametrize("name", sorted(ALL))
def test_each_can_be_switched_off_alone(name: str) -> None:
    state, _ = init(wanted=Capabilities.without({name}))
    missing = ALL - set(state.capabilities)
    assert missing == ({name, "readdirplus_auto"} if name == "readdirplus" else {name})


def test_without_max_pages_requests_are_smaller() -> None:
    state, _ = init(wanted=Capabilities.without({"max_pages"}))
    assert state.max_write == 128 << 10


def test_opens_are_left_out_only_where_the_file_system_asks() -> None:
    assert not init()[0].zero_open
    assert init(zero_upcall=True)[0].zero_open
    assert not init(zero_upcall=True, wanted=Capabilities.without({"no_open"}))[0].zero_open


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'passthru'.*did you mean passthrough"):
        Capabilities.without({"passthru"})


def test_the_state_survives_json() -> None:
    state, _ = init(zero_upcall=True)
    assert SessionState.from_json(json.loads(json.dumps(state.to_json()))) == state
    assert state.allowed == Capabilities()


@pytest.mark.parametrize("data", [{}, {"minor": 1}, {"capabilities": 3}])
def test_a_malformed_state_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="session state"):
        SessionState.from_json(data)
