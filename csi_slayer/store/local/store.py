"""The local implementation of the object store: blocking work in threads of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from csi_slayer.errors import ObjectNotFound, StoreError, StoreUnsupported
from csi_slayer.store.base import (
    ANY,
    Condition,
    ListPage,
    ObjectInfo,
    ObjectStore,
    PendingUpload,
    RangeSink,
)
from csi_slayer.store.local import reads, uploads, writes
from csi_slayer.store.local.drafts import Draft
from csi_slayer.store.local.listing import Listings
from csi_slayer.store.local.names import LONGEST_PATH, Place, place_of
from csi_slayer.store.local.tree import Tree
from csi_slayer.store.local.work import WorkThreads
from csi_slayer.store.stop import StopFlag

# A whole object asked for by ``get`` may be this large (bytes).
_MOST_GET_BYTES = 64 << 20


class LocalStore:
    """A directory; see the interface. Opened by :func:`open_local`."""

    def __init__(self, tree: Tree, identity: str, threads: WorkThreads) -> None:
        self._tree = tree
        self._identity = identity
        self._threads = threads
        self._listings = Listings(tree)

    @property
    def identity(self) -> str:
        """The directory."""
        return self._identity

    @property
    def part_minimum(self) -> int:
        """Any size will do."""
        return 1

    @property
    def progress(self) -> int:
        """Pieces of work that were done."""
        return self._threads.progress

    @property
    def key_maximum(self) -> int:
        """No longer than Linux lets a path be, with some room for where the directory is."""
        return LONGEST_PATH

    async def check(self) -> None:
        """Read the directory and write into its hidden part's lock, as any change does."""

        def work(stop: StopFlag) -> None:
            self._listings.page("", True, None, None, 1)
            with self._tree.locked():
                pass

        await self._threads.run("ListObjectsV2", "", work)

    async def head(self, key: str) -> ObjectInfo:
        """Size, etag, time and user metadata of an object."""
        place = _readable(key)
        return await self._threads.run(
            "HeadObject", key, lambda stop: reads.head(self._tree, place)
        )

    async def list_page(
        self,
        prefix: str,
        *,
        delimiter: bool = True,
        token: str | None = None,
        start_after: str | None = None,
        limit: int = 1000,
        continues: Callable[[str], None] | None = None,
    ) -> ListPage:
        """One page; names that are not UTF-8, symlinks and special files are left out."""
        return await self._threads.run(
            "ListObjectsV2",
            prefix,
            lambda stop: self._listings.page(prefix, delimiter, token, start_after, limit),
        )

    async def get(
        self, key: str, *, offset: int = 0, length: int | None = None, if_match: str | None = None
    ) -> tuple[ObjectInfo, bytes]:
        """A range into memory; a range that begins at or after the end is InvalidRange."""
        place = _readable(key)
        return await self._threads.run(
            "GetObject",
            key,
            lambda stop: reads.get(self._tree, place, offset, length, if_match, _MOST_GET_BYTES),
        )

    async def fetch(
        self, key: str, *, offset: int, length: int, if_match: str, sink: RangeSink
    ) -> None:
        """A range into ``sink``, from a thread; see the interface."""
        place = _readable(key)
        if length > 0:
            await self._threads.run(
                "GetObject",
                key,
                lambda stop: reads.fetch(
                    self._tree, place, offset, length, if_match, sink, stop.check
                ),
            )

    async def put(
        self,
        key: str,
        body: bytes | memoryview,
        *,
        condition: Condition = ANY,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """An object from memory."""
        return await self._put(key, lambda draft: draft.write(body), len(body), condition, metadata)

    async def put_file(
        self,
        key: str,
        fd: int,
        length: int,
        *,
        condition: Condition = ANY,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """An object from a file."""
        return await self._put(
            key,
            lambda draft: draft.append_file(fd, 0, length),
            length,
            condition,
            metadata,
            from_file=True,
        )

    async def _put(
        self,
        key: str,
        fill: Callable[[Draft], None],
        size: int,
        condition: Condition,
        metadata: Mapping[str, str] | None,
        *,
        from_file: bool = False,
    ) -> ObjectInfo:
        place = place_of(key)
        return await self._threads.run(
            "PutObject",
            key,
            lambda stop: writes.put(self._tree, place, fill, size, condition, metadata, stop.check),
            size,
            from_file=from_file,
        )

    async def create_multipart(self, key: str, *, metadata: Mapping[str, str] | None = None) -> str:
        """Begin an upload."""
        place = place_of(key)
        return await self._threads.run(
            "CreateMultipartUpload", key, lambda stop: uploads.begin(self._tree, place, metadata)
        )

    async def upload_part(
        self, key: str, upload_id: str, number: int, fd: int, offset: int, length: int
    ) -> str:
        """Store a part from a file; its etag."""
        place = place_of(key)
        return await self._threads.run(
            "UploadPart",
            key,
            lambda stop: uploads.add_part(
                self._tree,
                place,
                upload_id,
                number,
                lambda draft: draft.append_file(fd, offset, length),
                stop.check,
            ),
            length,
            from_file=True,
        )

    async def upload_part_copy(
        self,
        key: str,
        upload_id: str,
        number: int,
        *,
        source: str,
        source_etag: str,
        offset: int,
        length: int,
    ) -> str:
        """Make a part of another object's range; its etag."""
        place, origin = place_of(key), _readable(source)
        return await self._threads.run(
            "UploadPartCopy",
            key,
            lambda stop: uploads.copy_part(
                self._tree,
                place,
                upload_id,
                number,
                origin,
                source_etag,
                offset,
                length,
                stop.check,
            ),
        )

    async def complete_multipart(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[tuple[int, str]],
        *,
        condition: Condition = ANY,
    ) -> ObjectInfo:
        """Assemble the object. Completing a completed upload again is no error."""
        place = place_of(key)
        return await self._threads.run(
            "CompleteMultipartUpload",
            key,
            lambda stop: uploads.complete(
                self._tree, place, upload_id, parts, condition, stop.check
            ),
        )

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """Drop an upload and its parts; it need not exist."""
        await self._threads.run(
            "AbortMultipartUpload", key, lambda stop: uploads.abort(self._tree, upload_id)
        )

    async def list_multipart(self, prefix: str) -> Sequence[PendingUpload]:
        """Uploads under way below a prefix, in key order."""
        return await self._threads.run(
            "ListMultipartUploads", prefix, lambda stop: uploads.pending(self._tree, prefix)
        )

    async def copy(
        self,
        source: str,
        target: str,
        *,
        source_etag: str | None = None,
        metadata: Mapping[str, str | None] | None = None,
        condition: Condition = ANY,
    ) -> ObjectInfo:
        """Copy one version of ``source``, sharing its blocks where the file system can."""
        return await self._copy(self, source, target, source_etag, metadata, condition)

    async def copy_from(
        self, origin: ObjectStore, source: str, target: str, *, source_etag: str | None = None
    ) -> ObjectInfo:
        """Copy from another directory."""
        if not isinstance(origin, LocalStore):
            raise StoreUnsupported("a copy is possible only within one machine's directories")
        return await self._copy(origin, source, target, source_etag, None, ANY)

    async def _copy(
        self,
        origin: LocalStore,
        source: str,
        target: str,
        source_etag: str | None,
        metadata: Mapping[str, str | None] | None,
        condition: Condition,
    ) -> ObjectInfo:
        found, place = _readable(source), place_of(target)
        return await self._threads.run(
            "CopyObject",
            target,
            lambda stop: writes.copy(
                origin._tree,
                found,
                self._tree,
                place,
                source_etag,
                metadata,
                condition,
                stop.check,
            ),
        )

    async def delete(self, key: str) -> None:
        """Delete one object; it need not exist."""
        try:
            place = place_of(key)
        except StoreUnsupported:
            return
        await self._threads.run(
            "DeleteObject", key, lambda stop: writes.delete(self._tree, [place])
        )

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Delete directory by directory; one that fails is reported for each of its keys."""
        groups: dict[tuple[str, ...], list[Place]] = defaultdict(list)
        for key in keys:
            try:
                place = place_of(key)
            except StoreUnsupported:
                continue
            groups[tuple(place.folders)].append(place)
        failed: dict[str, str] = {}

        async def one(places: list[Place]) -> None:
            try:
                await self._threads.run(
                    "DeleteObjects", places[0].key, lambda stop: writes.delete(self._tree, places)
                )
            except StoreError as error:
                failed.update({place.key: str(error) for place in places})

        # Deepest first: a directory can go when what is in it has gone.
        for _, places in sorted(groups.items(), key=lambda item: -len(item[0])):
            await one(places)
        return failed

    async def close(self) -> None:
        """Stop work under way, wait for its end and let go of the directory."""
        if await self._threads.close():
            self._tree.close()


def _readable(key: str) -> Place:
    """Where to look for a key: one that cannot be there is not there."""
    try:
        return place_of(key)
    except StoreUnsupported as error:
        raise ObjectNotFound(str(error)) from None
