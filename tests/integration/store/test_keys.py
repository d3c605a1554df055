"""Keys survive exactly: what is put is what is listed, read, copied and deleted."""

from __future__ import annotations

from typing import Any

import pytest

from csi_slayer.errors import ObjectNotFound, StoreError, StoreUnsupported
from csi_slayer.store.base import ObjectStore
from tests.integration.store.conftest import Run
from tests.integration.store.stores import open_store, options_for
from tests.support.servers import S3Server

pytestmark = pytest.mark.integration

EVERYWHERE = [
    "a ",
    " a",
    "a b",
    "a+b%20c%",
    "%2F",
    "a&b=c;d?e#f",
    "ünï/日本語/🦀",
    "quote\"'`<>",
    "~!@$^()[]{},:*|",
    "new\nline",
    "tab\there",
    "car\rriage",
    "back\\slash",
    "e\u0301 is not \u00e9",
    "-dash",
    ".hidden",
    "dir /file",
    "deep/" * 30 + "x",
    "n" * 255,
]


async def _every_key(store: ObjectStore) -> list[str]:
    return [item.key for item in (await store.list_page("", delimiter=False)).objects]


@pytest.mark.parametrize("key", EVERYWHERE)
def test_keys_every_store_can_hold(store: ObjectStore, run: Run[Any], key: str) -> None:
    async def body() -> None:
        await store.put(key, b"content")
        assert await _every_key(store) == [key]
        info, data = await store.get(key)
        assert (info.key, data) == (key, b"content")
        copied = f"copy/{key}"[-250:]
        await store.copy(key, copied)
        assert sorted(await _every_key(store)) == sorted([key, copied])
        await store.delete(copied)
        assert await store.delete_many([key]) == {}
        with pytest.raises(ObjectNotFound):
            await store.head(key)
        assert await _every_key(store) == []

    run(body())


@pytest.mark.parametrize("store", ["local", "minio"], indirect=True)
def test_control_characters(store: ObjectStore, run: Run[Any]) -> None:
    """versitygw stores such keys but lists them as U+FFFD, so it is left out."""

    async def body() -> None:
        await store.put("bell\x07", b"content")
        assert await _every_key(store) == ["bell\x07"]
        assert await store.delete_many(["bell\x07"]) == {}
        assert await _every_key(store) == []

    run(body())


@pytest.mark.parametrize("key", ["a//b", "/a", "//", "dir//"])
def test_keys_that_only_real_s3_can_hold(run: Run[Any], s3_server: S3Server, key: str) -> None:
    """Not every server can; those that cannot must say so, and never touch another key."""
    bucket = s3_server.create_bucket()
    store = run(open_store(f"s3://{bucket}/p", options_for(s3_server)))

    async def body() -> None:
        try:
            await store.put(key, b"content" if not key.endswith("/") else b"")
        except StoreError:
            assert await _every_key(store) == []
            return
        listed = await _every_key(store)
        if listed == [key]:
            assert (await store.head(key)).key == key

    run(body())
    run(store.close())
    s3_server.admin.delete_bucket(bucket)


@pytest.mark.parametrize(
    "key",
    ["", "/", "/a", "a//b", "a//", "..", "../a", "a/../b", "./a", "a/.", "n" * 256, "a\0b",
     ".slayerfs-tmp/lock", "\udcff", "x/" * 2000 + "x"],
)  # fmt: skip
@pytest.mark.parametrize("store", ["local"], indirect=True)
def test_keys_a_directory_cannot_hold(store: ObjectStore, run: Run[Any], key: str) -> None:
    async def body() -> None:
        with pytest.raises(StoreUnsupported, match="cannot hold"):
            await store.put(key, b"")
        with pytest.raises(StoreUnsupported, match="cannot hold"):
            await store.create_multipart(key)
        with pytest.raises(ObjectNotFound):
            await store.head(key)
        await store.delete(key)
        assert await store.delete_many([key]) == {}
        assert await _every_key(store) == []

    run(body())
