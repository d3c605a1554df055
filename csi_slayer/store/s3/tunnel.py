"""Sockets whose way to the server goes through a proxy, of bulk transfers and on the event loop."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

from csi_slayer.store.s3.proxy import MOST_HEAD_BYTES, Proxy, TunnelRefused, check_answer
from csi_slayer.store.s3.target import Target


def ask_for_way(sock: socket.socket, target: Target, proxy: Proxy) -> None:
    """Have the other end of a blocking socket be the server, within the connect timeout as a whole,
    however slowly the proxy answers. Raises OSError."""
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
