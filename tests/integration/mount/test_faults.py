"""A store that fails now and then: repeated or EIO, never wrong bytes, nothing lost."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.mount.volumes import write_config
from tests.support.faultproxy import FaultProxy
from tests.support.faults import (
    Cut,
    CutUpload,
    Fault,
    Header,
    LoseAnswer,
    Status,
    Truncate,
    WrongLength,
)
from tests.support.mounts import TestMount, wait_for
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SHORT = [
    "volume.io_timeout=5s",
    "store.retry_deadline=5s",
    "store.request_timeout=3s",
    "store.connect_timeout=2s",
    "volume.part_size=5MiB",
    "volume.metadata_ttl=0",
]
"""Options by which a store that does not answer is given up soon."""

PATIENT = ["volume.io_timeout=60s", "store.retry_deadline=60s", "store.request_timeout=30s"]
"""Options for faults that end by themselves, and much at once: only they may fail a request."""


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def at_once(calls: Iterable[Callable[[], object]]) -> None:
    """Make calls that wait, each in a thread of its own; fails as the first that fails."""
    calls = list(calls)
    with ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(call) for call in calls]:
            future.result()


class Faulty:
    """A bucket behind a proxy, and a mount of it that goes through the proxy."""

    def __init__(self, server: S3Server, tmp_path: Path) -> None:
        self.server = server
        self.bucket = server.create_bucket()
        self.proxy = FaultProxy(server.endpoint)
        self._tmp = tmp_path
        self._mounts: list[TestMount] = []

    def mount(self, *options: str, **kwargs: Any) -> TestMount:
        config = write_config(self._tmp / "config.yaml", self.server, endpoint=self.proxy.endpoint)
        mount = TestMount(f"s3://{self.bucket}", self._tmp, options=[*SHORT, *options], **kwargs)
        self._mounts.append(mount)
        return mount.mount("--config", str(config))

    def put(self, key: str, body: bytes) -> None:
        self.server.admin.put(self.bucket, key, body)

    def get(self, key: str) -> bytes:
        return self.server.admin.get(self.bucket, key)

    def listing(self) -> list[str]:
        return self.server.admin.keys(self.bucket)

    def close(self) -> None:
        self.proxy.heal()
        self.proxy.come_back()
        for mount in self._mounts:
            mount.close()
        self.proxy.close()
        self.server.admin.delete_bucket(self.bucket)


@pytest.fixture
def faulty(versitygw: S3Server, tmp_path: Path) -> Iterator[Faulty]:
    made = Faulty(versitygw, tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["versitygw", "minio"])
def faulty_each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Faulty]:
    made = Faulty(request.getfixturevalue(request.param), tmp_path)
    yield made
    made.close()


READ_FAULTS: dict[str, Fault] = {
    "500": Status(500),
    "503": Status(503, "SlowDown"),
    "cut": Cut(70_000),
    "cut_at_once": Cut(0),
    "truncated": Truncate(70_000),
    "shorter": WrongLength(-10),
    "longer": WrongLength(10),
    "wrong_etag": Header("ETag", '"0123456789abcdef0123456789abcdef"'),
    "no_etag": Header("ETag", None),
    "wrong_range": Header("Content-Range", "bytes 10-20/30"),
    "lost": LoseAnswer(),
}
SMALL, LARGE = content(100_000), content(11 << 20)


def test_reads_that_fail_twice_are_repeated(faulty_each: Faulty) -> None:
    """Each kind of fault, for a file fetched whole and for one fetched in ranges."""
    for name in READ_FAULTS:
        faulty_each.put(f"{name}/small", SMALL)
        faulty_each.put(f"{name}/large", LARGE)
    mount = faulty_each.mount(*PATIENT)

    def read(name: str, fault: Fault) -> None:
        rule = faulty_each.proxy.inject(fault, kind="GetObject", path=f"/{name}/", times=2)
        assert (mount.root / name / "small").read_bytes() == SMALL, name
        assert (mount.root / name / "large").read_bytes() == LARGE, name
        assert rule.hits == 2, name

    at_once(partial(read, name, fault) for name, fault in READ_FAULTS.items())


def test_reads_that_fail_for_ever_are_errors(faulty: Faulty) -> None:
    for name in READ_FAULTS:
        faulty.put(f"{name}/small", SMALL)
        faulty.put(f"{name}/large", LARGE)
        faulty.proxy.inject(READ_FAULTS[name], kind="GetObject", path=f"/{name}/")
    mount = faulty.mount()

    def read(name: str, size: str) -> None:
        with pytest.raises(OSError) as caught:
            (mount.root / name / size).read_bytes()
        assert caught.value.errno in (errno.EIO, errno.ESTALE), name

    at_once(partial(read, name, size) for name in READ_FAULTS for size in ("small", "large"))
    faulty.proxy.heal()
    for name in READ_FAULTS:
        assert (mount.root / name / "small").read_bytes() == SMALL, name
        assert (mount.root / name / "large").read_bytes() == LARGE, name


WRITE_FAULTS: dict[str, Fault] = {
    "500": Status(500),
    "503": Status(503, "SlowDown"),
    "cut_upload": CutUpload(1000),
    "lost": LoseAnswer(),
    "cut": Cut(0),
}


def _write(path: Path, body: bytes) -> None:
    with path.open("wb") as file:
        file.write(body)


def _change(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(10)
        file.write(b"changed")


WORK: dict[str, tuple[str, Callable[[Path], object]]] = {
    "create": ("PutObject", lambda root: _write(root / "new", SMALL)),
    "empty": ("PutObject", lambda root: _write(root / "nothing", b"")),
    "replace": ("PutObject", lambda root: _change(root / "old")),
    "begin": ("CreateMultipartUpload", lambda root: _write(root / "large", LARGE)),
    "part": ("UploadPart", lambda root: _write(root / "large", LARGE)),
    "complete": ("CompleteMultipartUpload", lambda root: _write(root / "large", LARGE)),
    "copy": ("CopyObject", lambda root: (root / "old").rename(root / "moved")),
    "delete": ("DeleteObject", lambda root: (root / "old").unlink()),
    "directory": ("PutObject", lambda root: (root / "directory").mkdir()),
}
CHANGED = SMALL[:10] + b"changed" + SMALL[17:]
AFTER: dict[str, dict[str, bytes]] = {
    "create": {"old": SMALL, "new": SMALL},
    "empty": {"old": SMALL, "nothing": b""},
    "replace": {"old": CHANGED},
    "begin": {"old": SMALL, "large": LARGE},
    "part": {"old": SMALL, "large": LARGE},
    "complete": {"old": SMALL, "large": LARGE},
    "copy": {"moved": SMALL},
    "delete": {},
    "directory": {"old": SMALL, "directory/": b""},
}


def test_writes_that_fail_twice_are_repeated(faulty_each: Faulty) -> None:
    """Each kind of request and fault; most of all answers that are lost after the deed."""
    for name in WORK:
        for fault in WRITE_FAULTS:
            faulty_each.put(f"{name}-{fault}/old", SMALL)
    mount = faulty_each.mount(*PATIENT)

    def work(name: str, fault: str) -> None:
        kind, act = WORK[name]
        place = f"{name}-{fault}"
        (mount.root / place / "old").read_bytes()
        rule = faulty_each.proxy.inject(WRITE_FAULTS[fault], kind=kind, path=f"/{place}/", times=2)
        act(mount.root / place)
        mount.wait_idle()
        assert rule.hits > 0 or fault == "cut_upload", place

    for name in WORK:
        calls = [partial(work, name, fault) for fault in WRITE_FAULTS]
        # Deletions at once would be one request, and large files are sent ahead if it takes long.
        alone = name in ("delete", "begin", "part", "complete")
        for group in [[call] for call in calls] if alone else [calls]:
            at_once(group)
        for fault in WRITE_FAULTS:
            place = f"{name}-{fault}"
            found = {
                key.removeprefix(f"{place}/"): faulty_each.get(key)
                for key in faulty_each.server.admin.keys(faulty_each.bucket, f"{place}/")
            }
            found.pop("", None)  # an object that says that there is a directory
            assert found == AFTER[name], place
    status = mount.ask_status()
    assert status["counters"]["conflicts"] == 0
    assert status["failing"] == []
    assert not [key for key in faulty_each.listing() if key.startswith(".slayerfs")]
    mount.umount()
    # An upload whose very beginning was never answered has an id that nobody knows: the bucket's
    # lifecycle rule ends it (docs/semantics.md). No other may be left.
    unknown = {"begin-lost/large", "begin-cut/large"}
    assert set(faulty_each.server.admin.uploads(faulty_each.bucket)) <= unknown


@pytest.mark.parametrize("kind", ["UploadPart", "CompleteMultipartUpload"])
def test_an_upload_that_a_lifecycle_rule_has_ended_is_no_lost_race(
    faulty: Faulty, kind: str
) -> None:
    faulty.put("old", SMALL)
    mount = faulty.mount()
    for name in ("old", "new"):
        rule = faulty.proxy.inject(Status(404, "NoSuchUpload"), kind=kind, path=name, times=1)
        (mount.root / name).write_bytes(LARGE)
        assert rule.hits == 1
        assert faulty.get(name) == LARGE
    assert mount.ask_status()["counters"]["conflicts"] == 0


@pytest.mark.parametrize("durability", ["close", "writeback"])
def test_a_bad_day(faulty_each: Faulty, durability: str) -> None:
    """A third of all requests fail in one way or another, under changes of all kinds."""
    mount = faulty_each.mount(f"volume.durability={durability}", *PATIENT)
    for fault in (Status(503, "SlowDown"), Cut(500), LoseAnswer(), Truncate(100), CutUpload(300)):
        faulty_each.proxy.inject(fault, fraction=0.07)
    rng = random.Random(3)
    wanted: dict[str, bytes] = {}
    (mount.root / "d").mkdir()
    for number in range(120):
        name = f"d/{rng.randrange(25)}"
        path = mount.root / name
        what = rng.random()
        if what < 0.6 or name not in wanted:
            wanted[name] = rng.randbytes(rng.choice((0, 1000, 200_000, 2_000_000)))
            _write(path, wanted[name])
        elif what < 0.75:
            path.unlink()
            del wanted[name]
        elif what < 0.9:
            target = f"d/r{number}"
            path.rename(mount.root / target)
            wanted[target] = wanted.pop(name)
        else:
            assert path.read_bytes() == wanted[name]
    faulty_each.proxy.heal()
    mount.wait_idle()
    found = {key: faulty_each.get(key) for key in faulty_each.listing() if not key.endswith("/")}
    assert sorted(found) == sorted(wanted)
    assert found == wanted
    assert sorted(os.listdir(mount.root / "d")) == sorted(name[2:] for name in wanted)
    assert mount.ask_status()["counters"]["conflicts"] == 0


def test_a_bucket_that_is_gone_is_no_empty_one(faulty: Faulty) -> None:
    """Somebody deletes it, or an endpoint is moved: to ENOENT a backup answers by deleting."""
    faulty.put("file", b"x")
    faulty.put("d/file", b"x")
    mount = faulty.mount()
    assert sorted(os.listdir(mount.root)) == ["d", "file"]
    faulty.proxy.inject(Status(404, "NoSuchBucket"))
    calls: list[Callable[[], object]] = [
        lambda: os.stat(mount.root / "new"),
        lambda: os.listdir(mount.root / "d"),
        lambda: (mount.root / "file").read_bytes(),
        lambda: (mount.root / "other").write_bytes(b"x"),
    ]
    for call in calls:
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EIO
    faulty.proxy.heal()
    assert (mount.root / "file").read_bytes() == b"x"


def test_a_store_that_copies_no_parts_is_sent_them(faulty: Faulty) -> None:
    """Storj copies no arbitrary ranges."""
    faulty.put("large", LARGE)
    mount = faulty.mount("volume.hydrate_max=1MiB")
    rule = faulty.proxy.inject(Status(501, "NotImplemented"), kind="UploadPartCopy")
    with (mount.root / "large").open("r+b") as file:
        file.seek(6 << 20)
        file.write(b"changed")
    changed = LARGE[: 6 << 20] + b"changed" + LARGE[(6 << 20) + 7 :]
    assert faulty.get("large") == changed
    assert (mount.root / "large").read_bytes() == changed
    assert rule.hits > 0


def test_a_store_that_is_full_says_so(faulty: Faulty) -> None:
    """As Ceph and versitygw do; what could not be stored is, as soon as there is room."""
    mount = faulty.mount()
    rule = faulty.proxy.inject(Status(403, "QuotaExceeded"), kind="PutObject")
    with pytest.raises(OSError) as caught:
        (mount.root / "new").write_bytes(SMALL)
    assert caught.value.errno == errno.ENOSPC
    faulty.proxy.remove(rule)
    mount.wait_idle()
    assert faulty.get("new") == SMALL


def test_a_quota_counts_what_could_not_be_listed_at_first(faulty: Faulty) -> None:
    faulty.put("denied/large", LARGE)
    rule = faulty.proxy.inject(Status(403, "AccessDenied"), path=r"prefix=denied(%2F|/)")
    mount = faulty.mount(f"volume.quota={len(LARGE) + 1000}")
    wait_for(lambda: rule.hits, what="the tree to be read")
    faulty.proxy.remove(rule)
    wait_for(lambda: mount.status()["used_bytes"] == len(LARGE), what="all to be counted")
    with pytest.raises(OSError) as caught:
        (mount.root / "new").write_bytes(bytes(2000))
    assert caught.value.errno == errno.ENOSPC
