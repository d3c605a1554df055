"""What is left on a terminal when a command ends."""

from __future__ import annotations

import os
import signal

import pytest
import typer
from rich.console import Console
from rich.progress import TextColumn

from csi_slayer.cli import progress as progress_module
from csi_slayer.cli.output import failing
from csi_slayer.cli.progress import showing


def _work_until(number: int) -> None:
    with failing(), showing(TextColumn("working")) as progress:
        progress.add_task("work")
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_its_cursor_back(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell had none after SIGTERM."""

    def end(_number: int, _frame: object) -> None:
        raise AssertionError("would have ended the process")

    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else end)
    errors = Console(force_terminal=True, stderr=True)
    monkeypatch.setattr(progress_module, "errors", errors)
    try:
        with errors.capture() as printed, pytest.raises(typer.Exit) as ended:
            _work_until(number)
        assert ended.value.exit_code == 128 + number
        assert printed.get().count("\x1b[?25l") == printed.get().count("\x1b[?25h") == 1
    finally:
        signal.signal(number, before)
