"""What a request that died half done leaves on a real MinIO: a directory of its data without the
object's description, which MinIO lists as a common prefix for ever."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.integration.mount.s3volumes import s3_volume
from tests.support.mounts import TestMount
from tests.support.servers import S3Server


def _leave(minio: S3Server, bucket: str, key: str) -> None:
    husk = minio.directory / "data" / bucket / key / str(uuid.uuid4())
    husk.mkdir(parents=True)
    (husk / "part.1").write_bytes(b"half")


def _listed(minio: S3Server, bucket: str) -> list[str]:
    answer = minio.admin.client.list_objects_v2(Bucket=bucket, Delimiter="/")
    return [item["Prefix"] for item in answer.get("CommonPrefixes", [])]


@pytest.fixture
def bucket(minio: S3Server) -> str:
    return minio.create_bucket()


def _mount(minio: S3Server, bucket: str, base: Path) -> TestMount:
    return s3_volume(minio, bucket, base, options=["volume.metadata_ttl=0s"]).mount()


def test_a_name_is_free_although_a_dead_request_left_something(
    minio: S3Server, bucket: str, tmp_path: Path
) -> None:
    volume = _mount(minio, bucket, tmp_path)
    try:
        (volume.root / "f").write_bytes(b"one")
        (volume.root / "g").write_bytes(b"stays")
        (volume.root / "f").unlink()
        volume.wait_idle()
        _leave(minio, bucket, "f")
        assert _listed(minio, bucket) == ["f/"], "not as MinIO was when this was written"
        assert [path.name for path in volume.root.iterdir()] == ["g"]
        (volume.root / "f").write_bytes(b"two")
        assert minio.admin.get(bucket, "f") == b"two"
    finally:
        volume.close()


def test_a_name_seen_as_a_directory_by_a_first_listing_can_be_freed(
    minio: S3Server, bucket: str, tmp_path: Path
) -> None:
    if minio.directory.stat().st_nlink == 1:
        pytest.skip("MinIO lists what is left below the name, too, where links are not counted")
    for name in ("looked-into", "removed"):
        _leave(minio, bucket, name)
    volume = _mount(minio, bucket, tmp_path)
    try:
        assert sorted(p.name for p in volume.root.iterdir()) == ["looked-into", "removed"]
        assert list((volume.root / "looked-into").iterdir()) == []
        (volume.root / "looked-into").write_bytes(b"a file")
        (volume.root / "removed").rmdir()
        (volume.root / "removed").write_bytes(b"another")
        volume.wait_idle()
        assert minio.admin.get(bucket, "looked-into") == b"a file"
        assert minio.admin.get(bucket, "removed") == b"another"
    finally:
        volume.close()
