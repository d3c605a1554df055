"""Keeping the inode table as fresh as the volume's TTL asks: listings and single look-ups.

A directory is listed as a whole when its names are read, or when a name is looked up and one page
holds it all; in larger directories single names are asked for singly. Listings are single-flight,
merged page by page, so that a reader of a huge directory gets names while the rest is under way.
"""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import AsyncIterator, Callable

import structlog

from csi_slayer.catalog import Catalog, Gone, Inode, Listed, Mark
from csi_slayer.content.options import Live
from csi_slayer.errors import CacheFull, ObjectNotFound
from csi_slayer.observability.complaints import Complaints
from csi_slayer.store.base import ObjectInfo, ObjectStore
from csi_slayer.vfs import names
from csi_slayer.vfs.listing import Listing
from csi_slayer.vfs.pages import PAGE, Pages
from csi_slayer.vfs.patience import Patience
from csi_slayer.vfs.questions import Questions

log = structlog.get_logger(__name__)

SHADOWED_KEPT = 1000
ALL_PAGES = 1 << 40

SINGLES, SINGLES_PAGES, SINGLES_KEPT = 32, 200, 256
"""After 32 single look-ups within the TTL a large directory is listed ahead, up to 200 pages; of
256 directories the look-ups are counted."""

LISTINGS = 32
"""Directory listings under way at once, at most."""

DOUBTED, ASKED = 100, 16
"""Directories that a listing may add and that are asked for singly, of a directory that was listed
before; what else it adds is believed. So many of them at once."""

PROBES = 8
"""Refreshes under way while the store is away, at most; more would only wait."""

TAKEN_IN = 200
"""Names of a page that are taken in at once: what takes a millisecond."""

SECOND = 1_000_000_000


class Refresher:
    """``changed(ino)``: an inode's content became another, or a directory that was listed before
    has more names; ``gone`` tells which lost its name, ``hidden`` how many keys are not shown."""

    def __init__(
        self,
        store: ObjectStore,
        catalog: Catalog,
        live: Live,
        changed: Callable[[int], None],
        gone: Callable[[Gone], None],
        hidden: Callable[[int], None],
        io_timeout: float = 60.0,
    ) -> None:
        self._patience = Patience(io_timeout)
        self._store = store
        self._catalog = catalog
        self._live = live
        self._changed = changed
        self._gone = gone
        self._hidden = hidden
        self._listings: dict[int, Listing] = {}
        self._questions = Questions(self._patience.ended)
        self._singles: dict[int, tuple[int, int]] = {}
        self._slots = asyncio.Semaphore(LISTINGS)
        self._complaints = Complaints(log)

    def is_fresh(self, then_ns: int) -> bool:
        """Whether knowledge of that time is still believed; not what a clock that was ahead has
        dated."""
        return 0 <= time.time_ns() - then_ns < self._live.metadata_ttl * SECOND

    def remaining(self, then_ns: int) -> float:
        """Seconds that knowledge of that time will still be believed."""
        age = (time.time_ns() - then_ns) / SECOND
        return max(0.0, self._live.metadata_ttl - age) if age >= 0 else 0.0

    def running(self, ino: int) -> Listing | None:
        return self._listings.get(ino)

    async def begin(self, directory: Inode, *, pages: int = ALL_PAGES) -> Listing:
        """Begin listing a directory, or join the listing under way."""
        listing = self._listings.get(directory.ino)
        if listing is None:
            listing = Listing(time.time_ns())
            self._listings[directory.ino] = listing
            listing.task = asyncio.get_running_loop().create_task(self._list(directory, listing))
            listing.task.add_done_callback(lambda task: self._listed(directory.ino, listing, task))
        listing.wanted = max(listing.wanted, pages)
        return listing

    def _listed(self, ino: int, listing: Listing, task: asyncio.Task[None]) -> None:
        if self._listings.get(ino) is listing:
            del self._listings[ino]
        self._patience.ended(task)  # an error is raised to whoever waits in Listing.more

    async def more(self, listing: Listing, *, known: bool) -> None:
        """Wait for the next page of a listing or its end; ``known`` as for :meth:`name`. Raises
        what ended the listing."""
        page = asyncio.get_running_loop().create_task(listing.more())
        try:
            await self._patience.wait(page, listing.progress, known=known)
        finally:
            page.cancel()

    async def ensure_listed(self, directory: Inode, *, stale: bool = False) -> None:
        """Return when all names of the directory are in the table and fresh.

        ``stale``: names as of an earlier listing will do while the store is away.
        """
        known = stale and directory.listed_ns > 0
        for _ in range(2):  # a one-page listing that just ended may be joined too late
            if self.is_fresh(directory.listed_ns) or (known and self._is_probing()):
                return
            listing = await self.begin(directory)
            assert listing.task is not None
            await self._patience.wait(listing.task, listing.progress, known=known)
            now = await self._catalog.find(directory.ino)
            if now is None:
                return  # it turned out to be gone, and nobody uses it
            directory = now

    async def ensure_tree(self, directory: Inode, *, stale: bool = False) -> None:
        """As :meth:`ensure_listed` for all that is below as well. Others come between."""
        await self.ensure_listed(directory, stale=stale)
        under_way: dict[asyncio.Task[None], AsyncIterator[Inode]] = {}
        below = [self._directories(directory.ino)]  # not a list of them, which may be millions
        try:
            while below or under_way:
                if not below or len(under_way) == LISTINGS:
                    done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                    below += [under_way.pop(task) for task in done if task.result() is None]
                elif (inode := await anext(below[-1], None)) is None:
                    below.pop()
                else:
                    task = asyncio.create_task(self.ensure_listed(inode, stale=stale))
                    under_way[task] = self._directories(inode.ino)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _directories(self, ino: int) -> AsyncIterator[Inode]:
        after = 0
        while names := await self._catalog.names(ino, after, PAGE):
            after = names[-1].place
            await asyncio.sleep(0)
            for name in names:
                if stat.S_ISDIR(name.mode) and (inode := await self._catalog.find(name.ino)):
                    yield inode

    async def _list(self, directory: Inode, listing: Listing) -> None:
        async with self._slots:
            path = await self._catalog.path(directory.ino)
            if path is None:
                return
            prefix = path + "/" if path else ""
            shadowed: list[Listed] = []
            hidden, doubted, empty = 0, 0, True
            pages = Pages(self._store, prefix, more=lambda: listing.pages + 1 < listing.wanted)
            try:
                while True:
                    page = await pages.next()
                    found, odd, marker = names.from_page(page, prefix, listing.since_ns)
                    hidden += len(odd)
                    if odd:
                        self._note_hidden(prefix, odd)
                    empty = empty and not (page.objects or page.prefixes)
                    if directory.flags & Mark.LISTED and doubted < DOUBTED:
                        doubts = await self._doubts(directory.ino, found, DOUBTED - doubted)
                        doubted += len(doubts)
                        found = [item for item in found if item not in doubts]
                    if await self._catalog.path(directory.ino) != path:
                        return  # renamed meanwhile: these are another directory's names now
                    if marker and not directory.flags & Mark.MARKER:
                        await self._catalog.update(directory.ino, add=Mark.MARKER)
                    if page.token is not None and listing.pages == 0:
                        await self._catalog.update(directory.ino, add=Mark.LARGE)
                    if not await self._merge(directory.ino, found, shadowed, listing.since_ns):
                        return
                    listing.page_done()
                    if page.token is None:
                        break
                    if listing.pages >= listing.wanted:
                        return
            finally:
                await pages.close()
            if await self._catalog.path(directory.ino) != path:
                return
            if empty:
                await self._nothing_there(directory, listing.since_ns)
            large = listing.pages > 1
            await self._tell_gone(self._catalog.sweep(directory.ino, listing.since_ns, large=large))
            if shadowed and await self._catalog.path(directory.ino) == path:
                await self._show_shadowed(directory.ino, shadowed, listing.since_ns)
            if hidden:
                self._hidden(hidden)

    def _note_hidden(self, prefix: str, keys: list[str]) -> None:
        about = {"prefix": prefix, "count": len(keys), "first": keys[0]}
        # A listing may have pages of them without an end.
        self._complaints.failed(("hidden", prefix), "keys hidden", names.NO_NAME, **about)

    async def _doubts(self, parent: int, found: list[Listed], most: int) -> list[Listed]:
        """Directories of this page that the table does not have; they were asked for singly.

        MinIO lists an object as a directory, without anything in it, while it is deleted, and for
        ever if its client or the server died in a request."""
        directories = [item for item in found if stat.S_ISDIR(item.mode)]
        known = await self._catalog.directories_among(parent, [item.name for item in directories])
        new = [item for item in directories if item.name not in known][:most]
        directory = await self._catalog.find(parent)
        if directory is None:
            return []
        for start in range(0, len(new), ASKED):
            some = new[start : start + ASKED]
            await asyncio.gather(*(self._ask(directory, item.name) for item in some))
        return new

    async def _nothing_there(self, directory: Inode, since_ns: int) -> None:
        """The store has no object in a directory, nor its marker: it is no directory there."""
        name = self._catalog.name_of(directory.ino, directory.parent)
        if name is not None:
            await self._forget(directory.parent, name, since_ns)

    async def _forget(self, parent: int, name: str, since_ns: int) -> None:
        await self._tell_gone(self._catalog.vanished(parent, name, since_ns))

    async def _tell_gone(self, steps: AsyncIterator[list[Gone]]) -> None:
        async for some in steps:
            self._patience.worked()
            for gone in some:
                self._gone(gone)

    async def _merge(
        self, parent: int, found: list[Listed], shadowed: list[Listed], since_ns: int
    ) -> bool:
        shown, hidden = names.split_shadowed(found, await self._dirs_among(parent, found))
        shadowed.extend(hidden[: SHADOWED_KEPT - len(shadowed)])
        return await self._take_in(parent, shown, since_ns)

    async def _take_in(self, parent: int, found: list[Listed], since_ns: int) -> bool:
        """Some at a time; False if the directory was renamed between: the rest are another's."""
        path = await self._catalog.path(parent)
        for start in range(0, len(found), TAKEN_IN):
            if start:
                await asyncio.sleep(0)
                if await self._catalog.path(parent) != path:
                    return False
            await self._take_some(parent, found[start : start + TAKEN_IN], since_ns)
        return True

    async def _take_some(self, parent: int, found: list[Listed], since_ns: int) -> None:
        try:
            changes = await self._catalog.merge(parent, found, since_ns, self._catalog.defaults)
        except CacheFull as error:
            self._complaints.failed("names", "names of the store are not learned", error)
            raise
        for gone in changes.gone:
            self._gone(gone)
        for ino in changes.changed:
            self._changed(ino)
        if changes.added:
            directory = await self._catalog.find(parent)
            # Who reads a first listing gets its end only from a complete one.
            if directory is not None and directory.listed_ns:
                self._changed(parent)

    async def _dirs_among(self, parent: int, found: list[Listed]) -> set[str]:
        """Names of files in the page that the table has as directories."""
        files = [item.name for item in found if stat.S_ISREG(item.mode)]
        return await self._catalog.directories_among(parent, files)

    async def _show_shadowed(self, parent: int, shadowed: list[Listed], since_ns: int) -> None:
        """Objects whose name was a directory's: show those whose directory is gone."""
        dirs = await self._catalog.directories_among(parent, [item.name for item in shadowed])
        free = [item for item in shadowed if item.name not in dirs]
        await self._take_in(parent, free, since_ns)
        if hidden := [item.name for item in shadowed if item.name in dirs]:
            self._hidden(len(hidden))
            about = {"count": len(hidden), "first": hidden[0]}
            self._complaints.failed(("shadowed", parent), "keys hidden", names.SHADOWED, **about)

    @property
    def away(self) -> bool:
        """Whether the store could not be reached when it was last asked."""
        return self._patience.away

    def _is_probing(self) -> bool:
        """The store is away, and enough requests wait for it to come back."""
        return self._patience.away and len(self._listings) + len(self._questions) >= PROBES

    async def name(
        self, directory: Inode, name: str, *, force: bool = False, known: bool = False
    ) -> None:
        """Bring one name up to date. ``known``: what the table has will do while the store is
        away; otherwise that raises StoreUnavailable. ``force``: not as a listing tells it, and,
        unless ``known``, as the store has it now, whatever others asked before."""
        key = (directory.ino, name)
        question = self._questions.find(key, force=force and not known)
        if question is None:
            if known and self._is_probing():
                return
            question = self._questions.begin(
                key, lambda forced: self._name(directory, name, forced), force=force
            )
        assert question.task is not None
        await self._patience.wait(question.task, question.progress, known=known)

    async def _name(self, directory: Inode, name: str, force: bool) -> None:
        if not force and not directory.flags & Mark.LARGE:
            try:
                if await self._by_listing(directory, name):
                    return
            except CacheFull:
                pass  # for the other names: this one may be known
        if not force:
            await self._note_single(directory)
        await self._ask(directory, name)

    async def _by_listing(self, directory: Inode, name: str) -> bool:
        """Bring one name up to date by a page of its directory; False if that has more."""
        listing = await self.begin(directory, pages=1)
        while listing.pages == 0 and listing.task is not None and not listing.task.done():
            await listing.more()
        inode = await self._catalog.child(directory.ino, name)
        if inode is not None and inode.checked_ns >= listing.since_ns:
            return True
        now = await self._catalog.find(directory.ino)
        return now is None or now.listed_ns >= listing.since_ns

    async def _note_single(self, directory: Inode) -> None:
        """Names of a large directory are asked for one by one. Whoever does that often wants many
        of them: begin listing it, behind the asking."""
        then, count = self._singles.pop(directory.ino, (0, 0))
        if not self.is_fresh(then):
            then, count = time.time_ns(), 0
        self._singles[directory.ino] = (then, count + 1)
        if len(self._singles) > SINGLES_KEPT:
            self._singles.pop(next(iter(self._singles)))
        if count + 1 == SINGLES:
            await self.begin(directory, pages=SINGLES_PAGES)

    async def _ask(self, directory: Inode, name: str) -> None:
        since_ns = time.time_ns()
        path = await self._catalog.path(directory.ino)
        if path is None:
            return
        key = f"{path}/{name}" if path else name
        info, page = await asyncio.gather(
            self._head(key), self._store.list_page(key + "/", delimiter=False, limit=1)
        )
        if await self._catalog.path(directory.ino) != path:
            return  # renamed meanwhile: the answer is about another name
        if page.objects or page.prefixes:
            item = Listed(name, stat.S_IFDIR, 0, since_ns, None)
        elif info is not None:
            item = names.from_object(info, name)
            known = await self._catalog.child(directory.ino, name)
            if known is not None and known.is_dir and self._catalog.is_crowd(known.ino):
                await self._forget(directory.ino, name, since_ns)  # some at a time
                if await self._catalog.path(directory.ino) != path:
                    return
        else:
            await self._forget(directory.ino, name, since_ns)
            return
        await self._take_in(directory.ino, [item], since_ns)

    async def _head(self, key: str) -> ObjectInfo | None:
        try:
            return await self._store.head(key)
        except ObjectNotFound:
            return None

    async def revalidate(self, inode: Inode, *, known: bool = False) -> None:
        """Ask the store for one file's version now; ``known`` as in :meth:`name`."""
        name = self._catalog.name_of(inode.ino, inode.parent)
        directory = await self._catalog.find(inode.parent)
        if name is not None and directory is not None:
            await self.name(directory, name, force=True, known=known)

    async def close(self) -> None:
        tasks = [x.task for x in self._listings.values() if x.task] + self._questions.tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
