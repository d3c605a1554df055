"""Copies of volumes that change while they are copied, over a local store."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csi_slayer.errors import StoreUnavailable, VolumeBusy
from csi_slayer.store.base import ListPage, ObjectStore
from csi_slayer.volumes import rounds
from csi_slayer.volumes.jobs import Progress
from csi_slayer.volumes.manifest import count_rounds, entries
from csi_slayer.volumes.records import State
from csi_slayer.volumes.rounds import Rounds
from tests.unit.volumes.world import HOME, World, create, fast_directory

KEYS = ("a", "b", "c", "d", "m", "m/1", "m/2", "y", "z")


async def rename(store: ObjectStore, old: str, new: str) -> None:
    """As a mount does it."""
    await store.copy(old, new)
    await store.delete(old)


class Watched:
    """A store that says so before each operation, and lists few keys at a time."""

    def __init__(self, inner: ObjectStore, before: Callable[[str, str], Awaitable[None]]) -> None:
        self._inner = inner
        self._before = before

    async def list_page(self, prefix: str, **rest: Any) -> ListPage:
        await self._before("list_page", prefix)
        return await self._inner.list_page(prefix, **(rest | {"limit": 2}))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(first: Any, *args: Any, **rest: Any) -> Any:
            plain = first._inner if isinstance(first, Watched) else first
            await self._before(name, args[0] if isinstance(first, Watched) else first)
            return await found(plain, *args, **rest)

        return call


class Copying:
    """A source, and rounds that copy it; ``before`` is called before each operation of theirs."""

    def __init__(self, world: World, stack: contextlib.AsyncExitStack) -> None:
        self._world = world
        self._stack = stack
        self.before: Callable[[str, str], Awaitable[None]] = self._nothing

    async def _nothing(self, operation: str, key: str) -> None:
        """Nobody is at work."""

    async def open(self, content: dict[str, bytes]) -> None:
        self.origin = await self._stack.enter_async_context(await self._opened("v"))
        self.copy = await self._stack.enter_async_context(await self._opened("c"))
        self.notes = await self._stack.enter_async_context(await self._opened("n"))
        await self._world.put(HOME, "v", content)

    async def _opened(self, prefix: str) -> contextlib.AbstractAsyncContextManager[ObjectStore]:
        (self._world.root / HOME / prefix).mkdir()
        return await self._world.open(HOME, prefix)

    async def run(self) -> tuple[int, int]:
        async def before(operation: str, key: str) -> None:
            await self.before(operation, key)

        made = [Watched(store, before) for store in (self.origin, self.copy, self.notes)]
        origin, copy, notes = made
        return await Rounds(
            origin,  # type: ignore[arg-type]
            copy,  # type: ignore[arg-type]
            "",
            notes,  # type: ignore[arg-type]
            Progress("it is copied"),
            2,
            lambda: None,
        ).run()

    async def copied(self) -> dict[str, bytes]:
        found = await self._world.keys(HOME, "c")
        return {key: body for key, body in found.items() if not key.endswith("/")}


@contextlib.asynccontextmanager
async def copying(content: dict[str, bytes]):
    with fast_directory() as directory:
        world = World(Path(directory))
        async with contextlib.AsyncExitStack() as stack:
            made = Copying(world, stack)
            await made.open(content)
            yield made
        await world.close()


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    monkeypatch.setattr(rounds, "PAGE", 2)


def once(operation: str, key: str, act: Callable[[], Awaitable[None]]):
    """Does ``act`` before the first ``operation`` on ``key``."""
    done = False

    async def before(now: str, what: str) -> None:
        nonlocal done
        if not done and (now, what) == (operation, key):
            done = True
            await act()

    return before


@pytest.mark.parametrize("kind", ["snapshot", "clone"])
@pytest.mark.parametrize("to", ["a", "zz"])
def test_a_file_renamed_meanwhile_is_there(run, world: World, monkeypatch, kind, to):
    real = Rounds._copy

    async def scenario():
        p = world.provisioner
        volume, record = await create(p, "v")
        await world.put(HOME, record.prefix, {"f": b"1", "g": b"22", "h": b"333"})

        async def copy(self, number: int, pages: int):
            if number == 0:
                async with await world.open(HOME, record.prefix) as store:
                    await rename(store, "g", to)
            return await real(self, number, pages)

        monkeypatch.setattr(Rounds, "_copy", copy)
        if kind == "snapshot":
            snapshot, made = await p.create_snapshot("s", str(volume), {}, {})
            assert (made.state, made.objects, made.size_bytes) == (State.READY, 3, 6)
            _, restored = await create(p, "r", source=str(snapshot))
        else:
            _, restored = await create(p, "r", source=str(volume))
        wanted = {"f": b"1", to: b"22", "h": b"333"}
        assert await world.keys(HOME, restored.prefix) == wanted

    run(scenario())


def test_a_file_renamed_behind_the_listing_is_there(run):
    async def scenario():
        async with copying({"b": b"1", "c": b"2", "d": b"3", "e": b"4"}) as it:
            listings = 0

            async def before(operation: str, key: str) -> None:
                nonlocal listings
                listings += (operation, key) == ("list_page", "")
                if listings == 2:
                    listings += 1
                    await rename(it.origin, "e", "a")

            it.before = before
            assert await it.run() == (4, 4)
            assert await it.copied() == {"a": b"4", "b": b"1", "c": b"2", "d": b"3"}

    run(scenario())


def test_the_copy_of_a_file_renamed_behind_a_later_listing_is_not_removed(run):
    async def scenario():
        async with copying({"b": b"1", "c": b"2", "d": b"3", "e": b"4"}) as it:
            copied = listed = 0

            async def before(operation: str, key: str) -> None:
                nonlocal copied, listed
                copied += operation == "copy_from"
                listed += copied == 4 and (operation, key) == ("list_page", "")
                if listed == 2:
                    listed += 1
                    await rename(it.origin, "e", "a")

            it.before = before
            assert await it.run() == (4, 4)
            assert await it.copied() == {"a": b"4", "b": b"1", "c": b"2", "d": b"3"}

    run(scenario())


def test_a_file_renamed_after_it_was_copied_is_there_once(run):
    async def scenario():
        async with copying({"a": b"1", "b": b"2", "c": b"3"}) as it:
            it.before = once("copy_from", "c", lambda: rename(it.origin, "a", "z"))
            assert await it.run() == (3, 3)
            assert await it.copied() == {"z": b"1", "b": b"2", "c": b"3"}

    run(scenario())


def test_a_rename_over_another_file_of_the_same_size_loses_nothing(run):
    async def scenario():
        async with copying({"a": b"1", "b": b"2", "c": b"3"}) as it:
            it.before = once("copy_from", "c", lambda: rename(it.origin, "c", "a"))
            assert await it.run() == (2, 2)
            assert await it.copied() == {"a": b"3", "b": b"2"}

    run(scenario())


def test_a_file_takes_the_place_of_a_directory_and_the_other_way_round(run):
    async def scenario():
        async with copying({"a": b"1", "d/f": b"2", "e": b"3", "z": b"4"}) as it:

            async def change() -> None:
                await rename(it.origin, "d/f", "dd")
                await it.origin.delete("d/")
                await it.origin.put("d", b"5")
                await it.origin.delete("e")
                await it.origin.put("e/f", b"6")

            it.before = once("copy_from", "z", change)
            await it.run()
            wanted = {"a": b"1", "dd": b"2", "d": b"5", "e/f": b"6", "z": b"4"}
            assert await it.copied() == wanted

    run(scenario())


def test_a_volume_that_is_written_all_the_time_is_copied(run):
    async def scenario():
        async with copying({"a": b"1", "b": b"2", "c": b"3"}) as it:
            writes = 0

            async def before(operation: str, key: str) -> None:
                nonlocal writes
                if (operation, key) == ("list_page", ""):
                    writes += 1
                    await it.origin.put("b", b"%d" % writes)
                    await it.origin.put(f"new{writes}", b"")

            it.before = before
            await it.run()
            copied = await it.copied()
            assert copied["a"] == b"1" and copied["c"] == b"3" and copied["b"].isdigit()

    run(scenario())


def test_a_file_that_flees_before_each_round_ends_the_call_and_the_next_one_goes_on(run):
    async def scenario():
        async with copying({"a": b"1", "b0": b"2", "c": b"3"}) as it:
            moves = 0

            async def before(operation: str, key: str) -> None:
                nonlocal moves
                if operation == "copy_from" and key == f"b{moves}":
                    moves += 1
                    await rename(it.origin, key, f"b{moves}")

            it.before = before
            for calls in (1, 2):
                with pytest.raises(VolumeBusy, match=r"faster than .* it goes on: ask again"):
                    await it.run()
                assert moves == await count_rounds(it.notes) == rounds.AT_ONCE * calls
            it.before = it._nothing
            assert await it.run() == (3, 3)
            assert (await it.copied())[f"b{moves}"] == b"2"

    run(scenario())


def test_rounds_without_end_are_refused_with_what_to_do(run, monkeypatch):
    monkeypatch.setattr(rounds, "MOST", 3)

    async def scenario():
        async with copying({"b": b"2"}) as it:
            moves = 0

            async def before(operation: str, key: str) -> None:
                nonlocal moves
                if operation == "copy_from":
                    moves += 1
                    await rename(it.origin, key, f"b{moves}")

            it.before = before
            for _ in range(2):
                with pytest.raises(VolumeBusy, match=r"stop the program .* delete what is being"):
                    await it.run()
            assert await count_rounds(it.notes) == 3

    run(scenario())


def test_what_a_killed_process_copied_before_it_was_renamed_does_not_stay_twice(run):
    async def scenario():
        async with copying({"a": b"1", "b": b"2"}) as it:
            it.before = dies_at_second_put()
            with pytest.raises(StoreUnavailable):
                await it.run()
            assert (await it.copied())["a"] == b"1"
            it.before = it._nothing
            await rename(it.origin, "a", "z")
            assert await it.run() == (2, 2)
            assert await it.copied() == {"z": b"1", "b": b"2"}

    run(scenario())


def dies_at_second_put():
    """Before the page is written again, that is, when all of it has been copied."""
    puts = 0

    async def before(operation: str, key: str) -> None:
        nonlocal puts
        puts += operation == "put"
        if puts == 2:
            raise StoreUnavailable("killed")

    return before


def test_large_files_are_alone_in_their_page(run, monkeypatch):
    monkeypatch.setattr(rounds, "PAGE", 1000)
    monkeypatch.setattr(rounds, "PAGE_BYTES", 10)

    async def scenario():
        content = {"a": b"1", "b": b"2" * 10, "c": b"3" * 10, "d": b"4"}
        async with copying(content) as it:
            await it.run()
            pages = [key async for key in keys_of(it.notes)]
            assert len(pages) == 3
            assert await it.copied() == content

    run(scenario())


async def keys_of(store: ObjectStore):
    for info in (await store.list_page("", delimiter=False)).objects:
        yield info.key


class Model:
    """What must be in the copy: the contents from the beginning that were not changed, were
    renamed once at most, and whose old names were not used again."""

    def __init__(self, content: dict[str, bytes]) -> None:
        self.now = dict(content)
        self.ever = {key: {body} for key, body in content.items()}
        self.due = set(content.values())
        self.renamed: set[bytes] = set()
        self.names: dict[str, bytes] = dict(content)
        self.made = 0

    def _set(self, key: str, body: bytes) -> None:
        for lost in (self.now.get(key), self.names.get(key)):
            if lost != body:
                self.due.discard(lost)  # type: ignore[arg-type]
        self.now[key] = body
        self.ever.setdefault(key, set()).add(body)

    async def act(self, store: ObjectStore, what: str, key: str, other: str) -> None:
        if what == "write":
            if not _fits(self.now, key):
                return
            self.made += 1
            body = b"w%d" % self.made
            self._set(key, body)
            await store.put(key, body)
        elif key not in self.now:
            return
        elif what == "delete":
            self.due.discard(self.now.pop(key))
            await store.delete(key)
        elif key != other and _fits({k: v for k, v in self.now.items() if k != key}, other):
            if other.startswith(f"{key}/") or key.startswith(f"{other}/"):
                return
            body = self.now[key]
            if body in self.renamed:
                self.due.discard(body)
            self.renamed.add(body)
            self._set(other, body)
            self.now.pop(key)
            await rename(store, key, other)


def _fits(now: dict[str, bytes], key: str) -> bool:
    """Whether there is neither a file above the key nor one below."""
    parent = key.rpartition("/")[0]
    return parent not in now and not any(there.startswith(f"{key}/") for there in now)


actions = st.tuples(
    st.integers(0, 12),
    st.sampled_from(["rename", "rename", "write", "delete"]),
    st.sampled_from(KEYS),
    st.sampled_from(KEYS),
)


@settings(max_examples=150)
@given(
    content=st.sets(st.sampled_from([key for key in KEYS if key != "m"])),
    script=st.lists(actions, max_size=12),
    failures=st.sets(st.integers(1, 60), max_size=3),
)
def test_nothing_that_was_there_in_the_beginning_is_missing(content, script, failures):
    """Actions happen one after the other, so many operations of the rounds apart; at
    ``failures`` the process ends and another one goes on."""

    async def scenario():
        start = {key: key.encode() for key in content}
        async with copying(start) as it:
            model = Model(start)
            todo = list(script)
            count = since = 0
            turn = asyncio.Lock()  # two of the rounds' operations may be under way

            async def act() -> int:
                nonlocal count, since
                async with turn:
                    count, since = count + 1, since + 1
                    while todo and todo[0][0] <= since:
                        _, what, old, new = todo.pop(0)
                        since = 0
                        await model.act(it.origin, what, old, new)
                    return count

            async def before(operation: str, key: str) -> None:
                # One that is cancelled, for another has failed, leaves no action half done.
                if await asyncio.shield(act()) in failures:
                    raise StoreUnavailable("killed")

            it.before = before
            for _ in range(20):
                try:
                    objects, size = await it.run()
                    break
                except (StoreUnavailable, VolumeBusy):
                    continue
            else:
                raise AssertionError("it is never done")
            copied = await it.copied()
            assert model.due <= set(copied.values())
            assert all(body in model.ever[key] for key, body in copied.items())
            files = [
                entry
                async for entry in entries(it.notes, await count_rounds(it.notes))
                if entry.note in ("", "changed", "missing") and not entry.key.endswith("/")
            ]
            assert {entry.key: entry.size for entry in files} == {
                key: len(body) for key, body in copied.items()
            }
            assert size == sum(map(len, copied.values())) and objects >= len(copied)

    asyncio.run(scenario())
