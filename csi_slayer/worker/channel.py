"""Messages with file descriptors between a supervisor and its worker.

One message is one SOCK_SEQPACKET datagram: a JSON object of at most 192 KiB, with at most four
descriptors beside it. Standard library only: the supervisor stays small.

To the worker, first: ``{"spec": WorkerSpec, "session": ..., "restarts": n, "bound": bool}``.
``session`` is null for a new mount; what an earlier worker sent, with the /dev/fuse descriptor, to
take its mount over; ``{"unmounted": true}`` for no mount at all: upload what is pending, then end.
``bound``: end at once, as if killed, when the supervisor is gone.

From the worker: ``{"session": {...}}`` with the descriptor once mounted (without one if the engine
cannot hand over); ``{"session": null}`` before it unmounts what a dead worker left; ``{"ready":
1}`` once it serves; ``{"error": text, "code": name of a gRPC status}`` if it cannot start;
``{"ended": n}`` just before it ends because the volume is unmounted, n keys being left to upload.

While it serves it may be sent ``{"update": {"id": n, "config": text}}``, a whole MountConfig, and
answers ``{"updated": n, "later": [key...]}``, the keys being those that wait for the next worker,
or ``{"update_failed": n, "error": text, "code": ...}``; then nothing has changed.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from typing import Any

UNMOUNTED = 0
"""Exit status of a worker whose mount is gone and whose work is done."""

FAILED = 3
"""Exit status of a worker that could not start and has said why."""

ABANDONED = 4
"""Exit status of a bound worker whose supervisor is gone."""

UNREAD = 16
"""Messages that wait for a worker that is still starting; more are lost."""

LIMIT = 192 << 10
"""Bytes of one message; the default socket buffer of Linux holds it."""

_FDS = 4


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends; neither is inherited by a program unless asked for."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Raises OSError if the other end is gone, ValueError for a message that is too large."""
    data = json.dumps(message).encode()
    if len(data) > LIMIT:
        raise ValueError(f"a message of {len(data)} bytes")
    socket.send_fds(end, [data], list(fds))


def check_complete(flags: int, fds: list[int]) -> None:
    """Raises OSError where a message came without all of its descriptors, because this process may
    have no more: it would be taken for one that had none."""
    if flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def receive(end: socket.socket, flags: int = 0) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors; None if the other end is gone.

    ``flags`` are those of recv(2). Raises OSError, also where descriptors could not be taken, and
    ValueError for what is no message.
    """
    data, fds, got, _address = socket.recv_fds(end, LIMIT, _FDS, flags)
    for fd in fds:
        os.set_inheritable(fd, False)  # recv_fds of Python 3.11 drops MSG_CMSG_CLOEXEC
    check_complete(got, fds)
    if not data:
        return None
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")
    return message, fds
