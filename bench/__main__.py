"""``python -m bench``: measure, print, write bench/results/."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench import interrupts, machine
from bench.errors import BenchError
from bench.families import RUN
from bench.plot import plot
from bench.report import markdown
from bench.results import Results
from bench.rows import COLUMNS, FAMILIES, RCLONE, ROWS, S3FS, select
from bench.scale import FULL, QUICK
from bench.session import session
from bench.targets import peers

RESULTS = Path(__file__).with_name("results")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; ``rows`` and ``columns`` are checked. Exits on a wrong one."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--server", choices=("minio", "versitygw"), default="minio")
    parser.add_argument("--quick", action="store_true", help="small sizes, about three minutes")
    parser.add_argument("--rounds", type=int, help="samples of each cell (default: 3; quick: 2)")
    parser.add_argument("--rows", help="ids or families, comma-separated; see --list")
    parser.add_argument("--columns", help=f"of {','.join(COLUMNS)}; default: all")
    parser.add_argument("--list", action="store_true", help="show rows and targets, then end")
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory of the results")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"),
                        help="directory on the disk to measure on (not a tmpfs)")  # fmt: skip
    chosen = parser.parse_args(argv)
    try:
        chosen.rows = select(chosen.rows)
    except ValueError as error:
        parser.error(str(error))
    chosen.columns = tuple((chosen.columns or ",".join(COLUMNS)).split(","))
    for column in chosen.columns:
        if column not in COLUMNS:
            parser.error(f"no column {column!r}; there are {', '.join(COLUMNS)}")
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error("--rounds: at least 1")
    return chosen


def main(argv: list[str] | None = None) -> int:
    """0 when all was measured, whether targets are reached or not; 1 with failures; 130."""
    chosen = arguments(argv)
    if chosen.list:
        for row in ROWS:
            print(f"{row.id:18} {row.title} ({row.unit}; family {row.family})")
            for criterion in row.criteria:
                print(f"{'':20} {criterion.describe()}")
        return 0
    interrupts.install()
    results = Results(chosen.rows)
    try:
        _measure(chosen, results)
    except KeyboardInterrupt:
        results.notes.append("interrupted: not everything was measured")
        _write(results, chosen.output)
        return 130
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _write(results, chosen.output)
    return 1 if results.failures else 0


def _measure(chosen: argparse.Namespace, results: Results) -> None:
    scale = QUICK if chosen.quick else FULL
    if chosen.rounds is not None:
        scale = scale.with_rounds(chosen.rounds)
    work = Path(tempfile.mkdtemp(prefix="slayerfs-bench-", dir=chosen.work))
    versions = {RCLONE: peers.rclone_version(), S3FS: peers.s3fs_version()}
    results.meta |= machine.describe() | versions
    results.meta |= {"server": chosen.server, "scale": scale.name, "rounds": scale.rounds}
    with session(scale, chosen.server, chosen.columns, work, results) as running:
        for family in FAMILIES:
            if any(row.family == family for row in chosen.rows):
                running.say(f"== {family}")
                RUN[family](running)


def _write(results: Results, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    table = markdown(results)
    (directory / "results.md").write_text(table)
    (directory / "results.json").write_text(json.dumps(results.to_json(), indent=2) + "\n")
    plot(results, directory / "results.png")
    print(table)
    print(f"written to {directory}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
