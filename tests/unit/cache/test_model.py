"""The cache against a model, through crashes, reboots, damage, eviction and several processes.

Safety: whatever a segment calls present has the right bytes, always. Liveness: what was written
is present until something happened that may take it away.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from csi_slayer.cache import BLOCK, Cache, Governor, Segment, evict_all, verify_all
from csi_slayer.errors import CacheFull
from tests.unit.cache.helpers import (
    blocks_of,
    content,
    crash,
    data_path,
    disk_bytes,
    flip,
    header_of,
    key_of,
    reboot,
)

SIZES = {"tiny": 10, "small": BLOCK + 1, "two": 2 * BLOCK, "four": 3 * BLOCK + 77, "big": 9 * BLOCK}
CAPACITY = 24 * BLOCK

names = st.sampled_from(sorted(SIZES))
who = st.integers(0, 1)
chance = st.floats(0, 1, exclude_max=True)


class CacheMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="slayer-cache-model-"))
        self.caches = [Cache(self.root / "cache", CAPACITY) for _ in range(2)]
        self.open: list[tuple[int, str, Segment]] = []
        self.written: dict[str, set[int]] = {name: set() for name in SIZES}
        self.damaged: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "root"):
            for _who, _name, segment in self.open:
                segment.close()
            for cache in self.caches:
                cache.close()
            shutil.rmtree(self.root)

    def unused(self, name: str) -> bool:
        return all(name != opened for _who, opened, _segment in self.open)

    def lost(self, name: str) -> None:
        """Nothing is known of what the cache has of this any more."""
        self.written[name].clear()

    def use(self, number: int, name: str, segment: Segment) -> None:
        if segment.needs_verify:
            assert not segment.complete
            bad = segment.verify()
            assert not bad or name in self.damaged
            if bad:
                self.lost(name)
        assert not segment.needs_verify
        self.damaged.discard(name)
        self.open.append((number, name, segment))

    # -- ordinary use ----------------------------------------------------------------------

    @rule(number=who, name=names)
    def find(self, number: int, name: str) -> None:
        segment = self.caches[number].find(key_of(name), SIZES[name])
        if segment is not None:
            self.use(number, name, segment)
        else:
            assert not self.written[name] or name in self.damaged
            self.lost(name)
            self.damaged.discard(name)

    @rule(number=who, name=names)
    def create(self, number: int, name: str) -> None:
        before = self.caches[number].contains(key_of(name))
        try:
            segment = self.caches[number].create(key_of(name), SIZES[name])
        except CacheFull:
            assert not before or name in self.damaged
            return
        if not before or name in self.damaged:
            # A damaged one may have been replaced by one that is empty.
            self.lost(name)
        self.use(number, name, segment)

    @rule(number=who, name=names)
    def store(self, number: int, name: str) -> None:
        if SIZES[name] > 1 << 20 or not self.unused(name):
            return
        if self.caches[number].store_small(key_of(name), content(name, SIZES[name])):
            self.written[name] = set(blocks_of(SIZES[name]))
            self.damaged.discard(name)

    @precondition(lambda self: self.open)
    @rule(pick=chance, at=chance)
    def write(self, pick: float, at: float) -> None:
        _number, name, segment = self.open[int(pick * len(self.open))]
        offsets = blocks_of(segment.size)
        offset = offsets[int(at * len(offsets))]
        try:
            segment.write_block(offset, content(name, segment.size)[offset : offset + BLOCK])
        except CacheFull:
            assert not segment.present(offset, 1)
            return
        assert segment.present(offset, 1)
        inode = os.fstat(segment.fd).st_ino
        path = data_path(self.caches[0], name)
        if path.exists() and path.stat().st_ino == inode:
            self.written[name].add(offset)

    @precondition(lambda self: self.open)
    @rule(pick=chance)
    def close(self, pick: float) -> None:
        _number, _name, segment = self.open.pop(int(pick * len(self.open)))
        segment.close()

    @rule(number=who, name=names)
    def adopt(self, number: int, name: str) -> None:
        cache = self.caches[number]
        stage = cache.staging("v").reserve()
        stage.path.write_bytes(content(name, SIZES[name]))
        try:
            cache.adopt(key_of(name), stage.path, SIZES[name])
        except CacheFull:
            cache.staging("v").remove(stage.id)
            return
        self.written[name] = set(blocks_of(SIZES[name]))
        self.damaged.discard(name)

    @precondition(lambda self: self.open)
    @rule(pick=chance)
    def detach(self, pick: float) -> None:
        index = int(pick * len(self.open))
        number, name, segment = self.open[index]
        staging = self.caches[number].staging("v")
        stage = staging.reserve()
        others = [s for _n, opened, s in self.open if opened == name and s is not segment]
        path = data_path(self.caches[number], name)
        linked = path.exists() and path.stat().st_ino == os.fstat(segment.fd).st_ino
        fd = segment.detach(str(stage.path))
        if fd is None:
            assert others or not segment.complete or not linked
            return
        assert linked
        del self.open[index]
        assert os.pread(fd, SIZES[name], 0) == content(name, SIZES[name])
        os.pwrite(fd, b"dirty", 0)
        os.close(fd)
        staging.remove(stage.id)
        self.lost(name)

    # -- trouble ---------------------------------------------------------------------------

    @rule(number=who)
    def process_dies(self, number: int) -> None:
        self.open = [entry for entry in self.open if entry[0] != number]
        crash(self.caches[number])
        self.caches[number] = Cache(self.root / "cache", CAPACITY)

    @rule(name=names, at=chance, of_map=st.booleans())
    def power_fails(self, name: str, at: float, of_map: bool) -> None:
        """Everything restarts; one byte on the disk is not what was written."""
        for number in range(2):
            self.process_dies(number)
        reboot(self.caches[0])
        path = data_path(self.caches[0], name)
        if not path.exists():
            return
        header = header_of(self.caches[0], name)
        if of_map:
            maps = list(path.parent.glob(f"{path.name}-*.map"))
            path = maps[0] if maps else path
        del header
        flip(path, int(at * path.stat().st_size), keep_mtime=True)
        self.damaged.add(name)

    @rule()
    def clean_reboot(self) -> None:
        for number in range(2):
            self.process_dies(number)
        reboot(self.caches[0])

    @rule(number=who)
    def evict_everything(self, number: int) -> None:
        evict_all(self.caches[number])
        for name in SIZES:
            if self.unused(name):
                assert not self.caches[number].contains(key_of(name))
            if not self.caches[number].contains(key_of(name)):
                self.lost(name)
                self.damaged.discard(name)

    @rule(number=who)
    def govern(self, number: int) -> None:
        governor = Governor(self.caches[number])
        assert governor.take_over()
        assert self.caches[number].usage().used == disk_bytes(self.caches[number])
        governor.look()
        governor.step_down()
        for name in SIZES:
            if not self.caches[number].contains(key_of(name)):
                self.lost(name)

    @rule(number=who)
    def verify_everything(self, number: int) -> None:
        result = verify_all(self.caches[number])
        assert result.bad_segments <= len(self.damaged)
        if result.bad_segments:
            for name in self.damaged:
                self.lost(name)
        self.damaged.clear()

    # -- what always holds -----------------------------------------------------------------

    @invariant()
    def what_is_present_is_right(self) -> None:
        for _number, name, segment in getattr(self, "open", []):
            data = content(name, SIZES[name])
            path = data_path(self.caches[0], name)
            named = path.exists() and path.stat().st_ino == os.fstat(segment.fd).st_ino
            for offset in blocks_of(segment.size):
                length = min(BLOCK, segment.size - offset)
                if segment.present(offset, length):
                    assert os.pread(segment.fd, length, offset) == data[offset : offset + length]
                else:
                    assert not segment.complete
                    assert not named or offset not in self.written[name]
            gaps = segment.missing(0, segment.size)
            assert bool(gaps) != segment.complete

    @invariant()
    def the_capacity_holds(self) -> None:
        if hasattr(self, "root"):
            assert disk_bytes(self.caches[0]) <= CAPACITY


CacheMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestCacheModel = CacheMachine.TestCase
