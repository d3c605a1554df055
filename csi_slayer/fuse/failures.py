"""What a handler's exception is answered with, and what of it is logged: the same in all engines.

The errors of :mod:`csi_slayer.errors` carry their errno; everything else is a fault of ours.
"""

from __future__ import annotations

import asyncio
import errno
import traceback
from collections import defaultdict
from collections.abc import Callable

import structlog

from csi_slayer.errors import AccessDenied, SlayerError
from csi_slayer.fuse.stats import name_of
from csi_slayer.observability.ration import Ration

log = structlog.get_logger(__name__)

_rations: defaultdict[tuple[str, int], Ration] = defaultdict(Ration)
"""Of each message and operation its own: what one program repeats hides nothing else."""


def errno_of(error: BaseException, opcode: int, unique: int = 0) -> int:
    """The errno that a request is answered with; logs what needs an explanation."""
    if isinstance(error, SlayerError):
        if error.errno == errno.EIO or isinstance(error, AccessDenied):
            # What a program sees as "Input/output error", or as "Permission denied" where the
            # permissions are fine, must be explained somewhere.
            text = f"{type(error).__name__}: {error}"
            _tell("fuse_request_failed", opcode, lambda: {"request": unique, "error": text})
        # ENOSYS would switch the operation off for the whole connection; that is decided by
        # capabilities only.
        if error.errno == errno.ENOSYS:
            return errno.EOPNOTSUPP
        return error.errno if 0 < error.errno < 512 else errno.EIO  # the kernel takes no other
    if isinstance(error, asyncio.CancelledError):
        return errno.EINTR
    log_failure(opcode, error, unique)
    return errno.EIO


def log_failure(opcode: int, error: BaseException, unique: int = 0) -> None:
    """Log an exception that no handler should raise."""

    def values() -> dict[str, object]:
        # Formatted here: a renderer that shows the variables of frames would show files' contents.
        return {"unique": unique, "traceback": "".join(traceback.format_exception(error))}

    _tell("fuse_handler_failed", opcode, values)


def _tell(event: str, opcode: int, values: Callable[[], dict[str, object]]) -> None:
    """Programs may repeat what fails thousands of times a second, and the log is on a disk."""
    left_out = _rations[event, opcode].take()
    if left_out is not None:
        more = {"left_out": left_out} if left_out else {}
        log.error(event, op=name_of(opcode), **values(), **more)
