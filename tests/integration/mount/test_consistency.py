"""What readers and writers see when others change the bucket."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import threading
import time
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MakeMount
from tests.integration.mount.s3volumes import s3_volume
from tests.integration.mount.test_faults_disk import holds
from tests.support.faultproxy import FaultProxy
from tests.support.mounts import wait_for
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

MIB = 1 << 20


def test_external_changes_are_seen_after_the_ttl(make_mount: MakeMount, objects: Path) -> None:
    (objects / "d").mkdir()
    (objects / "d/changed").write_bytes(b"old")
    (objects / "d/removed").write_bytes(b"old")
    root = make_mount(options=["volume.metadata_ttl=1s"]).mount().root
    assert (root / "d/changed").read_bytes() == b"old"
    assert sorted(os.listdir(root / "d")) == ["changed", "removed"]
    (objects / "d/changed").write_bytes(b"new content")
    (objects / "d/removed").unlink()
    (objects / "d/added").write_bytes(b"added")
    (objects / "d/sub").mkdir()
    wait_for(lambda: sorted(os.listdir(root / "d")) == ["added", "changed", "sub"])
    wait_for(lambda: (root / "d/changed").read_bytes() == b"new content")
    assert (root / "d/changed").stat().st_size == len(b"new content")
    assert (root / "d/added").read_bytes() == b"added"
    assert not (root / "d/removed").exists()


@pytest.mark.parametrize("disable", ["", "all"])
def test_a_change_is_seen_although_somebody_has_the_file_open(
    make_mount: MakeMount, objects: Path, disable: str
) -> None:
    """By its name; who has the file open stays with the version that was opened."""
    (objects / "d").mkdir()
    (objects / "d/f").write_bytes(b"old")
    options = ["volume.metadata_ttl=1s", *([f"fuse.disable={disable}"] if disable else [])]
    root = make_mount(options=options).mount().root
    with (root / "d/f").open("rb") as held:
        assert held.read() == b"old"
        (objects / "d/f").write_bytes(b"new content")
        wait_for(lambda: (root / "d/f").stat().st_size == len(b"new content"))
        assert (root / "d/f").read_bytes() == b"new content"


def read_or_none(fd: int) -> bytes | None:
    """The first bytes of a file, None for ESTALE."""
    try:
        return os.pread(fd, 100, 0)
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return None


@pytest.mark.parametrize("disable", ["", "all"])
def test_who_has_a_shorter_version_open_gets_no_zeros(
    make_mount: MakeMount, objects: Path, disable: str
) -> None:
    names = [f"f{number}" for number in range(20)]
    for name in names:
        (objects / name).write_bytes(b"old")
    options = ["volume.metadata_ttl=1s", *([f"fuse.disable={disable}"] if disable else [])]
    root = make_mount(options=options).mount().root
    files = {name: os.open(root / name, os.O_RDONLY) for name in names}
    try:
        for fd in files.values():
            assert os.pread(fd, 100, 0) == b"old"
        for name in names:
            (objects / name).write_bytes(b"n" * 9000)
        for name, fd in files.items():
            wait_for(lambda name=name: (root / name).stat().st_size == 9000)
            assert read_or_none(fd) in (b"old", None)
    finally:
        for fd in files.values():
            os.close(fd)
    assert (root / "f0").read_bytes() == b"n" * 9000


def test_close_to_open_sees_changes_at_once(make_mount: MakeMount, objects: Path) -> None:
    # Each time another size: kernels before 6.13 give the same mtime to changes of one tick.
    contents = [str(number).encode() * (100 + number) for number in range(6)]
    (objects / "f").write_bytes(contents[0])
    options = ["volume.metadata_ttl=1h", "volume.close_to_open=true"]
    root = make_mount(options=options).mount().root
    for now, later in itertools.pairwise(contents):
        with (root / "f").open("rb") as file:
            assert file.read() == now
        (objects / "f").write_bytes(later)


def test_a_reader_of_a_changed_object_gets_estale(make_mount: MakeMount, objects: Path) -> None:
    """One open never mixes two versions; the next one has the new."""
    old, new = os.urandom(48 * MIB), os.urandom(48 * MIB)
    (objects / "f").write_bytes(old)
    options = ["volume.metadata_ttl=1s", "volume.prefetch=false"]
    root = make_mount(options=options).mount().root
    with (root / "f").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(file.fileno(), 4096, 0) == old[:4096]
        (objects / "f.tmp").write_bytes(new)
        (objects / "f.tmp").rename(objects / "f")
        with pytest.raises(OSError) as caught:
            read_backwards(file.fileno(), old)
        assert caught.value.errno == errno.ESTALE
        with (root / "f").open("rb") as again:
            assert again.read() == new


def read_backwards(fd: int, expected: bytes) -> None:
    """Pieces from the end, where nothing was fetched ahead; what had been may still be read."""
    for place in range(len(expected) - MIB, 8 * MIB, -MIB):
        assert os.pread(fd, 4096, place) == expected[place : place + 4096]


@pytest.mark.parametrize("shared_cache", [True, False])
def test_two_writers_of_one_key(
    make_mount: MakeMount, objects: Path, tmp_path: Path, shared_cache: bool
) -> None:
    """One gets the error at close; both contents exist."""
    (objects / "f").write_bytes(b"base")
    caches = [tmp_path / "cache", tmp_path / ("cache" if shared_cache else "cache2")]
    mounts = [
        make_mount(name=f"m{i}", cache=cache, options=["volume.metadata_ttl=1h"]).mount()
        for i, cache in enumerate(caches)
    ]
    for mount in mounts:
        assert (mount.root / "f").read_bytes() == b"base"
    (mounts[0].root / "f").write_bytes(b"first writer")
    with pytest.raises(OSError) as caught:
        (mounts[1].root / "f").write_bytes(b"second writer")
    assert caught.value.errno == errno.ESTALE
    assert (objects / "f").read_bytes() == b"first writer"
    wait_for(
        lambda: mounts[1].ask_status()["counters"]["conflicts"] == 1, what="a counted conflict"
    )
    kept = [p for p in (caches[1] / "conflicts").rglob("*") if p.is_file() and not p.suffix]
    assert [path.read_bytes() for path in kept] == [b"second writer"]
    wait_for(lambda: '"conflict"' in mounts[1].log, what="a line about it")
    wait_for(lambda: (mounts[1].root / "f").read_bytes() == b"first writer")
    (mounts[1].root / "f").write_bytes(b"third")
    assert (objects / "f").read_bytes() == b"third"


def test_two_creators_of_one_key(make_mount: MakeMount, objects: Path, tmp_path: Path) -> None:
    mounts = [
        make_mount(name=f"m{i}", cache=tmp_path / f"c{i}", options=["volume.metadata_ttl=1h"])
        for i in range(2)
    ]
    for mount in mounts:
        assert os.listdir(mount.mount().root) == []
    first, second = ((mount.root / "new").open("wb", buffering=0) for mount in mounts)
    first.write(b"first")
    second.write(b"second")
    first.close()
    with pytest.raises(OSError) as caught:
        second.close()
    assert caught.value.errno == errno.ESTALE
    assert (objects / "new").read_bytes() == b"first"
    wait_for(lambda: any(p.read_bytes() == b"second" for p in kept_files(tmp_path / "c1")))


def kept_files(cache: Path) -> list[Path]:
    return [path for path in (cache / "conflicts").rglob("*") if path.is_file()]


def test_workers_of_one_node_share_the_cache(
    versitygw: S3Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What one has read the other reads without asking the store for bytes; so after a remount."""
    bucket = versitygw.create_bucket()
    data = {f"f{number}": os.urandom(number * 50_000) for number in range(1, 12)}
    data["large"] = os.urandom(20 * MIB)
    for key, body in data.items():
        versitygw.admin.put(bucket, key, body)
    with FaultProxy(versitygw.endpoint) as proxy:
        volumes = []
        for name in ("m1", "m2"):
            volume = s3_volume(
                versitygw, bucket, tmp_path, endpoint=proxy.endpoint, name=name,
                cache=tmp_path / "cache",
            )  # fmt: skip
            request.addfinalizer(volume.close)
            volumes.append(volume.mount())
        first, second = volumes
        assert {key: (first.root / key).read_bytes() for key in data} == data
        assert proxy.count("GetObject") > 0
        # The reader has its bytes before the disk has them: of a part the other would fetch more.
        wait_for(
            lambda: not any(holds(first, body) for body in data.values()), what="closed segments"
        )
        proxy.reset_counts()
        assert {key: (second.root / key).read_bytes() for key in data} == data
        assert proxy.count("GetObject") == 0
        second.umount()
        second.mount()
        assert {key: (second.root / key).read_bytes() for key in data} == data
        assert proxy.count("GetObject") == 0
        first.umount()
        second.umount()


def test_attributes_are_written_while_the_file_is_read(
    make_mount: MakeMount, objects: Path
) -> None:
    """Each write of them makes another version of the object, of the same bytes."""
    data = os.urandom(MIB) * 48
    (objects / "f").write_bytes(data)
    options = ["volume.attributes=posix", "volume.durability=fsync"]
    path = make_mount(options=options).mount().root / "f"
    over = threading.Event()
    failures: list[BaseException] = []

    def change() -> None:
        try:
            with path.open("rb") as file:
                for number in itertools.count():
                    if over.is_set():
                        return
                    os.fchmod(file.fileno(), 0o600 + number % 2)
                    os.fsync(file.fileno())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(3):
            with path.open("rb", buffering=0) as file:
                for offset in range(0, len(data), MIB):
                    assert file.read(MIB) == data[offset : offset + MIB]
    finally:
        over.set()
        thread.join()
    assert failures == []


@pytest.mark.parametrize("kind", ["versitygw", "minio"])
def test_a_link_in_the_place_of_an_empty_file_of_this_node_is_seen(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """Both are empty objects of one version; made before this node has listed the directory."""
    server: S3Server = request.getfixturevalue(kind)
    bucket = server.create_bucket()
    options = ["volume.metadata_ttl=2s"]
    volumes = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        volume = s3_volume(server, bucket, tmp_path / name, options=options)
        request.addfinalizer(volume.close)
        volumes.append(volume.mount())
    one, other = (volume.root for volume in volumes)
    assert os.listdir(one) == []
    (one / "e").touch()
    time.sleep(2.1 if kind == "versitygw" else 1.1)  # it tells whole seconds
    (other / "e").unlink()
    (other / "e").symlink_to("theirs")
    wait_for(lambda: (one / "e").is_symlink())
    assert os.readlink(one / "e") == "theirs"
    for volume in volumes:
        volume.umount()


@pytest.mark.parametrize("kind", ["versitygw", "minio"])
def test_a_lock_on_an_empty_file_holds_when_the_directory_is_listed_again(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """Made at each tenth of a second: a server's clock of its answers may lag behind that of its
    objects, which is no change by others."""
    server: S3Server = request.getfixturevalue(kind)
    volume = s3_volume(server, server.create_bucket(), tmp_path, options=["volume.metadata_ttl=1s"])
    request.addfinalizer(volume.close)
    root = volume.mount().root
    held = []
    for number in range(12):
        (root / f"lock{number}").touch()
        held.append(os.open(root / f"lock{number}", os.O_RDONLY))
        fcntl.flock(held[-1], fcntl.LOCK_EX)
        time.sleep(0.11)
    time.sleep(1.1)
    os.listdir(root)
    for number, descriptor in enumerate(held):
        with (root / f"lock{number}").open() as again, pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
    volume.umount()
