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
from bench.rows import BARE
from bench.session import Measure, Session
from bench.targets.base import MountOptions, Target

_numbers = count()


def run(session: Session) -> None:
    """Each sample has a fresh mount with an empty cache."""
    if session.results.wants("cold-read"):
        _run_reads(session)
    if session.results.wants("write-close"):
        _run_writes(session)


def _run_reads(session: Session) -> None:
    dataset = Blobs("stream", session.scale.stream_read)
    session.fill(dataset)
    measures: dict[str, Measure] = {
        target.name: partial(_read, session, target, dataset) for target in session.targets()
    }
    if session.wants_bare():
        measures[BARE] = partial(_read_bare, session, dataset)
    session.interleave(["cold-read"], measures)
    session.forget(dataset)


def _read(session: Session, target: Target, dataset: Blobs) -> Mapping[str, float]:
    (name,) = dataset.names()
    session.chill(dataset)
    with target.mounted(MountOptions(dataset.prefix)) as mounted:
        work = session.load.run("seqread", mounted.path / name, 0)
    if work.bytes != dataset.size:
        raise BenchError(f"read {work.bytes} bytes of {dataset.size}")
    return {"cold-read": work.throughput}


def _read_bare(session: Session, dataset: Blobs) -> Mapping[str, float]:
    (key,) = dataset.object_keys()
    session.chill(dataset)
    return {"cold-read": dataset.size / MB / session.bare.download(key, dataset.size)}


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
