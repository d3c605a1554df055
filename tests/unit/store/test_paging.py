"""Listings page by page."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from csi_slayer.errors import StoreIntegrityError
from csi_slayer.store.base import ListPage, ObjectStore
from csi_slayer.store.paging import Advance, each_page


@pytest.mark.parametrize("before", [0, 1, 5, 1000])
@pytest.mark.parametrize("around", [1, 2, 3, 700])
def test_tokens_that_come_round_again_are_noticed(before: int, around: int) -> None:
    advance = Advance()

    def turn() -> None:
        for number in range(before):
            advance.note(f"before {number}")
        for number in range(3 * (before + around)):
            advance.note(str(number % around))

    with pytest.raises(StoreIntegrityError, match="come round again"):
        turn()


def test_others_may_come_for_as_long_as_they_like() -> None:
    advance = Advance()
    for number in range(100_000):
        advance.note(str(number))


class Wheel:
    """A store each third page of which is followed by the first."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    async def list_page(self, prefix: str, *, token: str | None, **_options: object) -> ListPage:
        self.asked.append(token)
        return ListPage([], [f"{prefix}{token}/"], str((int(token or 0) + 1) % 3))


def test_a_listing_that_goes_round_ends() -> None:
    store, checked = Wheel(), 0

    def check() -> None:
        nonlocal checked
        checked += 1

    async def test() -> None:
        async for _page in each_page(cast(ObjectStore, store), "d/", check=check):
            pass

    with pytest.raises(StoreIntegrityError):
        asyncio.run(test())
    assert len(store.asked) == checked < 10
