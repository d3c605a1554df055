"""Bare S3 clients: the same bytes without a file system, as fast as a client of a few lines goes.

Transfers use opendal's asynchronous operator. The listing is plain HTTP whose answer is hardly
looked at, because turning 100,000 entries into Python objects would cost more than the requests.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from bench.dataset import FILE_SIZE, random_bytes
from bench.errors import BenchError

# The fastest on two cores shared with the server, of 4 to 32 MiB and 4 to 16 at a time.
_DOWNLOAD_CHUNK, _DOWNLOAD_TASKS = 8 << 20, 8
_UPLOAD_CHUNK, _UPLOAD_TASKS = 16 << 20, 8

_Item = TypeVar("_Item")

_TOKEN = re.compile(rb"<NextContinuationToken>([^<]*)<")


@dataclass
class BareClient:
    """One bucket. Each method returns the seconds it took."""

    endpoint: str
    region: str
    bucket: str
    access_key: str
    secret_key: str = field(repr=False)

    def __post_init__(self) -> None:
        import opendal  # only here: the benchmarks' own tests run without it

        self._operator = opendal.AsyncOperator(
            "s3",
            bucket=self.bucket,
            endpoint=self.endpoint,
            region=self.region,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
        )

    def get_many(self, keys: Iterable[str], clients: int) -> float:
        async def get(key: str) -> None:
            await self._operator.read(key)

        return _timed(_spread(keys, clients, get))

    def put_many(self, keys: Iterable[str], clients: int) -> float:
        body = random_bytes(FILE_SIZE)

        async def put(key: str) -> None:
            await self._operator.write(key, body)

        return _timed(_spread(keys, clients, put))

    def download(self, key: str, size: int) -> float:
        """Ranges in parallel; the bytes are thrown away."""

        async def get(offset: int) -> None:
            want = min(_DOWNLOAD_CHUNK, size - offset)
            if len(await self._operator.read(key, offset=offset, size=want)) != want:
                raise BenchError(f"{key} is shorter than {size}")

        return _timed(_spread(range(0, size, _DOWNLOAD_CHUNK), _DOWNLOAD_TASKS, get))

    def upload(self, key: str, size: int) -> float:
        """A multipart upload, parts in parallel. ``size`` is a multiple of a MiB."""
        block = random_bytes(min(size, 1 << 20))

        async def put() -> None:
            file = await self._operator.open(
                key, "wb", chunk=_UPLOAD_CHUNK, concurrent=_UPLOAD_TASKS
            )
            for _ in range(size // len(block)):
                await file.write(block)
            await file.close()

        return _timed(put())

    def list_pages(self, prefix: str) -> tuple[int, float]:
        """Keys directly below ``prefix`` by pages of 1,000: their number, and the seconds."""
        address = urlsplit(self.endpoint)
        connection = http.client.HTTPConnection(address.netloc, timeout=60)
        query = {"list-type": "2", "prefix": f"{prefix}/", "delimiter": "/", "max-keys": "1000"}
        found, started = 0, time.perf_counter()
        while True:
            body = self._get(connection, query)
            found += body.count(b"<Key>")
            token = _TOKEN.search(body)
            if token is None:
                connection.close()
                return found, time.perf_counter() - started
            query["continuation-token"] = token[1].decode()

    def _get(self, connection: http.client.HTTPConnection, query: dict[str, str]) -> bytes:
        path = f"/{self.bucket}?{urlencode(query, quote_via=quote)}"
        request = AWSRequest("GET", self.endpoint + path)
        S3SigV4Auth(Credentials(self.access_key, self.secret_key), "s3", self.region).add_auth(
            request
        )
        connection.request("GET", path, headers=dict(request.prepare().headers))
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise BenchError(f"LIST answered {answer.status}: {body[:200]!r}")
        return body


async def _spread(
    items: Iterable[_Item], tasks: int, operation: Callable[[_Item], Awaitable[None]]
) -> None:
    source = iter(items)

    async def work() -> None:
        for item in source:
            await operation(item)

    await asyncio.gather(*(work() for _ in range(tasks)))


def _timed(work: Any) -> float:
    async def run() -> float:
        started = time.perf_counter()
        await work
        return time.perf_counter() - started

    return asyncio.run(run())
