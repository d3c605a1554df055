"""A segment whose bytes have another name in the store now: it goes along.

A server-side copy gives an object another key, or another version under the same one. What is
cached of it is a segment of the new one then, if nobody has it open. As long as the exclusive lock
is held nobody opens it under either name; a crash in between leaves a segment that fits neither,
which whoever opens it removes.
"""

from __future__ import annotations

import fcntl
import os

from csi_slayer.cache.detach import TurnTaken, turn
from csi_slayer.cache.header import MAPPED, read_header
from csi_slayer.cache.key import SegmentKey
from csi_slayer.cache.oserrors import translated
from csi_slayer.cache.shared import Shared


def rekey(shared: Shared, old: SegmentKey, new: SegmentKey) -> bool:
    """See :meth:`csi_slayer.cache.cache.Cache.rekey`."""
    try:
        fd = os.open(shared.layout.data(old.hex), os.O_RDWR | os.O_NOATIME)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise translated(error, "opening a segment") from error
    try:
        with turn(shared.layout):  # who tries to detach has let go of its lock for a moment
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _rekey(shared, fd, old, new)
    except (TurnTaken, BlockingIOError):
        return False
    except OSError as error:
        raise translated(error, "giving a segment another name") from error
    finally:
        os.close(fd)


def _rekey(shared: Shared, fd: int, old: SegmentKey, new: SegmentKey) -> bool:
    layout = shared.layout
    header = read_header(fd, layout.xattr)
    path, target = layout.data(old.hex), layout.data(new.hex)
    if header is None or header.key != old.raw or os.path.exists(target):
        return False
    if not _is_at(fd, path):
        return False  # evicted, and perhaps fetched again meanwhile
    if header.kind == MAPPED:
        try:
            os.rename(layout.map(old.hex, header.check), layout.map(new.hex, header.check))
        except FileNotFoundError:
            return False
    header._replace(key=new.raw).write(fd, layout.xattr)
    os.rename(path, target)
    with shared.lock:
        if (left := shared.parts.pop(old.hex, None)) is not None:
            shared.parts[new.hex] = left
    shared.marks.touch(new.hex)
    return True


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
