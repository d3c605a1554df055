"""One run: the server, the work directory, the datasets, the targets, and what was measured."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import disk, machine, mounts
from bench.bare import BareClient
from bench.dataset import FILE_SIZE, Blobs, Dataset, Tree, random_bytes
from bench.errors import BenchError
from bench.load import Load, compile_load
from bench.results import Results
from bench.rows import BARE, LOCAL
from bench.scale import Scale
from bench.targets.base import Mounted, MountOptions, Place, Target
from bench.targets.local import Local
from bench.targets.rclone import Rclone
from bench.targets.s3fs import S3fs
from bench.targets.slayerfs import SlayerFS
from tests.support.servers import S3Server, ServerName, start_server

LOAD_TIMEOUT = 900.0
_FILL_CLIENTS = 16
_FILL_BLOCK = 1 << 20

Measure = Callable[[], Mapping[str, float]]
"""Takes one sample of some rows (by id)."""


@dataclass
class Session:
    """What the row families share."""

    scale: Scale
    columns: Sequence[str]
    work: Path
    server: S3Server
    place: Place
    bare: BareClient
    load: Load
    results: Results
    _filled: set[Dataset] = field(default_factory=set)
    _local: set[Dataset] = field(default_factory=set)
    _started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        elapsed = time.monotonic() - self._started
        print(f"[{elapsed:6.1f} s] {text}", file=sys.stderr, flush=True)

    def targets(self, *without: str) -> list[Target]:
        """The mounted file systems that were asked for, in column order."""
        every: list[Target] = [
            SlayerFS(self.place),
            SlayerFS(self.place, capabilities=False),
            Rclone(self.place),
            S3fs(self.place),
            Local(self.place),
        ]
        return [t for t in every if t.name in self.columns and t.name not in without]

    @contextmanager
    def attempt(self, column: str, rows: Iterable[str]) -> Iterator[None]:
        """A failure inside becomes one of these cells; the run goes on."""
        rows = list(rows)
        try:
            yield
        except (BenchError, OSError) as error:
            self.results.fail(column, rows, str(error))
            self.say(f"{column}: {', '.join(rows)} failed: {error}")

    def note(self, text: str) -> None:
        """Something a reader of the table should know."""
        self.results.notes.append(text)
        self.say(text)

    def interleave(
        self, rows: Sequence[str], measures: Mapping[str, Measure], rounds: int | None = None
    ) -> None:
        """Sample every column in each round, every other round backwards.

        What disturbs the machine for a while so disturbs all columns alike.
        """
        for number in range(rounds or self.scale.rounds):
            order = list(measures.items())
            for column, measure in order if number % 2 == 0 else reversed(order):
                if self.results.failed(column, rows):
                    continue
                with self.attempt(column, rows):
                    values = measure()
                    self.results.add(column, values)
                    shown = ", ".join(f"{row} {value:,.1f}" for row, value in values.items())
                    self.say(f"round {number + 1}, {column}: {shown}")

    def hold(
        self, stack: ExitStack, target: Target, options: MountOptions, rows: Sequence[str]
    ) -> Mounted | None:
        """Mount for as long as the stack lives; None if it fails (then these rows have failed).

        Trouble with unmounting is noted only: what was measured before stays valid.
        """
        manager, mounted = target.mounted(options), None
        with self.attempt(target.name, rows):
            mounted = manager.__enter__()
            stack.callback(self._leave, target.name, manager)
        return mounted

    def _leave(self, column: str, manager: AbstractContextManager[Mounted]) -> None:
        try:
            manager.__exit__(None, None, None)
        except (BenchError, OSError) as error:
            self.note(f"{column}: unmounting failed: {error}")

    def wants_bare(self) -> bool:
        return BARE in self.columns

    def fill(self, dataset: Dataset, *, local: bool = True) -> None:
        """Put the dataset into the bucket and the local directory, where it is not yet."""
        if dataset not in self._filled:
            self.say(f"filling the bucket: {dataset}")
            self._fill_bucket(dataset)
            self._filled.add(dataset)
        if local and LOCAL in self.columns and dataset not in self._local:
            self._fill_local(dataset)
            self._local.add(dataset)

    def _fill_bucket(self, dataset: Dataset) -> None:
        if isinstance(dataset, Tree):
            self.bare.put_many(dataset.object_keys(), _FILL_CLIENTS)
            return
        first, *others = dataset.object_keys()
        self.bare.upload(first, dataset.size)
        client = self.server.admin.client
        for key in others:
            source = {"Bucket": self.place.bucket, "Key": first}
            client.copy_object(Bucket=self.place.bucket, Key=key, CopySource=source)

    def _fill_local(self, dataset: Dataset) -> None:
        root = Local(self.place).directory(dataset.prefix)
        size = dataset.size if isinstance(dataset, Blobs) else FILE_SIZE
        block = random_bytes(min(size, _FILL_BLOCK))
        for name in dataset.names():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for _ in range(size // len(block)):
                    file.write(block)

    def forget(self, dataset: Blobs) -> None:
        """Make room: what is large and not measured again."""
        for key in dataset.object_keys():
            self.server.admin.delete(self.place.bucket, key)
        shutil.rmtree(Local(self.place).directory(dataset.prefix), ignore_errors=True)
        self._filled.discard(dataset)
        self._local.discard(dataset)

    def chill(self, dataset: Dataset) -> None:
        """Before a cold measurement: nothing in the page cache, then the server's files again.

        So every column finds the server in the same state, and the disk idle.
        """
        machine.drop_page_cache()
        if isinstance(dataset, Tree):
            self.bare.get_many(dataset.object_keys(), _FILL_CLIENTS)
        else:
            for key in dataset.object_keys():
                self.bare.download(key, dataset.size)

    def count_objects(self, prefix: str) -> int:
        return self.bare.list_pages(prefix)[0]


@contextmanager
def session(
    scale: Scale, server: ServerName, columns: Sequence[str], work: Path, results: Results
) -> Iterator[Session]:
    """Start the server in ``work`` and take everything down again at the end, whatever happened."""
    if os.geteuid() != 0:
        raise BenchError("root is needed: for dropping the page cache and for passthrough")
    running: S3Server | None = None
    try:
        for directory in (work, work / "mounts", work / "local"):
            disk.spread(directory)
        load = Load(compile_load(work), lambda: mounts.force_all_below(work), LOAD_TIMEOUT)
        running = start_server(server, work / "server")
        bucket = running.create_bucket("bench")
        place = Place(
            running.endpoint, running.region, bucket,
            running.access_key, running.secret_key, work, server,
        )  # fmt: skip
        bare = BareClient(place.endpoint, place.region, bucket, place.access_key, place.secret_key)
        yield Session(scale, columns, work, running, place, bare, load, results)
    finally:
        mounts.force_all_below(work)
        if running is not None:
            running.stop()
        if not mounts_remain(work):
            shutil.rmtree(work, ignore_errors=True)


def mounts_remain(work: Path) -> bool:
    """Then nothing below is removed: a recursive removal would go through the mount."""
    return any(point.is_relative_to(work) for point in mounts.current())
