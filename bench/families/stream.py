"""Large objects, cold: read from the bucket, written to it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import count

from bench import machine
from bench.arrival import until_uploaded
from bench.dataset import Blobs
from bench.errors import BenchError
from bench.machine import MB
from bench.rows import BARE, SLAYER
from bench.session import Measure, Session
from bench.targets.base import MountOptions, Target

READ, READ_WHOLE = "cold-read", "cold-read-whole"
"""As mounts read by default, and as one does that was told that files are read whole."""

_numbers = count()


def run(session: Session) -> None:
    """Each sample has a fresh mount with an empty cache."""
    rows = [row for row in (READ, READ_WHOLE) if session.results.wants(row)]
    if rows:
        dataset = Blobs("stream", session.scale.stream_read)
        session.fill(dataset)
        for row in rows:
            _run_reads(session, dataset, row)
        session.forget(dataset)
    if session.results.wants("write-close"):
        _run_writes(session)


def _run_reads(session: Session, dataset: Blobs, row: str) -> None:
    measures: dict[str, Measure] = {
        target.name: partial(_read, session, target, dataset, row)
        for target in session.targets()
        if row == READ or target.name == SLAYER
    }
    if session.wants_bare():
        measures[BARE] = partial(_read_bare, session, dataset, row)
    session.interleave([row], measures)


def _read(session: Session, target: Target, dataset: Blobs, row: str) -> Mapping[str, float]:
    (name,) = dataset.names()
    session.chill(dataset)
    with target.mounted(MountOptions(dataset.prefix, whole_files=row == READ_WHOLE)) as mounted:
        work = session.load.run("seqread", mounted.path / name, 0)
    if work.bytes != dataset.size:
        raise BenchError(f"read {work.bytes} bytes of {dataset.size}")
    return {row: work.throughput}


def _read_bare(session: Session, dataset: Blobs, row: str) -> Mapping[str, float]:
    (key,) = dataset.object_keys()
    session.chill(dataset)
    return {row: dataset.size / MB / session.bare.download(key, dataset.size)}


def _run_writes(session: Session) -> None:
    measures: dict[str, Measure] = {
        target.name: partial(_write, session, target) for target in session.targets()
    }
    if session.wants_bare():
        measures[BARE] = partial(_write_bare, session)
    session.interleave(["write-close"], measures)


def _write(session: Session, target: Target) -> Mapping[str, float]:
    size, prefix = session.scale.stream_write, f"write/{next(_numbers)}"
    key = f"{prefix}/blob"
    machine.settle()
    with target.mounted(MountOptions(prefix)) as mounted:
        work = session.load.run("seqwrite", mounted.path / "blob", size)
        work = until_uploaded(target, work, lambda: _is_there(session, key, size))
    session.server.admin.delete(session.place.bucket, key)  # makes room
    return {"write-close": work.throughput}


def _write_bare(session: Session) -> Mapping[str, float]:
    size, key = session.scale.stream_write, f"write/{next(_numbers)}/blob"
    machine.settle()
    seconds = session.bare.upload(key, size)
    session.server.admin.delete(session.place.bucket, key)
    return {"write-close": size / MB / seconds}


def _is_there(session: Session, key: str, size: int) -> bool:
    head = session.server.admin.head(session.place.bucket, key)
    return head is not None and head["ContentLength"] == size
