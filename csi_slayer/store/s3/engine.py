"""Carries out S3 requests: signed, repeated while that helps, counted, errors translated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

from csi_slayer.errors import (
    AccessDenied,
    InvalidRange,
    ObjectNotFound,
    PreconditionFailed,
    SourceUnreadable,
    StoreError,
    StoreIntegrityError,
    StoreUnsupported,
)
from csi_slayer.store.observe import GIVEN_UP, OUR_OWN, RequestObserver
from csi_slayer.store.retry import RetryPolicy, Transient
from csi_slayer.store.s3.answer import Answer, AnswerReader
from csi_slayer.store.s3.credentials import Credentials
from csi_slayer.store.s3.errors import (
    ClockSkewed,
    CredentialsEnded,
    DigestWanted,
    denied,
    translate,
)
from csi_slayer.store.s3.jobs import wrong_answer
from csi_slayer.store.s3.pool import ConnectionPool
from csi_slayer.store.s3.request import RequestWriter, S3Request
from csi_slayer.store.s3.transfers import Lane, Transfers

T = TypeVar("T")

# Listings of 1,000 long keys and error texts fit; bodies of objects say their own limit.
MOST_ANSWER_BYTES = 8 << 20
# Errors that say nothing about the store: answers about an object, and what is wrong with us.
_NO_FAILURES = (
    ObjectNotFound,
    PreconditionFailed,
    InvalidRange,
    StoreUnsupported,
    SourceUnreadable,
)


class TransferJob(Protocol):
    """A bulk transfer; ``run`` is one attempt, in a transfer thread."""

    def run(self, lane: Lane, head: bytes) -> Answer: ...


class Engine:
    """One bucket's connections, identity and policy, shared by all operations."""

    def __init__(
        self,
        writer: RequestWriter,
        endpoint: str,
        credentials: Credentials | None,
        pool: ConnectionPool,
        transfers: Transfers,
        policy: RetryPolicy,
        observer: RequestObserver,
    ) -> None:
        self.address = writer.address
        self.endpoint = endpoint
        self._writer = writer
        self._credentials = credentials
        self._pool = pool
        self._transfers = transfers
        self.policy = policy
        self._observer = observer
        self._answers = 0

    def signed_by(self, credentials: Credentials) -> Engine:
        """The same connections for another identity. Not to be closed."""
        return Engine(
            self._writer, self.endpoint, credentials, self._pool, self._transfers, self.policy,
            self._observer,
        )  # fmt: skip

    async def use(self, credentials: Credentials) -> None:
        """Sign with these from the next attempt of any request on."""
        old, self._credentials = self._credentials, credentials
        if old is not None:
            await old.close()

    async def call(
        self,
        request: S3Request,
        parse: Callable[[Answer], T],
        *,
        limit: int = MOST_ANSWER_BYTES,
        policy: RetryPolicy | None = None,
        glance: Callable[[Answer], None] | None = None,
    ) -> T:
        """What ``parse`` makes of the answer to a small request, repeated by the policy.

        ``limit`` bounds the answer's body in bytes. ``parse`` raises StoreIntegrityError for an
        answer that cannot be right: that is worth a few repetitions. ``glance`` may look at each
        answer first, and what it begins gets on its way before ``parse`` is called. Raises the
        StoreError that the server's refusal means, StoreUnavailable or StoreIntegrityError.
        """

        async def once() -> T:
            answer = await self.attempt(request, limit)
            if glance is not None:
                glance(answer)
                await asyncio.sleep(0)
            try:
                return parse(answer)
            except StoreIntegrityError as error:
                raise wrong_answer(str(error)) from error

        return await (policy or self.policy).run(once, describe(request))

    async def attempt(self, request: S3Request, limit: int = MOST_ANSWER_BYTES) -> Answer:
        """A small request, once. Raises Transient besides what :meth:`call` raises."""
        return await self._watched(self._small(request, limit))

    async def _small(self, request: S3Request, limit: int) -> Answer:
        head, signed_at = await self._head(request), self._writer.clock.offset
        reader = AnswerReader(limit, request.method == "HEAD")
        started = time.monotonic()
        status, received = None, 0
        try:
            answer = await self._pool.request(head, request.body, reader)
            status, received = answer.status, len(answer.body)
        except asyncio.CancelledError:
            status = GIVEN_UP
            raise
        finally:
            seconds = time.monotonic() - started
            sent = 0 if status in (None, GIVEN_UP) else len(request.body)
            self._observer.on_request(request.op, status, seconds, sent, received)
        if answer.status in (200, 204, 206):
            return answer
        raise await self._refusal(answer, request, signed_at)

    async def transfer(
        self, request: S3Request, job: TransferJob, moved: Callable[[], int]
    ) -> Answer:
        """A bulk request, once. ``moved`` counts the bytes the job has received so far.

        Raises like :meth:`attempt`.
        """
        return await self._watched(self._bulk(request, job, moved))

    async def _bulk(self, request: S3Request, job: TransferJob, moved: Callable[[], int]) -> Answer:
        head, signed_at = await self._head(request), self._writer.clock.offset
        before = moved()
        started = time.monotonic()
        status, sent = None, 0

        def work(lane: Lane) -> Answer:
            nonlocal sent
            begun = lane.channel.moved
            try:
                return job.run(lane, head)
            finally:  # perhaps a part, and perhaps the answer besides
                sent = min(request.body_length or 0, lane.channel.moved - begun)

        try:
            answer = await self._transfers.run(work, sends=request.body_length is not None)
            status = answer.status
        except OUR_OWN:
            status = GIVEN_UP
            raise
        finally:
            seconds = time.monotonic() - started
            self._observer.on_request(request.op, status, seconds, sent, moved() - before)
        if answer.status in (200, 204, 206):
            return answer
        raise await self._refusal(answer, request, signed_at)

    async def prepare(self, work: Callable[[], T]) -> T:
        """The result of reading a body from its file, in a thread of those that send."""
        return await self._transfers.prepare(work)

    async def close(self) -> None:
        """End everything; operations under way fail."""
        # Before anything is waited for: a transfer would go on meanwhile, and end well or not.
        self._transfers.stop()
        await self._pool.close()
        await self._transfers.close()
        if self._credentials is not None:
            await self._credentials.close()

    @property
    def digests(self) -> bool:
        """Whether the service wants a Content-MD5 of each body; that of a request which has its
        body with it is added here."""
        return self._writer.digests

    @property
    def progress(self) -> int:
        """Bytes that bulk transfers have moved, and requests that were answered well."""
        return self._answers + self._transfers.moved

    async def _watched(self, attempt: Coroutine[None, None, Answer]) -> Answer:
        try:
            answer = await attempt
            self._answers += 1
            return answer
        except _NO_FAILURES:
            raise
        except (StoreError, Transient) as error:
            self._observer.on_failure(str(error))
            if isinstance(error, StoreIntegrityError):
                raise wrong_answer(str(error)) from error
            raise

    async def _head(self, request: S3Request) -> bytes:
        signed_by = None if self._credentials is None else await self._credentials.current()
        return self._writer.head(request, signed_by)

    async def _refusal(self, answer: Answer, request: S3Request, signed_at: float) -> Exception:
        what = describe(request)
        error = translate(
            answer, what, self.address.bucket, request.key is not None, clock=signed_at
        )
        if isinstance(error, ClockSkewed):
            self._writer.clock.offset = error.offset
            advice = str(denied(what, "RequestTimeTooSkewed"))
            # Ours may be set meanwhile, so that following the server's has made it wrong.
            return _otherwise("clock", advice, AccessDenied, limit=3)
        if isinstance(error, DigestWanted):
            self._writer.digests = True
            return _otherwise("digest", str(error), type(error.otherwise))
        if isinstance(error, CredentialsEnded):
            if self._credentials is not None and self._credentials.temporary:
                await self._credentials.refused()
                text = str(error.otherwise if error.certain else error)
                return _otherwise("session", text, AccessDenied)
            if error.certain:
                return error.otherwise
            return wrong_answer(str(error.otherwise), type(error.otherwise))
        return error


def _otherwise(kind: str, message: str, outcome: type[StoreError], *, limit: int = 2) -> Transient:
    """The next attempt does it in another way; after ``limit`` of them nothing else helps."""
    return Transient(message, immediate=True, limit=limit, kind=kind, outcome=outcome)


def describe(request: S3Request) -> str:
    """Operation and object, as messages begin."""
    return request.op if request.key is None else f"{request.op} {request.key!r}"
