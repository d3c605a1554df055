"""Sending one staged file to the store as one object.

Up to a part's size: a single PUT. Larger: multipart, with parts of a growing file sent ahead while
it is still being written, clean parts of a changed object copied server-side, and each part's
checksum taken as it is sent, so that what changed afterwards is noticed and sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from csi_slayer.catalog import Catalog
from csi_slayer.content.checksums import Checksums
from csi_slayer.content.locks import Locks
from csi_slayer.content.opened import OpenInodes
from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.patient import read_small
from csi_slayer.content.staged import StagedFile
from csi_slayer.content.tasks import together
from csi_slayer.errors import (
    PreconditionFailed,
    SlayerError,
    SourceShort,
    StoreError,
    StoreUnavailable,
    StoreUnsupported,
)
from csi_slayer.store.base import ABSENT, ANY, Condition, ObjectInfo, ObjectStore
from csi_slayer.store.source import reading
from csi_slayer.store.write_token import WRITE_TOKEN

log = structlog.get_logger(__name__)

SINGLE = 1 << 20
"""Objects up to this size are sent from memory, bytes."""

MAX_PARTS = 9_500
"""S3 allows 10,000 parts; the rest is for a file that grows while it is sent."""

PARTS_AT_ONCE = 4
"""Parts of one file under way at the same time."""

LEFT, LEFT_PAUSE = 4096, 60.0
"""Uploads that could not be aborted and are tried again, those beyond at the next start; and the
seconds between two tries."""

_PIECE = 1 << 20


class Part(NamedTuple):
    """A part that the store has: its etag, and the checksum of the bytes when they were sent."""

    number: int
    etag: str
    length: int
    checksum: int


@dataclass(slots=True)
class Multipart:
    """A multipart upload under way for one file."""

    key: str
    upload_id: str
    part_size: int
    metadata: Mapping[str, str]
    parts: dict[int, Part] = field(default_factory=dict)
    wanted: bool = True
    cut: bool = False
    """Whether the store may still be at work for a request that nobody waits for any more."""

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a request: if it fails, but for a condition that did not hold, it is ``cut``."""
        try:
            yield
        except PreconditionFailed:
            raise
        except BaseException:
            self.cut = True
            raise

    def fits(self, key: str, part_size: int, metadata: Mapping[str, str]) -> bool:
        """Whether this upload can become the object; metadata is fixed when an upload begins, so
        the mtime, which nobody knows then, is let pass: the time of a write meanwhile differs by
        little, and one that somebody set is written to the object afterwards."""
        return (
            self.key == key
            and self.part_size == part_size
            and _without_mtime(self.metadata) == _without_mtime(metadata)
        )


def _without_mtime(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: v for name, v in metadata.items() if name not in ("mtime", WRITE_TOKEN)}


def _was_set_since(begun: str | None, mtime: str | None) -> bool:
    """Whether an mtime, in seconds, is not that of a write since an upload began."""
    if begun is None or mtime is None or mtime == begun:
        return False
    return not float(begun) <= float(mtime) <= time.time()


def part_size_for(size: int, wanted: int) -> int:
    """The part size for an object of ``size`` bytes: ``wanted``, or more where S3's limit asks."""
    needed = -(-size // MAX_PARTS)
    return max(wanted, -(-needed // _PIECE) * _PIECE)


def condition_for(expect: str | None) -> Condition:
    """What a pending row's belief means for a conditional write."""
    if expect is None:
        return ANY
    return ABSENT if expect == "" else Condition(if_match=expect)


class NotWanted(Exception):
    """What is being sent was removed or cut off meanwhile: look again at what the key needs."""


class Uploader:
    """Sends staged files; knows nothing of names or of when to do it."""

    def __init__(
        self, store: ObjectStore, catalog: Catalog, opened: OpenInodes, part_size: int
    ) -> None:
        self._store = store
        self._opened = opened
        self._catalog = catalog
        self.part_size = max(part_size, store.part_minimum)
        self._ahead: dict[int, Multipart] = {}
        self._sending: dict[int, Multipart] = {}
        self._left: dict[str, tuple[str, bool]] = {}
        """Uploads to be aborted: their keys, and whether once more after that."""
        self._copies = True  # until the store says that it cannot
        self.checksums = Checksums(opened)
        self._locks = Locks[int]()
        """One upload of a file at a time: sending ahead and the real one never overlap."""

    async def look(self, fd: int, size: int) -> int:
        """A checksum of all that is to be sent."""
        return await self.checksums.of_all(fd, size, self.part_size)

    async def send(
        self,
        ino: int,
        key: str,
        file: StagedFile | OverlayFile,
        size: int,
        condition: Condition,
        metadata: Mapping[str, str],
    ) -> ObjectInfo:
        """The first ``size`` bytes of the file as the object ``key``. Raises NotWanted."""
        with self._locks.of(ino) as lock:
            async with lock:
                try:
                    return await self._send(ino, key, file, size, condition, metadata)
                except StoreError as error:
                    if isinstance(error, SourceShort) or file.size < size:
                        raise NotWanted from None  # cut off while it was being read
                    raise

    async def _send(
        self,
        ino: int,
        key: str,
        file: StagedFile | OverlayFile,
        size: int,
        condition: Condition,
        metadata: Mapping[str, str],
    ) -> ObjectInfo:
        ahead = self._ahead.pop(ino, None)
        if size <= self.part_size:
            if ahead is not None:
                await self._abort(ahead)
            if isinstance(file, OverlayFile):
                await file.bring_all()
            if size <= SINGLE:
                with reading():
                    body = await read_small(self._opened.patient, file.fd, size)
                if len(body) < size:
                    raise NotWanted
                return await self._store.put(key, body, condition=condition, metadata=metadata)
            return await self._store.put_file(
                key, file.fd, size, condition=condition, metadata=metadata
            )
        part_size = part_size_for(size, self.part_size)
        if ahead is not None and not ahead.fits(key, part_size, metadata):
            await self._abort(ahead)
            ahead = None
        upload = ahead or await self._begin(key, part_size, metadata)
        self._sending[ino] = upload
        try:
            await self._send_parts(upload, file, size)
            info = await self._complete(upload, condition)
        except BaseException:
            await asyncio.shield(self._abort(upload))
            raise
        finally:
            if self._sending.get(ino) is upload:
                del self._sending[ino]
        await self._catalog.upload_ended(upload.upload_id)
        if _was_set_since(upload.metadata.get("mtime"), metadata.get("mtime")):
            there = Condition(if_match=info.etag)
            return await self._store.copy(
                key, key, source_etag=info.etag, metadata=metadata, condition=there
            )
        return info

    async def _complete(self, upload: Multipart, condition: Condition) -> ObjectInfo:
        parts = [(p.number, p.etag) for p in sorted(upload.parts.values())]
        with upload.asking():
            return await self._store.complete_multipart(
                upload.key, upload.upload_id, parts, condition=condition
            )

    async def _begin(self, key: str, part_size: int, metadata: Mapping[str, str]) -> Multipart:
        upload_id = await self._store.create_multipart(key, metadata=metadata)
        upload = Multipart(key, upload_id, part_size, metadata)
        try:
            await self._catalog.upload_began(upload_id, key)
        except BaseException:  # nobody would know of it
            await asyncio.shield(self._abort(upload))
            raise
        return upload

    async def _abort(self, upload: Multipart) -> None:
        try:
            await self._abort_one(upload.upload_id, upload.key, once_more=upload.cut)
        except SlayerError:
            pass
        else:
            if not upload.cut:
                return
        if len(self._left) < LEFT:  # it stays in the table of uploads
            self._left[upload.upload_id] = upload.key, upload.cut

    async def _abort_one(self, upload_id: str, key: str, *, once_more: bool) -> None:
        """With ``once_more`` it stays in the table: a part that comes to its end in the store
        after this may be kept, with the upload (S3 API Reference, AbortMultipartUpload)."""
        await self._store.abort_multipart(key, upload_id)
        if not once_more:
            await self._catalog.upload_ended(upload_id)

    async def _send_parts(
        self, upload: Multipart, file: StagedFile | OverlayFile, size: int
    ) -> None:
        count = -(-size // upload.part_size)
        for number in [n for n in upload.parts if n > count]:
            del upload.parts[number]
        numbers = iter(range(1, count + 1))

        async def lane() -> None:
            for number in numbers:
                if not upload.wanted or file.size < size:
                    raise NotWanted
                offset = (number - 1) * upload.part_size
                await self._send_part(upload, file, number, min(upload.part_size, size - offset))

        await together([lane() for _ in range(min(PARTS_AT_ONCE, count))])

    async def _send_part(
        self, upload: Multipart, file: StagedFile | OverlayFile, number: int, length: int
    ) -> None:
        offset = (number - 1) * upload.part_size
        if isinstance(file, OverlayFile):
            if self._copies and file.clean_range(offset, length):
                source = file.base.source
                try:
                    with upload.asking():
                        etag = await self._store.upload_part_copy(
                            upload.key,
                            upload.upload_id,
                            number,
                            source=source.key,
                            source_etag=source.etag,
                            offset=offset,
                            length=length,
                        )
                except PreconditionFailed as error:
                    raise PreconditionFailed(
                        f"{source.key!r} was changed by somebody else while it was edited here"
                    ) from error
                except StoreUnsupported as error:
                    log.warning("parts are not copied by the store but sent", error=str(error))
                    self._copies = False
                else:
                    upload.parts[number] = Part(number, etag, length, 0)
                    return
            await file.bring_range(offset, length)
        value = await self.checksums.of_range(file.fd, offset, length)
        done = upload.parts.get(number)
        if done is not None and (done.length, done.checksum) == (length, value):
            return
        with upload.asking():
            etag = await self._store.upload_part(
                upload.key, upload.upload_id, number, file.fd, offset, length
            )
        upload.parts[number] = Part(number, etag, length, value)

    async def _send_part_ahead(self, upload: Multipart, file: StagedFile, number: int) -> None:
        """A part that may be written to meanwhile: what was sent is what the checksum is of only
        if it still is so afterwards."""
        await self._send_part(upload, file, number, self.part_size)
        offset = (number - 1) * self.part_size
        value = await self.checksums.of_range(file.fd, offset, self.part_size)
        if upload.parts[number].checksum != value:
            del upload.parts[number]

    async def send_ahead(
        self, ino: int, key: str, file: StagedFile, metadata: Mapping[str, str]
    ) -> None:
        """Send the complete parts that a growing file has gained. After an error, which may be an
        OSError of the staged file, nothing is left of what was sent."""
        if ino not in self._locks:
            with self._locks.of(ino) as lock:
                async with lock:
                    await self._send_ahead(ino, key, file, metadata)

    async def _send_ahead(
        self, ino: int, key: str, file: StagedFile, metadata: Mapping[str, str]
    ) -> None:
        upload = self._ahead.get(ino)
        full = file.size // self.part_size
        if full < 2 and upload is None:
            return
        if full > MAX_PARTS // 2 or (upload is not None and upload.key != key):
            return
        try:
            if upload is None:
                upload = self._ahead[ino] = await self._begin(key, self.part_size, metadata)
            # The last full part may still be written to (readers of it see partial pages).
            todo = [n for n in range(1, full) if n not in upload.parts]
            await together([self._send_part_ahead(upload, file, n) for n in todo[:PARTS_AT_ONCE]])
        except (SlayerError, OSError):
            self._ahead.pop(ino, None)
            if upload is not None:
                await self._abort(upload)
            raise

    def sent_ahead(self) -> list[int]:
        """Files of which parts have been sent ahead, and no more than that."""
        return list(self._ahead)

    def name_lost(self, ino: int) -> bool:
        """What is being sent of this file is not wanted any more: it was removed. Returns whether
        parts were sent ahead, which are left to :meth:`forget`."""
        if ino in self._sending:
            self._sending[ino].wanted = False
        return ino in self._ahead

    async def forget(self, ino: int) -> None:
        """As :meth:`name_lost`, and what was sent ahead is not wanted either."""
        self.name_lost(ino)
        upload = self._ahead.pop(ino, None)
        if upload is not None:
            await self._abort(upload)

    async def abort_left(self) -> None:
        """Abort what an earlier worker began and did not end, and, for as long as this runs, what
        could not be aborted when it failed, for the store was away, or not for good."""
        for upload_id, key in (await self._catalog.uploads())[:LEFT]:
            self._left[upload_id] = key, True
        while True:
            for upload_id, (key, once_more) in list(self._left.items()):
                try:
                    await self._abort_one(upload_id, key, once_more=once_more)
                except StoreUnavailable:
                    break  # so it will be with the others
                except SlayerError:
                    continue
                if once_more:
                    self._left[upload_id] = key, False
                else:
                    del self._left[upload_id]
            await asyncio.sleep(LEFT_PAUSE)
