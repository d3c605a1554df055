"""What doctor finds out about an identity by doing it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cli.rights import Problem, Rights
from csi_slayer.errors import AccessDenied, StoreUnavailable, StoreUnsupported
from csi_slayer.store.base import ANY
from csi_slayer.store.local.store import LocalStore
from csi_slayer.store.open import open_store
from csi_slayer.store.options import StoreOptions


def problems(directory: Path) -> list[Problem]:
    async def find_out() -> list[Problem]:
        store = await open_store(f"file://{directory}", StoreOptions())
        try:
            rights = Rights(store)
            assert await rights.find_out() > 0
            return rights.problems
        finally:
            await store.close()

    return asyncio.run(find_out())


async def refuse(*_args: object, **_more: object) -> None:
    raise AccessDenied("refused")


def left(directory: Path) -> list[str]:
    return [path.name for path in (directory / ".slayerfs").rglob("*") if path.is_file()]


def test_nothing_is_wrong_and_nothing_is_left(tmp_path: Path) -> None:
    assert problems(tmp_path) == []
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("method", "action"),
    [
        ("put", "s3:PutObject"),
        ("get", "s3:GetObject"),
        ("copy", "s3:GetObject and s3:PutObject"),
        ("abort_multipart", "s3:AbortMultipartUpload"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, action: str
) -> None:
    monkeypatch.setattr(LocalStore, method, refuse)
    (problem,) = problems(tmp_path)
    assert problem.mend == f"allow the identity {action}"
    assert "refused" in problem.text
    assert left(tmp_path) == []


def test_what_a_service_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def put(*_args: object, **_more: object) -> None:
        raise StoreUnsupported("the store cannot do that")

    monkeypatch.setattr(LocalStore, "put", put)
    (problem,) = problems(tmp_path)
    assert problem.mend == "use a store that can do it, or mount it read-only"


def test_what_cannot_be_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStore, "delete", refuse)
    (problem,) = problems(tmp_path)
    assert problem.mend == "allow the identity s3:DeleteObject"
    assert len(left(tmp_path)) == 2
    assert all(f".slayerfs/doctor/{name}" in problem.text for name in left(tmp_path))


def test_what_may_be_left_is_named_whatever_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be deleted does not keep the other."""
    delete = LocalStore.delete

    async def away(self: LocalStore, key: str) -> None:
        if not key.endswith("-copy"):
            raise StoreUnavailable("away")
        await delete(self, key)

    monkeypatch.setattr(LocalStore, "delete", away)
    (problem,) = problems(tmp_path)
    (name,) = left(tmp_path)
    assert problem == Problem(
        f"objects cannot be deleted: away; .slayerfs/doctor/{name} may be left", ""
    )


def test_a_store_that_knows_no_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = LocalStore.put

    async def careless(self: LocalStore, key: str, body: bytes, **more: Any) -> Any:
        return await put(self, key, body, **(more | {"condition": ANY}))

    monkeypatch.setattr(LocalStore, "put", careless)
    (problem,) = problems(tmp_path)
    assert "ignores If-None-Match" in problem.text
    assert left(tmp_path) == []


SLOW = """
import asyncio
from csi_slayer.store.local.store import LocalStore
async def copy(*_args, **_more):
    print("copies", flush=True)
    await asyncio.sleep(60)
LocalStore.copy = copy
from csi_slayer.cli.entry import run
run()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_by_one_that_is_interrupted(tmp_path: Path, number: int) -> None:
    url = f"file://{tmp_path}"
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, "doctor", url, "--cache-dir", str(tmp_path / "cache")],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"copies\n"
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert left(tmp_path) == []
