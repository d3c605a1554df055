"""Buckets are made and deleted; objects are copied from one to another."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.errors import AccessDenied, PreconditionFailed, StoreError, StoreUnsupported
from csi_slayer.store.buckets import bucket_exists, create_bucket, delete_bucket
from csi_slayer.store.options import CredentialOptions, StoreOptions
from tests.integration.store.conftest import Run
from tests.integration.store.stores import open_store, options_for

pytestmark = pytest.mark.integration

Place = tuple[Callable[[str], str], StoreOptions]


@pytest.fixture(params=["local", "versitygw", "minio"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """How the URL of a bucket is made, of each kind in turn, and the options for it."""
    if request.param == "local":
        return (lambda name: f"file://{tmp_path}/{name}"), StoreOptions()
    server = request.getfixturevalue(request.param)
    return (lambda name: f"s3://{name}"), options_for(server)


def new_name() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


def test_a_bucket_comes_and_goes(run: Run[Any], place: Place) -> None:
    url_of, options = place
    url = url_of(new_name())

    async def scenario() -> None:
        assert not await bucket_exists(url, options)
        assert await create_bucket(url, options) is True
        assert await create_bucket(url, options) is False
        assert await bucket_exists(url, options)
        await delete_bucket(url, options)
        await delete_bucket(url, options)
        assert not await bucket_exists(url, options)

    run(scenario())


def test_copies_cross_buckets_and_prefixes(run: Run[Any], place: Place) -> None:
    url_of, options = place
    first, second = url_of(new_name()), url_of(new_name())

    async def scenario() -> None:
        for url in (first, second):
            await create_bucket(url, options)
        origin = await open_store(first, options)
        target = await open_store(second, options)
        info = await origin.put("a/b ü+%", b"hello", metadata={"mode": "0600"})
        await origin.put("dir/", b"", metadata={"mode": "0700"})
        copied = await target.copy_from(origin, "a/b ü+%", "c/d", source_etag=info.etag)
        assert (copied.key, copied.size) == ("c/d", 5)
        there, body = await target.get("c/d")
        assert (body, there.metadata) == (b"hello", {"mode": "0600"})
        await target.copy_from(origin, "dir/", "other/")
        assert (await target.head("other/")).metadata == {"mode": "0700"}
        await origin.put("a/b ü+%", b"changed")
        with pytest.raises(PreconditionFailed):
            await target.copy_from(origin, "a/b ü+%", "c/d", source_etag=info.etag)
        for store, url in ((origin, first), (target, second)):
            keys = [item.key for item in (await store.list_page("", delimiter=False)).objects]
            await store.delete_many(keys)
            await store.close()
            await delete_bucket(url, options)

    run(scenario())


def test_copies_do_not_cross_services(run: Run[Any], place: Place, tmp_path: Path) -> None:
    url_of, options = place
    url = url_of(new_name())

    async def scenario() -> None:
        await create_bucket(url, options)
        here = await open_store(url, options)
        local = url.startswith("file:")
        elsewhere = await open_store(
            "s3://somewhere" if local else f"file://{tmp_path}",
            StoreOptions(endpoint="http://127.0.0.1:1", credentials=CredentialOptions("a", "b")),
        )
        with pytest.raises(StoreUnsupported, match="only within one"):
            await here.copy_from(elsewhere, "a", "b")
        with pytest.raises(StoreUnsupported, match="only within one"):
            await elsewhere.copy_from(here, "a", "b")
        await here.close()
        await elsewhere.close()
        await delete_bucket(url, options)

    run(scenario())


def test_a_bucket_with_objects_stays(run: Run[Any], s3_server: Any, bucket: str) -> None:
    s3_server.admin.put(bucket, "a", b"1")

    async def scenario() -> None:
        with pytest.raises(StoreError, match="something writes there, or its versioning is on"):
            await delete_bucket(f"s3://{bucket}", options_for(s3_server))

    run(scenario())
    assert s3_server.admin.keys(bucket) == ["a"]


def test_a_wrong_secret_makes_nothing(run: Run[Any], s3_server: Any) -> None:
    options = StoreOptions(
        endpoint=s3_server.endpoint,
        region="us-east-1",
        credentials=CredentialOptions(s3_server.access_key, "wrong"),
    )
    url = f"s3://{new_name()}"

    async def scenario() -> None:
        for call in (create_bucket, delete_bucket, bucket_exists):
            with pytest.raises(AccessDenied):
                await call(url, options)

    run(scenario())


def test_symlinks_in_a_local_bucket_are_not_followed(run: Run[Any], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("1")
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    (bucket / "way-out").symlink_to(outside)
    (tmp_path / "alias").symlink_to(outside)

    async def scenario() -> None:
        await delete_bucket(f"file://{bucket}", StoreOptions())
        with pytest.raises(StoreError):
            await delete_bucket(f"file://{tmp_path}/alias", StoreOptions())

    run(scenario())
    assert not bucket.exists()
    assert (outside / "precious").exists()
