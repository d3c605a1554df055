"""The first listing of a large directory."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from bench import machine
from bench.dataset import Tree
from bench.errors import BenchError
from bench.rows import BARE, LOCAL
from bench.session import Measure, Session
from bench.targets.base import MountOptions, Target


def run(session: Session) -> None:
    """Each sample has a fresh mount; the server has listed the directory once just before."""
    dataset = Tree("list", session.scale.listed_files)
    session.fill(dataset, local=False)
    measures: dict[str, Measure] = {
        target.name: partial(_list, session, target, dataset) for target in session.targets(LOCAL)
    }
    if session.wants_bare():
        measures[BARE] = partial(_pages, session, dataset)
    session.interleave(["list"], measures)


def _prepare(session: Session, dataset: Tree) -> None:
    machine.drop_page_cache()
    session.count_objects(dataset.prefix)


def _list(session: Session, target: Target, dataset: Tree) -> Mapping[str, float]:
    _prepare(session, dataset)
    with target.mounted(MountOptions(dataset.prefix)) as mounted:
        work = session.load.run("list", mounted.path)
    if work.operations != dataset.count:
        raise BenchError(f"listed {work.operations} names of {dataset.count}")
    return {"list": work.rate}


def _pages(session: Session, dataset: Tree) -> Mapping[str, float]:
    _prepare(session, dataset)
    found, seconds = session.bare.list_pages(dataset.prefix)
    return {"list": found / seconds}
