"""Blocking sockets of bulk transfers: how they are made, and what state they are in."""

from __future__ import annotations

import select
import socket
import ssl
import struct
from typing import Any

from csi_slayer.store.s3.halt import Halt
from csi_slayer.store.s3.target import Target, reset_on_close
from csi_slayer.store.s3.tunnel import ask_for_way


def establish(target: Target, place: tuple[Any, ...], halt: Halt) -> socket.socket:
    """A connected socket; ``place`` is an answer of getaddrinfo. Raises OSError and Halted."""
    family, kind, protocol, _, address = place
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(target.connect_timeout)
        halt.watch(sock)
        sock.connect(address)
        reset_on_close(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.proxy is not None:
            ask_for_way(sock, target, target.proxy)
        if target.tls is None:
            _limit_silence(sock, target.silence_timeout)
            return sock
        halt.watch(None)
        # From here on the new object owns the descriptor.
        sock = target.tls.wrap_socket(
            sock, server_hostname=target.host, do_handshake_on_connect=False
        )
        halt.watch(sock)
        sock.do_handshake()
        sock.settimeout(target.silence_timeout)
        return sock
    except BaseException:
        halt.watch(None)
        sock.close()
        raise


def _limit_silence(sock: socket.socket, seconds: float) -> None:
    """Blocking mode with timeouts of the kernel's: Python's own would undo MSG_WAITALL."""
    sock.settimeout(None)
    whole = int(seconds)
    limit = struct.pack("@ll", whole, int((seconds - whole) * 1e6))  # struct timeval
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def readable(sock: socket.socket, seconds: float = 0.0) -> bool:
    """Whether there is something to read: an answer, or that the other side has closed.

    Bytes on a TLS connection may be session tickets, so there only reading tells.
    """
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def is_stale(sock: socket.socket, silence: float) -> bool:
    """Whether an idle connection has been closed, or has something that nobody asked for."""
    if not isinstance(sock, ssl.SSLSocket):
        return readable(sock)
    sock.settimeout(0.0)
    try:
        sock.recv(1)
    except ssl.SSLWantReadError:
        return False
    except OSError:
        return True
    finally:
        sock.settimeout(silence)
    return True
