"""What commands print is what it is."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import typer
from rich.table import Table

from csi_slayer.cli.output import console, failing, terminable, warn_of_little_room
from csi_slayer.errors import SlayerError


@pytest.mark.parametrize("text", ["[data]", "/tmp/[/m]x", "[red]no[/red]", "[/b]"])
def test_brackets_are_printed(text: str) -> None:
    with console.capture() as lines:
        console.print(f"at {text}")
        table = Table(title=text)
        table.add_row("failing", text)
        console.print(table)
    assert lines.get().count(text) == 3


NASTY = "\x1b]0;title\x07\x1b[2J\r\x9b31m\u202egpj.exe\ud800"
SHOWN = r"\u001b]0;title\u0007\u001b[2J\u000d\u009b31m\u202egpj.exe\ud800"


def test_no_name_gives_the_terminal_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Who may write to a volume, or answer as its server, chose what root's terminal did."""
    with console.capture() as lines:
        console.print(f"at {NASTY}", style="yellow")
        table = Table(title=NASTY)
        table.add_row("failing", NASTY)
        console.print(table, width=200)
    assert lines.get().count(SHOWN) == 3
    with pytest.raises(typer.Exit), failing():
        raise SlayerError(f"{NASTY}\nnext line")
    assert capsys.readouterr().err == f"csi-slayer: {SHOWN}\nnext line\n"


def test_colons_are_printed() -> None:
    with console.capture() as lines:
        console.print("/mnt/:smile:")
    assert lines.get() == "/mnt/:smile:\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_that_end_are_dealt_with_as_ctrl_c_is(number: int, status: int) -> None:
    """A mount whose terminal was closed came up later; doctor left its object."""
    before = signal.signal(number, lambda _number, _frame: None)
    handler = signal.getsignal(number)
    try:
        with pytest.raises(typer.Exit) as ended, failing(), terminable():
            os.kill(os.getpid(), number)
        assert ended.value.exit_code == status
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_who_ignores_a_closed_terminal_goes_on() -> None:
    """nohup(1)."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


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
