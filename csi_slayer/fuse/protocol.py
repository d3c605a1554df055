"""Numbers and layouts of the kernel interface (linux/fuse.h, protocol 7.31 to 7.45).

Layouts are little-endian: the protocol is in host order, and the machines we run on are.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import Final

KERNEL_VERSION: Final = 7
OLDEST_MINOR: Final = 31
"""Linux 5.4, the oldest kernel that is supported."""

NEWEST_MINOR: Final = 45
"""Linux 6.18; a newer kernel is answered this number and keeps to it."""

ROOT_ID: Final = 1
PAGE: Final = 4096

UNIQUE_RESEND: Final = 1 << 63
"""FUSE_UNIQUE_RESEND: set in the unique of a request that is delivered again."""


class Opcode(enum.IntEnum):
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class InitFlag(enum.IntFlag):
    """FUSE_* flags of INIT; those from bit 32 on travel in ``flags2``."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    HAS_EXPIRE_ONLY = 1 << 35
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    HAS_RESEND = 1 << 39


class Notify(enum.IntEnum):
    """enum fuse_notify_code."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    RESEND = 7


EXPIRE_ONLY: Final = 1
"""FUSE_EXPIRE_ONLY of INVAL_ENTRY: look the name up again, leave mounts below it alone."""

# fuse_setattr_in.valid
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_CTIME: Final = 1 << 10
FATTR_KILL_SUIDGID: Final = 1 << 11

GETATTR_FH: Final = 1 << 0
READ_LOCKOWNER: Final = 1 << 1
WRITE_CACHE: Final = 1 << 0
WRITE_KILL_SUIDGID: Final = 1 << 2
OPEN_KILL_SUIDGID: Final = 1 << 0
FSYNC_FDATASYNC: Final = 1 << 0

BACKING_OPEN: Final = 0x4010E501
"""_IOW(229, 1, struct fuse_backing_map)."""

BACKING_CLOSE: Final = 0x4004E502
"""_IOW(229, 2, uint32_t)."""

IN_HEADER: Final = Struct("<IIQQIIIHH")  # len opcode unique nodeid uid gid pid extlen padding
OUT_HEADER: Final = Struct("<IiQ")  # len error unique
IN_HEADER_SIZE: Final = IN_HEADER.size
OUT_HEADER_SIZE: Final = OUT_HEADER.size

INIT_IN: Final = Struct("<IIII")  # major minor max_readahead flags
INIT_IN_FLAGS2: Final = Struct("<I")  # at offset 16, with INIT_EXT
# major minor max_readahead flags max_background congestion_threshold max_write time_gran
# max_pages map_alignment flags2 max_stack_depth request_timeout padding, 24 bytes unused
INIT_OUT: Final = Struct("<IIIIHHIIHHIIHH20x")

# fuse_attr: ino size blocks, seconds of atime mtime ctime, nanoseconds of them, mode nlink uid gid
# rdev blksize flags. Seconds are signed, as the kernel's time64_t that they are copied into.
_ATTR = "QQQqqqIIIIIIIIII"
_ENTRY = "QQQQII" + _ATTR  # nodeid generation entry_valid attr_valid, nsec of those
_DIRENT = "QQII"  # ino off namelen type, before the name

ATTR_OUT: Final = Struct("<QII" + _ATTR)  # attr_valid attr_valid_nsec dummy attr
ENTRY_OUT: Final = Struct("<" + _ENTRY)
DIRENT: Final = Struct("<" + _DIRENT)
DIRENTPLUS: Final = Struct("<" + _ENTRY + _DIRENT)
GETATTR_IN: Final = Struct("<IIQ")  # flags dummy fh
# valid pad fh size lock_owner atime mtime ctime nsec*3 mode unused uid gid unused
SETATTR_IN: Final = Struct("<IIQQQqqqIIIIIIII")
MKNOD_IN: Final = Struct("<IIII")  # mode rdev umask padding
MKDIR_IN: Final = Struct("<II")  # mode umask
RENAME_IN: Final = Struct("<Q")  # newdir
RENAME2_IN: Final = Struct("<QII")  # newdir flags padding
LINK_IN: Final = Struct("<Q")  # oldnodeid
OPEN_IN: Final = Struct("<II")  # flags open_flags
CREATE_IN: Final = Struct("<IIII")  # flags mode umask open_flags
OPEN_OUT: Final = Struct("<QIi")  # fh open_flags backing_id
RELEASE_IN: Final = Struct("<QIIQ")  # fh flags release_flags lock_owner
FLUSH_IN: Final = Struct("<QIIQ")  # fh unused padding lock_owner
READ_IN: Final = Struct("<QQIIQII")  # fh offset size read_flags lock_owner flags padding
WRITE_IN: Final = Struct("<QQIIQII")  # fh offset size write_flags lock_owner flags padding
WRITE_OUT: Final = Struct("<II")  # size padding
STATFS_OUT: Final = Struct("<QQQQQIII28x")  # blocks bfree bavail files ffree bsize namelen frsize
FSYNC_IN: Final = Struct("<QII")  # fh fsync_flags padding
SETXATTR_IN: Final = Struct("<II")  # size flags
SETXATTR_IN_EXT: Final = Struct("<IIII")  # size flags setxattr_flags padding
GETXATTR_IN: Final = Struct("<II")  # size padding
GETXATTR_OUT: Final = Struct("<II")  # size padding
ACCESS_IN: Final = Struct("<II")  # mask padding
INTERRUPT_IN: Final = Struct("<Q")  # unique
FORGET_IN: Final = Struct("<Q")  # nlookup
BATCH_FORGET_IN: Final = Struct("<II")  # count dummy
FORGET_ONE: Final = Struct("<QQ")  # nodeid nlookup
FALLOCATE_IN: Final = Struct("<QQQII")  # fh offset length mode padding
LSEEK_IN: Final = Struct("<QqII")  # fh offset (as lseek(2) has it: signed) whence padding
LSEEK_OUT: Final = Struct("<Q")  # offset
COPY_FILE_RANGE_IN: Final = Struct("<QQQQQQQ")  # fh off nodeid_out fh_out off_out len flags
COPY_FILE_RANGE_OUT: Final = Struct("<Q")  # bytes_copied, of COPY_FILE_RANGE_64
BACKING_MAP: Final = Struct("<iIQ")  # fd flags padding
NOTIFY_INVAL_INODE: Final = Struct("<Qqq")  # ino off len
NOTIFY_INVAL_ENTRY: Final = Struct("<QII")  # parent namelen flags, before the name and a NUL
