"""Many threads, one cache: transfers, readers and closers at the same time."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor

from csi_slayer.cache import BLOCK, Cache, verify_all
from csi_slayer.errors import CacheError
from tests.unit.cache.helpers import content, key_of

SIZE = 24 * BLOCK + 3


def test_transfers_of_the_same_blocks_complete_the_segment(cache: Cache, other: Cache) -> None:
    data = memoryview(content("object", SIZE))
    segments = [made.create(key_of("object"), SIZE) for made in (cache, other)]

    def transfer(number: int) -> None:
        sink = segments[number % 2].sink(lambda _offset, _length: None, end=SIZE)
        offsets = list(range(0, SIZE, BLOCK))
        random.Random(number).shuffle(offsets)
        for offset in offsets:
            sink.write(offset, data[offset : offset + BLOCK])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(transfer, range(6)))
    for segment in segments:
        assert segment.complete
        assert os.pread(segment.fd, SIZE, 0) == data
        segment.close()
    assert verify_all(cache).bad_blocks == 0


def test_closing_under_a_transfer_never_lets_it_write_elsewhere(cache: Cache) -> None:
    """A transfer's thread may outlive the segment; its descriptor's number may be another file's
    by then."""
    data = memoryview(content("object", SIZE))

    def transfer(sink_number: int) -> int:
        segment = cache.create(key_of(f"object {sink_number}"), SIZE)
        sink = segment.sink(lambda _offset, _length: None, end=SIZE)
        written = 0
        with ThreadPoolExecutor(1) as closer:
            closing = None
            for offset in range(0, SIZE, BLOCK):
                if written == sink_number:
                    closing = closer.submit(segment.close)
                try:
                    sink.write(offset, data[offset : offset + BLOCK])
                except CacheError:
                    break
                written += 1
            if closing is not None:
                closing.result()
        segment.close()
        return written

    canaries = [os.memfd_create(f"canary{number}") for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(transfer, range(12)))
    assert all(count >= number for number, count in enumerate(counts))
    for canary in canaries:
        assert os.fstat(canary).st_size == 0
        os.close(canary)
    assert verify_all(cache).bad_blocks == 0


def test_openings_and_closings_balance(cache: Cache) -> None:
    for number in range(4):
        cache.store_small(key_of(f"{number}"), content(f"{number}", 1000))

    def open_and_close(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(300):
            name = f"{rng.randrange(4)}"
            segment = cache.find(key_of(name), 1000)
            assert segment is not None
            assert os.pread(segment.fd, 1000, 0) == content(name, 1000)
            segment.close()

    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(open_and_close, range(4)))
    assert len(os.listdir("/proc/self/fd")) == before
    assert cache.shared.opened == {}
