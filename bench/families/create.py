"""Many small files made by several writers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import count
from typing import Literal

from bench import machine
from bench.arrival import until_uploaded
from bench.dataset import FILE_SIZE, Tree
from bench.errors import BenchError
from bench.rows import BARE, PLAIN, S3FS, SLAYER
from bench.session import Measure, Session
from bench.targets.base import MountOptions, Target

WRITERS = 8
_numbers = count()


def run(session: Session) -> None:
    """Each sample has a fresh mount on an empty prefix."""
    if session.results.wants("create-close"):
        measures: dict[str, Measure] = {
            target.name: partial(_create, session, target, "close") for target in session.targets()
        }
        if session.wants_bare():
            measures[BARE] = partial(_put, session)
        session.interleave(["create-close"], measures)
    if session.results.wants("create-writeback"):
        # s3fs has no such policy.
        session.interleave(["create-writeback"], {
            target.name: partial(_create, session, target, "writeback")
            for target in session.targets(S3FS)
        })  # fmt: skip


def _create(
    session: Session, target: Target, policy: Literal["close", "writeback"]
) -> Mapping[str, float]:
    prefix, files = f"create/{next(_numbers)}", session.scale.created_files
    machine.settle()
    with target.mounted(MountOptions(prefix, durability=policy)) as mounted:
        work = session.load.run("create", mounted.path, files, WRITERS, FILE_SIZE)
        if policy == "close":
            work = until_uploaded(target, work, lambda: session.count_objects(prefix) >= files)
    if policy == "writeback" and target.name in (SLAYER, PLAIN):
        found = session.count_objects(prefix)
        if found < files:
            raise BenchError(f"{found} of {files} objects were in the bucket after unmounting")
    return {f"create-{policy}": work.rate}


def _put(session: Session) -> Mapping[str, float]:
    dataset = Tree(f"create/{next(_numbers)}", session.scale.created_files)
    machine.settle()
    return {"create-close": dataset.count / session.bare.put_many(dataset.object_keys(), WRITERS)}
