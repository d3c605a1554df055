"""Encryption and storage class of what is written, with the server that knows them here."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.store.options import ObjectOptions
from csi_slayer.store.s3.store import S3Store
from tests.integration.mount.s3volumes import s3_volume
from tests.integration.store.conftest import Run
from tests.integration.store.stores import open_s3, options_for
from tests.support.mounts import TestMount
from tests.support.servers import S3Server, start_server

pytestmark = pytest.mark.integration

PART = os.urandom(5 << 20)


@pytest.fixture(scope="module")
def encrypting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """MinIO with a key of its own."""
    key = base64.b64encode(os.urandom(32)).decode()
    server = start_server(
        "minio", tmp_path_factory.mktemp("kms"), {"MINIO_KMS_SECRET_KEY": f"here:{key}"}
    )
    yield server
    server.stop()


async def write_all(store: S3Store, path: Path) -> None:
    """An object of each kind of request that makes one."""
    await store.put("put", b"x")
    path.write_bytes(PART)
    with path.open("rb") as file:
        await store.put_file("file", file.fileno(), len(PART))
        upload = await store.create_multipart("parts")
        etag = await store.upload_part("parts", upload, 1, file.fileno(), 0, len(PART))
    await store.complete_multipart("parts", upload, [(1, etag)])
    await store.copy("put", "copy")
    await store.copy("put", "replaced", metadata={"a": "b"})
    for key in ("file", "parts"):
        assert (await store.get(key))[1] == PART
    assert (await store.get("replaced"))[1] == b"x"


WRITTEN = ("put", "file", "parts", "copy", "replaced")


def heads(server: S3Server, bucket: str, name: str) -> list[Any]:
    client = server.admin.client
    return [client.head_object(Bucket=bucket, Key=key).get(name) for key in WRITTEN]


@pytest.mark.parametrize(
    ("encryption", "key"), [("AES256", None), ("aws:kms", "here"), (None, None)]
)
def test_encryption(
    run: Run[Any], encrypting: S3Server, tmp_path: Path, encryption: str | None, key: str | None
) -> None:
    bucket = encrypting.create_bucket()

    async def body() -> None:
        options = ObjectOptions(encryption=encryption, kms_key_id=key)
        store = await open_s3(f"s3://{bucket}", options_for(encrypting, objects=options))
        await write_all(store, tmp_path / "file")

    run(body())
    assert heads(encrypting, bucket, "ServerSideEncryption") == [encryption] * len(WRITTEN)
    if key is not None:
        found = heads(encrypting, bucket, "SSEKMSKeyId")
        assert all(str(value).endswith(key) for value in found)


def test_storage_class(run: Run[Any], minio: S3Server, tmp_path: Path) -> None:
    bucket = minio.create_bucket()

    async def body(objects: ObjectOptions) -> None:
        store = await open_s3(f"s3://{bucket}", options_for(minio, objects=objects))
        await write_all(store, tmp_path / "file")

    run(body(ObjectOptions(storage_class="REDUCED_REDUNDANCY")))
    assert heads(minio, bucket, "StorageClass") == ["REDUCED_REDUNDANCY"] * len(WRITTEN)
    run(body(ObjectOptions()))
    assert heads(minio, bucket, "StorageClass") == [None] * len(WRITTEN)


def test_a_copy_keeps_the_class_unless_another_is_set(run: Run[Any], minio: S3Server) -> None:
    bucket = minio.create_bucket()
    minio.admin.client.put_object(
        Bucket=bucket, Key="put", Body=b"x", StorageClass="REDUCED_REDUNDANCY"
    )

    async def body() -> None:
        asked = options_for(minio, objects=ObjectOptions(storage_class="STANDARD"))
        store = await open_s3(f"s3://{bucket}", asked)
        await store.copy("put", "as asked for")
        store = await open_s3(f"s3://{bucket}", options_for(minio))
        await store.copy("put", "copy")
        await store.copy("put", "replaced", metadata={"a": "b"})
        await store.put("plain", b"x")
        await store.copy("plain", "plain copy")

    run(body())

    def of_class(key: str) -> Any:
        return minio.admin.client.head_object(Bucket=bucket, Key=key).get("StorageClass")

    assert of_class("copy") == of_class("replaced") == "REDUCED_REDUNDANCY"
    assert of_class("plain copy") is None
    assert of_class("as asked for") is None, "it is STANDARD"


def test_a_mount(encrypting: S3Server, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    bucket = encrypting.create_bucket()
    options = ["store.encryption=AES256", "store.storage_class=REDUCED_REDUNDANCY"]
    mount: TestMount = s3_volume(encrypting, bucket, tmp_path, options=options)
    request.addfinalizer(mount.close)
    mount.mount()
    (mount.root / "file").write_bytes(b"x")
    (mount.root / "file").rename(mount.root / "renamed")
    mount.umount()
    head = encrypting.admin.client.head_object(Bucket=bucket, Key="renamed")
    assert (head["ServerSideEncryption"], head["StorageClass"]) == ("AES256", "REDUCED_REDUNDANCY")
