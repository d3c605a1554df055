"""Stopping a transfer from another thread."""

from __future__ import annotations

import socket
import threading


class Halted(Exception):
    """The transfer was told to stop."""


class Halt:
    """Stops a transfer from another thread: sets a flag and wakes the socket it waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._requested = False

    def request(self) -> None:
        """Stop it: from any thread, any number of times."""
        with self._lock:
            self._requested = True
            if self._socket is not None:
                shut_down(self._socket)

    def watch(self, sock: socket.socket | None) -> None:
        """This is the socket from now on. Raises Halted."""
        with self._lock:
            self._socket = sock
            if self._requested and sock is not None:
                raise Halted

    def check(self) -> None:
        """Raises Halted if the transfer is to stop."""
        if self._requested:
            raise Halted


def shut_down(sock: socket.socket) -> None:
    """Wake who waits for it, in another thread."""
    try:
        # The base class's: SSLSocket.shutdown would pull the TLS object from under the reader.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass
