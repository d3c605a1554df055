"""A blocking connection for bulk data, used by one thread at a time and stopped by another.

Plain sockets stay in blocking mode with kernel timeouts: so one ``recv`` fills a whole piece
(MSG_WAITALL) and one ``sendfile`` sends a megabyte, both without the interpreter lock. TLS cannot
do that and works in the chunks that OpenSSL gives.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time

from csi_slayer.errors import SourceShort, StoreIntegrityError
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.answer import MOST_HEAD_BYTES, Answer, AnswerReader, BadAnswer
from csi_slayer.store.s3.halt import Halt
from csi_slayer.store.s3.resolver import Addresses
from csi_slayer.store.s3.sockets import establish, is_stale, readable
from csi_slayer.store.s3.target import Target, connect_failure
from csi_slayer.store.source import reading

# Bytes per sendfile, and per TLS write: how often a transfer looks whether it should stop.
_SEND = 1 << 20
_TLS_SEND = 256 << 10
# A connection that has been idle for longer (seconds) may have been forgotten by a gateway.
_LONGEST_IDLE = 20.0
# How long a server is waited for to ask for a body (seconds).
_LONGEST_EXPECT = 1.0


class Channel:
    """Connects when needed and stays connected between transfers.

    All methods raise Transient for what may pass, and Halted.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._socket: socket.socket | None = None
        self._halt = Halt()
        self._spare = bytearray(MOST_HEAD_BYTES)
        self._used = 0  # bytes of the next head in the spare buffer
        self._rest = memoryview(b"")
        self._used_at = 0.0
        self.reused = False
        self.moved = 0
        """Bytes of bodies that went over it, in either direction; grows meanwhile."""

    def begin(self, addresses: Addresses, halt: Halt) -> None:
        """Be ready to send: over the connection that is there if it is still good."""
        self._halt = halt
        sock = self._socket
        if sock is not None:
            idle = time.monotonic() - self._used_at
            if idle > _LONGEST_IDLE or is_stale(sock, self._target.silence_timeout):
                self.close()
            else:
                halt.watch(sock)
                self.reused = True
                return
        self.reused = False
        self._connect(addresses)

    def finish(self) -> None:
        """The transfer is over and the connection can carry another one."""
        self._halt.watch(None)
        self._used_at = time.monotonic()

    def close(self) -> None:
        """Drop the connection."""
        self._halt.watch(None)
        sock, self._socket = self._socket, None
        self._used = 0
        self._rest = memoryview(b"")
        if sock is not None:
            sock.close()

    def _connect(self, addresses: Addresses) -> None:
        failure: Exception = Transient(f"{self._target}: the name has no address")
        for address in addresses:
            try:
                self._socket = establish(self._target, address, self._halt)
                return
            except OSError as error:
                self._halt.check()
                failure = connect_failure(self._target, error)
        raise failure

    def send(self, data: bytes) -> None:
        """Send a request's head."""
        sock = self._connected()
        try:
            sock.sendall(data)
        except OSError as error:
            raise self._cut("before the answer", error) from error

    def send_file(self, fd: int, offset: int, length: int, reader: AnswerReader) -> bool:
        """Send a file's range as body; False if the server answered before it was all sent, with
        more than that it goes on (a 100 that came after our patience had ended).

        Raises SourceUnreadable if the file cannot be read, or ends before the range does.
        """
        sock = self._connected()
        sent = 0
        try:
            while sent < length:
                self._halt.check()
                if self._target.tls is None and readable(sock):
                    self._read_one_head(reader)
                    if reader.headers_done:
                        return False
                count = self._send_some(sock, fd, offset + sent, length - sent)
                if count == 0:
                    raise SourceShort
                sent += count
                self.moved += count
        except BlockingIOError as error:
            raise Transient(
                f"nothing could be sent for {self._target.silence_timeout:g} s"
            ) from error
        except OSError as error:
            self._halt.check()
            with reading():  # sendfile(2) does not tell whose error it is: is it the file's?
                if error.errno == errno.EIO:
                    raise  # no socket gives that
                os.pread(fd, min(length - sent, _SEND), offset + sent)
            if readable(sock):
                return False  # an answer came before the connection was closed
            raise self._cut("while the body was sent", error) from error
        return True

    def _send_some(self, sock: socket.socket, fd: int, offset: int, length: int) -> int:
        if self._target.tls is None:
            return os.sendfile(sock.fileno(), fd, offset, min(length, _SEND))
        with reading():
            data = os.pread(fd, min(length, _TLS_SEND), offset)
        if data:
            sock.sendall(data)
        return len(data)

    def may_send(self, reader: AnswerReader) -> bool:
        """After ``Expect: 100-continue``: False if the answer is final, so that no body is wanted.

        A server that does not say anything gets the body after a while (RFC 9110, 10.1.1).
        """
        sock = self._connected()
        if isinstance(sock, ssl.SSLSocket):
            sock.settimeout(_LONGEST_EXPECT)
            try:
                self._read_one_head(reader)
            except Transient as failure:
                if not isinstance(failure.__cause__, TimeoutError):
                    raise
            finally:
                sock.settimeout(self._target.silence_timeout)
        elif readable(sock, _LONGEST_EXPECT):
            self._read_one_head(reader)
        self._halt.check()
        return not reader.headers_done

    def read_head(self, reader: AnswerReader) -> None:
        """Receive the head of the answer; what follows is for :meth:`fill` or :meth:`read_rest`."""
        while not reader.headers_done:
            self._read_one_head(reader)
        self._rest = memoryview(self._spare)[: self._used]
        self._used = 0

    def _read_one_head(self, reader: AnswerReader) -> None:
        """Receive one head, interim (1xx) or final; what came after it is at the front."""
        view = memoryview(self._spare)
        begin = 0
        while (end := self._spare.find(b"\r\n\r\n", begin, self._used)) < 0:
            if self._used == len(view):
                raise StoreIntegrityError("the head of the answer is too large")
            begin = max(self._used - 3, 0)
            self._used += self._receive(view[self._used :], 0, "before the answer")
        end += 4
        self._feed(reader, view[:end])
        rest = bytes(view[end : self._used])
        self._used = len(rest)
        view[: self._used] = rest

    def read_rest(self, reader: AnswerReader) -> Answer:
        """Receive the body into memory, up to the reader's limit."""
        if not reader.done and self._rest:
            self._feed(reader, self._rest)
        self._rest = memoryview(b"")
        view = memoryview(self._spare)
        while not reader.done:
            try:
                count = self._receive(view, 0, "within the answer")
            except Transient:
                if reader.ends_with_connection and reader.status >= 300:
                    break
                raise
            self._feed(reader, view[:count])
        return reader.answer()

    def fill(self, view: memoryview) -> None:
        """Receive exactly ``len(view)`` bytes of the body."""
        done = min(len(self._rest), len(view))
        if done:
            view[:done] = self._rest[:done]
            self._rest = self._rest[done:]
        flags = socket.MSG_WAITALL if self._target.tls is None else 0
        while done < len(view):
            done += self._receive(view[done:], flags, "within the answer")

    def _feed(self, reader: AnswerReader, data: memoryview) -> None:
        try:
            reader.feed(data)
        except BadAnswer as error:
            raise StoreIntegrityError(str(error)) from error

    def _receive(self, view: memoryview, flags: int, where: str) -> int:
        sock = self._connected()
        try:
            count = sock.recv_into(view, 0, flags)
        except (BlockingIOError, TimeoutError) as error:
            raise Transient(f"no answer within {self._target.silence_timeout:g} s") from error
        except OSError as error:
            raise self._cut(where, error) from error
        if count == 0:
            raise self._cut(where, None)
        self.moved += count
        return count

    def _cut(self, where: str, error: OSError | None) -> Exception:
        self._halt.check()
        reason = f" ({error.strerror or error})" if error is not None else ""
        return Transient(
            f"the connection was cut {where}{reason}",
            immediate=self.reused and where == "before the answer",
        )

    def _connected(self) -> socket.socket:
        assert self._socket is not None
        return self._socket
