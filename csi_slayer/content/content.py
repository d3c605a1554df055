"""The content of a volume's files: what the VFS asks for bytes, staging and durability."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import structlog

from csi_slayer.cache import SMALL, Cache, Conflicts, SegmentKey, Staging
from csi_slayer.catalog import Catalog, Inode, Mark
from csi_slayer.content import metadata
from csi_slayer.content.adoption import Adoption
from csi_slayer.content.again import Again
from csi_slayer.content.clean import CleanFile
from csi_slayer.content.durable import Durable
from csi_slayer.content.following import follow
from csi_slayer.content.growth import Growth
from csi_slayer.content.hydration import Hydration
from csi_slayer.content.mapped import Mapped, tells_of_stores
from csi_slayer.content.objects import Objects
from csi_slayer.content.opened import File, OpenInode, OpenInodes
from csi_slayer.content.options import ContentEvents, ContentOptions
from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.past_cache import Memory
from csi_slayer.content.races import Races
from csi_slayer.content.reconcile import LOOKS, Reconciler
from csi_slayer.content.recovery import Recovery
from csi_slayer.content.segment_reader import Transfers
from csi_slayer.content.small import SmallFetcher, Source
from csi_slayer.content.spans import Spans
from csi_slayer.content.spares import Spares
from csi_slayer.content.staged import StagedFile, discarding, os_errors, remove_staged
from csi_slayer.content.upload import Uploader
from csi_slayer.errors import ObjectNotFound, SlayerError, StoreUnavailable
from csi_slayer.store.base import ObjectStore

log = structlog.get_logger(__name__)

OWN_CHANGE = 10.0
"""Seconds that a reader, to whom the store says that the version it reads is gone, waits for a
change of our own that may be why."""


class Content:
    """Composition of the layer; one per volume. ``changed(ino)`` tells that an inode's content
    became another than the kernel may have cached."""

    def __init__(
        self,
        store: ObjectStore,
        cache: Cache,
        catalog: Catalog,
        options: ContentOptions,
        events: ContentEvents,
        changed: Callable[[int], None],
    ) -> None:
        self.store = store
        self.cache = cache
        self.catalog = catalog
        self.options = options
        self.events = events
        self.opened = OpenInodes()
        self.staging: Staging = cache.staging(options.volume)
        self.maps_for_writing = tells_of_stores(str(self.staging.directory))
        """Whether the kernel may map staged files: we learn of what is stored then."""
        self.conflicts: Conflicts = cache.conflicts(options.volume)
        self.smalls = SmallFetcher(store, cache, self._learned)
        self.spans = Spans(options.segment_max, cache.capacity)
        self._memory = Memory(options.live)
        self.transfers = Transfers(options.readahead_transfers, options.live)
        self.uploader = Uploader(store, catalog, self.opened, options.part_size)
        self.races = Races(
            store, catalog, self.staging, self.conflicts, self.opened, events, changed
        )
        self.objects = Objects(
            store, catalog, self.staging, self.races, self.uploader, self.opened, self.open_source,
            options,
        )  # fmt: skip
        self.objects.follow = self._follow
        self._hydration = Hydration(catalog, self.staging, self.objects, self.open_source, options)
        self.reconciler = Reconciler(
            catalog,
            self.objects,
            self.opened,
            options,
            lambda: store.progress + self.uploader.checksums.made,
        )
        self.races.kick = self.reconciler.kick
        self.stored_into: Callable[[int], object] = lambda ino: None
        """Told of an inode whose mtime is another one without the kernel knowing, perhaps."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._mapped = Mapped(self.opened.mappable, self.retire, self.spawn)
        self.durable = Durable(catalog, self.opened, self.objects, self.staging, self.spawn)
        self.objects.undurable = self.durable.marked
        self.objects.rebased = self.durable.rebased
        self._adoption = Adoption(cache)
        self._spares = Spares(self.staging, self.spawn)
        self._orphans = Again(self._drop_orphan, "orphans are left", self.opened, self.spawn)
        self.closed = Again(self.retire, "staged copies are left", self.opened, self.spawn).do
        """:meth:`retire` after the last close, now or as soon as that can be done."""
        self._growth = Growth(
            catalog, self.opened, self.objects, self.uploader, self.note_dirty,
            lambda ino: self.stored_into(ino), self.durable.emptied, self.spawn,
        )  # fmt: skip

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something in the background; owned by this object, its failure is logged."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work failed", error=str(error), exc_info=error)

    # -- start and end ---------------------------------------------------------------------

    async def start(self) -> None:
        """Recover what an earlier worker left, then begin the background work."""
        await self.catalog.inherit_pending()
        await self.catalog.drop_orphans(self.opened)
        recovery = Recovery(
            self.catalog, self.objects, self.staging, self.conflicts, self.opened,
            self.note_dirty, self._retire_soon, self.durable.note,
        )  # fmt: skip
        await recovery.recover()
        self.spawn(self.uploader.abort_left())
        self.reconciler.start()
        self.spawn(self._growth.watch())

    async def close(self) -> None:
        """Stop background work; what is staged stays staged."""
        await self.reconciler.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.smalls.close()
        for record in self.opened:
            if record.file is not None:
                await record.file.close()

    # -- reading ---------------------------------------------------------------------------

    def open_source(self, source: Source) -> CleanFile:
        return CleanFile(
            self.store, self.cache, self.smalls, self.options.tenant, self.transfers, self.events,
            source, self.spans.of(source.size), self._own_change_over, self._memory,
        )  # fmt: skip

    def _follow(self, old: Source, new: Source) -> None:
        follow(self.cache, self.options.tenant, self.spans.of(old.size), old, new)

    async def _own_change_over(self, key: str) -> None:
        with contextlib.suppress(SlayerError, TimeoutError):
            async with asyncio.timeout(OWN_CHANGE):
                await self.reconciler.settle(key)

    async def open_clean(self, inode: Inode) -> CleanFile:
        """For reading a file that has no staged copy."""
        if inode.etag is None:
            raise ObjectNotFound(f"inode {inode.ino} has no object yet")
        return self.open_source(await self.objects.source_of(inode))

    def segment_key(self, source: Source) -> SegmentKey:
        return SegmentKey.of(self.options.tenant, source.key, source.etag, 0)

    async def prefetch(self, inodes: Sequence[Inode]) -> int | None:
        """Begin fetching small files ahead; returns the place of the last that was taken."""
        last, room = None, self.smalls.room
        for inode in inodes:
            if inode.is_file and inode.stage is None and 0 < inode.size <= SMALL and inode.etag:
                source, room = await self.objects.source_of(inode), room - inode.size
                if room < 0 or not self.smalls.prefetch(source, self.segment_key(source)):
                    break
            last = inode.place
        return last

    def _learned(self, source: Source, values: Mapping[str, str]) -> None:
        if source.ino:
            self.spawn(self.learn(source.ino, values, source.etag))

    async def learn(self, ino: int, values: Mapping[str, str], etag: str | None = None) -> None:
        """Take over the attributes that an object's metadata carries, unless set here or (given
        the ``etag`` of that object) the inode's is another one by now."""
        inode = await self.catalog.find(ino)
        if inode is None or inode.flags & Mark.ATTRS_KNOWN or etag not in (None, inode.etag):
            return
        await self.catalog.update(ino, add=Mark.ATTRS_KNOWN, **metadata.decode(values, inode))
        if xattrs := metadata.decode_xattrs(values):
            await self.catalog.load_xattrs(ino, xattrs)

    # -- writing ---------------------------------------------------------------------------

    def new_stage(self) -> StagedFile:
        """An empty staged file. Raises CacheFull."""
        stage = self._spares.take()
        return StagedFile(stage.id, stage.file, stage.fd)

    async def writable(self, record: OpenInode, inode: Inode, *, truncate: bool) -> File:
        """The file of ``record`` made fit for writing; called with ``record.lock`` held."""
        file = record.file
        if not isinstance(file, StagedFile | OverlayFile):
            if inode.stage is not None:
                file = await self.objects.open_stage(inode)
            elif inode.size == 0 or (truncate and not record.backing_id):
                file = await self._stage_empty(inode)
            else:
                file = await self._hydration.staged(record, inode)
            before, record.file = record.file, file
            self.durable.note(inode.ino)
            if isinstance(before, CleanFile):
                await before.close()
        if truncate:  # an empty file too: its times change
            await self.truncate(record, file, 0)
        return file

    async def truncate(self, record: OpenInode, file: StagedFile | OverlayFile, size: int) -> None:
        """Cut the file of ``record``, or make it longer; raises CacheFull."""
        await self._growth.cut(record, file, size)

    async def _stage_empty(self, inode: Inode) -> StagedFile:
        file = self.new_stage()
        async with discarding(self.staging, file):
            if inode.size:
                await self._dirty(inode, add=Mark.UNSYNCED, stage=file.stage, stamp=None, size=0)
            else:
                with os_errors():
                    os.utime(file.fd, ns=(inode.atime_ns, inode.mtime_ns))
                stamp = inode.mtime_ns if inode.etag is not None else None
                await self.catalog.update(
                    inode.ino, add=Mark.UNSYNCED, stage=file.stage, stamp=stamp
                )
        return file

    async def note_dirty(self, inode: Inode) -> None:
        """The staged bytes were changed: see that the upload is queued and the row is true."""
        found = self.objects.staged_stat(inode)
        if found is not None:
            if inode.ino in self.opened.mappable and found.st_mtime_ns != inode.mtime_ns:
                self.stored_into(inode.ino)
            size = self.opened.counted(inode.ino, found.st_size)
            await self._dirty(inode, size=size, mtime_ns=found.st_mtime_ns)

    async def _dirty(self, inode: Inode, **values: Any) -> None:
        key = await self.catalog.path(inode.ino)
        if key is None:
            await self.catalog.update(inode.ino, **values)  # unlinked: nothing to upload
            return
        in_place = inode.etag is not None and inode.origin is None
        await self.catalog.dirty(inode.ino, key, inode.etag if in_place else "", **values)

    async def sync(self, ino: int) -> None:
        """Return when the store has the file's present bytes; raises why it has not."""
        for _ in range(LOOKS):
            inode, key = await self.catalog.find(ino), await self.catalog.path(ino)
            if inode is None or key is None:
                return
            dirty, row = self.objects.is_dirty(inode), await self.catalog.pending(key)
            if dirty and (row is None or self.reconciler.is_active(key)):
                # Noted anew even if pending: what is being sent may be older than this call.
                await self.note_dirty(inode)
            await self.reconciler.settle(key + "/" if inode.is_dir else key)
            now = await self.catalog.find(ino)
            stored = now and now.stamp != inode.stamp  # an aside copy changes the etag alone
            if (stored or not dirty) and await self.catalog.path(ino) == key:
                return  # else it was renamed meanwhile, or the key was another file's for a while
        raise StoreUnavailable(f"inode {ino} is being renamed faster than the store follows")

    def is_settled(self, inode: Inode) -> bool:
        """Whether the staged copy of an inode is what the store has of it, and nobody is about to
        change it: no call, no handle and no mapping."""
        if inode.etag is None or inode.origin is not None or self.opened.is_partial(inode):
            return False
        assert inode.stage is not None
        record = self.opened.get(inode.ino)
        if record is not None and (record.writers or record.lock.locked()):
            return False
        if inode.ino in self.opened.mappable:
            if self._mapped.may_be(inode.ino, self.staging.file(inode.stage), record):
                return False
        return not self.objects.is_dirty(inode)

    def cloned(self, ino: int, source: Source, mtime_ns: int) -> None:
        """The staged bytes of ``ino`` are a copy of a whole object, until its mtime changes."""
        if len(self.objects.clones) < 1024:
            self.objects.clones[ino] = (source, mtime_ns)

    def retimed(self, ino: int, old_ns: int, new_ns: int) -> None:
        """The mtime of the staged bytes of ``ino`` was set."""
        if (record := self.opened.get(ino)) is not None:
            record.retimed += 1
        source, mtime_ns = self.objects.clones.pop(ino, (None, 0))
        if source is not None and mtime_ns == old_ns:
            self.objects.clones[ino] = (source, new_ns)

    async def removed(self, inode: Inode) -> None:
        """An inode is gone for good: so are its staged copy and what was sent ahead."""
        if self.uploader.name_lost(inode.ino):
            self.spawn(self.uploader.forget(inode.ino))  # the store may be away
        self.objects.clones.pop(inode.ino, None)
        self.objects.unsure.pop(inode.ino, None)
        self.opened.mappable.discard(inode.ino)
        self.durable.forget(inode.ino)
        if inode.stage is not None:
            await remove_staged(self.staging, inode.stage)

    # -- after the last close --------------------------------------------------------------

    async def let_go(self) -> None:
        """Nothing is open any more, and nobody will ask again what is mapped: what the store has
        is not left staged, for once the volume's state is removed nobody knows whose it is."""
        staged = [inode.ino for inode in self.catalog.each_staged()]
        for ino in [*self._adoption.under_way, *staged]:
            try:
                await self.retire(ino)
            except SlayerError as error:
                log.warning("a staged copy is left", ino=ino, error=str(error))
            await asyncio.sleep(0)  # there may be many, and uploads go on meanwhile

    def _retire_soon(self, ino: int) -> None:
        if ino not in self.opened:
            self.spawn(self.closed(ino))

    async def retire(self, ino: int) -> None:
        """A file that is no longer open: drop it, queue it, or make its staged copy a segment."""
        async with self.opened.held(ino) as record, record.lock:
            if record.users == 1 and record.file is None:
                await self._retire(ino)

    async def retire_open(self, ino: int, file: StagedFile) -> bool:
        """As :meth:`retire` for a file that nobody uses any more but this call; the caller closes
        it. False: nothing was done, for it takes longer than a moment.

        Suspends nowhere, so nobody can open the file meanwhile.
        """
        inode = await self.catalog.find(ino)
        if inode is None or inode.nlink == 0 or inode.stage != file.stage or inode.etag is None:
            return False
        found = file.stat()
        if found.st_mtime_ns != inode.stamp or not 0 < found.st_size <= SMALL:
            return False
        await self._adopt(inode, file.fd)
        return True

    async def _retire(self, ino: int) -> None:
        inode = await self.catalog.find(ino)
        if inode is None or inode.stage is None:
            self.opened.mappable.discard(ino)
        if inode is None:
            return
        if inode.nlink == 0:
            try:
                await self.removed(inode)  # first: on a full disk that makes room
            finally:
                await self._orphans.do(ino)
        elif inode.stage is not None:
            if self.objects.is_dirty(inode) or inode.etag is None:
                self.durable.note(ino)
                key = await self.catalog.path(ino)
                queued = key is not None and await self.catalog.pending(key) is not None
                anew = not queued or self.options.live.quota is not None
                if key is None or anew or self.reconciler.is_active(key):
                    await self.note_dirty(inode)
                self.reconciler.closed(key)
            else:
                await self._adopt(inode)

    async def _drop_orphan(self, ino: int) -> None:
        await self.catalog.drop_orphan(ino)
        self.reconciler.kick()

    async def _adopt(self, inode: Inode, fd: int | None = None) -> None:
        assert inode.stage is not None
        try:
            source = await self.objects.source_of(inode)
        except ObjectNotFound:
            return  # unlinked meanwhile
        path = self.staging.file(inode.stage)
        if inode.ino in self.opened.mappable:
            if self._mapped.is_mapped(inode.ino, path, fd):
                return
            if self.objects.is_dirty(inode):  # by a store just before the mapping's end
                await self.note_dirty(inode)
                self.reconciler.kick()
                return
        await self.catalog.unstaged(inode.ino)
        self.durable.forget(inode.ino)
        if not inode.flags & (Mark.OVERLAY | Mark.UNKEPT) and 0 < inode.size <= self.spans.most:
            key = self.segment_key(source)
            if await self._adoption.adopt(inode.ino, key, path, inode.size, fd):
                return
        self.staging.remove(inode.stage)
