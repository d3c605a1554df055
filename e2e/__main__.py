"""``python -m e2e``: a cluster up, the chart installed, the tests run, the cluster down.

What follows ``--`` is for pytest. The exit status is that of the tests; the logs of a run that
failed are kept, and the last events shown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from e2e.cluster import cluster as own
from e2e.cluster.processes import ClusterError
from e2e.cluster.settings import DEFAULT_STATE
from e2e.environment import Environment
from e2e.install import PROJECT, install
from e2e.kind import cluster as kind

LOGS = PROJECT / "build" / "e2e-logs"
_SHOWN_EVENTS = 40


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m e2e", description=__doc__)
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="state directory")
    parser.add_argument("--kind", action="store_true", help="on kind, where Docker is")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up afterwards")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest (default: all tests)")
    return parser


def _tests(state: Path, arguments: list[str]) -> int:
    chosen = any(argument.startswith("e2e/") for argument in arguments)
    command = [sys.executable, "-m", "pytest", *([] if chosen else ["e2e/tests"]), *arguments]
    environment = os.environ | {"SLAYERFS_E2E": str(state)}
    return subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(arguments: list[str]) -> int:
    """The exit status."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    status = 1
    try:
        if options.kind:
            kind.up(options.state)
        else:
            own.up(options.state)
        install(Environment.load(options.state))
        status = _tests(options.state, options.pytest)
    except (ClusterError, LookupError, OSError, subprocess.SubprocessError) as error:
        print(f"e2e: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        status = 130
    finally:
        if options.keep:
            print(f"the cluster stays up in {options.state}", file=sys.stderr)
        else:
            try:
                _down(options.state, options.kind, failed=status != 0)
            except (ClusterError, OSError, subprocess.SubprocessError) as error:
                print(f"e2e: the cluster is not down: {error}", file=sys.stderr)
                status = status or 1
    return status


def _down(state: Path, on_kind: bool, *, failed: bool) -> None:
    """Not to be interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    shutil.rmtree(LOGS, ignore_errors=True)
    (kind.down if on_kind else own.down)(state, LOGS if failed else None)
    events = LOGS / "events.txt"
    if events.exists():
        print("\n".join(events.read_text().splitlines()[-_SHOWN_EVENTS:]), file=sys.stderr)
        print(f"e2e: failed; all logs are in {LOGS}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
