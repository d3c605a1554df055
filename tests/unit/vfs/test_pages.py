"""Pages of a listing: in order, each asked for once, and as soon as its token is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from csi_slayer.errors import StoreIntegrityError
from csi_slayer.store.base import ListPage, ObjectStore
from csi_slayer.vfs.pages import Pages

LAST = 3


class Book:
    """A store whose pages are made when a test says so; ``said``: the token it names early."""

    def __init__(self, said: Callable[[int], str | None] = lambda _page: None) -> None:
        self.asked: list[int] = []
        self.cancelled: list[int] = []
        self.fails_at = -1
        self.follows: dict[int, str] = {}
        self._said = said
        self._may = [asyncio.Event() for _ in range(LAST + 1)]

    async def list_page(
        self, prefix: str, *, token: str | None, limit: int, continues: Callable[[str], None]
    ) -> ListPage:
        page = int(token or 0)
        self.asked.append(page)
        try:
            early = self._said(page)
            if early is not None:
                continues(early)
                continues(early)  # an answer that was read and asked for again
            await self._may[page].wait()
        except asyncio.CancelledError:
            self.cancelled.append(page)
            raise
        if page == self.fails_at:
            raise OSError("page")
        return ListPage([], [f"{prefix}{page}/"], self.follows.get(page, following(page)))

    def make(self, *pages: int) -> None:
        for page in pages:
            self._may[page].set()

    def pages(self, more: Callable[[], bool] = lambda: True) -> Pages:
        return Pages(cast(ObjectStore, self), "d/", more)


def following(page: int) -> str | None:
    return str(page + 1) if page < LAST else None


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(test: Any) -> None:
    asyncio.run(asyncio.wait_for(test, 10))


@pytest.mark.parametrize("said", [lambda _page: None, following], ids=["late", "early"])
def test_pages_come_in_order_and_each_is_asked_for_once(said: Any) -> None:
    async def test() -> None:
        book = Book(said)
        book.make(*range(LAST + 1))
        pages, tokens = book.pages(), []
        for number in range(LAST + 1):
            page = await pages.next()
            assert page.prefixes == [f"d/{number}/"]
            tokens.append(page.token)
            await turns()
        assert tokens == ["1", "2", "3", None]
        assert book.asked == [0, 1, 2, 3]
        await pages.close()

    run(test())


def test_the_next_page_is_asked_for_while_the_one_before_is_being_made() -> None:
    async def test() -> None:
        book = Book(following)
        pages = book.pages()
        first = asyncio.ensure_future(pages.next())
        await turns()
        assert book.asked == [0, 1]  # and not page 2: one ahead is enough
        book.make(0, 1)
        await first
        await turns()
        assert book.asked == [0, 1]
        await pages.next()
        await turns()
        assert book.asked == [0, 1, 2]
        await pages.close()
        assert book.cancelled == [2]

    run(test())


def test_a_page_that_nobody_wants_is_not_asked_for() -> None:
    async def test() -> None:
        book = Book(following)
        book.make(0, 1)
        wanted = False
        pages = book.pages(lambda: wanted)
        await pages.next()
        await turns()
        assert book.asked == [0]
        wanted = True
        assert (await pages.next()).prefixes == ["d/1/"]
        await turns()
        assert book.asked == [0, 1, 2]
        await pages.close()

    run(test())


def test_a_token_that_was_named_early_and_turned_out_wrong_is_not_followed() -> None:
    async def test() -> None:
        book = Book(lambda page: "3" if page == 0 else None)
        book.make(0, 1)
        pages = book.pages()
        await pages.next()
        assert book.cancelled == [3]
        assert (await pages.next()).prefixes == ["d/1/"]
        await pages.close()

    run(test())


def test_a_page_that_fails_takes_the_one_ahead_with_it() -> None:
    async def test() -> None:
        book = Book(following)
        book.fails_at = 0
        book.make(0)
        pages = book.pages()
        with pytest.raises(OSError, match="page"):
            await pages.next()
        await pages.close()
        assert book.cancelled == [1]

    run(test())


def test_a_reader_that_is_cancelled_leaves_nothing_running() -> None:
    async def test() -> None:
        before = asyncio.all_tasks()
        book = Book(following)
        pages = book.pages()
        first = asyncio.ensure_future(pages.next())
        await turns()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await pages.close()
        assert sorted(book.cancelled) == [0, 1]
        assert asyncio.all_tasks() == before

    run(test())


def test_a_listing_that_goes_round_ends() -> None:
    async def test() -> None:
        book = Book()
        book.make(*range(LAST))
        book.follows[2] = "1"
        pages = book.pages()

        async def read_on() -> None:
            for _ in range(10):
                await pages.next()

        with pytest.raises(StoreIntegrityError):
            await read_on()
        await pages.close()

    run(test())
