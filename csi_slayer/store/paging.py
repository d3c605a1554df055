"""Listings page by page, which end whatever a server answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from csi_slayer.errors import StoreIntegrityError
from csi_slayer.store.base import ListPage, ObjectStore


class Advance:
    """Notices tokens that come round again, after however many others: one of those that came is
    kept, and a later one in its place after twice as many (Brent's algorithm)."""

    def __init__(self) -> None:
        self._kept: str | None = None
        self._count = 0
        self._most = 1

    def note(self, token: str) -> None:
        """This is the next page's. Raises StoreIntegrityError."""
        if token == self._kept:
            raise StoreIntegrityError("the listing does not get on: its tokens come round again")
        self._count += 1
        if self._count == self._most:
            self._kept, self._count, self._most = token, 0, 2 * self._most


async def each_page(
    store: ObjectStore,
    prefix: str,
    *,
    delimiter: bool = True,
    start_after: str | None = None,
    check: Callable[[], None] = lambda: None,
) -> AsyncGenerator[ListPage, None]:
    """All pages of a listing, one request after the other; ``check`` is called before each."""
    token, advance = None, Advance()
    while True:
        check()
        page = await store.list_page(
            prefix, delimiter=delimiter, token=token, start_after=start_after
        )
        yield page
        token = page.token
        if token is None:
            return
        advance.note(token)
