"""What an identity may do in a volume's store, found out by doing it under a name of its own."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from csi_slayer.content.options import SCRATCH
from csi_slayer.errors import (
    AccessDenied,
    PreconditionFailed,
    SlayerError,
    StoreError,
    StoreIntegrityError,
    StoreUnsupported,
)
from csi_slayer.store.base import ABSENT, Condition, ObjectStore

_BODY = b"csi-slayer doctor"
_OTHER = '"00000000000000000000000000000000"'


class Problem(NamedTuple):
    """Something that a writer of the volume needs and does not get; ``mend`` says what to do."""

    text: str
    mend: str


class _Ignored(SlayerError):
    """The store has written although the condition does not hold."""


class Rights:
    """Tries what a mounted volume does: one small object is written, replaced, read, copied, sent
    in parts and deleted."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._key = f"{SCRATCH}/doctor/{uuid.uuid4().hex}"
        self._copy = self._key + "-copy"
        self._left: list[str] = []
        self.problems: list[Problem] = []

    async def find_out(self) -> float:
        """Seconds that it took; what is wrong is in ``problems`` then. Leaves nothing, unless
        nothing may be deleted: then that is a problem, with the name of what is left."""
        started = time.monotonic()
        try:
            if await self._may("written", "s3:PutObject", self._write):
                await self._may("written under a condition", "s3:PutObject", self._replace)
                await self._may("read", "s3:GetObject", self._read)
                await self._may("copied", "s3:GetObject and s3:PutObject", self._duplicate)
                await self._may("sent in parts", "s3:AbortMultipartUpload", self._send_part)
        finally:
            await self._may("deleted", "s3:DeleteObject", self._delete)
        return time.monotonic() - started

    async def _may(self, what: str, action: str, attempt: Callable[[], Awaitable[None]]) -> bool:
        try:
            await attempt()
            return True
        except _Ignored as error:
            self.problems.append(Problem(str(error), "use a store with conditional writes"))
        except AccessDenied as error:
            text = f"objects cannot be {what}: {error}"
            self.problems.append(Problem(text, f"allow the identity {action}"))
        except StoreUnsupported as error:
            text = f"objects cannot be {what}: {error}"
            self.problems.append(Problem(text, "use a store that can do it, or mount it read-only"))
        except SlayerError as error:
            self.problems.append(Problem(f"objects cannot be {what}: {error}", ""))
        return False

    async def _write(self) -> None:
        self._left.append(self._key)
        await self._store.put(self._key, _BODY, condition=ABSENT)

    async def _replace(self) -> None:
        for condition in (ABSENT, Condition(if_match=_OTHER)):
            with contextlib.suppress(PreconditionFailed):
                await self._store.put(self._key, _BODY, condition=condition)
                name = "If-None-Match" if condition.absent else "If-Match"
                raise _Ignored(
                    f"the store ignores {name}: of two nodes that write one file the last would win"
                )

    async def _read(self) -> None:
        _info, data = await self._store.get(self._key)
        if data != _BODY:
            raise StoreIntegrityError("what is read is not what was written")

    async def _duplicate(self) -> None:
        self._left.append(self._copy)
        await self._store.copy(self._key, self._copy)

    async def _send_part(self) -> None:
        upload = await self._store.create_multipart(self._key)
        await self._store.abort_multipart(self._key, upload)

    async def _delete(self) -> None:
        refused: dict[str, SlayerError] = {}
        for key in self._left:
            try:
                await self._store.delete(key)
            except SlayerError as error:
                refused[key] = error
        if refused:
            reason = next(iter(refused.values()))
            kind = AccessDenied if isinstance(reason, AccessDenied) else StoreError
            raise kind(f"{reason}; {' and '.join(refused)} may be left")
