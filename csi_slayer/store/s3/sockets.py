"""Blocking sockets of bulk transfers: how they are made, and what state they are in."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import struct
import time
from typing import Any

from csi_slayer.store.s3.halt import Halt
from csi_slayer.store.s3.proxy import MOST_HEAD_BYTES, Proxy, TunnelRefused, check_answer
from csi_slayer.store.s3.target import Target, reset_on_close


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
            _ask_for_way(sock, target, target.proxy)
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


def _ask_for_way(sock: socket.socket, target: Target, proxy: Proxy) -> None:
    """Within the connect timeout as a whole, however slowly the proxy answers."""
    deadline = time.monotonic() + target.connect_timeout
    sock.sendall(proxy.request(target.host, target.port))
    head = b""
    while not check_answer(head):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        head += _some(sock.recv(MOST_HEAD_BYTES))
    sock.settimeout(target.connect_timeout)


async def establish_tunnel(target: Target, proxy: Proxy, place: tuple[Any, ...]) -> socket.socket:
    """A non-blocking socket whose other end is the server; ``place`` is the proxy's, an answer of
    getaddrinfo. Raises OSError."""
    loop = asyncio.get_running_loop()
    family, kind, protocol, _, address = place
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        await loop.sock_sendall(sock, proxy.request(target.host, target.port))
        head = b""
        while not check_answer(head):
            head += _some(await loop.sock_recv(sock, MOST_HEAD_BYTES))
        return sock
    except BaseException:
        sock.close()
        raise


def _some(data: bytes) -> bytes:
    if not data:
        raise TunnelRefused(502, "it closed the connection")
    return data


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
