"""Server-side copies of any size."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple, TypeVar

from csi_slayer.errors import PreconditionFailed, StoreError, StoreIntegrityError, StoreUnsupported
from csi_slayer.observability import get_logger
from csi_slayer.store.base import (
    ANY,
    Condition,
    ObjectInfo,
    ObjectStore,
    changed,
    is_copy,
    storable_time,
)
from csi_slayer.store.s3.answer import Answer
from csi_slayer.store.s3.conditional import ConditionalWrite
from csi_slayer.store.s3.engine import Engine, describe
from csi_slayer.store.s3.errors import NotImplementedThere
from csi_slayer.store.s3.headers import (
    condition_headers,
    head_info,
    metadata_headers,
    normal_etag,
    others_metadata,
)
from csi_slayer.store.s3.jobs import wrong_answer
from csi_slayer.store.s3.request import STORAGE_CLASS, S3Request
from csi_slayer.store.s3.uploads import MD5_ETAG, Uploads
from csi_slayer.store.s3.writes import written
from csi_slayer.store.write_token import WRITE_TOKEN, LostWrites, choose_token

log = get_logger(__name__)

T = TypeVar("T")

# CopyObject takes no larger source (bytes); larger ones are copied in parts of this size at least.
LARGEST_SINGLE_COPY = 5 << 30
_PART = 512 << 20
_MOST_PARTS = 10_000
_PARTS_AT_ONCE = 4

# Bytes of names and values that S3 accepts, counted with the names' common beginning to be safe.
_MOST_METADATA = 2048

# Belong to the object but not to its user metadata: kept when that is replaced.
_KEPT_HEADERS = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
)
# A copy has none of the source's by itself. One that is not among them may be no class to ask for.
_KEPT_CLASSES = frozenset({
    "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY",
})  # fmt: skip


class _Wanted(NamedTuple):
    """What a copy has beside its bytes: headers that are kept as they came, metadata that is given
    (None: nothing is changed), all its metadata then, and what the target must be."""

    kept: list[tuple[str, str]]
    given: Mapping[str, str] | None
    metadata: Mapping[str, str]
    condition: Condition


def _wanted(
    source: ObjectInfo,
    headers: Mapping[str, str],
    changes: Mapping[str, str | None] | None,
    condition: Condition,
) -> _Wanted:
    kept = [(name, headers[name]) for name in _KEPT_HEADERS if name in headers]
    if (of_class := headers.get(STORAGE_CLASS)) in _KEPT_CLASSES:
        kept.append((STORAGE_CLASS, of_class))
    found = source.metadata or {}
    keeping = _Wanted(kept + others_metadata(headers, found), None, found, condition)
    if changes is None and (condition == ANY or _is_known_again(source, headers)):
        return keeping
    after = changed(found, changes or {})
    given = {name: value for name, value in (changes or {}).items() if value is not None}
    if condition != ANY:
        given[WRITE_TOKEN] = choose_token(given)
    others = others_metadata(headers, after.keys() - given.keys())
    length = sum(len(name) + len(value) for name, value in others + metadata_headers(given, None))
    if others and length > _MOST_METADATA:
        if changes is None:
            return keeping
        log.warning("metadata of other programs is dropped: there is no room", key=source.key)
        others, after = [], given
    metadata = {name: value for name, value in after.items() if name != WRITE_TOKEN}
    return _Wanted(kept + others, given, metadata, condition)


def _is_known_again(source: ObjectInfo, headers: Mapping[str, str]) -> bool:
    """Whether a copy that keeps the metadata shows whose it is, by its token or by the etag, if
    that is a sum of the bytes: of parts, and where keys of KMS encrypt, it is none."""
    if source.write_token is not None:
        return True
    encryption = headers.get("x-amz-server-side-encryption", "")
    is_sum = MD5_ETAG.fullmatch(source.etag) is not None
    return is_sum and not encryption.startswith("aws:kms")


class Copies:
    """Copies within the bucket. ``largest`` and ``part`` are bytes, smaller in tests."""

    def __init__(
        self,
        engine: Engine,
        uploads: Uploads,
        lost: LostWrites,
        *,
        largest: int = LARGEST_SINGLE_COPY,
        part: int = _PART,
    ) -> None:
        self._engine = engine
        self._uploads = uploads
        self._lost = lost
        self._unconditional: set[str] = set()
        self._largest = largest
        self._part = part

    async def copy(
        self,
        source: str,
        target: str,
        *,
        source_etag: str | None = None,
        metadata: Mapping[str, str | None] | None = None,
        condition: Condition = ANY,
    ) -> ObjectInfo:
        """Copy one version of ``source``: that of ``source_etag``, or the one that is there.

        Content type and the like are kept even where the metadata is changed. Raises
        PreconditionFailed if the source is another version, or becomes one meanwhile, and if the
        target is not what ``condition`` says. AWS looks at that since October 2025; versitygw and
        MinIO do not, and where it is said to be unknown it is left out.
        """
        return await self._copy(self._engine, source, target, source_etag, metadata, condition)

    async def copy_from(
        self, origin: ObjectStore, source: str, target: str, *, source_etag: str | None = None
    ) -> ObjectInfo:
        """Copy from another bucket or prefix of the same service, with this store's identity."""
        if not isinstance(origin, Copies) or origin._engine.endpoint != self._engine.endpoint:
            raise StoreUnsupported("a copy is possible only within one S3 service")
        return await self._copy(origin._engine, source, target, source_etag, None, ANY)

    async def _copy(
        self,
        origin: Engine,
        source: str,
        target: str,
        source_etag: str | None,
        changes: Mapping[str, str | None] | None,
        condition: Condition,
    ) -> ObjectInfo:
        info, headers = await origin.call(
            S3Request("HeadObject", "HEAD", source),
            lambda answer: (head_info(source, answer.headers), answer.headers),
        )
        if source_etag is not None and info.etag != normal_etag(source_etag):
            raise PreconditionFailed(f"copy of {source!r}: the object is another version")
        wanted = _wanted(info, headers, changes, condition)
        if info.size == 0 and target.endswith("/"):
            return await self._make_again(info, target, wanted)
        if info.size > self._largest:
            return await self._copy_parts(origin, info, target, wanted)
        return await self._copy_whole(origin, info, target, wanted)

    async def _make_again(self, source: ObjectInfo, target: str, wanted: _Wanted) -> ObjectInfo:
        """A "directory" without bytes: versitygw refuses to copy what its file system has as one
        (DirectoryObjectContainsData)."""
        headers = [*wanted.kept, *metadata_headers(wanted.given, None)]
        request = S3Request("PutObject", "PUT", target, (), headers)
        return await self._write(
            request, lambda answer: written(target, 0, answer, wanted.metadata), source, wanted
        )

    async def _copy_whole(
        self,
        origin: Engine,
        source: ObjectInfo,
        target: str,
        wanted: _Wanted,
    ) -> ObjectInfo:
        headers = [
            ("x-amz-copy-source", origin.address.copy_source(source.key)),
            ("x-amz-copy-source-if-match", source.etag),
        ]
        if wanted.given is None:
            headers.append(("x-amz-metadata-directive", "COPY"))
            headers += [pair for pair in wanted.kept if pair[0] == STORAGE_CLASS]
        else:
            headers.append(("x-amz-metadata-directive", "REPLACE"))
            headers += [*wanted.kept, *metadata_headers(wanted.given, None)]
        request = S3Request("CopyObject", "PUT", target, (), headers)

        def parse(answer: Answer) -> ObjectInfo:
            etag, modified = self._uploads.copied(request, answer, "CopyObjectResult")
            return _copied(source, target, etag, _nanoseconds(modified), wanted.metadata)

        return await self._write(request, parse, source, wanted)

    async def _write(
        self,
        request: S3Request,
        parse: Callable[[Answer], ObjectInfo],
        source: ObjectInfo,
        wanted: _Wanted,
    ) -> ObjectInfo:
        """Where metadata is given a token goes with it. A copy that keeps it can have none: after a
        lost answer the source's bytes with the source's metadata are taken for it, of whomever
        they are, for nothing is lost then."""
        if wanted.condition == ANY:
            return await self._engine.call(request, parse)
        target, token = request.key or "", (wanted.given or {}).get(WRITE_TOKEN)

        async def attempt(condition: Condition) -> Answer:
            headers = [*request.headers, *condition_headers(condition)]
            return await self._engine.attempt(replace(request, headers=headers))

        async def send(condition: Condition) -> ObjectInfo:
            answer = await self._conditionally(request.op, condition, attempt)
            try:
                return parse(answer)
            except StoreIntegrityError as error:
                raise wrong_answer(str(error)) from error

        def recognise(found: ObjectInfo) -> bool:
            return token is None and is_copy(found, source) and found.metadata == wanted.metadata

        write = ConditionalWrite(
            self._engine, self._lost, target, wanted.condition, send, token,
            journalled=token is not None, recognise=recognise,
        )  # fmt: skip
        return await write.run(describe(request))

    async def _conditionally(
        self, op: str, condition: Condition, send: Callable[[Condition], Awaitable[T]]
    ) -> T:
        """``send`` under the condition, or without where the service knows none there."""
        if condition != ANY and op not in self._unconditional:
            try:
                return await send(condition)
            except NotImplementedThere:
                pass
        try:
            done = await send(ANY)
        except NotImplementedThere as error:
            raise StoreUnsupported(str(error)) from None
        if condition != ANY:
            self._leave_out(op)
        return done

    def _leave_out(self, op: str) -> None:
        """The service says that it knows no conditions there."""
        if op not in self._unconditional:
            self._unconditional.add(op)
            log.warning("the service copies without conditions: of two renames over one name at the"
                        " same moment one may be lost", operation=op)  # fmt: skip

    async def _copy_parts(
        self,
        origin: Engine,
        source: ObjectInfo,
        target: str,
        wanted: _Wanted,
    ) -> ObjectInfo:
        upload_id = await self._uploads.begin(target, wanted.given, wanted.kept)
        size = max(self._part, -(-source.size // _MOST_PARTS))
        turns = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def one(number: int, offset: int) -> tuple[int, str]:
            async with turns:
                etag = await self._uploads.copy_part(
                    target,
                    upload_id,
                    number,
                    origin.address.copy_source(source.key),
                    source.etag,
                    offset,
                    min(size, source.size - offset),
                )
            return number, etag

        async def complete(condition: Condition) -> ObjectInfo:
            parts = [task.result() for task in tasks]
            return await self._uploads.complete_multipart(
                target, upload_id, parts, condition=condition
            )

        tasks: list[asyncio.Task[tuple[int, str]]] = []
        try:
            async with asyncio.TaskGroup() as group:
                for index, offset in enumerate(range(0, source.size, size)):
                    tasks.append(group.create_task(one(index + 1, offset)))
            done = await self._conditionally("CompleteMultipartUpload", wanted.condition, complete)
        except BaseExceptionGroup as group_error:
            await self._give_up(target, upload_id)
            raise group_error.exceptions[0] from None
        except BaseException:
            await self._give_up(target, upload_id)
            raise
        return _copied(source, target, done.etag, done.mtime_ns, wanted.metadata)

    async def _give_up(self, target: str, upload_id: str) -> None:
        """After an error, which is what the caller has to know of, not that this fails too."""
        try:
            await self._uploads.abort_multipart(target, upload_id)
        except StoreError as error:
            log.warning("an unfinished copy is left as an upload", key=target, error=str(error))


def _copied(
    source: ObjectInfo, target: str, etag: str, mtime_ns: int, metadata: Mapping[str, str]
) -> ObjectInfo:
    return ObjectInfo(target, source.size, etag, mtime_ns, metadata)


def _nanoseconds(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise StoreIntegrityError(f"a copy was acknowledged with the time {text[:80]!r}") from error
    return storable_time(int(moment.timestamp()) * 10**9 + moment.microsecond * 1000)
