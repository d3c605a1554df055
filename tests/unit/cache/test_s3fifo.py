"""The order of eviction, against a plain reading of the paper and on the loads it is made for."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.cache.marks import MOST
from csi_slayer.cache.s3fifo import MOVES_ON, SMALL_SHARE, S3Fifo


class Marks:
    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def touch(self, key: int) -> None:
        self.counts[key] = min(MOST, self.counts[key] + 1)

    def get(self, key: int) -> int:
        return self.counts[key]

    def set(self, key: int, count: int) -> None:
        self.counts[key] = count


class Plain:
    """The same three queues as lists, slowly."""

    def __init__(self, marks: Marks) -> None:
        self.marks = marks
        self.small: list[tuple[int, int]] = []
        self.main: list[tuple[int, int]] = []
        self.ghost: list[int] = []

    def admit(self, key: int, pages: int) -> None:
        (self.main if key in self.ghost else self.small).append((key, pages))
        if key in self.ghost:
            self.ghost.remove(key)

    def pop(self) -> tuple[int, int] | None:
        while self.small or self.main:
            small, main = (sum(p for _k, p in queue) for queue in (self.small, self.main))
            if self.small and (small * SMALL_SHARE >= small + main or not self.main):
                key, pages = self.small.pop(0)
                if self.marks.get(key) < MOVES_ON:
                    self.ghost.append(key)
                    return key, pages
                self.marks.set(key, 0)
                self.main.append((key, pages))
            else:
                key, pages = self.main.pop(0)
                if not self.marks.get(key):
                    return key, pages
                self.marks.set(key, self.marks.get(key) - 1)
                self.main.append((key, pages))
        return None


steps = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.integers(0, 30), st.integers(1, 50)),
        st.tuples(st.just("touch"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("pop"), st.just(0), st.just(0)),
    ),
    max_size=120,
)


@given(steps)
def test_evicts_as_the_paper_says(script: list[tuple[str, int, int]]) -> None:
    ours_marks, plain_marks = Marks(), Marks()
    ours, plain = S3Fifo(ours_marks.get, ours_marks.set), Plain(plain_marks)
    inside: set[int] = set()
    for action, key, pages in script:
        if action == "admit" and key not in inside:
            ours.admit(key, pages)
            plain.admit(key, pages)
            inside.add(key)
        elif action == "touch":
            ours_marks.touch(key)
            plain_marks.touch(key)
        elif action == "pop":
            victim = ours.pop()
            assert victim == plain.pop()
            if victim is not None:
                inside.discard(victim[0])
        assert len(ours) == len(inside)
        assert all(key in ours for key in inside)


def test_a_scan_does_not_push_out_what_is_used() -> None:
    marks = Marks()
    queue = S3Fifo(marks.get, marks.set)
    for key in range(100):
        queue.admit(key, 1)
        for _ in range(3):
            marks.touch(key)
    for key in range(1000, 3000):
        queue.admit(key, 1)
        marks.touch(key)  # each is read once
        while len(queue) > 150:
            assert queue.pop() is not None
    assert sum(key in queue for key in range(100)) == 100


def test_what_comes_back_soon_after_eviction_is_kept_longer() -> None:
    marks = Marks()
    queue = S3Fifo(marks.get, marks.set)
    queue.admit(1, 1)
    assert queue.pop() == (1, 1)
    queue.admit(1, 1)
    for key in range(10, 20):
        queue.admit(key, 1)
    assert [victim[0] for victim in (queue.pop() for _ in range(10)) if victim] == [*range(10, 20)]
    assert 1 in queue


def test_gives_up_patience_while_everything_is_touched_all_the_time() -> None:
    queue = S3Fifo(lambda _key: MOST, lambda _key, _count: None)
    for key in range(10):
        queue.admit(key, 1)
    assert len({queue.pop() for _ in range(10)}) == 10
    assert queue.pop() is None


def test_victims_in_use_come_back() -> None:
    marks = Marks()
    queue = S3Fifo(marks.get, marks.set)
    queue.admit(7, 3)
    victim = queue.pop()
    assert victim is not None
    assert queue.pop() is None
    queue.put_back([victim])
    assert queue.pop() == (7, 3)


def test_the_ghosts_do_not_grow_without_limit() -> None:
    marks = Marks()
    queue = S3Fifo(marks.get, marks.set)
    rng = random.Random(1)
    for _ in range(5000):
        key = rng.getrandbits(128)
        queue.admit(key, 1)
        queue.pop()
    assert len(queue._ghost) <= 64
    assert len(queue._ghosts) <= 64
