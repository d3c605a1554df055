"""The portable engine: libfuse, by pyfuse3, for systems where that is wanted.

The same file system as under the native engine, with fewer ways past it. What is missing, because
libfuse or pyfuse3 has no way to it:

* **Passthrough**: every read and write goes through the worker.
* **Take-over**: the connection ends with the process. Programs that had files open get errors, and
  the next worker mounts anew.
* **Opens without requests** on read-only volumes (OPEN, OPENDIR and FLUSH answered ENOSYS), and
  the open flags NOFLUSH, CACHE_DIR and PARALLEL_DIRECT_WRITES.
* **Interrupts**: a read of a killed or interrupted program ends when it is done.
* **Expiring a name**: an invalidated name is dropped, and with it the kernel's inodes below.
* **Capabilities**: libfuse negotiates, so ``fuse.disable`` cannot be used.
* **More than 99 waiting requests**: further ones are read when one of those has ended. One
  connection per process.

Operations that pyfuse3 lacks, and what the kernel does without them:

* LSEEK: the whole file counts as data, with a hole at its end.
* COPY_FILE_RANGE: the kernel copies through its page cache, by reads and writes.
* FALLOCATE: EOPNOTSUPP; ``posix_fallocate`` of the C library writes to each block.
* SETXATTR with XATTR_CREATE or XATTR_REPLACE: pyfuse3 asks with GETXATTR first, so two programs
  that create the same attribute at once may both succeed.
* READDIR: READDIRPLUS takes its place, so each name is looked up at each listing.
* The file handle of GETATTR, and the inode of READ, WRITE and the like (the engine keeps those of
  open handles); set-id bits are taken away by the kernel with SETATTR before a write.

pyfuse3 comes with the extra ``pyfuse3``; it is imported when the first such volume is mounted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from csi_slayer.errors import ConfigError
from csi_slayer.fuse.init import ALL
from csi_slayer.fuse.session import SessionOptions
from csi_slayer.vfs.operations import Operations

if TYPE_CHECKING:
    from csi_slayer.fuse.pyfuse3_engine.session import Pyfuse3Session


async def mount(
    mountpoint: str, fsname: str, ops: Operations, options: SessionOptions
) -> Pyfuse3Session:
    """Like :meth:`csi_slayer.fuse.session.Session.mount`, but libfuse chooses the capabilities.

    Raises ConfigError if pyfuse3 is not installed or a capability is to be left out, OSError for
    what mount(2) says.
    """
    if set(options.capabilities.names()) != ALL:
        raise ConfigError(
            "fuse.disable does not work with fuse.engine=pyfuse3: libfuse chooses the kernel "
            "capabilities; leave one of the two out"
        )
    try:
        from csi_slayer.fuse.pyfuse3_engine.session import Pyfuse3Session
    except ImportError as error:
        raise ConfigError(
            f"fuse.engine=pyfuse3 needs pyfuse3 ({error}): pip install 'csi-slayer[pyfuse3]', or "
            "leave the option out for the native engine"
        ) from error
    return await Pyfuse3Session.mount(mountpoint, fsname, ops, options)
