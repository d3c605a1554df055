"""The keeper: holds descriptors for the node service, and gives them back to its successor.

``csi-slayer keeper --socket PATH``, or ``python keeper.py PATH``: this file alone is enough, and
is all that runs. Keeping /dev/fuse descriptors open keeps the mounts alive while the node service
and its workers are replaced; the keeper itself hardly ever needs to be.

The socket is SOCK_SEQPACKET with mode 0600; a client must be root or the keeper's own user. One
request is one JSON object, and is answered by one, in order:

* ``{"op": "put", "name": N, "state": {...}}`` with up to four descriptors: replaces what N had.
* ``{"op": "get", "name": N}``: ``{"ok": true, "state": {...}}`` with the descriptors.
* ``{"op": "list"}``: ``{"ok": true, "names": [...]}``.
* ``{"op": "drop", "name": N}``: the descriptors are closed.

Or ``{"error": text}``. The keeper never reads from, or writes to, what it holds. A client connects
by the path, so a socket that was removed under it is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import selectors
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

LIMIT = 128 << 10
"""Bytes of one message, and so of one entry's state."""

FDS = 4
"""Descriptors of one entry."""

ENTRIES = 2048
"""Volumes held at most: their names still fit into one answer."""

CLIENTS = 16
"""Connections at a time; more are refused."""

LONGEST_NAME = 48

PREDECESSOR_TIMEOUT = 10.0
"""Seconds for which a keeper waits for the end of the one before it."""

LOOK_AFTER = 1.0
"""Seconds between looks at whether the socket is still there."""

_POLL = 0.05

_CREDENTIALS = struct.Struct("iII")


class Refused(Exception):
    """The request cannot be done; the text says why."""


class InUse(Exception):
    """Another keeper serves the socket."""


@dataclass
class Entry:
    """What is held under one name."""

    state: dict[str, Any]
    fds: list[int] = field(default_factory=list)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


class Store:
    """The entries by name."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def handle(self, request: object, fds: list[int]) -> tuple[dict[str, Any], list[int]]:
        """Do what is asked; returns the answer and the descriptors to send with it, which stay
        open here. Takes over those of ``fds`` that it removes from the list. Raises Refused."""
        if not isinstance(request, dict):
            raise Refused("expected a JSON object")
        op = request.get("op")
        if op == "list":
            return {"ok": True, "names": sorted(self._entries)}, []
        name = request.get("name")
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
            raise Refused(f"name: expected a text of at most {LONGEST_NAME} characters")
        if op == "put":
            self._put(name, request.get("state"), fds)
            return {"ok": True}, []
        if op == "get":
            entry = self._entries.get(name)
            if entry is None:
                raise Refused("nothing is held under that name")
            return {"ok": True, "state": entry.state}, entry.fds
        if op == "drop":
            entry = self._entries.pop(name, None)
            if entry is not None:
                entry.close()
            return {"ok": True}, []
        raise Refused("op: expected put, get, list or drop")

    def _put(self, name: str, state: object, fds: list[int]) -> None:
        if not isinstance(state, dict):
            raise Refused("state: expected a JSON object")
        old = self._entries.get(name)
        if old is None and len(self._entries) >= ENTRIES:
            raise Refused(f"{ENTRIES} entries are held already")
        self._entries[name] = Entry(state, fds[:])
        fds.clear()
        if old is not None:
            old.close()


class Keeper:
    """Serves a store on a socket until the process is ended."""

    def __init__(self, path: str) -> None:
        self.store = Store()
        self._path = path
        self._lock = lock(path)
        self._selector = selectors.DefaultSelector()
        self._clients = 0
        self._listener = _listen(path)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            self.step(LOOK_AFTER)
            self.look_after()

    def look_after(self) -> None:
        """Be reachable again if somebody has emptied the directory, unless another keeper is
        there by now. No error: the directory may be away for a moment."""
        with contextlib.suppress(InUse, OSError):
            if not _is_at(self._lock, f"{self._path}.lock"):
                taken = lock(self._path, 0)
                os.close(self._lock)
                self._lock = taken
            if not os.path.lexists(self._path):
                listener = _listen(self._path)
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = listener
                self._selector.register(listener, selectors.EVENT_READ)

    def step(self, timeout: float | None = None) -> None:
        """Handle what is there to be handled; waits for something up to ``timeout`` seconds."""
        for key, _events in self._selector.select(timeout):
            end = key.fileobj
            assert isinstance(end, socket.socket)
            if end is self._listener:
                self._accept()
            elif not self._serve(end):
                self._selector.unregister(end)
                end.close()
                self._clients -= 1

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
        os.close(self._lock)

    def _accept(self) -> None:
        try:
            client, _address = self._listener.accept()
        except OSError:
            return  # it went away again, or descriptors are short for the moment
        raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _pid, uid, _gid = _CREDENTIALS.unpack(raw)
        if uid not in (0, os.geteuid()) or self._clients >= CLIENTS:
            client.close()
            return
        client.setblocking(False)
        self._selector.register(client, selectors.EVENT_READ)
        self._clients += 1

    def _serve(self, client: socket.socket) -> bool:
        """One request. False if the client is gone, or breaks the rules."""
        try:
            data, fds, flags, _address = socket.recv_fds(client, LIMIT, FDS)
        except BlockingIOError:
            return True
        except OSError:
            return False
        try:
            if not data or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                return False
            answer, sent = self._answer(data, fds)
            socket.send_fds(client, [json.dumps(answer).encode()], sent)
            return True
        except OSError:
            return False  # one that does not read its answers is cut off
        finally:
            for fd in fds:
                os.close(fd)

    def _answer(self, data: bytes, fds: list[int]) -> tuple[dict[str, Any], list[int]]:
        try:
            return self.store.handle(json.loads(data), fds)
        except Refused as error:
            return {"error": str(error)}, []
        except (ValueError, RecursionError):
            return {"error": "expected a JSON object"}, []


def _listen(path: str) -> socket.socket:
    """A listening socket at ``path``, which an earlier keeper may have left there: it is replaced
    in one step, so that there always is one to connect to. Raises OSError."""
    temporary = f"{path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mask = os.umask(0o177)
    try:
        listener.bind(temporary)
        listener.listen(CLIENTS)
        listener.setblocking(False)
        os.rename(temporary, path)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _is_at(fd: int, path: str) -> bool:
    """Whether the open file is the one at the path."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def lock(path: str, timeout: float = PREDECESSOR_TIMEOUT) -> int:
    """Be the only keeper of the socket, as long as the descriptor is open: one that took the path
    away from another would leave the next node service without what that one holds. Raises InUse,
    OSError."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o700, exist_ok=True)
    fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(fd)
                raise InUse(f"{path} is in use by another keeper: end that one first") from None
            time.sleep(_POLL)


def serve(path: str) -> None:
    """Be the keeper at this socket until the process is ended. Raises InUse, OSError."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Secrets are in what it holds, though not in its memory; as csi_slayer.worker.cores does it.
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
    Keeper(path).run()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: keeper.py SOCKET")
    try:
        serve(sys.argv[1])
    except InUse as error:
        sys.exit(f"keeper: {error}")
