"""INIT: what this engine and the kernel agree on for the life of a connection."""

from __future__ import annotations

import difflib
import errno
import mmap
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from csi_slayer.errors import ConfigError, FsError
from csi_slayer.fuse import protocol as p
from csi_slayer.fuse.protocol import InitFlag

LARGEST: Final = 896 << 10
"""Bytes of the largest request. The kernel allows 1 MiB by default, but a reply of that size could
not be spliced: with its header it does not fit a pipe of 1 MiB, which is the largest without
CAP_SYS_RESOURCE."""

LARGEST_BEFORE: Final = 128 << 10
"""Bytes of the largest request where max_pages is not negotiated."""

MAX_BACKGROUND: Final = 128
"""Read-ahead and asynchronous direct I/O requests that may wait for us at once."""

CONGESTION: Final = 96
"""From so many background requests on the kernel holds optional read-ahead back."""

EVERYTHING: Final = "all"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What may be used of the kernel, by name. The default is everything.

    Some are flags of INIT; the others are requests that are answered ENOSYS when off, after which
    the kernel does without. Off is what an older kernel is like, so each has a way without it.
    """

    passthrough: bool = True
    """Files backed by a local file: the kernel reads and writes that itself (6.9)."""

    resend: bool = True
    """A successor gets the requests that its predecessor left unanswered (6.9)."""

    expire_only: bool = True
    """Invalidating a name makes it be looked up again and touches no mount below it (6.2)."""

    no_open: bool = True
    """OPEN and FLUSH answered ENOSYS once, where the file system asks for it."""

    no_opendir: bool = True
    """OPENDIR likewise."""

    readdirplus: bool = True
    """Names and attributes in one answer."""

    readdirplus_auto: bool = True
    """The kernel decides when attributes are worth asking for."""

    parallel_dirops: bool = True
    """Lookups and listings of one directory side by side."""

    atomic_o_trunc: bool = True
    """O_TRUNC comes with OPEN instead of as a SETATTR after it."""

    async_read: bool = True
    """Several reads of one file at once."""

    async_dio: bool = True
    """Asynchronous direct I/O."""

    direct_io_mmap: bool = True
    """Shared mmap of files that are open for direct I/O (6.6)."""

    big_writes: bool = True
    """Writes larger than a page."""

    max_pages: bool = True
    """Requests of up to 896 KiB instead of 128 KiB."""

    cache_symlinks: bool = True
    """Targets of symlinks are kept in the page cache."""

    handle_killpriv_v2: bool = True
    """We take set-id bits away at a write, so the kernel need not ask for xattrs at each."""

    setxattr_ext: bool = True
    """The longer form of SETXATTR."""

    splice: bool = True
    """Bytes go from a local file to the kernel without passing through our memory."""

    xattr: bool = True
    """Extended attributes."""

    copy_file_range: bool = True
    """Copies within the file system are asked of it."""

    fallocate: bool = True
    """Reserving and punching."""

    lseek: bool = True
    """SEEK_DATA and SEEK_HOLE."""

    @classmethod
    def without(cls, names: Iterable[str]) -> Self:
        """Everything but ``names``; ``all`` stands for each that the oldest kernel we support may
        lack (not for ``BASELINE``). Raises ConfigError."""
        off = set(names)
        unknown = off - ALL - {EVERYTHING}
        for name in sorted(unknown):
            near = difflib.get_close_matches(name, ALL, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"unknown kernel capability {name!r}{hint}")
        if EVERYTHING in off:
            off |= ALL - BASELINE
        return cls(**dict.fromkeys(off - {EVERYTHING}, False))

    def names(self) -> tuple[str, ...]:
        """The names of those that are on, sorted."""
        return tuple(sorted(name for name in ALL if getattr(self, name)))


BASELINE: Final = frozenset({"async_read", "big_writes", "max_pages"})
"""What every kernel since 4.20 has; the oldest that is supported is 5.4."""

ALL: Final = frozenset(field.name for field in fields(Capabilities))

_FLAGS: Final = {
    "passthrough": InitFlag.PASSTHROUGH,
    "resend": InitFlag.HAS_RESEND,
    "expire_only": InitFlag.HAS_EXPIRE_ONLY,
    "no_open": InitFlag.NO_OPEN_SUPPORT,
    "no_opendir": InitFlag.NO_OPENDIR_SUPPORT,
    "readdirplus": InitFlag.DO_READDIRPLUS,
    "readdirplus_auto": InitFlag.READDIRPLUS_AUTO,
    "parallel_dirops": InitFlag.PARALLEL_DIROPS,
    "atomic_o_trunc": InitFlag.ATOMIC_O_TRUNC,
    "async_read": InitFlag.ASYNC_READ,
    "async_dio": InitFlag.ASYNC_DIO,
    "direct_io_mmap": InitFlag.DIRECT_IO_ALLOW_MMAP,
    "big_writes": InitFlag.BIG_WRITES,
    "max_pages": InitFlag.MAX_PAGES,
    "cache_symlinks": InitFlag.CACHE_SYMLINKS,
    "handle_killpriv_v2": InitFlag.HANDLE_KILLPRIV_V2,
    "setxattr_ext": InitFlag.SETXATTR_EXT,
    "splice": InitFlag.SPLICE_WRITE | InitFlag.SPLICE_MOVE,
}
"""The INIT flags a capability needs. None asks for:

* WRITEBACK_CACHE: excludes passthrough, and dirty pages would be out of the worker's sight.
* POSIX_LOCKS, FLOCK_LOCKS: the kernel's own locks are right for one mount on one node.
* AUTO_INVAL_DATA, EXPLICIT_INVAL_DATA: without either, the kernel drops an inode's pages when a
  reply shows a size that it did not make itself (which explicit mode would leave to a later
  notification), and neither asks for attributes before a cached read nor drops pages for a new
  mtime, which our own writes cause too (as automatic mode does). Other changes of content are
  announced by INVAL_INODE.
* DONT_MASK, POSIX_ACL, SECURITY_CTX: modes arrive with the umask applied.
"""


@dataclass(frozen=True, slots=True)
class SessionState:
    """What was negotiated, for whoever serves the connection next; fits into JSON.

    ``connection`` is the number of the connection in the fusectl file system, ``flags`` are the
    INIT flags of both words, ``max_write`` is in bytes, ``zero_open`` and ``zero_opendir`` say
    that opens are answered ENOSYS, which the kernel remembers.
    """

    minor: int
    flags: int
    max_write: int
    connection: int
    capabilities: tuple[str, ...]
    zero_open: bool
    zero_opendir: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Raises ConfigError for what :meth:`to_json` did not write. What a later version may have
        added is left out; what an earlier one did not have is as by default."""
        try:
            known = {item.name: data[item.name] for item in fields(cls) if item.name in data}
            return cls(**{**known, "capabilities": tuple(data["capabilities"])})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"malformed FUSE session state: {error}") from None

    @property
    def allowed(self) -> Capabilities:
        return Capabilities(**{name: name in self.capabilities for name in ALL})


def negotiate(
    body: memoryview, wanted: Capabilities, *, connection: int, zero_upcall: bool
) -> tuple[SessionState, bytes]:
    """The answer to INIT and what it means. Raises FsError(EPROTO) for a kernel too old."""
    major, minor, max_readahead, flags = p.INIT_IN.unpack_from(body)
    if major != p.KERNEL_VERSION or minor < p.OLDEST_MINOR:
        raise FsError(
            errno.EPROTO,
            f"the kernel speaks FUSE protocol {major}.{minor}; "
            f"at least {p.KERNEL_VERSION}.{p.OLDEST_MINOR} is needed",
        )
    if flags & InitFlag.INIT_EXT:
        flags |= p.INIT_IN_FLAGS2.unpack_from(body, p.INIT_IN.size)[0] << 32
    offered = InitFlag(flags)
    used = frozenset(name for name in wanted.names() if _FLAGS.get(name, InitFlag(0)) in offered)
    if "readdirplus" not in used:
        used -= {"readdirplus_auto"}
    answer = InitFlag.INIT_EXT & offered
    for name in used:
        answer |= _FLAGS.get(name, InitFlag(0))
    if "big_writes" not in used:
        max_write = p.PAGE
    else:
        max_write = LARGEST if "max_pages" in used else LARGEST_BEFORE
    state = SessionState(
        minor=min(minor, p.NEWEST_MINOR),
        flags=int(answer),
        max_write=max_write,
        connection=connection,
        capabilities=tuple(sorted(used)),
        zero_open=zero_upcall and "no_open" in used,
        zero_opendir=zero_upcall and "no_opendir" in used,
    )
    reply = p.INIT_OUT.pack(
        p.KERNEL_VERSION, state.minor, max_readahead, state.flags & 0xFFFFFFFF,
        MAX_BACKGROUND, CONGESTION, max_write, 1,
        LARGEST // mmap.PAGESIZE, 0, state.flags >> 32, int("passthrough" in used), 0, 0,
    )  # fmt: skip
    return state, reply
