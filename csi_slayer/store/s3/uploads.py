"""Multipart uploads."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress

from csi_slayer.errors import PreconditionFailed, StoreError, StoreIntegrityError
from csi_slayer.store.base import ANY, Condition, ObjectInfo, PendingUpload
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.answer import Answer
from csi_slayer.store.s3.bodies import FileBody
from csi_slayer.store.s3.conditional import ConditionalWrite
from csi_slayer.store.s3.engine import Engine, describe
from csi_slayer.store.s3.errors import UploadNotFound, translate
from csi_slayer.store.s3.headers import (
    condition_headers,
    head_info,
    http_time,
    metadata_headers,
    normal_etag,
)
from csi_slayer.store.s3.jobs import wrong_answer
from csi_slayer.store.s3.request import Pairs, S3Request
from csi_slayer.store.s3.xml import build_complete, parse_error, parse_result, parse_uploads
from csi_slayer.store.write_token import LostWrites, choose_token

MD5_ETAG = re.compile(r'"[0-9a-f]{32}"')
"""Of an object, or a part, that was sent in one piece, with services whose etags are sums."""

# The status that an error would have had, had it not come after a 200.
_LATE = {"InternalError": 500, "NoSuchKey": 404, "PreconditionFailed": 412}
# Uploads under way whose tokens are remembered; the oldest are forgotten first.
_MOST_TOKENS = 10_000
# A listing of uploads ends after so many pages, of 1,000 where the server is an honest one: more
# are for a later run.
_MOST_PAGES, _MOST_UPLOADS = 100, 100_000


class Uploads:
    """Multipart uploads: begin, send, copy, complete, abort, list.

    The write token goes into the metadata when an upload begins; an upload of an earlier process
    is recognised by the etag that its parts make instead.
    """

    def __init__(self, engine: Engine, lost: LostWrites) -> None:
        self._engine = engine
        self._lost = lost
        self._tokens: OrderedDict[str, str] = OrderedDict()

    async def create_multipart(self, key: str, *, metadata: Mapping[str, str] | None = None) -> str:
        """Begin; a lost answer may leave an upload that only ``list_multipart`` shows."""
        return await self.begin(key, metadata, ())

    async def begin(self, key: str, metadata: Mapping[str, str] | None, headers: Pairs) -> str:
        """Begin with further headers (content type and the like)."""
        token = choose_token(metadata)
        request = S3Request(
            "CreateMultipartUpload",
            "POST",
            key,
            [("uploads", "")],
            [*headers, *metadata_headers(metadata, token)],
        )

        def parse(answer: Answer) -> str:
            upload_id = parse_result(answer.body, "InitiateMultipartUploadResult").get("UploadId")
            if not upload_id:
                raise StoreIntegrityError("an upload was begun without an id")
            return upload_id

        upload_id = await self._engine.call(request, parse)
        self._tokens[upload_id] = token
        if len(self._tokens) > _MOST_TOKENS:
            self._tokens.popitem(last=False)
        return upload_id

    async def upload_part(
        self, key: str, upload_id: str, number: int, fd: int, offset: int, length: int
    ) -> str:
        """Send a part from a file; its etag."""
        query = [("partNumber", str(number)), ("uploadId", upload_id)]
        body = FileBody(fd, offset, length)

        async def attempt() -> str:
            answer = await body.send(self._engine, "UploadPart", key, query, ())
            etag = normal_etag(answer.headers.get("etag", ""))
            if not etag:
                raise wrong_answer("a part was acknowledged without an etag")
            return etag

        what = describe(S3Request("UploadPart", "PUT", key))
        return await self._engine.policy.run(attempt, what)

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
        """Make a part of another object's range, in the store; its etag."""
        path = self._engine.address.copy_source(source)
        return await self.copy_part(key, upload_id, number, path, source_etag, offset, length)

    async def copy_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        source_path: str,
        source_etag: str,
        offset: int,
        length: int,
    ) -> str:
        """The same from any bucket of the service: ``source_path`` is a copy source's."""
        headers = [
            ("x-amz-copy-source", source_path),
            ("x-amz-copy-source-if-match", source_etag),
            ("x-amz-copy-source-range", f"bytes={offset}-{offset + length - 1}"),
        ]
        query = [("partNumber", str(number)), ("uploadId", upload_id)]
        request = S3Request("UploadPartCopy", "PUT", key, query, headers)
        return await self._engine.call(
            request, lambda answer: self.copied(request, answer, "CopyPartResult")[0]
        )

    def copied(self, request: S3Request, answer: Answer, tag: str) -> tuple[str, str]:
        """Etag and time of a copy, whose answer may be an error in spite of its status 200."""
        self._late_error(request, answer)
        result = parse_result(answer.body, tag)
        etag = normal_etag(result.get("ETag", ""))
        if not etag:
            raise StoreIntegrityError("a copy was acknowledged without an etag")
        return etag, result.get("LastModified", "")

    def _late_error(self, request: S3Request, answer: Answer) -> None:
        """Raise the error in an answer that began with 200 before the work was done."""
        code, _, _ = parse_error(answer.body)
        if code:
            late = Answer(_LATE.get(code, 400), answer.headers, answer.body)
            what = describe(request)
            error = translate(late, what, self._engine.address.bucket)
            if isinstance(error, StoreError | Transient):
                raise error
            # A session that has ended, a wrong clock: the next request is told at its beginning.
            raise wrong_answer(f"{what}: {code}")

    async def complete_multipart(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[tuple[int, str]],
        *,
        condition: Condition = ANY,
    ) -> ObjectInfo:
        """Assemble the object. Completing a completed upload again is no error.

        The object is looked at afterwards: versitygw acknowledges an upload that it no longer has
        if any object is there; and the etag that counts is that of later requests, which with some
        servers (Riak CS) is another. PreconditionFailed also if somebody replaced it meanwhile.
        """
        body = build_complete(parts)
        token = self._tokens.get(upload_id)
        # An upload of an earlier process, whose token is not known here.
        expected = multipart_etag(parts) if token is None else None
        assembled = False

        async def send(current: Condition) -> ObjectInfo:
            request = S3Request(
                "CompleteMultipartUpload",
                "POST",
                key,
                [("uploadId", upload_id)],
                [("content-type", "application/xml"), *condition_headers(current)],
                body,
            )
            answer = await self._engine.attempt(request)
            self._late_error(request, answer)
            try:
                result = parse_result(answer.body, "CompleteMultipartUploadResult")
            except StoreIntegrityError as error:
                raise wrong_answer(str(error)) from error
            etag = normal_etag(result.get("ETag", ""))
            if not etag:
                raise wrong_answer("an upload was completed without an etag")
            nonlocal assembled
            assembled = True
            return ObjectInfo(key, 0, etag, http_time(answer.headers.get("date", "")) * 10**9)

        write = ConditionalWrite(
            self._engine,
            self._lost,
            key,
            condition,
            send,
            token,
            journalled=True,
            recognise=lambda info: info.etag == expected,
        )
        done = await write.run(describe(S3Request("CompleteMultipartUpload", "POST", key)))
        info = await self._engine.call(
            S3Request("HeadObject", "HEAD", key), lambda answer: head_info(key, answer.headers)
        )
        ours = token is not None and info.write_token == token
        if info.etag != done.etag and not ours:
            raise PreconditionFailed(f"{key!r}: the object is not the one that was assembled")
        if not assembled:
            # The object may be the work of another upload of the same write, begun by a process
            # that died, and this one, refused, still be there.
            with suppress(StoreError):
                await self.abort_multipart(key, upload_id)
        self._tokens.pop(upload_id, None)
        return info

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        """Drop an upload and its parts; it need not exist."""
        request = S3Request("AbortMultipartUpload", "DELETE", key, [("uploadId", upload_id)])
        try:
            await self._engine.call(request, lambda answer: None)
        except UploadNotFound:
            pass

    async def list_multipart(self, prefix: str) -> Sequence[PendingUpload]:
        """Uploads under way below a prefix, in key order."""
        root = self._engine.address.prefix
        found: list[PendingUpload] = []
        markers = ("", "")
        for _ in range(_MOST_PAGES):
            query = [("uploads", ""), ("encoding-type", "url"), ("prefix", root + prefix)]
            if markers[0]:
                query += [("key-marker", markers[0]), ("upload-id-marker", markers[1])]
            request = S3Request("ListMultipartUploads", "GET", None, query)
            page = await self._engine.call(request, lambda answer: parse_uploads(answer.body, root))
            found += page.uploads
            if page.markers is None or page.markers == markers or len(found) >= _MOST_UPLOADS:
                break
            markers = page.markers
        return found


def multipart_etag(parts: Sequence[tuple[int, str]]) -> str | None:
    """The etag that S3 gives an object of these parts, or None if theirs are no MD5 sums."""
    if not parts or not all(MD5_ETAG.fullmatch(etag) for _, etag in parts):
        return None
    digests = b"".join([bytes.fromhex(etag[1:-1]) for _, etag in parts])
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'
