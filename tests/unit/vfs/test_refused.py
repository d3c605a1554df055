"""What a store refuses is tried again, but not all the time."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content import reconcile, retries
from csi_slayer.errors import AccessDenied
from tests.unit.vfs.harness import Volume

FILES = [b"f%d" % number for number in range(8)]


def test_more_refused_keys_than_are_remembered_rest_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "RETRY_MEMORY", 2)
    monkeypatch.setattr(retries, "RETRY_MEMORY", 2)
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    asked: list[str] = []

    async def refused(key: str, *_args: Any, **_values: Any) -> Any:
        asked.append(key)
        raise AccessDenied(f"{key!r}: not yours")

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(volume.store, "put", refused)
            for name in FILES:
                await volume.fs.mknod(volume.request(), ROOT, name, stat.S_IFREG | 0o644, 0)
            await asyncio.sleep(20)  # a moment of the clock that the pauses are measured by
        assert sorted(asked) == [name.decode() for name in FILES]

    volume.run(scenario())
    volume.stop()
    assert sorted(volume.objects()) == [name.decode() for name in FILES]
