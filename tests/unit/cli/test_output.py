"""What commands print is what it is."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import typer
from rich.table import Table

from csi_slayer.cli.output import console, failing, terminable, warn_of_little_room


@pytest.mark.parametrize("text", ["[data]", "/tmp/[/m]x", "[red]no[/red]", "[/b]"])
def test_brackets_are_printed(text: str) -> None:
    with console.capture() as lines:
        console.print(f"at {text}")
        table = Table(title=text)
        table.add_row("failing", text)
        console.print(table)
    assert lines.get().count(text) == 3


def test_sigterm_is_dealt_with_as_ctrl_c_is() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended, failing(), terminable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_cache_without_room_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = os.statvfs(tmp_path)
    free = state.f_bavail * state.f_frsize
    warn_of_little_room(tmp_path, free)
    assert capsys.readouterr().err == ""
    warn_of_little_room(tmp_path, free * 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line and "cache.min_free" in line
