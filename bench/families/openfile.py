"""One open file whose content is cached: what is left is the file system itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path

from bench import machine
from bench.dataset import Blobs
from bench.errors import BenchError
from bench.session import Session
from bench.targets.base import MountOptions

ROWS = ("random-read", "random-write", "cached-read", "cached-read-disk")
_numbers = count()


def run(session: Session) -> None:
    """All file systems are mounted at once and hold the file in their caches."""
    dataset = Blobs("openfile", session.scale.open_file)
    session.fill(dataset)
    (name,) = dataset.names()
    with ExitStack() as stack:
        directories = {}
        for target in session.targets():
            mounted = session.hold(stack, target, MountOptions(dataset.prefix), ROWS)
            if mounted is None:
                continue
            with session.attempt(target.name, ROWS):
                _warm(session, mounted.path / name)
                directories[target.name] = mounted.path
        rows = [row for row in ROWS if session.results.wants(row)]
        for row in rows:
            session.interleave([row], {
                column: partial(_sample, session, row, directory, name)
                for column, directory in directories.items()
            })  # fmt: skip


def _warm(session: Session, path: Path) -> None:
    work = session.load.run("seqread", path, 0)
    if work.bytes != session.scale.open_file:
        raise BenchError(f"read {work.bytes} bytes of {session.scale.open_file}")


def _sample(session: Session, row: str, directory: Path, name: str) -> Mapping[str, float]:
    load, scale, path = session.load, session.scale, directory / name
    if row == "random-write":
        new = directory / f"new{next(_numbers)}"
        rate = load.run("randwrite", new, scale.open_file // 2, scale.seconds).rate
        load.remove(new)
        return {row: rate}
    _warm(session, path)
    if row == "random-read":
        return {row: load.run("randread", path, scale.seconds).rate}
    if row == "cached-read":
        return {row: load.run("seqread", path, scale.seconds).throughput}
    machine.drop_page_cache()
    return {row: load.run("seqread", path, 0).throughput}
