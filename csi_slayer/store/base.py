"""What SlayerFS asks of an object store: one small interface, two implementations.

Keys are ``str`` without a leading slash, exactly as the store holds them below the volume's
prefix: an implementation adds and strips the prefix itself. Etags are opaque strings, quotes
included where the server sends them. Sizes and offsets are bytes, times nanoseconds since 1970;
both have room in 64 bits, with a sign.

Errors: the :class:`csi_slayer.errors.StoreError` family, nothing else. An implementation retries
transient failures itself, within a documented time, before it raises ``StoreUnavailable``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

SIZE_MAX = 2**63 - 1
"""Bytes of the largest object that can be named."""


def storable_time(time_ns: int) -> int:
    """The nearest time that can be kept: the years 1677 to 2262."""
    return max(-(2**63), min(time_ns, 2**63 - 1))


class ObjectInfo(NamedTuple):
    """One version of one object. ``metadata`` is None where the call cannot know it (LIST).

    ``write_token`` is that of the write which made it, where HEAD finds one
    (:mod:`csi_slayer.store.write_token`).
    """

    key: str
    size: int
    etag: str
    mtime_ns: int
    metadata: Mapping[str, str] | None = None
    write_token: str | None = None


def is_copy(found: ObjectInfo, source: ObjectInfo) -> bool:
    """Whether both have the same content, which of what is empty, as links are, is its metadata."""
    if found.size != source.size:
        return False
    if found.write_token is not None and found.write_token == source.write_token:
        return True
    return found.etag == source.etag and (found.size > 0 or found.metadata == source.metadata)


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a listing; ``token`` continues it, None at the end."""

    objects: Sequence[ObjectInfo]
    prefixes: Sequence[str]
    token: str | None


@dataclass(frozen=True, slots=True)
class Condition:
    """What the target must be for a write to happen: at most one of the two is set.

    ``if_match``: exactly this etag. ``absent``: no object there (If-None-Match: *).
    """

    if_match: str | None = None
    absent: bool = False

    def holds(self, current: ObjectInfo | None) -> bool:
        """Whether a write may happen where this object is, or none."""
        if self.absent:
            return current is None
        if self.if_match is not None:
            return current is not None and current.etag == self.if_match
        return True


ANY = Condition()
ABSENT = Condition(absent=True)


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """A multipart upload that somebody began and nobody completed."""

    key: str
    upload_id: str
    started_ns: int


def changed(found: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """User metadata after ``changes``: names with None are taken away, and those that are not in
    it, which other programs have given, stay."""
    return {name: value for name, value in {**found, **changes}.items() if value is not None}


class RangeSink(Protocol):
    """Where a bulk download puts its bytes.

    ``write`` is called from the transfer's own thread, in order, with pieces that begin at
    multiples of ``piece`` bytes (object offsets) and are ``piece`` bytes long; the first one may
    begin, and the last one end, elsewhere.
    ``data`` is valid only during the call. Raising ends the transfer with that exception.

    ``room`` is called in the same thread before a piece is received: memory of ``size`` bytes that
    is to hold it, which ``write`` then gets; None leaves it to the store where the piece is held.
    A transfer that fails may leave it unused.
    """

    piece: int

    def room(self, size: int) -> memoryview | None: ...

    def write(self, offset: int, data: memoryview) -> None: ...


class ObjectStore(Protocol):
    """A bucket and prefix. All methods may be called concurrently from one event loop."""

    @property
    def identity(self) -> str:
        """Stable text naming endpoint, bucket, prefix and the identity of the credentials; empty
        for a store that was opened without asking for them.

        Contains no secret; two stores with the same value may share cached data.
        """

    @property
    def part_minimum(self) -> int:
        """Smallest size of a multipart part except the last (S3: 5 MiB; local: 1)."""

    @property
    def key_maximum(self) -> int:
        """Bytes of the longest key."""

    @property
    def progress(self) -> int:
        """A number that grows while bytes of objects move and requests are answered."""

    async def check(self) -> None:
        """One cheap call which shows that endpoint, credentials and bucket work."""

    async def head(self, key: str) -> ObjectInfo: ...

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
        """Objects below ``prefix`` and, with ``delimiter``, the prefixes of those further below.

        ``continues`` is called with the page's token on the event loop if a store knows it before
        it has made the page, so that the next page can be under way by then.
        """

    async def get(
        self, key: str, *, offset: int = 0, length: int | None = None, if_match: str | None = None
    ) -> tuple[ObjectInfo, bytes]:
        """A small range or object into memory. ``ObjectInfo.size`` is the whole object's size."""

    async def fetch(
        self, key: str, *, offset: int, length: int, if_match: str, sink: RangeSink
    ) -> None:
        """A large range, streamed into ``sink`` off the event loop.

        A retry resumes where the sink stopped; ``sink.write`` never sees a byte twice.
        """

    async def put(
        self,
        key: str,
        body: bytes | memoryview,
        *,
        condition: Condition = ANY,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo: ...

    async def put_file(
        self,
        key: str,
        fd: int,
        length: int,
        *,
        condition: Condition = ANY,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """The first ``length`` bytes of a file as one object, sent off the event loop."""

    async def create_multipart(
        self, key: str, *, metadata: Mapping[str, str] | None = None
    ) -> str: ...

    async def upload_part(
        self, key: str, upload_id: str, number: int, fd: int, offset: int, length: int
    ) -> str:
        """Send a file's range as part ``number`` (from 1), off the event loop; returns its etag."""

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
    ) -> str: ...

    async def complete_multipart(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[tuple[int, str]],
        *,
        condition: Condition = ANY,
    ) -> ObjectInfo:
        """Assemble the object. ``size`` of the answer is 0 if the store does not say it."""

    async def abort_multipart(self, key: str, upload_id: str) -> None: ...

    async def list_multipart(self, prefix: str) -> Sequence[PendingUpload]: ...

    async def copy(
        self,
        source: str,
        target: str,
        *,
        source_etag: str | None = None,
        metadata: Mapping[str, str | None] | None = None,
        condition: Condition = ANY,
    ) -> ObjectInfo:
        """Server-side copy of any size. ``metadata`` changes the source's, None keeps it: see
        :func:`changed`. Not every S3 service looks at the ``condition`` of a copy: whoever can
        looks first."""

    async def copy_from(
        self, origin: ObjectStore, source: str, target: str, *, source_etag: str | None = None
    ) -> ObjectInfo:
        """The same from another bucket or prefix of the same service, which this store's identity
        must be allowed to read; the metadata stays."""

    async def delete(self, key: str) -> None:
        """Delete; an absent key is no error."""

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Delete up to any number of keys; returns those that failed and why."""

    async def close(self) -> None: ...
