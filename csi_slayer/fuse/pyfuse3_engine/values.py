"""Values of the VFS as pyfuse3 wants them."""

from __future__ import annotations

import pyfuse3

from csi_slayer.vfs.types import Attr, Entry, Opened, OpenFlags, SetAttr, StatFs


def attributes(attr: Attr, ttl: float) -> pyfuse3.EntryAttributes:
    """The answer to GETATTR and SETATTR."""
    found = pyfuse3.EntryAttributes()
    found.st_ino = pyfuse3.InodeT(attr.ino)
    found.st_mode = pyfuse3.ModeT(attr.mode)
    found.st_nlink = attr.nlink
    found.st_uid = attr.uid
    found.st_gid = attr.gid
    found.st_rdev = attr.rdev
    found.st_size = attr.size
    found.st_blocks = attr.blocks
    found.st_atime_ns = attr.atime_ns
    found.st_mtime_ns = attr.mtime_ns
    found.st_ctime_ns = attr.ctime_ns
    found.attr_timeout = found.entry_timeout = max(0.0, ttl)
    return found


def entry(found: Entry) -> pyfuse3.EntryAttributes:
    """The answer to LOOKUP and all that make a name. Inode 0 is a negative entry."""
    if found.attr is None:
        result = pyfuse3.EntryAttributes()
        result.st_ino = pyfuse3.InodeT(0)
        result.attr_timeout = 0.0
    else:
        result = attributes(found.attr, found.attr_ttl)
    result.entry_timeout = max(0.0, found.entry_ttl)
    return result


def dot(ino: int, mode: int) -> pyfuse3.EntryAttributes:
    """ "." and "..": of these the kernel takes the number and the type only."""
    result = pyfuse3.EntryAttributes()
    result.st_ino = pyfuse3.InodeT(ino)
    result.st_mode = pyfuse3.ModeT(mode)
    return result


def file_info(fh: int, opened: Opened) -> pyfuse3.FileInfo:
    """The answer to OPEN; ``fh`` is the engine's handle. Flags that pyfuse3 lacks are left out."""
    return pyfuse3.FileInfo(
        fh=pyfuse3.FileHandleT(fh),
        direct_io=bool(opened.flags & OpenFlags.DIRECT_IO),
        keep_cache=bool(opened.flags & OpenFlags.KEEP_CACHE),
        nonseekable=bool(opened.flags & OpenFlags.NONSEEKABLE),
    )


def changes(
    attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None
) -> SetAttr:
    """What a SETATTR changes; pyfuse3 has put the time in where the kernel said "now"."""
    return SetAttr(
        mode=attr.st_mode if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        size=attr.st_size if fields.update_size else None,
        atime_ns=attr.st_atime_ns if fields.update_atime else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,
        fh=fh,
    )


def statvfs(found: StatFs) -> pyfuse3.StatvfsData:
    result = pyfuse3.StatvfsData()
    result.f_bsize = found.bsize
    result.f_frsize = found.frsize
    result.f_blocks = found.blocks
    result.f_bfree = found.bfree
    result.f_bavail = found.bavail
    result.f_files = found.files
    result.f_ffree = result.f_favail = found.ffree
    result.f_namemax = found.namelen
    return result
