"""Services are found again by pid and start time, and ended by pid alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.processes import ClusterError, Process, Service, Services

STUBBORN = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
signal.pause()
"""


def service(name: str, code: str, log: Path) -> Service:
    command = [sys.executable, "-c", code]
    return Service(name, command, dict(os.environ), lambda: "ready" in log.read_text())


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = Services(tmp_path / "pids", tmp_path / "logs")
    yield made
    for name in made.names():
        made.stop(name, signal.SIGKILL)


def test_a_service_is_found_by_another_command_and_started_once(
    services: Services, tmp_path: Path
) -> None:
    pause = service("pause", STUBBORN, services.log("pause"))
    process = services.start(pause)
    services.wait(pause)
    again = Services(tmp_path / "pids", tmp_path / "logs")
    assert again.find("pause") == process
    assert again.start(pause) == process
    assert again.names() == ["pause"]


def test_one_that_ignores_sigterm_is_killed(services: Services) -> None:
    stubborn = service("stubborn", STUBBORN, services.log("stubborn"))
    process = services.start(stubborn)
    services.wait(stubborn)
    services.stop("stubborn", timeout=0.3)
    assert not process.alive()
    assert services.find("stubborn") is None
    assert services.names() == []


def test_stopping_what_does_not_run_is_no_error(services: Services) -> None:
    services.stop("absent")


def test_one_that_ends_before_it_is_ready_is_reported_with_its_log(services: Services) -> None:
    broken = service(
        "broken", 'print("no such option"); raise SystemExit(3)', services.log("broken")
    )
    services.start(broken)
    with pytest.raises(ClusterError, match=r"(?s)broken ended.*no such option"):
        services.wait(broken)


def test_a_process_that_got_the_pid_later_is_left_alone(services: Services, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        process = Process.of(other.pid)
        assert process is not None
        (tmp_path / "pids").mkdir()
        values = {"pid": process.pid, "start_time": process.start_time - 1}
        (tmp_path / "pids" / "old.json").write_text(json.dumps(values))
        assert services.find("old") is None
        services.stop("old")
        assert process.alive()
        other.communicate(b"\n")
    assert not process.alive()
