"""Rounds, failures and arrival of uploads, without a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from bench import arrival
from bench.__main__ import arguments
from bench.errors import BenchError
from bench.load import Work
from bench.results import Results
from bench.rows import ROWS, select
from bench.scale import QUICK
from bench.session import Session
from bench.targets.base import Mounted, MountOptions


def session_of(rows: str, rounds: int) -> Session:
    """Only what the rounds need; nothing here reaches a server or a mount."""
    missing = cast(Any, None)
    return Session(
        QUICK.with_rounds(rounds), ("slayerfs", "local"), Path("/nonexistent"),
        missing, missing, missing, missing, Results(select(rows)),
    )  # fmt: skip


@dataclass
class FakeTarget:
    name: str = "slayerfs"
    uploads_at_close: bool = True
    log: list[str] = field(default_factory=list)
    broken: str = ""

    def mounted(self, options: MountOptions) -> AbstractContextManager[Mounted]:
        return self._mounted()

    @contextmanager
    def _mounted(self) -> Iterator[Mounted]:
        if self.broken == "mount":
            raise BenchError("no mount")
        self.log.append("mounted")
        yield cast(Any, "a mount")
        self.log.append("unmounted")
        if self.broken == "unmount":
            raise BenchError("busy")


def test_rounds_are_interleaved_there_and_back() -> None:
    session, order = session_of("list", 3), []

    def measure(column: str) -> Mapping[str, float]:
        order.append(column)
        return {"list": float(len(order))}

    session.interleave(
        ["list"], {"slayerfs": lambda: measure("slayerfs"), "local": lambda: measure("local")}
    )
    assert order == ["slayerfs", "local", "local", "slayerfs", "slayerfs", "local"]
    assert session.results.medians("list") == {"slayerfs": 4.0, "local": 3.0}


def test_a_column_that_fails_is_not_tried_again_and_stops_no_other() -> None:
    session, tries = session_of("list", 3), []

    def broken() -> Mapping[str, float]:
        tries.append(1)
        raise BenchError("no luck")

    session.interleave(["list"], {"slayerfs": broken, "local": lambda: {"list": 1.0}})
    assert len(tries) == 1
    assert session.results.failures == {"list": {"slayerfs": "no luck"}}
    assert session.results.medians("list") == {"local": 1.0}


def test_a_held_mount_lives_as_long_as_its_stack() -> None:
    session, target = session_of("list", 1), FakeTarget()
    with ExitStack() as stack:
        assert session.hold(stack, target, MountOptions("p"), ["list"]) is not None
        assert target.log == ["mounted"]
    assert target.log == ["mounted", "unmounted"]


def test_a_mount_that_fails_fails_its_rows() -> None:
    session = session_of("list", 1)
    with ExitStack() as stack:
        target = FakeTarget(broken="mount")
        assert session.hold(stack, target, MountOptions("p"), ["list"]) is None
    assert session.results.failures == {"list": {"slayerfs": "no mount"}}


def test_trouble_with_unmounting_is_noted_and_keeps_the_values() -> None:
    session = session_of("list", 1)
    with ExitStack() as stack:
        session.hold(stack, FakeTarget(broken="unmount"), MountOptions("p"), ["list"])
        session.results.add("slayerfs", {"list": 1.0})
    assert session.results.medians("list") == {"slayerfs": 1.0}
    assert session.results.notes == ["slayerfs: unmounting failed: busy"]


def test_close_that_returns_before_the_upload_is_an_error() -> None:
    work = Work(1, 2, 3.0)
    assert arrival.until_uploaded(FakeTarget(), work, lambda: True) == work
    with pytest.raises(BenchError, match="before the bucket"):
        arrival.until_uploaded(FakeTarget(), work, lambda: False)


def test_the_clock_runs_on_for_a_close_that_does_not_wait() -> None:
    answers = iter([False, False, True])
    target = FakeTarget("rclone", uploads_at_close=False)
    work = arrival.until_uploaded(target, Work(1, 2, 3.0), lambda: next(answers))
    assert work.seconds > 3.0
    assert next(answers, None) is None


def test_waiting_for_an_upload_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "_TIMEOUT", 0.0)
    with pytest.raises(BenchError, match="not in the bucket"):
        arrival.until_uploaded(
            FakeTarget("rclone", uploads_at_close=False), Work(1, 2, 3.0), lambda: False
        )


def test_the_local_file_system_uploads_nothing() -> None:
    target = FakeTarget("local", uploads_at_close=False)
    work = Work(1, 2, 3.0)
    assert arrival.until_uploaded(target, work, lambda: False) == work


def test_the_command_line_chooses_rows_and_columns(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = arguments(["--rows", "list", "--columns", "slayerfs,bare"])
    assert [row.id for row in chosen.rows] == ["list"]
    assert chosen.columns == ("slayerfs", "bare")
    assert arguments([]).rows == ROWS
    for wrong in (["--rows", "lst"], ["--columns", "slayer"], ["--rounds", "0"]):
        with pytest.raises(SystemExit):
            arguments(wrong)
    assert "no column 'slayer'" in capsys.readouterr().err
