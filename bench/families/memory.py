"""Resident memory of the process that serves a mount."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial

from bench import machine
from bench.dataset import FILE_SIZE, Blobs, Tree
from bench.errors import BenchError
from bench.rows import LOCAL, SLAYER
from bench.session import Session
from bench.targets.base import Mounted, MountOptions, Target

_SETTLE = 2.0  # seconds from the first use of a mount until it counts as idle
_SPARE = 4 << 30  # bytes of disk that stay free


def run(session: Session) -> None:
    """Each row has a mount of its own. Small files are really read, not only opened."""
    rows: dict[str, Callable[[Session], None]] = {
        "rss-idle": _run_idle, "rss-streams": _run_streams, "rss-files": _run_files,
    }  # fmt: skip
    if session.results.wants("rss-growth"):
        rows["rss-growth"] = rows.pop("rss-files")
    for row, measure in rows.items():
        if session.results.wants(row):
            measure(session)


def _run_idle(session: Session) -> None:
    dataset = Tree("idle", 10)
    session.fill(dataset, local=False)
    session.interleave(["rss-idle"], {
        target.name: partial(_idle, session, target, dataset) for target in session.targets(LOCAL)
    })  # fmt: skip


def _idle(session: Session, target: Target, dataset: Tree) -> Mapping[str, float]:
    with target.mounted(MountOptions(dataset.prefix)) as mounted:
        session.load.run("list", mounted.path)
        time.sleep(_SETTLE)
        return {"rss-idle": machine.resident(mounted.pid())}


def _run_streams(session: Session) -> None:
    scale = session.scale
    room = shutil.disk_usage(session.work).free - _SPARE
    # Everything is on the disk twice: at the server and in the cache.
    size = min(scale.streamed, room // (2 * scale.streams) // 2**20 * 2**20)
    if size < scale.streamed:
        session.note(f"16 streams: objects of {size >> 20} MiB, for lack of disk space")
    dataset = Blobs("streams", size, scale.streams)
    session.fill(dataset, local=False)
    session.interleave(["rss-streams"], {
        target.name: partial(_streams, session, target, dataset)
        for target in session.targets(LOCAL)
    }, rounds=1)  # fmt: skip
    session.forget(dataset)


def _streams(session: Session, target: Target, dataset: Blobs) -> Mapping[str, float]:
    total = dataset.size * dataset.count
    machine.drop_page_cache()
    with target.mounted(MountOptions(dataset.prefix, cache_bytes=total * 5 // 4)) as mounted:
        pid = mounted.pid()
        machine.reset_peak(pid)
        paths = [mounted.path / name for name in dataset.names()]
        work = session.load.run("streams", *paths)
        if work.bytes != total:
            raise BenchError(f"read {work.bytes} bytes of {total}")
        session.note(f"16 streams, {target.name}: {work.throughput:,.0f} MB/s together")
        return {"rss-streams": machine.peak_resident(_same(mounted, pid))}


def _run_files(session: Session) -> None:
    scale = session.scale
    count = scale.remembered_directories * scale.remembered_files
    dataset = Tree("files", count, scale.remembered_files)
    session.fill(dataset, local=False)
    session.note(f"memory after many files: {count:,} objects of 4 KiB, each opened and read")
    session.interleave(["rss-files", "rss-growth"], {
        target.name: partial(_files, session, target, dataset)
        for target in session.targets(LOCAL)
        if target.name == SLAYER  # the peers would need many minutes, and have no target here
    }, rounds=1)  # fmt: skip


def _files(session: Session, target: Target, dataset: Tree) -> Mapping[str, float]:
    directories = list(dict.fromkeys(name.partition("/")[0] for name in dataset.names()))
    after: list[float] = []
    with target.mounted(MountOptions(dataset.prefix)) as mounted:
        pid = mounted.pid()
        for directory in directories:
            work = session.load.run("walkread", mounted.path / directory)
            if work.bytes != work.operations * FILE_SIZE or not work.operations:
                raise BenchError(f"read {work.bytes} bytes in {work.operations} files")
            after.append(machine.resident(_same(mounted, pid)))
            session.say(f"{target.name}: {after[-1]:.0f} MB after {directory}, {work.rate:.0f}/s")
    quarter = after[len(after) // 4 - 1]
    return {"rss-files": after[-1], "rss-growth": after[-1] / quarter}


def _same(mounted: Mounted, pid: int) -> int:
    if mounted.pid() != pid:
        raise BenchError("the worker was replaced while it was measured")
    return pid
