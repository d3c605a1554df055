"""``csi-slayer status``: what is asked, and how long that takes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from csi_slayer.cli import status
from csi_slayer.node import registry


def test_workers_that_hang_are_asked_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [
        registry.Mounted(f"volume{n}", "s3://b", f"/mnt/{n}", 1, "/control", "/state", "/cache")
        for n in range(5)
    ]
    all_asked = threading.Barrier(len(entries))

    def ask(entry: registry.Mounted, *_args: Any, **_kwargs: Any) -> Iterator[dict[str, Any]]:
        all_asked.wait(timeout=20)
        yield {"volume": entry.volume}

    monkeypatch.setattr(registry, "mounts", lambda: iter(entries))
    monkeypatch.setattr(status, "is_nothing", lambda entry: False)
    monkeypatch.setattr(status.control, "ask", ask)
    status.status(None, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert [volume["volume"] for volume in shown] == [entry.volume for entry in entries]


def test_lines_for_programs_are_not_folded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``csi-slayer status | grep`` found the half of a path."""
    place = f"/mnt/[x]{'n' * 100}"
    monkeypatch.setattr(status, "_wanted", lambda path: [None])
    answer = {"url": "s3://b", "mountpoint": place, "error": f"the worker of {place} is away"}
    monkeypatch.setattr(status, "_one", lambda entry: answer)
    status.status(None)
    assert capsys.readouterr().out.splitlines() == [
        f"s3://b at {place}",
        f" state       the worker of {place} is away",
    ]


def test_no_name_looks_like_another_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status, "_wanted", lambda path: [None])
    answer = {"url": "s3://b", "mountpoint": "/a\nb", "error": "a\n dirty       0 B staged"}
    monkeypatch.setattr(status, "_one", lambda entry: answer)
    status.status(None)
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("conflicts", [0, 2])
def test_what_lost_a_race_is_shown_with_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], conflicts: int
) -> None:
    answer = {
        "url": "s3://b", "mountpoint": "/mnt", "volume": "abc", "pid": 1, "uptime": 1.0,
        "restarts": 0, "read_only": False, "durability": "close", "capabilities": [],
        "open_files": 0, "used_bytes": 0, "quota": None, "dirty_bytes": 0, "pending_uploads": 0,
        "oldest_pending": None, "conflicts": conflicts, "failing": [], "store": {"answers": True},
        "cache": {"directory": "/cache", "bytes": 0, "capacity": 1, "segments": 0},
        "counters": dict.fromkeys(
            ("cache_hit_bytes", "cache_miss_bytes", "passthrough_opens", "opens", "store_requests",
             "store_received_bytes", "store_sent_bytes"), 0,
        ),
    }  # fmt: skip
    monkeypatch.setattr(status, "_wanted", lambda path: [None])
    monkeypatch.setattr(status, "_one", lambda entry: answer)
    status.status(None)
    lines = [it for it in capsys.readouterr().out.splitlines() if it.startswith(" conflicts ")]
    assert len(lines) == (1 if conflicts else 0)
    assert all("2 kept in /cache/conflicts/abc: they take room" in line for line in lines)
