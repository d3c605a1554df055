"""An HTTP/1.1 answer, and how its bytes become one.

Source: RFC 9112 (message syntax); parsing itself is llhttp's, through httptools.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httptools

MOST_HEAD_BYTES = 1 << 16


class BadAnswer(Exception):
    """What came is not HTTP, or is larger than allowed."""


@dataclass(slots=True)
class Answer:
    """Status, headers by lower-case name, and the body (empty for HEAD)."""

    status: int
    headers: dict[str, str]
    body: bytes


class AnswerReader:
    """Receives the bytes of the answer to one request.

    ``limit`` bounds the body, in bytes; the head has a limit of its own. ``headers_done`` and
    ``done`` tell how far it is; with ``keep_alive`` the connection can carry another request after
    it. A reader whose ``bodiless`` is set (HEAD) is done when the headers are.
    """

    __slots__ = (
        "_chunks",
        "_fed",
        "_parser",
        "_size",
        "bodiless",
        "done",
        "headers",
        "headers_done",
        "keep_alive",
        "limit",
        "status",
    )

    def __init__(self, limit: int, bodiless: bool = False) -> None:
        self.limit = limit
        self.bodiless = bodiless
        self.status = 0
        self.headers: dict[str, str] = {}
        self.headers_done = False
        self.done = False
        self.keep_alive = False
        self._chunks: list[bytes] = []
        self._size = 0
        self._fed = 0
        self._parser: Any = httptools.HttpResponseParser(self)

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes. Raises BadAnswer."""
        self._fed += len(data)
        if self._fed > 2 * self.limit + MOST_HEAD_BYTES:
            raise BadAnswer("framing of the answer is too large")
        if self.done:
            # Bytes beyond the answer: the two sides disagree about where it ends.
            self.keep_alive = False
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, BadAnswer):
                raise error.__context__ from None
            raise BadAnswer(str(error)) from error
        except httptools.HttpParserUpgrade as error:
            raise BadAnswer("the server switches protocols") from error
        except httptools.HttpParserError as error:
            self._malformed(error)
        if not self.headers_done and self._fed > MOST_HEAD_BYTES:
            raise BadAnswer("head of the answer is too large")

    def _malformed(self, error: Exception) -> None:
        if not self.done:
            raise BadAnswer(f"not an HTTP answer: {error}") from error
        self.keep_alive = False

    def answer(self) -> Answer:
        """What was received; call it when ``done``, for the last time."""
        self._parser = None  # it refers to this reader: without it no garbage collection is needed
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return Answer(self.status, self.headers, body)

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the body is the end of the connection, so that it proves nothing."""
        return (
            self.headers_done
            and "content-length" not in self.headers
            and "transfer-encoding" not in self.headers
        )

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: one header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """httptools: the head is complete."""
        self.status = self._parser.get_status_code()
        if self.status < 200:
            return
        self.headers_done = True
        self.keep_alive = self._parser.should_keep_alive()
        if self.bodiless:
            self.done = True

    def on_body(self, data: bytes) -> None:
        """httptools: a piece of the body."""
        self._size += len(data)
        if self._size > self.limit:
            raise BadAnswer(f"the answer is larger than {self.limit} bytes")
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        """httptools: the answer is complete (an interim one, 1xx, is dropped)."""
        if self.status < 200:
            self.headers = {}
        else:
            self.done = True
