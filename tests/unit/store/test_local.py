"""What is particular to a directory as a store."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csi_slayer.errors import (
    DescriptorsUsedUp,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreFull,
    StoreUnsupported,
)
from csi_slayer.store.base import ABSENT, ObjectStore
from csi_slayer.store.local import drafts, listing, uploads
from csi_slayer.store.local.attributes import Attributes
from csi_slayer.store.local.listing import Listings
from csi_slayer.store.local.tree import Tree
from csi_slayer.store.open import open_store
from csi_slayer.store.options import StoreOptions
from tests.support.descriptors import none_left

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def store(run: Run, tmp_path: Path) -> Iterator[ObjectStore]:
    (tmp_path / "objects").mkdir()
    store = run(open_store(f"file://{tmp_path}/objects", StoreOptions()))
    yield store
    run(store.close())


@pytest.fixture
def root(tmp_path: Path, store: ObjectStore) -> Path:
    return tmp_path / "objects"


def _keys(run: Run, store: ObjectStore) -> list[str]:
    return [item.key for item in run(store.list_page("", delimiter=False)).objects]


def test_objects_are_plain_files(run: Run, store: ObjectStore, root: Path) -> None:
    run(store.put("a/b", b"content"))
    assert (root / "a" / "b").read_bytes() == b"content"
    (root / "a" / "c").write_bytes(b"from outside")
    (root / "empty").mkdir()
    assert _keys(run, store) == ["a/b", "a/c", "empty/"]
    assert run(store.get("a/c"))[1] == b"from outside"
    assert run(store.head("empty/")).size == 0


def test_changes_from_outside_change_the_etag(run: Run, store: ObjectStore, root: Path) -> None:
    first = run(store.put("key", b"12345"))
    with (root / "key").open("r+b") as file:
        file.write(b"54321")
    second = run(store.head("key"))
    assert second.etag != first.etag
    with pytest.raises(PreconditionFailed):
        run(store.get("key", if_match=first.etag))
    (root / "new").write_bytes(b"12345")
    (root / "new").rename(root / "key")
    assert run(store.head("key")).etag not in (first.etag, second.etag)


@pytest.mark.parametrize("second", [-(10**11), 10**11])
def test_times_that_cannot_be_kept_become_the_nearest(
    run: Run, store: ObjectStore, root: Path, second: int
) -> None:
    """A file system may know more of them than 64 bits of nanoseconds have room for."""
    (root / "f").write_bytes(b"data")
    os.utime(root / "f", (second, second))
    (found,) = run(store.list_page("")).objects
    assert abs(found.mtime_ns) <= 2**63
    info, data = run(store.get("f", if_match=found.etag))
    assert (info.mtime_ns, data) == (found.mtime_ns, b"data")


def test_etags_never_repeat(run: Run, store: ObjectStore) -> None:
    """Inode numbers are given again at once, so they alone would not do."""
    etags = [run(store.put("key", b"same")).etag for _ in range(200)]
    assert len(set(etags)) == 200


def test_a_change_while_it_is_fetched_is_noticed(run: Run, store: ObjectStore, root: Path) -> None:
    class Sink:
        piece = 4096
        written = 0

        def room(self, size: int) -> None:
            return None

        def write(self, offset: int, data: memoryview) -> None:
            assert bytes(data) == b"a" * len(data)
            self.written += 1
            with (root / "key").open("r+b") as file:
                file.write(b"b" * 16384)

    info = run(store.put("key", b"a" * 16384))
    sink = Sink()
    with pytest.raises(PreconditionFailed):
        run(store.fetch("key", offset=0, length=16384, if_match=info.etag, sink=sink))
    assert sink.written == 1


def test_symlinks_lead_nowhere(run: Run, store: ObjectStore, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "file").symlink_to(tmp_path / "outside" / "secret")
    assert _keys(run, store) == []
    for key in ("link/secret", "file", "link/"):
        for call in (store.head(key), store.get(key)):
            with pytest.raises(ObjectNotFound):
                run(call)
    with pytest.raises(StoreError):
        run(store.put("link/new", b""))
    with pytest.raises(StoreError):
        run(store.put("file", b""))
    run(store.delete("link/secret"))
    run(store.delete("file"))
    assert (tmp_path / "outside" / "secret").read_bytes() == b"secret"
    assert os.listdir(tmp_path / "outside") == ["secret"]
    assert run(store.list_page("link/")).objects == []


def test_special_files_are_no_objects(run: Run, store: ObjectStore, root: Path) -> None:
    os.mkfifo(root / "fifo")
    assert _keys(run, store) == []
    with pytest.raises(ObjectNotFound):
        run(store.get("fifo"))
    with pytest.raises(StoreUnsupported):
        run(store.put("fifo", b""))
    os.mkdir(os.fsencode(root) + b"/\xff")
    assert _keys(run, store) == []


def test_a_file_and_a_directory_cannot_share_a_name(run: Run, store: ObjectStore) -> None:
    run(store.put("a", b"file"))
    with pytest.raises(StoreUnsupported, match="cannot hold"):
        run(store.put("a/b", b""))
    with pytest.raises(StoreUnsupported, match="cannot hold"):
        run(store.put("a/", b""))
    run(store.put("d/x", b""))
    with pytest.raises(StoreUnsupported, match="is a directory"):
        run(store.put("d", b""))
    with pytest.raises(StoreUnsupported, match="cannot hold bytes"):
        run(store.put("e/", b"bytes"))
    assert _keys(run, store) == ["a", "d/x"]


def test_nothing_unfinished_is_left(run: Run, store: ObjectStore, root: Path) -> None:
    run(store.put("key", b"", condition=ABSENT))
    with pytest.raises(PreconditionFailed):
        run(store.put("key", b"x", condition=ABSENT))
    assert os.listdir(root / ".slayerfs-tmp" / "new") == []


def test_a_large_object_is_made_durable_in_pieces(
    run: Run, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    fdatasync = os.fdatasync

    def sync(fd: int) -> None:
        fdatasync(fd)
        seen.append(store.progress)

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(drafts, "_SYNC", 2 << 20)
    monkeypatch.setattr(drafts, "_CHUNK", 1 << 20)
    (tmp_path / "file").write_bytes(b"x" * (7 << 20))
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        run(store.put_file("key", fd, 7 << 20))
    finally:
        os.close(fd)
    assert len(seen) == 3 and seen == sorted(set(seen)), "each sync is progress"
    assert run(store.head("key")).size == 7 << 20


def test_leftovers_are_removed_by_age(run: Run, store: ObjectStore, root: Path) -> None:
    upload = run(store.create_multipart("key"))
    fresh, old = (root / ".slayerfs-tmp" / "new" / name for name in ("fresh", "old"))
    fresh.touch()
    old.touch()
    os.utime(old, (0, 0))
    tree = Tree(str(root))
    uploads.clean(tree, time.time())
    assert os.listdir(root / ".slayerfs-tmp" / "new") == ["fresh"]
    assert [u.upload_id for u in run(store.list_multipart(""))] == [upload]
    uploads.clean(tree, time.time() + 30 * 24 * 3600)
    assert run(store.list_multipart("")) == []
    tree.close()


def test_what_another_worker_removes_meanwhile_is_no_leftover(
    root: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the volume could not be mounted."""
    tree, listdir = Tree(str(root)), os.listdir
    monkeypatch.setattr(os, "listdir", lambda *args: [*listdir(*args), "0" * 32])
    uploads.clean(tree, time.time() + 30 * 24 * 3600)
    tree.close()


def test_without_extended_attributes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Attributes, "_probe", lambda self: False)
    store = run(open_store(f"file://{tmp_path}/plain", StoreOptions(allow_missing=True)))
    side = tmp_path / "plain" / ".slayerfs-tmp" / "attributes"
    run(store.put("key", b"1", metadata={"mode": "1"}))
    run(store.put("dir/", b"", metadata={"mode": "2"}))
    assert run(store.head("key")).metadata == {"mode": "1"}
    assert run(store.head("dir/")).metadata == {"mode": "2"}
    run(store.copy("key", "copy"))
    assert run(store.head("copy")).metadata == {"mode": "1"}
    (tmp_path / "plain" / "key").write_bytes(b"changed outside")
    assert run(store.head("key")).metadata == {}
    run(store.put("copy", b"2", metadata={"mode": "3"}))
    assert run(store.head("copy")).metadata == {"mode": "3"}
    assert run(store.delete_many(["copy", "dir/"])) == {}
    assert len(os.listdir(side)) == 1  # of the version that was changed outside
    run(store.close())


CREATE = """
import asyncio, sys
from csi_slayer.errors import PreconditionFailed
from csi_slayer.store.base import ABSENT
from csi_slayer.store.open import open_store
from csi_slayer.store.options import StoreOptions
from tests.support.descriptors import none_left

async def main():
    store = await open_store(sys.argv[1], StoreOptions())
    won = 0
    for number in range(50):
        try:
            await store.put(f"lock/{number}", b"x", condition=ABSENT)
            won += 1
        except PreconditionFailed:
            pass
    await store.close()
    print(won)

asyncio.run(main())
"""


def test_two_processes_cannot_both_win(store: ObjectStore, root: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, f"file://{root}"], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert sum(map(int, outputs)) == 50


names = st.text("ab.-/", min_size=1, max_size=8).filter(
    lambda key: all(part not in ("", ".", "..") for part in key.split("/"))
)


def _holdable(keys: set[str]) -> list[str]:
    """Without keys that are directories of others."""
    return sorted(k for k in keys if not any(other.startswith(k + "/") for other in keys))


def _s3_page(keys: list[str], prefix: str, delimiter: bool, after: str) -> list[str]:
    """What S3 lists, by its documentation."""
    found: list[str] = []
    for key in keys:
        if not key.startswith(prefix) or key <= after:
            continue
        rest = key[len(prefix) :]
        item = prefix + rest.split("/")[0] + "/" if delimiter and "/" in rest else key
        if not found or found[-1] != item:
            found.append(item)
    return found


@settings(max_examples=60)
@given(
    keys=st.sets(names, max_size=12),
    prefix=st.sampled_from(["", "a", "a/", "b", "b/a", "a/b/", "a.", "/", "-"]),
    delimiter=st.booleans(),
    after=st.sampled_from(["", "a", "a/", "a/a", "b", "b/b/b"]),
    limit=st.integers(1, 5),
    forget=st.booleans(),
)
def test_listings_are_those_of_s3(
    tmp_path_factory: pytest.TempPathFactory,
    keys: set[str],
    prefix: str,
    delimiter: bool,
    after: str,
    limit: int,
    forget: bool,
) -> None:
    root = tmp_path_factory.mktemp("listing")
    holdable = _holdable(keys)
    for key in holdable:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).touch()
    tree = Tree(str(root))
    listings = Listings(tree)
    found: list[str] = []
    token = None
    for _ in range(50):
        page = listings.page(prefix, delimiter, token, after if token is None else None, limit)
        items = sorted([item.key for item in page.objects] + list(page.prefixes))
        assert len(items) <= limit
        found += items
        token = page.token
        if token is None:
            break
        if forget:
            listings = Listings(tree)
    tree.close()
    assert found == _s3_page(holdable, prefix, delimiter, after)


def test_the_root_is_listed_by_many_at_once(run: Run, store: ObjectStore, root: Path) -> None:
    for number in range(800):
        (root / f"{number:03}").touch()

    async def lists() -> list[int]:
        pages = await asyncio.gather(*(store.list_page("") for _ in range(60)))
        return [len(page.objects) for page in pages]

    assert run(lists()) == [800] * 60


def test_a_listing_may_have_any_number_of_pages(tmp_path: Path) -> None:
    """After 994, which is a million names, it ended with a RecursionError."""
    names = [f"n{number:04}" for number in range(1100)]
    for name in names:
        (tmp_path / name).touch()
    tree = Tree(str(tmp_path))
    listings = Listings(tree)
    found: list[str] = []
    token = None
    for _ in names:
        page = listings.page("", True, token, None, 1)
        found += [item.key for item in page.objects]
        token = page.token
    tree.close()
    assert token is None
    assert found == names


def test_few_listings_of_one_directory_that_nobody_goes_on_with_are_kept(tmp_path: Path) -> None:
    """Eight of a directory of 300,000 names took 200 MB."""
    for name in "abc":
        (tmp_path / name).touch()
    tree = Tree(str(tmp_path))
    listings = Listings(tree)
    tokens = [listings.page("", True, None, None, 1).token for _ in range(4)]
    assert len(listings._cursors) == 2
    for token in tokens:
        assert [item.key for item in listings.page("", True, token, None, 9).objects] == ["b", "c"]
    tree.close()


def test_cursors_are_bounded(run: Run, store: ObjectStore) -> None:
    for number in range(4):
        run(store.put(f"k{number}", b""))
    tokens = [run(store.list_page("", limit=2)).token for _ in range(listing._MOST_CURSORS * 2)]
    for token in tokens:
        page = run(store.list_page("", token=token, limit=2))
        assert [item.key for item in page.objects] == ["k2", "k3"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_full_store(
    run: Run, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(StoreFull, match="the store's disk is full") as caught:
        run(store.put("a", b"bytes"))
    assert caught.value.errno == errno.ENOSPC


def test_without_descriptors_that_is_what_is_said(run: Run, store: ObjectStore) -> None:
    run(store.put("a/b", b"content"))
    with none_left(), pytest.raises(DescriptorsUsedUp) as failed:
        run(store.get("a/b"))
    assert failed.value.errno == errno.ENFILE
    assert run(store.get("a/b"))[1] == b"content"
