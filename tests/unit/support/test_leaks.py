"""The leak check fails what it should, and cleans up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.leaks import children, mount_points, suspicious_lines

pytest_plugins = ["pytester"]

_CONFTEST = 'pytest_plugins = ["tests.support.leaks"]\n'


def _outcome(pytester: pytest.Pytester, body: str) -> pytest.RunResult:
    root = Path(__file__).resolve().parents[3]
    pytester.syspathinsert(root)
    pytester.makeini("[pytest]\nmarkers =\n    allow_log(pattern): expected\npythonpath = .\n")
    pytester.makeconftest(_CONFTEST)
    pytester.makepyfile(body)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider")


def test_a_child_left_running_fails_the_test_and_is_ended(pytester: pytest.Pytester) -> None:
    result = _outcome(
        pytester,
        """
        import os, subprocess, pytest
        keep = []
        def test_leaves_a_child():
            command = ["sh", "-c", "echo ready; sleep 60; exit"]
            keep.append(subprocess.Popen(command, stdout=subprocess.PIPE))
            keep[0].stdout.readline()  # by now it is that program
        def test_after_it_is_gone():
            with pytest.raises(ProcessLookupError):
                os.kill(keep[0].pid, 0)
        """,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*left running: * sleep 60*"])


@pytest.mark.allow_log(".")
def test_suspicious_output_fails_the_test(pytester: pytest.Pytester) -> None:
    result = _outcome(
        pytester,
        """
        import logging, sys, pytest
        def test_prints():
            print("Traceback (most recent call last):", file=sys.stderr)
        def test_logs():
            logging.error("Task exception was never retrieved")
        def test_writes_a_log_file(tmp_path):
            (tmp_path / "worker.log").write_text("Exception ignored in: <x>")
        @pytest.mark.allow_log("was never retrieved")
        def test_may_log():
            logging.error("Task exception was never retrieved")
        def test_quiet():
            logging.error("all is well")
        """,
    )
    # The bodies pass, the teardown of three of them fails.
    result.assert_outcomes(passed=5, errors=3)


@pytest.mark.integration
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_mount_left_behind_fails_the_test_and_is_removed(pytester: pytest.Pytester) -> None:
    result = _outcome(
        pytester,
        """
        import subprocess
        def test_leaves_a_mount(tmp_path):
            subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path)], check=True)
        """,
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*left mounted: *test_leaves_a_mount0"])
    assert mount_points(pytester.path) == set()


def test_finds_mounts_below_a_directory_only(tmp_path: Path) -> None:
    info = tmp_path / "mountinfo"
    info.write_text(
        "1 0 0:1 / / rw - ext4 /dev/vda rw\n"
        "2 1 0:2 / /base/a\\040b rw - fuse.slayerfs x rw\n"
        "3 1 0:3 / /based rw - tmpfs x rw\n"
        "4 1 0:4 / /else\vwhere rw - tmpfs x rw\n"
    )
    assert mount_points(Path("/base"), info) == {Path("/base/a b")}


def test_lists_children_of_this_process_only() -> None:
    command = [sys.executable, "-c", "print('ready', flush=True); input()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert "input()" in children()[child.pid]
        child.communicate(b"\n")
    assert child.pid not in children()


def test_allowed_patterns_are_not_suspicious() -> None:
    text = "fine\n  Traceback (most recent call last): x\ncoroutine 'f' was never awaited\n"
    assert suspicious_lines(text, []) == [
        "Traceback (most recent call last): x",
        "coroutine 'f' was never awaited",
    ]
    assert suspicious_lines(text, ["never awaited"]) == ["Traceback (most recent call last): x"]
