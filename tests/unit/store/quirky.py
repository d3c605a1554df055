"""A store whose server answers each request as the test says: what services do differently."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from csi_slayer.store.options import CredentialOptions, StoreOptions
from csi_slayer.store.s3.open import open_s3
from csi_slayer.store.s3.store import S3Store
from tests.support.http1 import body, read_head, s3_kind
from tests.unit.store.scripted import answer

KEYS = CredentialOptions("AKID", "secret")


class Asked(NamedTuple):
    """A request: its S3 operation, query, headers by lower-case name, body, and path."""

    kind: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    path: str


Respond = Callable[[Asked], bytes]


def error(code: str, status: str, message: str = "") -> bytes:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return answer(text.encode(), status)


@contextlib.asynccontextmanager
async def quirky(respond: Respond, **options: Any) -> AsyncIterator[S3Store]:
    """``s3://bucket``; ``respond`` gives the bytes of the whole answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):  # which is how the store closes one
            await talk(reader, writer)
        writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (head := await read_head(reader)) is not None:
            received = b""
            if head.get(b"expect") is None:  # a test may refuse that, and gets no body then
                pieces = [piece async for piece in body(reader, head, until_eof=False)]
                received = b"".join(pieces)
            headers = {name.decode().lower(): text.decode() for name, text in head.headers}
            method, target = head.start.decode().split(" ")[:2]
            kind = s3_kind(method, target, copies="x-amz-copy-source" in headers)
            parts = urlsplit(target)
            query = parse_qs(parts.query, keep_blank_values=True)
            given = {name: of[0] for name, of in query.items()}
            asked = Asked(kind, given, headers, received, parts.path)
            writer.write(respond(asked))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    given: dict[str, Any] = {"credentials": KEYS, "retry_deadline": 5.0, **options}
    store = await open_s3("s3://bucket", StoreOptions(endpoint, "us-east-1", **given))
    try:
        yield store
    finally:
        await store.close()
        server.close()
