"""Pages of keys in the order of S3: by the bytes of the whole key.

A listing that goes on keeps its cursor, so that a page of a huge directory does not read all of
it again; a token whose cursor is gone (or that is used twice) begins anew behind its last key.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote

from csi_slayer.errors import StoreError
from csi_slayer.store.base import ListPage, ObjectInfo
from csi_slayer.store.local.attributes import etag_of, mtime_of
from csi_slayer.store.local.names import HIDDEN, listable
from csi_slayer.store.local.reads import marker_info
from csi_slayer.store.local.tree import Tree

# Listings under way whose cursors are kept; the oldest begin anew if they go on.
_MOST_CURSORS = 8

# Of them of the same listing, which nobody may go on with: each has all names of its directory.
_MOST_OF_ONE = 2


@dataclass(frozen=True, slots=True)
class _Item:
    """A key that may be listed. ``kind``: file, marker (a directory that may be one) or prefix."""

    kind: str
    key: str


@dataclass(frozen=True, slots=True)
class _Request:
    """``after``: keys up to this are left out; ``strict``: also all keys below it."""

    prefix: str
    delimiter: bool
    after: str = ""
    strict: bool = False


class Listings:
    """All listings of a store. Blocking; safe to use from several threads."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._lock = threading.Lock()
        self._cursors: OrderedDict[str, tuple[_Request, _Item, Iterator[_Item]]] = OrderedDict()

    def page(
        self, prefix: str, delimiter: bool, token: str | None, start_after: str | None, limit: int
    ) -> ListPage:
        """One page of at most ``limit`` keys and prefixes."""
        request = _Request(prefix, delimiter, start_after or "")
        if token is None:
            following, cursor = None, self._walk(request)
        else:
            following, cursor = self._resume(token, request)
        objects: list[ObjectInfo] = []
        prefixes: list[str] = []
        last = ""
        stats = _Status(self._tree)
        try:
            while len(objects) + len(prefixes) < limit:
                item, following = following or next(cursor, None), None
                if item is None:
                    return ListPage(objects, prefixes, None)
                last = item.key
                if item.kind == "prefix":
                    prefixes.append(item.key)
                elif (info := stats.info(item)) is not None:
                    objects.append(info)
            following = next(cursor, None)
        finally:
            stats.close()
        if following is None:
            return ListPage(objects, prefixes, None)
        return ListPage(objects, prefixes, self._keep(request, last, following, cursor))

    def _keep(self, request: _Request, last: str, following: _Item, cursor: Iterator[_Item]) -> str:
        token = f"{secrets.token_hex(8)}:{quote(last, safe='')}"
        with self._lock:
            same = [kept for kept, (before, *_) in self._cursors.items() if before == request]
            if len(same) >= _MOST_OF_ONE:
                del self._cursors[same[0]]
            self._cursors[token] = (request, following, cursor)
            if len(self._cursors) > _MOST_CURSORS:
                self._cursors.popitem(last=False)
        return token

    def _resume(self, token: str, request: _Request) -> tuple[_Item | None, Iterator[_Item]]:
        with self._lock:
            kept = self._cursors.pop(token, None)
        if kept is not None:
            before, following, cursor = kept
            if (before.prefix, before.delimiter) == (request.prefix, request.delimiter):
                return following, cursor
        _, colon, last = token.partition(":")
        if not colon:
            raise StoreError("the token is not one of this store's listings")
        again = _Request(request.prefix, request.delimiter, unquote(last), strict=True)
        return None, self._walk(again)

    def _walk(self, request: _Request) -> Iterator[_Item]:
        base, _, partial = request.prefix.rpartition("/")
        folder = f"{base}/" if base or request.prefix.startswith("/") else ""
        if folder and not partial and folder > request.after:
            yield _Item("marker", folder)
        yield from self._walk_folder(folder, partial, request)

    def _walk_folder(self, folder: str, partial: str, request: _Request) -> Iterator[_Item]:
        for name in self._names(folder, partial):
            key = folder + name
            if not key.endswith("/"):
                if key > request.after:
                    yield _Item("file", key)
                continue
            within = request.after.startswith(key)
            if request.delimiter:
                if key > request.after or (within and self._has_more(key, request)):
                    yield _Item("prefix", key)
            elif key > request.after or within:
                if key > request.after:
                    yield _Item("marker", key)
                yield from self._walk_folder(key, "", request)

    def _has_more(self, folder: str, request: _Request) -> bool:
        """Whether a directory that ``after`` leads into has keys behind it."""
        below = _Request(folder, False, request.after)
        return not request.strict and next(self._walk_folder(folder, "", below), None) is not None

    def _names(self, folder: str, partial: str) -> list[str]:
        """Names in a directory, directories with a slash, in order."""
        parts = folder[:-1].split("/") if folder else []
        if any(part in ("", ".", "..") for part in parts) or parts[:1] == [HIDDEN]:
            return []
        names = []
        try:
            with self._tree.entries(parts) as entries:
                for entry in entries:
                    name = entry.name
                    if not name.startswith(partial) or not listable(name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if folder or name != HIDDEN:
                            names.append(name + "/")
                    elif entry.is_file(follow_symlinks=False):
                        names.append(name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            if error.errno == errno.ELOOP:
                return []  # a symlink: not followed
            raise
        names.sort()
        return names


class _Status:
    """Status of listed keys; keeps the descriptor of the last directory."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._folder: str | None = None
        self._fd = -1

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def info(self, item: _Item) -> ObjectInfo | None:
        """None if it is gone by now, or no marker."""
        folder, _, name = item.key.removesuffix("/").rpartition("/")
        try:
            if item.kind == "marker":
                with self._tree.folder(item.key[:-1].split("/")) as fd:
                    return marker_info(self._tree, item.key, fd)
            status = os.stat(name, dir_fd=self._open(folder), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return ObjectInfo(item.key, status.st_size, etag_of(status), mtime_of(status))

    def _open(self, folder: str) -> int:
        if folder != self._folder:
            self.close()
            with self._tree.folder(folder.split("/") if folder else []) as fd:
                self._fd = os.dup(fd)
            self._folder = folder
        return self._fd
