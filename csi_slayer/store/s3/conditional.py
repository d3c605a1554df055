"""Writes under a condition, whose answers may get lost. See ``store.write_token``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from csi_slayer.errors import (
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreIntegrityError,
)
from csi_slayer.store.base import ANY, Condition, ObjectInfo
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.engine import Engine
from csi_slayer.store.s3.errors import NotImplementedThere, UploadNotFound
from csi_slayer.store.s3.headers import head_info
from csi_slayer.store.s3.jobs import wrong_answer
from csi_slayer.store.s3.request import S3Request
from csi_slayer.store.write_token import LostWrites

_REFUSED = "the object is not the expected version"
_NEEDED = "what is written to needs a service with conditional writes (If-Match, If-None-Match)"


Send = Callable[[Condition], Awaitable[ObjectInfo]]


class ConditionalWrite:
    """One write of one key under a condition.

    ``send`` makes one attempt; ``token`` is in the metadata that it sends. ``journalled``: an
    earlier process may have sent the same write. ``recognise`` tells more ways to know its work.
    """

    def __init__(
        self,
        engine: Engine,
        lost: LostWrites,
        key: str,
        condition: Condition,
        send: Send,
        token: str | None,
        *,
        journalled: bool = False,
        recognise: Callable[[ObjectInfo], bool] = lambda info: False,
    ) -> None:
        self._engine = engine
        self._lost = lost
        self._key = key
        self._condition = condition
        self._send = send
        self._token = token
        self._doubtful = journalled
        self._failed = False
        self._recognise = recognise

    async def run(self, what: str) -> ObjectInfo:
        """The object as it was written. Raises PreconditionFailed if somebody else's is there."""
        try:
            info = await self._engine.policy.run(self._attempt, what)
        except PreconditionFailed:
            raise
        except BaseException:
            # Also when cancelled: the request may be on its way.
            if self._token is not None:
                self._lost.add(self._key, self._token)
            raise
        self._lost.settle(self._key)
        return info

    async def _attempt(self) -> ObjectInfo:
        if self._failed and self._condition != ANY:
            # The body may be gigabytes, and a proxy may hide the refusal that cut it off: look
            # before it is sent again.
            found = await self._look()
            if found is not None and not self._condition.holds(found):
                return self._judge(found, PreconditionFailed(f"{self._key!r}: {_REFUSED}"))
        try:
            return await self._send(self._condition)
        except Transient:
            self._failed = self._doubtful = True
            raise
        except (PreconditionFailed, UploadNotFound) as refusal:
            return await self._resolve(refusal)
        except ObjectNotFound:
            # If-Match on nothing: some servers say 404, some 412.
            return await self._resolve(PreconditionFailed(f"{self._key!r}: {_REFUSED}"))
        except NotImplementedThere as error:
            if self._condition == ANY:
                raise
            raise NotImplementedThere(f"{error}: {_NEEDED}") from None

    async def _resolve(self, refusal: StoreError) -> ObjectInfo:
        """The object, if it is our work all the same; raises ``refusal`` otherwise."""
        upload_gone = isinstance(refusal, UploadNotFound)
        if not (self._doubtful or upload_gone or self._lost.knows(self._key)):
            raise refusal
        found = await self._look()
        if found is None:
            raise refusal
        return self._judge(found, refusal)

    def _judge(self, found: ObjectInfo, refusal: StoreError) -> ObjectInfo:
        token = found.write_token
        if (token is not None and token == self._token) or self._recognise(found):
            return found
        if self._lost.holds(self._key, token):
            self._condition = Condition(if_match=found.etag)
            raise Transient("an earlier write of ours is in the way", immediate=True)
        raise refusal

    async def _look(self) -> ObjectInfo | None:
        request = S3Request("HeadObject", "HEAD", self._key)
        try:
            answer = await self._engine.attempt(request)
        except ObjectNotFound:
            return None
        try:
            return head_info(self._key, answer.headers)
        except StoreIntegrityError as error:
            raise wrong_answer(str(error)) from error
