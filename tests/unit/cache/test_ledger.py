"""The hard limit: one number for all processes, grains, the dead, the stopped, the floor of free
space."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csi_slayer.cache import BLOCK, Cache, Governor, ledger_file
from csi_slayer.cache.layout import Layout
from csi_slayer.cache.ledger import Ledger
from csi_slayer.errors import CacheError, CacheFull
from csi_slayer.node.remains import is_all_that_is_left
from tests.support.mounts import wait_for
from tests.support.remains import REMAIN
from tests.unit.cache.helpers import content, die, disk_bytes, fill, key_of

MIB = 1 << 20


@pytest.fixture
def layout(root: Path) -> Layout:
    return Layout(root)


def test_what_is_reserved_is_used(layout: Layout) -> None:
    ledger = Ledger(layout, 10 * MIB, 0)
    ledger.reserve(3 * MIB)
    ledger.reserve(1)
    assert ledger.file.used == 3 * MIB + 1
    ledger.release(1)
    assert ledger.file.used == 3 * MIB
    ledger.close()


def test_the_limit_holds_for_all_processes_together(layout: Layout) -> None:
    ledgers = [Ledger(layout, 10 * MIB, 0) for _ in range(3)]
    for ledger in ledgers:
        ledger.reserve(3 * MIB)
    for ledger in ledgers:
        with pytest.raises(CacheFull):
            ledger.reserve(2 * MIB)
    ledgers[0].freed(2 * MIB)
    ledgers[1].reserve(MIB)
    for ledger in ledgers:
        ledger.close()


def test_a_process_whose_memory_is_left_holds_no_slot(layout: Layout, tmp_path: Path) -> None:
    """As one that was killed while a thread of it waits in the kernel."""
    ledger = Ledger(layout, 10 * MIB, 0)
    marker = tmp_path / "end"
    code = (
        "import pathlib, sys\n"
        "from csi_slayer.cache.ledger_file import LedgerFile\n"
        "file = LedgerFile(pathlib.Path(sys.argv[1]))\n"
        f"file.reserve({MIB}, {MIB})\n"
        "remain(sys.argv[2])\n"
    )
    args = [sys.executable, "-c", REMAIN + code, str(layout.ledger), str(marker)]
    with subprocess.Popen(args) as process:
        wait_for(lambda: is_all_that_is_left(process.pid), what="the end of its first thread")
        assert ledger.file.taken == MIB
        ledger.file.reclaim()
        assert ledger.file.taken == 0
        assert process.poll() is None
        marker.touch()
    ledger.close()


STOPPED = """
import os, pathlib, signal, sys
from csi_slayer.cache.ledger import Ledger
from csi_slayer.cache.layout import Layout
ledger = Ledger(Layout(pathlib.Path(sys.argv[1])), 1 << 40, 0)
lines = set()
def trace(frame, event, arg):
    if event == "line" and "/cache/ledger" in frame.f_code.co_filename:
        lines.add((frame.f_code.co_filename, frame.f_lineno))
    if len(lines) == int(sys.argv[2]):
        sys.settrace(None)
        print(len(lines), flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    return trace
sys.settrace(trace)
ledger.reserve(100 << 20)
ledger.release(100 << 20)
ledger.counted(0, 0)
ledger.freed(0)
sys.settrace(None)
print(0, flush=True)
"""


def test_nobody_waits_for_a_process_that_was_stopped(layout: Layout) -> None:
    """At any line of what changes the file."""
    ledger = Ledger(layout, 1 << 40, 0)
    line, stopped = 1, 1
    while stopped:
        args = [sys.executable, "-c", STOPPED, str(layout.root), str(line)]
        with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            stopped = int(process.stdout.readline())
            worker = threading.Thread(target=lambda: (ledger.reserve(MIB), ledger.freed(MIB)))
            worker.start()
            worker.join(30.0)
            assert not worker.is_alive(), f"waits for a process that stopped at line {line}"
            process.kill()
        ledger.counted(0, ledger.file.used)
        assert ledger.file.used == 0
        line += 3
    assert line > 30
    ledger.close()


def test_a_process_that_stopped_while_it_made_the_file_is_an_error(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger(layout, MIB, 0).close()
    monkeypatch.setattr(ledger_file, "_PATIENCE", 0.05)
    with layout.ledger.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CacheError, match="does not go on"):
            Ledger(layout, MIB, 0)


RESERVING = """
import pathlib, sys, time
from csi_slayer.cache.ledger_file import LedgerFile
file = LedgerFile(pathlib.Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read(1)
got = sum(file.reserve(1000, 50_000_000) for _ in range(20_000))
print(got, flush=True)
sys.stdin.read()
"""


def test_processes_that_reserve_at_the_same_time_keep_the_limit(layout: Layout) -> None:
    """Most of it is to be had, never more, and nothing is lost."""
    ledger = Ledger(layout, 50_000_000, 0)
    args = [sys.executable, "-c", RESERVING, str(layout.ledger)]
    processes = [
        subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    got = 0
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("!")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        got += int(process.stdout.readline())
    assert 45_000 < got <= 50_000
    assert ledger.file.taken == 1000 * got
    for process in processes:
        process.communicate(timeout=30)
    ledger.file.reclaim()
    assert ledger.file.taken == 0
    ledger.close()


def test_all_of_the_capacity_can_be_had(layout: Layout) -> None:
    ledger = Ledger(layout, 10 * MIB, 0)
    for _ in range(2560):
        ledger.reserve(4096)
    with pytest.raises(CacheFull):
        ledger.reserve(1)
    ledger.close()


def test_staged_bytes_count(layout: Layout) -> None:
    ledger = Ledger(layout, 10 * MIB, 0)
    ledger.file.staged = 6 * MIB
    ledger.reserve(4 * MIB)
    with pytest.raises(CacheFull):
        ledger.reserve(MIB)
    ledger.close()


def test_a_closed_process_gives_its_grain_back(layout: Layout) -> None:
    first, second = Ledger(layout, 10 * MIB, 0), Ledger(layout, 10 * MIB, 0)
    second.reserve(100)
    assert second.file.taken > 100
    second.close()
    assert first.file.taken == 100
    first.close()


def test_the_grain_of_the_dead_is_given_back_by_the_next_to_come(layout: Layout) -> None:
    dead = Ledger(layout, 1024 * MIB, 0)
    dead.reserve(100)
    assert dead.file.taken == 2 * MIB
    die(dead)
    ledger = Ledger(layout, 1024 * MIB, 0)
    assert ledger.file.taken == ledger.file.used == 100
    ledger.close()


def test_the_grain_of_the_dead_is_given_back_by_the_governor(layout: Layout) -> None:
    ledger = Ledger(layout, 1024 * MIB, 0)
    dead, alive = Ledger(layout, 1024 * MIB, 0), Ledger(layout, 1024 * MIB, 0)
    dead.reserve(100)
    alive.reserve(50)
    die(dead)
    ledger.counted(150, ledger.file.used)
    assert ledger.file.used == 150
    assert ledger.file.taken == 2 * MIB + 100
    alive.reserve(MIB)
    assert ledger.file.used == MIB + 150
    alive.close()
    ledger.close()


def test_a_count_corrects_the_number_and_keeps_what_came_meanwhile(layout: Layout) -> None:
    ledger = Ledger(layout, 100 * MIB, 0)
    ledger.reserve(10 * MIB)
    before = ledger.file.used
    ledger.reserve(MIB)
    ledger.counted(7 * MIB, before)
    assert ledger.file.used == 8 * MIB
    ledger.close()


def test_a_damaged_file_starts_from_nothing(layout: Layout) -> None:
    layout.ledger.write_bytes(b"garbage" * 10)
    ledger = Ledger(layout, MIB, 0)
    assert ledger.file.used == 0
    ledger.reserve(100)
    ledger.close()


def test_the_number_survives_processes(layout: Layout) -> None:
    ledger = Ledger(layout, 10 * MIB, 0)
    ledger.reserve(3 * MIB)
    ledger.close()
    ledger = Ledger(layout, 10 * MIB, 0)
    assert ledger.file.used == 3 * MIB
    ledger.close()


def test_the_disk_keeps_its_free_space(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(layout, 100 * MIB, min_free=10 * MIB)
    monkeypatch.setattr(ledger, "free_space", lambda: 12 * MIB)
    ledger.reserve(MIB)
    with pytest.raises(CacheFull):
        ledger.reserve(3 * MIB)
    ledger.close()


def test_a_closed_ledger_says_so(layout: Layout) -> None:
    ledger = Ledger(layout, MIB, 0)
    ledger.close()
    with pytest.raises(CacheError, match="closed"):
        ledger.reserve(1)


def test_waiting_ends_when_room_is_made(layout: Layout) -> None:
    ledger, governor = Ledger(layout, 10 * MIB, 0), Ledger(layout, 10 * MIB, 0)
    ledger.reserve(10 * MIB)
    timer = threading.Timer(0.05, governor.freed, [MIB])
    timer.start()
    ledger.reserve(MIB, wait=30.0)
    timer.join()
    ledger.close()
    governor.close()


def test_waiting_ends_when_the_governor_has_found_nothing(layout: Layout) -> None:
    ledger, governor = Ledger(layout, 10 * MIB, 0), Ledger(layout, 10 * MIB, 0)
    ledger.reserve(10 * MIB)

    def look_twice() -> None:
        governor.file.finish_round(0)
        governor.file.finish_round(0)

    timer = threading.Timer(0.05, look_twice)
    timer.start()
    with pytest.raises(CacheFull):
        ledger.reserve(MIB, wait=60.0)
    timer.join()
    with pytest.raises(CacheFull):
        ledger.reserve(MIB, wait=60.0)  # does not wait again for what was not to be had
    ledger.close()
    governor.close()


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["reserve", "release", "die", "close", "count", "freed"]),
            st.integers(0, 2),
            st.integers(1, 400_000),
        ),
        max_size=40,
    )
)
def test_never_more_than_the_capacity_and_never_wrong_for_long(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, int, int]]
) -> None:
    layout = Layout(tmp_path_factory.mktemp("ledger") / "cache")
    capacity = 2 * MIB
    ledgers = [Ledger(layout, capacity, 0) for _ in range(3)]
    used = 0
    for action, who, size in script:
        ledger = ledgers[who]
        if action == "reserve":
            try:
                ledger.reserve(size)
                used += size
            except CacheFull:
                spare = sum(other.file.spare for other in ledgers if other is not ledger)
                dead = ledger.file.taken - ledger.file.used - spare - ledger.file.spare
                assert used + spare + dead + size > capacity
        elif action in ("release", "freed") and size <= used:
            getattr(ledger, action)(size)
            used -= size
        elif action in ("die", "close"):
            ledger.close() if action == "close" else die(ledger)
            ledgers[who] = Ledger(layout, capacity, 0)
        elif action == "count":
            ledger.counted(used, ledger.file.used)
        assert ledgers[0].file.used == used
        assert ledgers[0].file.taken <= capacity
    for ledger in ledgers:
        ledger.close()
    Ledger(layout, capacity, 0).close()


def test_segments_never_use_more_than_the_capacity(root: Path) -> None:
    capacity = 2 * MIB
    caches = [Cache(root, capacity), Cache(root, capacity)]
    size = 5 * BLOCK
    for number in range(12):
        cache = caches[number % 2]
        name = f"object {number}"
        try:
            segment = cache.create(key_of(name), size)
            try:
                fill(segment, content(name, size))
            finally:
                segment.close()
        except CacheFull:
            pass
        cache.store_small(key_of(f"small {number}"), content(name, 50_000))
        assert disk_bytes(cache) <= capacity
    assert caches[0].events.bypassed.value + caches[1].events.bypassed.value > 0
    assert caches[0].usage().used <= capacity
    assert disk_bytes(caches[0]) <= caches[0].shared.ledger.on_disk(caches[0].usage().used)
    governor = Governor(caches[0])
    governor.take_over()
    assert caches[0].usage().used == disk_bytes(caches[0])
    governor.step_down()
    for cache in caches:
        cache.close()
