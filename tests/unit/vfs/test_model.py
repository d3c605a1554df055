"""The file system against a model, through any sequence of calls, crashes and remounts.

Whatever a call answered is true: bytes read are those written last, names are those made last, and
when all is closed and drained the bucket holds exactly the files of the model.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from csi_slayer.catalog import ROOT
from csi_slayer.content import upload
from csi_slayer.errors import FsError
from csi_slayer.vfs.types import Entry, Opened, OpenFlags, Request, SetAttr
from tests.unit.vfs.harness import Volume

NOREPLACE, EXCHANGE = 1, 2
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Nothing here is to outlive the machine: what fsync would cost is saved."""

SIZES = [0, 1, 5_000, 140_000, 300_000]
"""Below and above the largest size that is kept as one small segment, and several blocks."""

names = st.sampled_from(["a", "b", "c"])
dirs = st.sampled_from(["", "d", "e", "d/s"])
places = st.tuples(dirs, names).map(lambda pair: f"{pair[0]}/{pair[1]}".lstrip("/"))
anything = places | st.sampled_from(["d", "e", "d/s"])
sizes = st.sampled_from(SIZES)
which = st.integers(0, 9)
rarely = st.sampled_from([False, False, False, True])

T = TypeVar("T")


@dataclass
class Node:
    """A directory (``names``) or a file (``data``)."""

    names: dict[str, Node] | None = None
    data: bytearray = field(default_factory=bytearray)
    mtime_ns: int | None = None

    @property
    def is_dir(self) -> bool:
        return self.names is not None


@dataclass
class Open:
    """A handle."""

    ino: int
    opened: Opened
    node: Node
    writable: bool


class Machine(RuleBasedStateMachine):
    @initialize(
        passthrough=st.booleans(),
        ttl=st.sampled_from([0.0, 3600.0]),
        durability=st.sampled_from(["close", "writeback"]),
        hydrate=st.sampled_from([0, 1 << 20]),
        part=st.sampled_from([64 << 10, 1 << 20]),
        attributes=st.booleans(),
        kind=st.sampled_from(["plain", "tree", "hides"]),
    )
    def begin(
        self,
        passthrough: bool,
        ttl: float,
        durability: str,
        hydrate: int,
        part: int,
        attributes: bool,
        kind: str,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="slayer-vfs-model-", dir=MEMORY))
        self.volume = Volume(
            self.directory,
            passthrough=passthrough,
            ttl=ttl,
            durability=durability,
            hydrate_max=hydrate,
            part_size=part,
            posix=attributes,
            tree=kind == "tree",
            hides=kind == "hides",
        )
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(upload, "SINGLE", 4096)  # larger ones are read while they are sent
        self.durability = durability
        self.root = Node({})
        self.open: list[Open] = []
        self.fill = 0
        self.died_changing = False

    # -- the model ---------------------------------------------------------------------------

    def node(self, path: str) -> Node | None:
        node: Node | None = self.root
        for name in path.split("/") if path else []:
            node = node.names.get(name) if node is not None and node.names is not None else None
        return node

    def split(self, path: str) -> tuple[Node | None, str]:
        parent, _slash, name = path.rpartition("/")
        return self.node(parent), name

    def ino(self, path: str) -> int:
        """Look a path up as the kernel would. Raises ENOENT."""
        ino = ROOT
        for name in path.split("/") if path else []:
            fs = self.volume.fs
            entry = self.volume.run(fs.lookup(self.volume.request(), ino, name.encode()))
            if entry.attr is None:
                raise FsError(2)
            ino = entry.attr.ino
        return ino

    def parent(self, path: str) -> tuple[int, bytes] | None:
        """The parent's inode and the name; None where the model has no such directory."""
        above, name = self.split(path)
        if above is None or not above.is_dir:
            return None
        return self.ino(path.rpartition("/")[0]), name.encode()

    def some_file(self, number: int) -> tuple[str, Node] | None:
        """One of the files there are."""
        found = sorted(self.files().items(), key=lambda item: item[0])
        return found[number % len(found)] if found else None

    def some_path(self, number: int, otherwise: str) -> str:
        """One of the names there are, or rather seldom another."""
        found = sorted(self.paths())
        return found[number % len(found)] if found and number < 9 else otherwise

    def fresh_bytes(self, size: int) -> bytes:
        self.fill = self.fill % 255 + 1
        return bytes([self.fill]) * size

    def pick(self, number: int, *, writable: bool = False) -> Open | None:
        found = [handle for handle in self.open if handle.writable or not writable]
        return found[number % len(found)] if found else None

    def once(self, call: Callable[[Request], Coroutine[Any, Any, T]], again: bool) -> T:
        """A call that the kernel makes ``again``, because the worker died with the reply."""
        request = self.volume.request()
        answer = self.volume.run(call(request))
        if again:
            self.kill(0)
            self.volume.start(taken_over=True)
            answer = self.volume.run(call(request._replace(resent=True)))
        return answer

    # -- files -------------------------------------------------------------------------------

    @rule(path=places, truncate=st.booleans(), size=sizes, again=rarely)
    def create(self, path: str, truncate: bool, size: int, again: bool) -> None:
        place = self.parent(path)
        if place is None or len(self.open) > 6:
            return
        above, name = self.split(path)
        assert above is not None and above.names is not None
        flags = os.O_RDWR | (os.O_TRUNC if truncate else 0)

        def call(request: Request) -> Coroutine[Any, Any, tuple[Entry, Opened]]:
            return self.volume.fs.create(request, *place, 0o100644, flags)

        node = above.names.get(name)
        if node is not None and node.is_dir:
            with pytest.raises(FsError):
                self.once(call, False)
            return
        entry, opened = self.once(call, again)
        assert entry.attr is not None
        if node is None:
            node = above.names[name] = Node()
        elif truncate:
            node.data.clear()
            node.mtime_ns = None
        handle = Open(entry.attr.ino, opened, node, True)
        self.open.append(handle)
        if size:
            self.write_to(handle, 0, size)

    @rule(number=which, flags=st.sampled_from([os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC]))
    def open_file(self, number: int, flags: int) -> None:
        found = self.some_file(number)
        if found is None or len(self.open) > 6:
            return
        path, node = found
        ino = self.ino(path)
        opened = self.volume.run(self.volume.fs.open(self.volume.request(), ino, flags))
        if flags & os.O_TRUNC:
            node.data.clear()
            node.mtime_ns = None
        self.open.append(Open(ino, opened, node, flags != os.O_RDONLY))

    def write_to(self, handle: Open, offset: int, size: int) -> None:
        data = self.fresh_bytes(size)
        self.volume.write(handle.ino, handle.opened, offset, data)
        content = handle.node.data
        content.extend(bytes(max(0, offset + size - len(content))))
        content[offset : offset + size] = data
        handle.node.mtime_ns = None

    @rule(number=which, offset=sizes, size=sizes.filter(bool))
    def write(self, number: int, offset: int, size: int) -> None:
        if handle := self.pick(number, writable=True):
            self.write_to(handle, offset, size)

    @rule(number=which, offset=sizes)
    def read(self, number: int, offset: int) -> None:
        if handle := self.pick(number):
            got = self.volume.read(handle.ino, handle.opened, offset, 1 << 20)
            assert got == handle.node.data[offset:]

    @rule(number=which)
    def read_path(self, number: int) -> None:
        if found := self.some_file(number):
            self.check_file(*found)

    def check_file(self, path: str, node: Node) -> None:
        fs, ino = self.volume.fs, self.ino(path)
        attr, _ttl = self.volume.run(fs.getattr(self.volume.request(), ino, None))
        assert attr.size == len(node.data)
        if node.mtime_ns is not None:
            assert attr.mtime_ns == node.mtime_ns
        opened = self.volume.run(fs.open(self.volume.request(), ino, os.O_RDONLY))
        assert self.volume.read(ino, opened, 0, 1 << 20) == node.data
        self.volume.run(fs.release(self.volume.request(), ino, opened.fh))

    @rule(number=which, size=sizes)
    def truncate(self, number: int, size: int) -> None:
        found = self.some_file(number)
        if found is None:
            return
        path, node = found
        changes = SetAttr(size=size)
        call = self.volume.fs.setattr(self.volume.request(), self.ino(path), changes)
        attr, _ttl = self.volume.run(call)
        assert attr.size == size
        node.data[:] = node.data[:size] + bytes(max(0, size - len(node.data)))
        node.mtime_ns = None

    @rule(number=which, seconds=st.integers(1, 3))
    def set_mtime(self, number: int, seconds: int) -> None:
        found = self.some_file(number)
        if found is None:
            return
        path, node = found
        node.mtime_ns = 10**18 + seconds
        changes = SetAttr(mtime_ns=node.mtime_ns)
        self.volume.run(self.volume.fs.setattr(self.volume.request(), self.ino(path), changes))

    @rule(number=which)
    def flush(self, number: int) -> None:
        if handle := self.pick(number, writable=True):
            fs = self.volume.fs
            self.volume.run(fs.flush(self.volume.request(), handle.ino, handle.opened.fh))
            if self.durability == "close":
                self.check_stored(handle.node)

    @rule(number=which, changes=st.integers(1, 3))
    def die_in_flush(self, number: int, changes: int) -> None:
        """The worker dies while the store is being changed for a close; the kernel asks again."""
        handle = self.pick(number, writable=True)
        if handle is None:
            return
        request = self.volume.request()
        self.died_changing = True
        self.volume.store.dies_in = changes

        async def first() -> None:
            fs = self.volume.fs
            task = asyncio.ensure_future(fs.flush(request, handle.ino, handle.opened.fh))
            while not task.done() and not self.volume.store.dead:  # noqa: ASYNC110 - turns, not time
                await asyncio.sleep(0)

        self.volume.run(first())
        self.volume.die()
        self.volume.start(taken_over=True)
        again = request._replace(resent=True)
        self.volume.run(self.volume.fs.flush(again, handle.ino, handle.opened.fh))
        if self.durability == "close":
            self.check_stored(handle.node)

    @rule(number=which)
    def fsync(self, number: int) -> None:
        if handle := self.pick(number, writable=True):
            fs = self.volume.fs
            self.volume.run(fs.fsync(self.volume.request(), handle.ino, handle.opened.fh, False))
            if self.durability == "close":
                self.check_stored(handle.node)

    def check_stored(self, node: Node) -> None:
        for path, found in self.files().items():
            if found is node:
                assert self.volume.objects().get(path) == bytes(node.data), f"{path} is not stored"

    @rule(number=which)
    def release(self, number: int) -> None:
        if handle := self.pick(number):
            self.open.remove(handle)
            self.close(handle)

    def close(self, handle: Open) -> None:
        fs = self.volume.fs
        if not handle.opened.flags & OpenFlags.NOFLUSH:
            self.volume.run(fs.flush(self.volume.request(), handle.ino, handle.opened.fh))
        self.volume.run(fs.release(self.volume.request(), handle.ino, handle.opened.fh))

    # -- names -------------------------------------------------------------------------------

    @rule(path=st.sampled_from(["d", "e", "d/s"]), again=rarely)
    def mkdir(self, path: str, again: bool) -> None:
        place = self.parent(path)
        if place is None:
            return
        above, name = self.split(path)
        assert above is not None and above.names is not None

        def call(request: Request) -> Coroutine[Any, Any, Entry]:
            return self.volume.fs.mkdir(request, *place, 0o755)

        if name in above.names:
            with pytest.raises(FsError):
                self.once(call, False)
        else:
            self.once(call, again)
            above.names[name] = Node({})

    @rule(number=which, other=anything, again=rarely)
    def remove(self, number: int, other: str, again: bool) -> None:
        path = self.some_path(number, other)
        place = self.parent(path)
        node = self.node(path)
        if place is None:
            return

        def call(request: Request) -> Coroutine[Any, Any, None]:
            fs = self.volume.fs
            return (fs.rmdir if node is not None and node.is_dir else fs.unlink)(request, *place)

        if node is None or node.names:
            with pytest.raises(FsError):
                self.once(call, False)
            return
        self.once(call, again)
        above, name = self.split(path)
        assert above is not None and above.names is not None
        del above.names[name]

    @rule(
        number=which,
        other=anything,
        to=anything,
        flags=st.sampled_from([0, 0, 0, NOREPLACE, EXCHANGE]),
        again=rarely,
    )
    def rename(self, number: int, other: str, to: str, flags: int, again: bool) -> None:
        source = self.some_path(number, other)
        target = to
        old, new = self.parent(source), self.parent(target)
        if old is None or new is None:
            return

        def call(request: Request) -> Coroutine[Any, Any, None]:
            return self.volume.fs.rename(request, *old, *new, flags)

        if not self.may_rename(source, target, flags):
            with pytest.raises(FsError):
                self.once(call, False)
            return
        self.once(call, again)
        if source == target:
            return
        (above, name), (new_above, new_name) = self.split(source), self.split(target)
        assert above is not None and above.names is not None
        assert new_above is not None and new_above.names is not None
        moved = above.names.pop(name)
        displaced = new_above.names.get(new_name)
        new_above.names[new_name] = moved
        if flags == EXCHANGE and displaced is not None:
            above.names[name] = displaced

    def may_rename(self, source: str, target: str, flags: int) -> bool:
        node, other = self.node(source), self.node(target)
        if node is None or (flags == EXCHANGE and other is None):
            return False
        if node is other:
            return True
        if node.is_dir and target.startswith(source + "/"):
            return False
        if flags == EXCHANGE:
            assert other is not None
            return not (other.is_dir and source.startswith(target + "/"))
        if other is None:
            return True
        if flags == NOREPLACE or node.is_dir != other.is_dir:
            return False
        return not other.names

    @rule(path=st.sampled_from(["", "d", "e", "d/s"]))
    def read_directory(self, path: str) -> None:
        node = self.node(path)
        if node is not None and node.names is not None:
            assert self.listed(self.ino(path)) == sorted(node.names)

    def listed(self, ino: int) -> list[str]:
        found: list[str] = []
        cookie = 0
        while True:
            fs = self.volume.fs
            items = self.volume.run(
                fs.readdir(self.volume.request(), ino, 0, cookie, 2, bool(len(found) % 2))
            )
            if not items:
                return sorted(found)
            cookie = items[-1].cookie
            found += [i.name.decode() for i in items if i.name not in (b".", b"..")]

    def files(self) -> dict[str, Node]:
        return {path: node for path, node in self.paths().items() if not node.is_dir}

    def paths(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        stack = [("", self.root)]
        while stack:
            path, node = stack.pop()
            if path:
                found[path] = node
            if node.names is None:
                continue
            stack += [(f"{path}/{name}".lstrip("/"), child) for name, child in node.names.items()]
        return found

    # -- time, death and the end -------------------------------------------------------------

    @rule(turns=st.sampled_from([1, 2, 3, 5, 10, 50]))
    def wait(self, turns: int) -> None:
        self.volume.turn(turns)

    @rule(changes=st.integers(0, 3))
    def take_over(self, changes: int) -> None:
        """The worker is killed, after some changes of the store, and another takes over."""
        self.kill(changes)
        self.volume.start(taken_over=True)

    @precondition(lambda self: self.durability == "writeback")
    @rule(changes=st.integers(0, 3))
    def lose_all(self, changes: int) -> None:
        """Worker and supervisor are killed: the mount is gone, another is made."""
        self.kill(changes)
        self.open.clear()
        self.volume.start(taken_over=False)

    def kill(self, changes: int) -> None:
        if changes:
            self.died_changing = True
            self.volume.store.dies_in = changes
            self.volume.turn(60)
        self.volume.die()

    @rule()
    def remount(self) -> None:
        for handle in self.open:
            self.close(handle)
        self.open.clear()
        self.volume.stop()
        self.check_bucket()
        self.volume.start(taken_over=False)

    def check_bucket(self) -> None:
        """The bucket has the model's files and nothing else; nothing is left behind anywhere."""
        files = self.files()
        objects = {k: v for k, v in self.volume.objects().items() if not k.endswith("/")}
        assert sorted(objects) == sorted(files)
        marks = {key.rstrip("/") for key in self.volume.objects() if key.endswith("/")}
        assert marks <= self.paths().keys() - files.keys(), "a removed directory is still there"
        for path, node in files.items():
            assert objects[path] == node.data, path
        assert self.volume.events.conflicts == 0
        if not self.died_changing:  # an upload begun in that instant is known to nobody
            assert not self.volume.bucket.uploads
        staged = list((self.directory / "cache").glob("staging/*/*"))
        assert staged == []

    def teardown(self) -> None:
        if not hasattr(self, "volume"):
            return
        try:
            self.remount()
            for path, node in self.files().items():
                self.check_file(path, node)
            self.volume.stop()
        finally:
            self.patch.undo()
            self.volume.kernel.close()
            shutil.rmtree(self.directory, ignore_errors=True)


Machine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestFileSystem = Machine.TestCase
