"""Services that differ: no wrong bytes, no endless loop, and the error that it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from csi_slayer.errors import StoreIntegrityError
from tests.unit.store.quirky import quirky
from tests.unit.store.scripted import answer


def runs(work: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(work)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(work(*args, **kwargs), 20))

    return run


@runs
async def test_a_listing_whose_token_is_repeated_ends() -> None:
    """Seen of Wasabi, RunPod and MEGA S4."""
    page = (
        "<ListBucketResult><IsTruncated>true</IsTruncated>"
        "<NextContinuationToken>t</NextContinuationToken></ListBucketResult>"
    )
    named: list[str] = []
    async with quirky(lambda asked: answer(page.encode())) as store:
        assert (await store.list_page("", continues=named.append)).token == "t"
        with pytest.raises(StoreIntegrityError, match="token is repeated"):
            await store.list_page("", token="t", continues=named.append)
    assert named == ["t"]
