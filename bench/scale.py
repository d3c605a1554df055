"""How much is measured: the full run and the quick one."""

from __future__ import annotations

from dataclasses import dataclass, replace

MIB = 2**20
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes in bytes, times in seconds. ``rounds`` is the number of samples of each cell."""

    name: str
    rounds: int
    seconds: float
    """Duration of each sample of a row that repeats an operation until the time is over."""
    open_file: int
    """Size of the file of the random and cached sequential rows."""
    warm_files: int
    stream_read: int
    stream_write: int
    cold_files: int
    created_files: int
    listed_files: int
    streams: int
    streamed: int
    """Size of each of the concurrently streamed objects."""
    remembered_directories: int
    remembered_files: int
    """Files in each of those directories; all are read once, by one worker."""

    def with_rounds(self, rounds: int) -> Scale:
        return replace(self, rounds=rounds)


FULL = Scale(
    name="full",
    rounds=3,
    seconds=3.0,
    open_file=512 * MIB,
    warm_files=10_000,
    stream_read=2 * GIB,
    stream_write=1 * GIB,
    cold_files=2_000,
    created_files=2_000,
    listed_files=100_000,
    streams=16,
    streamed=1 * GIB,
    remembered_directories=20,
    remembered_files=10_000,
)

QUICK = Scale(
    name="quick",
    rounds=2,
    seconds=0.5,
    open_file=64 * MIB,
    warm_files=500,
    stream_read=256 * MIB,
    stream_write=128 * MIB,
    cold_files=300,
    created_files=300,
    listed_files=5_000,
    streams=16,
    streamed=64 * MIB,
    remembered_directories=8,
    remembered_files=500,
)
