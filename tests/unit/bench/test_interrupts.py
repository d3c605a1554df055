"""A run is interrupted once, and never in the middle of a mount."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from bench import interrupts


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(each) for each in signals]
    interrupts.install()
    yield
    for each, handler in zip(signals, before, strict=True):
        signal.signal(each, handler)


def test_the_first_signal_interrupts_and_the_second_does_not() -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_inside_waits_for_the_end() -> None:
    log: list[str] = []

    def mount() -> None:
        with interrupts.deferred(), interrupts.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            log.append("mounted")

    with pytest.raises(KeyboardInterrupt):
        mount()
    assert log == ["mounted"]


def test_without_a_signal_nothing_happens() -> None:
    with interrupts.deferred():
        pass
