"""What a test must not leave behind: mounts, children, and log lines that mean trouble.

A pytest plugin, loaded by ``tests/conftest.py``. What it finds it also removes, so that one bad
test does not bring down the rest.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from csi_slayer.fuse.mount import lines
from tests.support import servers

_SUSPICIOUS = re.compile(
    r"Traceback \(most recent call last\)"
    r"|was never (?:retrieved|awaited)"
    r"|Task was destroyed but it is pending"
    r"|Exception ignored in"
    r"|log_lines_dropped"
)
_MOST_LOG_BYTES = 4 << 20
# Helpers of the standard library that live as long as the process.
_HARMLESS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def mount_points(root: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> set[Path]:
    """Mount points at or below ``root``, without touching any of them."""
    points = set()
    for line in lines(mountinfo):
        point = Path(re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), line.split(" ")[4]))
        if point.is_relative_to(root):
            points.add(point)
    return points


def children() -> dict[int, str]:
    """Command lines of this process's children by pid, without those the session owns."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
        except OSError:
            continue  # that thread is gone
        for pid in map(int, pids):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if pid not in servers.live_pids and not any(text in command for text in _HARMLESS):
                found[pid] = command.strip() or "(ended, but nobody waited for it)"
    return found


def suspicious_lines(text: str, allowed: list[str]) -> list[str]:
    """Lines that mean trouble, except those a pattern in ``allowed`` matches."""
    return [
        line.strip()[:300]
        for line in text.splitlines()
        if _SUSPICIOUS.search(line) and not any(re.search(p, line) for p in allowed)
    ]


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except OSError:
        pass  # it ended by itself, or somebody waited for it


def _log_files(directory: Path) -> Iterator[str]:
    """Logs of workers below a test's directory; symlinks and mounts are not followed."""
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not os.path.ismount(os.path.join(folder, name))]
        for name in names:
            path = Path(folder, name)
            if name.endswith(".log") and path.is_file() and not path.is_symlink():
                with path.open(errors="replace") as file:
                    yield file.read(_MOST_LOG_BYTES)


@pytest.fixture(autouse=True)
def _nothing_left_behind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    # Mounts elsewhere may belong to somebody else on this machine.
    base = tmp_path_factory.getbasetemp().resolve()
    mounts_before, children_before = mount_points(base), children()
    yield
    problems = []
    for point in sorted(mount_points(base) - mounts_before, reverse=True):
        problems.append(f"left mounted: {point}")
        subprocess.run(["umount", "--lazy", str(point)], check=False, timeout=10)
    for pid, command in children().items():
        if pid not in children_before:
            problems.append(f"left running: {pid} {command}")
            _end(pid)
    path = request.node.funcargs.get("tmp_path")
    if path is not None and not problems:
        allowed = _allowed(request.node)
        for text in _log_files(path):
            problems += [f"in a log: {line}" for line in suspicious_lines(text, allowed)]
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


def _allowed(item: pytest.Item) -> list[str]:
    return [pattern for mark in item.iter_markers("allow_log") for pattern in mark.args]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Look through what the test printed and logged, when all its phases are over."""
    report = yield
    if report.when == "teardown" and report.passed:
        lines: list[str] = []
        for title, text in report.sections:
            if title.startswith("Captured"):
                lines += suspicious_lines(text, _allowed(item))
        if lines:
            report.outcome = "failed"
            report.longrepr = "suspicious output:\n" + "\n".join(lines)
    return report
