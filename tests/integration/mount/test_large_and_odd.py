"""Huge directories, files larger than the cache, full caches and quotas, odd keys."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import random
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.integration.mount.conftest import MakeMount
from tests.integration.mount.s3volumes import s3_volume
from tests.support.mounts import wait_for
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MIB = 1 << 20


def drop_page_cache(path: Path) -> None:
    """Have the kernel forget a file's pages, so that the next read comes to the worker."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_huge_directory_is_listed_whole_and_once(make_mount: MakeMount, objects: Path) -> None:
    """100,000 names, while others are made and removed."""
    many = objects / "many"
    many.mkdir()
    for number in range(100_000):
        os.close(os.open(many / f"n{number:06}", os.O_CREAT | os.O_WRONLY))
    root = make_mount().mount().root
    found = os.listdir(root / "many")
    assert len(found) == 100_000
    assert len(set(found)) == 100_000
    stop = threading.Event()
    failures: list[BaseException] = []

    def change() -> None:
        try:
            number = 0
            while not stop.is_set():
                (root / f"many/new{number}").write_bytes(b"x")
                if number % 2:
                    (root / f"many/new{number}").unlink()
                number += 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(2):
            with os.scandir(root / "many") as entries:
                names = [entry.name for entry in entries]
            assert len(names) == len(set(names))
            assert {name for name in names if name[1:].isdigit()} == set(found)
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_a_file_larger_than_the_cache(make_mount: MakeMount, objects: Path) -> None:
    """Read cold, read again, changed in place, written anew: always the right bytes."""
    size = 200 * MIB
    block = os.urandom(MIB)
    with (objects / "big").open("wb") as made:
        for number in range(size // MIB):
            made.write(number.to_bytes(8, "big") + block[8:])
    options = ["cache.capacity=64MiB", "cache.min_free=0", "volume.hydrate_max=1MiB"]
    mount = make_mount(options=options).mount()
    path = mount.root / "big"

    def check(changed: dict[int, bytes]) -> None:
        with path.open("rb", buffering=MIB) as file:
            for number in range(size // MIB):
                expected = changed.get(number, number.to_bytes(8, "big") + block[8:])
                assert file.read(MIB) == expected, f"MiB {number}"

    check({})
    drop_page_cache(path)
    check({})
    usage = mount.status()["cache"]
    assert usage["bytes"] <= usage["capacity"]
    changed = {150: b"changed!" + block[8:], 3: b"also new" + block[8:]}
    with path.open("r+b", buffering=0) as file:
        for number, data in changed.items():
            assert os.pwrite(file.fileno(), data, number * MIB) == MIB
    drop_page_cache(path)
    check(changed)
    mount.wait_idle()
    with (objects / "big").open("rb") as stored:
        stored.seek(150 * MIB)
        assert stored.read(8) == b"changed!"
        assert os.fstat(stored.fileno()).st_size == size


def test_a_full_cache_of_unsent_data_is_enospc(make_mount: MakeMount, objects: Path) -> None:
    """Never an overfull disk, never a torn object."""
    options = ["cache.capacity=64MiB", "cache.min_free=0"]
    mount = make_mount(options=options).mount()
    piece = os.urandom(MIB)
    handles = [(mount.root / f"f{number}").open("wb", buffering=0) for number in range(8)]
    errors = set()
    for _ in range(16):
        for handle in handles:
            try:
                handle.write(piece)
            except OSError as error:
                errors.add(error.errno)
    try:
        (mount.root / "one more").write_bytes(piece)
    except OSError as error:
        errors.add(error.errno)
    assert errors <= {errno.ENOSPC}
    for handle in handles:
        handle.close()
    mount.wait_idle()
    for number in range(8):
        body = (objects / f"f{number}").read_bytes()
        assert len(body) % MIB == 0
        assert body == piece * (len(body) // MIB)


def test_files_of_any_date_can_be_listed_and_written(make_mount: MakeMount, objects: Path) -> None:
    for name, second in (("past", -(10**11)), ("future", 10**11)):
        (objects / name).write_bytes(b"data")
        os.utime(objects / name, (second, second))
    root = make_mount().mount().root
    assert sorted(path.name for path in root.iterdir()) == ["future", "past"]
    for path in root.iterdir():
        assert path.read_bytes() == b"data"
        path.write_bytes(b"new")
        assert (objects / path.name).read_bytes() == b"new"
    assert (root / "past").stat().st_mtime > 1.7e9


def test_sparse_file_in_the_store(make_mount: MakeMount, objects: Path) -> None:
    mount = make_mount().mount()
    with (mount.root / "f").open("wb") as file:
        file.truncate(40 * MIB)
        file.seek(30 * MIB)
        file.write(b"data")
    assert (mount.root / "f").stat().st_size == 40 * MIB
    expected = hashlib.sha256(bytes(30 * MIB) + b"data" + bytes(10 * MIB - 4)).hexdigest()
    assert hashlib.sha256((objects / "f").read_bytes()).hexdigest() == expected
    drop_page_cache(mount.root / "f")
    assert hashlib.sha256((mount.root / "f").read_bytes()).hexdigest() == expected


def test_quota_is_enospc_and_what_df_shows(
    make_mount: MakeMount, objects: Path, capabilities: list[str]
) -> None:
    (objects / "there").write_bytes(bytes(4 * MIB))
    mount = make_mount(options=["volume.quota=16MiB", *capabilities]).mount()
    found = wait_for(
        lambda: (s := os.statvfs(mount.root)).f_bavail * s.f_frsize == 12 * MIB and s,
        what="the tree to be measured",
    )
    assert found.f_blocks * found.f_frsize == 16 * MIB
    (mount.root / "a").write_bytes(bytes(8 * MIB))
    with pytest.raises(OSError) as caught:
        (mount.root / "b").write_bytes(bytes(8 * MIB))
    assert caught.value.errno in (errno.ENOSPC, errno.EDQUOT)
    with pytest.raises(OSError) as caught:
        os.truncate(mount.root / "a", 64 * MIB)
    assert caught.value.errno in (errno.ENOSPC, errno.EDQUOT)
    for name in ("a", "b"):
        (mount.root / name).unlink(missing_ok=True)
    wait_for(lambda: (s := os.statvfs(mount.root)).f_bavail * s.f_frsize == 12 * MIB)
    (mount.root / "c").write_bytes(bytes(10 * MIB))


def test_odd_keys_are_hidden_and_counted(
    s3_server: S3Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each server takes other odd keys: those that it takes are hidden; nothing is harmed."""
    server = s3_server
    bucket = server.create_bucket()
    good = {"good": b"1", "dir/file": b"2", "both/below": b"3"}
    odd = ["a//b", "x/" + "n" * 255 + "y", "dir/./z", "dir/../z"]
    for key, body in good.items():
        server.admin.put(bucket, key, body)
    for key in odd:
        with suppress(ClientError):  # this server does not take it
            server.admin.put(bucket, key, b"odd")
    keys = server.admin.keys(bucket)
    hidden = [key for key in keys if {"", ".", ".."} & set(key.split("/")) or "n" * 255 in key]
    volume = s3_volume(server, bucket, tmp_path)
    request.addfinalizer(volume.close)
    root = volume.mount().root
    assert set(os.listdir(root)) >= {"good", "dir", "both"}
    shown = {key.split("/")[1] for key in keys if key.startswith("dir/") and key not in hidden}
    assert set(os.listdir(root / "dir")) == shown
    assert os.listdir(root / "both") == ["below"]
    for name in ("a", "x"):
        if (root / name).exists():
            below = [key for key in keys if key.startswith(f"{name}/") and key not in hidden]
            assert set(os.listdir(root / name)) == {key.split("/")[1] for key in below}
    if hidden:
        wait_for(lambda: volume.ask_status()["counters"]["hidden_keys"] > 0, what="hidden keys")
        wait_for(lambda: "keys hidden" in volume.log, what="a line about them")
    assert server.admin.keys(bucket) == keys


@pytest.mark.parametrize("passthrough", [True, False], ids=["passthrough", "served"])
@pytest.mark.parametrize("direct", ["always", "never"])
def test_readers_of_a_cold_file_by_either_way_to_the_disk(
    make_mount: MakeMount, objects: Path, direct: str, passthrough: bool
) -> None:
    """In sequence with odd sizes, at random places and by mapping, all at once; then from the disk,
    and by another worker."""
    data = os.urandom(80 * MIB + 4097)
    (objects / "cold").write_bytes(data)
    options = [f"cache.direct={direct}"] + ([] if passthrough else ["fuse.disable=all"])
    mount = make_mount(options=options).mount()
    path = mount.root / "cold"
    failures: list[str] = []

    def in_sequence(size: int) -> None:
        with path.open("rb", buffering=0) as file:
            offset = 0
            while part := file.read(size):
                if part != data[offset : offset + len(part)]:
                    failures.append(f"{len(part)} at {offset}, in sequence")
                offset += len(part)
            if offset != len(data):
                failures.append(f"{offset} bytes in sequence")

    def at_random(seed: int) -> None:
        places = random.Random(seed)
        with path.open("rb", buffering=0) as file:
            for _ in range(100):
                offset, size = places.randrange(len(data)), places.randrange(1, 300_000)
                if os.pread(file.fileno(), size, offset) != data[offset : offset + size]:
                    failures.append(f"{size} at {offset}")

    def mapped() -> None:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
            if memory[:] != data:
                failures.append("mapped")

    work = [
        lambda: in_sequence(1 << 20),
        lambda: in_sequence(100_003),
        lambda: at_random(1),
        mapped,
    ]
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    drop_page_cache(path)
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()
    mount.kill_worker()
    drop_page_cache(path)
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()
