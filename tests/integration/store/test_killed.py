"""A process that dies in the middle of an upload leaves no object, not even a truncated one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.store.conftest import Run
from tests.integration.store.stores import open_store, options_for
from tests.support.servers import S3Server

pytestmark = pytest.mark.integration

UPLOAD = """
import asyncio, os, sys, time
from csi_slayer.store.open import open_store
from csi_slayer.store.options import CredentialOptions, StoreOptions

sendfile = os.sendfile

def send_once(*arguments):
    sent = sendfile(*arguments)
    print(sent, flush=True)
    time.sleep(60)
    return sent

os.sendfile = send_once

async def main():
    url, endpoint, access, secret, path = sys.argv[1:]
    options = StoreOptions(
        endpoint=endpoint, region="us-east-1", credentials=CredentialOptions(access, secret)
    )
    store = await open_store(url, options)
    fd = os.open(path, os.O_RDONLY)
    await store.put_file("big", fd, os.fstat(fd).st_size)

asyncio.run(main())
"""


def test_kill_9_while_a_body_is_sent(
    run: Run[Any], s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"x" * (8 << 20))
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            UPLOAD,
            f"s3://{bucket}",
            s3_server.endpoint,
            s3_server.access_key,
            s3_server.secret_key,
            str(path),
        ],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout as output:
        assert int(output.readline()) > 0
        process.kill()
        process.wait()

    async def body() -> None:
        store = await open_store(f"s3://{bucket}", options_for(s3_server))
        # A later request on the same server, so that the end of the first has been noticed.
        for _ in range(20):
            await store.put("after", b"x")
            assert [item.key for item in (await store.list_page("")).objects] == ["after"]
        await store.close()

    run(body())
