"""The records in a home bucket: read, written under conditions, listed.

Every change is a conditional write, so that two controllers at once never undo each other.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pydantic import ValidationError

from csi_slayer.errors import InvalidRange, ObjectNotFound, VolumeError, VolumeNotFound
from csi_slayer.store.base import ABSENT, Condition, ObjectStore
from csi_slayer.store.paging import each_page
from csi_slayer.volumes.ids import RECORD_SUFFIX, Kind, ObjectId, record_prefix, valid_name
from csi_slayer.volumes.records import Record

R = TypeVar("R", bound=Record)

LARGEST_RECORD = 1 << 20
"""Bytes; ours have a few hundred."""

# Records of a page that are read at a time.
_READS = 16
_LARGEST_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Found(Generic[R]):
    """A record as it is in the bucket; ``etag`` is its version."""

    record: R
    etag: str


class Home(Generic[R]):
    """Records of one kind in one bucket."""

    def __init__(self, store: ObjectStore, kind: Kind, model: type[R]) -> None:
        self._store = store
        self._kind = kind
        self._model = model

    async def read(self, found: ObjectId) -> Found[R]:
        """The record of an id. Raises VolumeNotFound, VolumeError if it cannot be understood."""
        try:
            info, body = await self._store.get(
                found.record_key, offset=0, length=LARGEST_RECORD + 1
            )
        except ObjectNotFound:
            what = "snapshot" if self._kind is Kind.SNAPSHOT else "volume"
            raise VolumeNotFound(f"there is no {what} {found}") from None
        except InvalidRange:
            raise self._damaged(found) from None  # it is empty
        try:
            if len(body) > LARGEST_RECORD:
                raise ValueError
            return Found(self._model.model_validate_json(body), info.etag)
        except (ValidationError, ValueError):
            raise self._damaged(found) from None

    @staticmethod
    def _damaged(found: ObjectId) -> VolumeError:
        return VolumeError(
            f"the record {found.record_key} in bucket {found.bucket!r} is damaged, or of a later"
            " version of the driver: mend it, or remove it with what belongs to it"
        )

    async def create(self, new: ObjectId, record: R) -> Found[R]:
        """Raises PreconditionFailed if there is one already."""
        return await self._write(new, record, ABSENT)

    async def replace(self, found: ObjectId, old: Found[R], record: R) -> Found[R]:
        """Raises PreconditionFailed if somebody changed or removed it since it was read."""
        return await self._write(found, record, Condition(if_match=old.etag))

    async def remove(self, found: ObjectId) -> None:
        await self._store.delete(found.record_key)

    async def _write(self, where: ObjectId, record: R, condition: Condition) -> Found[R]:
        body = record.model_dump_json().encode()
        info = await self._store.put(where.record_key, body, condition=condition)
        return Found(record, info.etag)

    async def page(
        self, where: ObjectId, after: str, limit: int
    ) -> tuple[list[tuple[ObjectId, R]], str]:
        """Records in the order of their keys, behind the one named ``after`` (empty: from the
        start), and the name to go on after (empty: that was all).

        ``where`` is any id of this bucket. Records that cannot be read are left out, so that one
        damaged record does not hide the others.
        """
        prefix = record_prefix(self._kind)
        limit = min(limit, _LARGEST_PAGE) if limit > 0 else _LARGEST_PAGE
        start = f"{prefix}{after}{RECORD_SUFFIX}" if after else None
        names: list[str] = []
        async with aclosing(each_page(self._store, prefix, start_after=start)) as pages:
            async for page in pages:
                keys = [info.key.removeprefix(prefix) for info in page.objects]
                stems = [k.removesuffix(RECORD_SUFFIX) for k in keys if k.endswith(RECORD_SUFFIX)]
                names += [stem for stem in stems if valid_name(stem)]
                if len(names) > limit:
                    break
        chosen = names[:limit]
        turns = asyncio.Semaphore(_READS)
        ids = [replace(where, kind=self._kind, name=name, base=None) for name in chosen]

        async def one(found: ObjectId) -> tuple[ObjectId, R] | None:
            async with turns:
                try:
                    return found, (await self.read(found)).record
                except VolumeError:
                    return None  # gone since it was listed, or damaged

        read = await asyncio.gather(*(one(found) for found in ids))
        following = chosen[-1] if chosen and len(names) > limit else ""
        return [item for item in read if item is not None], following
