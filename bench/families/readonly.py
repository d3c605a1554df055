"""Small files of a read-only volume that were all read before."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.dataset import FILE_SIZE, Tree
from bench.errors import BenchError
from bench.session import Session
from bench.targets.base import MountOptions

ROWS = ("warm-open", "warm-stat", "warm-find")
_PER_DIRECTORY = 1000


def run(session: Session) -> None:
    """All file systems are mounted at once; each is read twice before anything is measured."""
    dataset = Tree("readonly", session.scale.warm_files, _PER_DIRECTORY)
    session.fill(dataset)
    options = MountOptions(dataset.prefix, read_only=True)
    with ExitStack() as stack:
        directories = {}
        for target in session.targets():
            mounted = session.hold(stack, target, options, ROWS)
            if mounted is None:
                continue
            with session.attempt(target.name, ROWS):
                session.say(f"{target.name}: reading {dataset.count} files twice")
                for _ in range(2):
                    _read(session, mounted.path, dataset)
                directories[target.name] = mounted.path
        for row in (row for row in ROWS if session.results.wants(row)):
            session.interleave([row], {
                column: partial(_sample, session, row, directory)
                for column, directory in directories.items()
            })  # fmt: skip


def _read(session: Session, directory: Path, dataset: Tree) -> None:
    work = session.load.run("walkread", directory)
    if (work.operations, work.bytes) != (dataset.count, dataset.count * FILE_SIZE):
        raise BenchError(f"read {work.operations} files of {dataset.count}, {work.bytes} bytes")


def _sample(session: Session, row: str, directory: Path) -> Mapping[str, float]:
    load, seconds = session.load, session.scale.seconds
    if row == "warm-open":
        return {row: load.run("warmread", directory, seconds).rate}
    if row == "warm-stat":
        return {row: load.run("warmstat", directory, seconds).rate}
    load.find(directory, 0)
    return {row: load.find(directory, seconds).rate}
