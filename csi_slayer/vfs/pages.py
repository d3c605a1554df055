"""A directory's listing, page by page: the store makes the next page while one is taken in.

A page names the one that follows it. A store that finds that name before it has made its
objects of the answer is asked for the next one at once, so that its work and ours overlap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from csi_slayer.store.base import ListPage, ObjectStore
from csi_slayer.store.paging import Advance

PAGE = 1000
"""Names of one page, at most."""


class _Ahead(NamedTuple):
    token: str | None
    page: asyncio.Task[ListPage]


class Pages:
    """The pages of a directory's listing; the store makes the next while one is taken in.

    ``more`` says whether another page will be asked for after the one that is under way.
    """

    def __init__(self, store: ObjectStore, prefix: str, more: Callable[[], bool]) -> None:
        self._store = store
        self._prefix = prefix
        self._more = more
        self._token: str | None = None
        self._advance = Advance()
        self._ahead: _Ahead | None = None

    async def next(self) -> ListPage:
        """The next page. Raises StoreIntegrityError if that came before."""
        asked, self._ahead = self._ahead or self._ask(self._token), None
        page = await asked.page
        self._token = page.token
        await self._give_up(but=page.token)
        if page.token is not None:
            self._advance.note(page.token)
            self._continues(page.token)
        return page

    def _continues(self, token: str) -> None:
        if self._ahead is None and self._more():
            self._ahead = self._ask(token)

    def _ask(self, token: str | None) -> _Ahead:
        page = self._store.list_page(
            self._prefix, token=token, limit=PAGE, continues=self._continues
        )
        return _Ahead(token, asyncio.get_running_loop().create_task(page))

    async def _give_up(self, but: str | None) -> None:
        ahead = self._ahead
        if ahead is not None and (but is None or ahead.token != but):
            self._ahead = None
            ahead.page.cancel()
            await asyncio.gather(ahead.page, return_exceptions=True)

    async def close(self) -> None:
        """Give up the page that was asked for ahead."""
        await self._give_up(but=None)
