"""Deleting what inline ephemeral volumes held, once nothing of them is on this node.

A pod must not wait for S3 to be deleted. So what is to be deleted is written down first, one empty
file for each volume below the run directory; what cannot be done at once is done in the background,
by this process or the next, as often as it takes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from csi_slayer.content.tasks import end_task
from csi_slayer.errors import AccessDenied, BucketNotFound, SlayerError, VolumeBusy
from csi_slayer.observability import get_logger
from csi_slayer.volumes.inline import INLINE

log = get_logger(__name__)

AT_ONCE: Final = 5.0
"""Seconds that the end of a pod waits for the deletion of what it had."""

ATTEMPT: Final = 60.0
"""Seconds of one attempt in the background; a deletion under way goes on, and is joined again."""

AGAIN_FIRST, AGAIN_MAX = 5.0, 300.0
"""Pause between attempts, seconds; doubled each time that nothing could be deleted."""


class Emptying:
    """``delete`` empties a volume by its id, and raises SlayerError where it cannot; ``in_use``
    says whether anything of a volume is on this node. ``directory``: what is to be done, for the
    next process."""

    def __init__(
        self,
        directory: Path,
        delete: Callable[[str], Awaitable[None]],
        in_use: Callable[[str], bool],
    ) -> None:
        self._directory = directory
        self._delete = delete
        self._in_use = in_use
        self._owed: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Volumes whose content is still to be deleted."""
        return len(self._owed)

    async def start(self) -> None:
        """Go on with what earlier processes have left. Raises OSError."""
        found = await asyncio.to_thread(self._read)
        self._owed |= {name for name in found if INLINE.fullmatch(name)}
        self._more.set()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        await end_task(self._task)

    async def owe(self, id: str) -> None:
        """Have the volume emptied, sooner or later. Raises VolumeBusy where that cannot be written
        down."""
        try:
            await asyncio.to_thread(self._write, id)
        except OSError as error:  # a full disk: then the caller has to come again
            raise VolumeBusy(
                f"what the volume held cannot be noted for deletion: {error.strerror}: try again"
            ) from error
        self._owed.add(id)

    async def at_once(self, id: str) -> bool:
        """Empty it now; False if that takes longer, or cannot be: it is done in the background."""
        try:
            async with asyncio.timeout(AT_ONCE):
                await self._empty(id)
        except (SlayerError, OSError) as error:  # TimeoutError is one
            log.warning("content_stays_for_now", volume=id, error=str(error) or "no answer yet")
        if id in self._owed:
            self._more.set()
        return id not in self._owed

    async def before_use(self, id: str) -> None:
        """A volume that is used again begins empty. Raises VolumeBusy while it is not, StoreError
        where S3 does not answer."""
        if id not in self._owed:
            return
        try:
            async with asyncio.timeout(AT_ONCE):
                await self._empty(id)
                if id in self._owed:  # its uploads are under way: it goes on with what it has
                    await self._withdraw(id)
        except TimeoutError:
            raise VolumeBusy("what the volume held before is being deleted: ask again") from None

    async def _empty(self, id: str) -> None:
        """Raises SlayerError."""
        lock = self._locks.setdefault(id, asyncio.Lock())
        async with lock:
            if id not in self._owed or self._in_use(id):
                return
            try:
                await self._delete(id)
            except (AccessDenied, BucketNotFound) as error:
                # An inline volume with a bucket of its own needs no bucket of the driver's, and
                # one that is closed to the driver will be so tomorrow.
                log.warning("content of an inline volume may stay", volume=id, error=str(error))
            await self._withdraw(id)
            self._locks.pop(id, None)

    async def _withdraw(self, id: str) -> None:
        await asyncio.to_thread(self._forget, id)
        self._owed.discard(id)

    async def _run(self) -> None:
        pause = AGAIN_FIRST
        while True:
            await self._more.wait()
            self._more.clear()
            before = len(self._owed)
            for id in sorted(self._owed):
                try:
                    async with asyncio.timeout(ATTEMPT):
                        await self._empty(id)
                except (SlayerError, OSError) as error:
                    log.warning("content_stays", volume=id, error=str(error) or "no answer yet")
            if not self._owed:
                pause = AGAIN_FIRST
                continue
            pause = AGAIN_FIRST if len(self._owed) < before else min(AGAIN_MAX, pause * 2)
            await asyncio.sleep(pause)
            self._more.set()

    # -- what is on the disk: in a thread -------------------------------------------------------

    def _read(self) -> list[str]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.listdir(self._directory)

    def _write(self, id: str) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._directory / id).touch()
        self._sync()

    def _forget(self, id: str) -> None:
        (self._directory / id).unlink(missing_ok=True)

    def _sync(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
