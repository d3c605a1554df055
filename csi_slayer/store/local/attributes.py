"""What objects have beyond bytes: an etag, user metadata, the write that made them.

An etag is made of inode number, size and modification time. Every write of ours makes a new file
with a time stamp of its own, in nanoseconds, and every foreign change moves the stamp; so equal
etags mean equal bytes. The rest is one JSON document in an extended attribute, or in a file of
its own (named by key and etag) where the file system has no attributes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from csi_slayer.errors import StoreError
from csi_slayer.store.base import storable_time
from csi_slayer.store.write_token import WRITE_TOKEN

_NAME = "user.slayerfs"
_NO_XATTR = frozenset({errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM})


def mtime_of(status: os.stat_result) -> int:
    """Nanoseconds. A file system may know times that nobody else does."""
    return storable_time(status.st_mtime_ns)


def etag_of(status: os.stat_result) -> str:
    """The version of a file."""
    return f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'


@dataclass(frozen=True, slots=True)
class Extra:
    """``token``: the write that made the object; ``upload``: the multipart upload it was.

    ``nonce`` tells one marker from the next on the same directory.
    """

    metadata: Mapping[str, str] = field(default_factory=dict)
    token: str | None = None
    upload: str | None = None
    nonce: str = ""

    def dump(self) -> bytes:
        """As JSON."""
        fields = {
            "metadata": dict(self.metadata),
            "token": self.token,
            "upload": self.upload,
            "nonce": self.nonce,
        }
        return json.dumps({name: value for name, value in fields.items() if value}).encode()


def make_extra(
    metadata: Mapping[str, str] | None, upload: str | None = None, nonce: str = ""
) -> Extra:
    """From what a caller gives: names in lower case, the write token apart."""
    kept = {name.lower(): value for name, value in (metadata or {}).items()}
    token = kept.pop(WRITE_TOKEN, None)
    return Extra(kept, token, upload, nonce)


def _load(data: bytes) -> Extra:
    try:
        fields = json.loads(data)
        return Extra(
            dict(fields.get("metadata") or {}),
            fields.get("token"),
            fields.get("upload"),
            fields.get("nonce") or "",
        )
    except (ValueError, AttributeError, TypeError):
        return Extra()  # somebody else's attribute: as if there were none


class Attributes:
    """Reads and writes :class:`Extra` of files and of directories that are markers."""

    def __init__(self, hidden: int) -> None:
        self._folder = os.open("attributes", os.O_RDONLY | os.O_DIRECTORY, dir_fd=hidden)
        self.native = self._probe()

    def _probe(self) -> bool:
        try:
            os.setxattr(self._folder, _NAME, b"{}")
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._folder)

    def read_file(self, fd: int, key: str, etag: str) -> Extra:
        """Of a file; empty if it has none."""
        data = self._read(fd, key, etag)
        return Extra() if data is None else _load(data)

    def write_file(self, fd: int, key: str, etag: str, extra: Extra) -> None:
        """Of a file that has no name yet."""
        if extra != Extra():
            self._write(fd, key, etag, extra)

    def drop_file(self, key: str, etag: str) -> None:
        """The file is gone; its attributes went with it, unless they are a file of their own."""
        if not self.native:
            self._unlink(key, etag)

    def read_folder(self, fd: int, key: str) -> Extra | None:
        """Of a directory; None if nobody made it a marker."""
        data = self._read(fd, key, _folder_id(fd))
        return None if data is None else _load(data)

    def write_folder(self, fd: int, key: str, extra: Extra) -> Extra:
        """Make a directory a marker."""
        marked = Extra(extra.metadata, extra.token, extra.upload, secrets.token_hex(8))
        self._write(fd, key, _folder_id(fd), marked)
        return marked

    def drop_folder(self, fd: int, key: str) -> None:
        """It is a marker no longer."""
        if not self.native:
            self._unlink(key, _folder_id(fd))
            return
        try:
            os.removexattr(fd, _NAME)
        except OSError as error:
            if error.errno not in _NO_XATTR:
                raise

    def _read(self, fd: int, key: str, version: str) -> bytes | None:
        if self.native:
            try:
                return os.getxattr(fd, _NAME)
            except OSError as error:
                if error.errno in _NO_XATTR:
                    return None
                raise
        try:
            side = os.open(_side_name(key, version), os.O_RDONLY, dir_fd=self._folder)
        except FileNotFoundError:
            return None
        with open(side, "rb") as file:
            return file.read()

    def _write(self, fd: int, key: str, version: str, extra: Extra) -> None:
        data = extra.dump()
        if self.native:
            try:
                os.setxattr(fd, _NAME, data)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE):
                    raise StoreError(
                        f"{key!r}: {len(data)} bytes of metadata are too much"
                    ) from error
                raise
            return
        name = _side_name(key, version)
        new = f"{name}.{secrets.token_hex(4)}"
        side = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._folder)
        with open(side, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(side)
        os.rename(new, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        os.fsync(self._folder)

    def _unlink(self, key: str, version: str) -> None:
        try:
            os.unlink(_side_name(key, version), dir_fd=self._folder)
        except FileNotFoundError:
            pass


def _folder_id(fd: int) -> str:
    return f"folder-{os.fstat(fd).st_ino:x}"


def _side_name(key: str, version: str) -> str:
    return hashlib.sha256(f"{version}\0{key}".encode()).hexdigest()
