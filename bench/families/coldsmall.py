"""A directory of small objects that nobody read before, walked by one reader."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from bench.dataset import FILE_SIZE, Tree
from bench.errors import BenchError
from bench.rows import BARE
from bench.session import Measure, Session
from bench.targets.base import MountOptions, Target

BARE_CLIENTS = 8


def run(session: Session) -> None:
    """Each sample has a fresh mount with an empty cache."""
    dataset = Tree("coldsmall", session.scale.cold_files)
    session.fill(dataset)
    measures: dict[str, Measure] = {
        target.name: partial(_walk, session, target, dataset) for target in session.targets()
    }
    if session.wants_bare():
        measures[BARE] = partial(_get, session, dataset)
    session.interleave(["cold-small"], measures)


def _walk(session: Session, target: Target, dataset: Tree) -> Mapping[str, float]:
    session.chill(dataset)
    with target.mounted(MountOptions(dataset.prefix)) as mounted:
        work = session.load.run("walkread", mounted.path)
    if (work.operations, work.bytes) != (dataset.count, dataset.count * FILE_SIZE):
        raise BenchError(f"read {work.operations} files of {dataset.count}, {work.bytes} bytes")
    return {"cold-small": work.rate}


def _get(session: Session, dataset: Tree) -> Mapping[str, float]:
    session.chill(dataset)
    return {
        "cold-small": dataset.count / session.bare.get_many(dataset.object_keys(), BARE_CLIENTS)
    }
