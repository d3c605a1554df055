"""The rows of the table and what each must reach.

A value is a speed (more is better) unless the row says otherwise, so that a ratio of two columns
always reads "so many times as fast".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SLAYER = "slayerfs"
PLAIN = "slayerfs-plain"  # every kernel capability switched off
RCLONE = "rclone"
S3FS = "s3fs"
LOCAL = "local"
BARE = "bare"
COLUMNS = (SLAYER, PLAIN, RCLONE, S3FS, LOCAL, BARE)

NOT_SLOWER = 0.95
"""Where both are served by the kernel alone they tie; 5 % are allowed for noise."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """``subject`` is at least ``bound`` times as fast as ``reference``; or reaches ``enough``."""

    subject: str
    reference: str
    bound: float
    enough: float | None = None

    def describe(self) -> str:
        text = f"{self.subject} >= {self.bound:.2f} x {self.reference}"
        return text if self.enough is None else f"{text} or >= {self.enough:,.0f}"


@dataclass(frozen=True, slots=True)
class Limit:
    """The value of ``subject`` is at most ``most``."""

    subject: str
    most: float

    def describe(self) -> str:
        return f"{self.subject} <= {self.most:g}"


Criterion = Ratio | Limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """``passed`` is None if one of the two was not measured; ``figure`` is what was judged."""

    criterion: Criterion
    figure: float | None
    passed: bool | None


def judge(criterion: Criterion, values: Mapping[str, float]) -> Verdict:
    """Compare the medians of one row (by column) with what it must reach."""
    subject = values.get(criterion.subject)
    if isinstance(criterion, Limit):
        return Verdict(criterion, subject, None if subject is None else subject <= criterion.most)
    reference = values.get(criterion.reference)
    ratio = subject / reference if subject is not None and reference else None
    if ratio is not None and ratio >= criterion.bound:
        return Verdict(criterion, ratio, True)
    if subject is not None and criterion.enough is not None and subject >= criterion.enough:
        return Verdict(criterion, ratio, True)
    return Verdict(criterion, ratio, None if ratio is None else False)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; ``family`` names the module that measures it."""

    id: str
    family: str
    title: str
    unit: str
    criteria: tuple[Criterion, ...]


def _speed(
    id: str, family: str, title: str, unit: str, *criteria: Criterion, peer: bool = True
) -> Row:
    plain = (Ratio(PLAIN, RCLONE, NOT_SLOWER),) if peer else ()
    return Row(id, family, title, unit, criteria + plain)


ROWS: tuple[Row, ...] = (
    _speed("random-read", "openfile", "4 KiB random read of an open, cached file", "op/s",
           Ratio(SLAYER, LOCAL, 0.8)),
    _speed("random-write", "openfile", "4 KiB random write to an open, new file", "op/s",
           Ratio(SLAYER, LOCAL, 0.8)),
    _speed("cached-read", "openfile", "sequential read, cached, page cache warm", "MB/s",
           Ratio(SLAYER, LOCAL, 0.8)),
    _speed("cached-read-disk", "openfile", "sequential read, cached, page cache dropped", "MB/s",
           Ratio(SLAYER, LOCAL, 0.8)),
    _speed("warm-open", "readonly", "read-only volume, warm open+read+close of 4 KiB files",
           "files/s", Ratio(SLAYER, LOCAL, 0.7)),
    _speed("warm-stat", "readonly", "read-only volume, warm stat", "files/s",
           Ratio(SLAYER, LOCAL, 0.7)),
    _speed("warm-find", "readonly", "read-only volume, warm find", "files/s",
           Ratio(SLAYER, LOCAL, 0.7)),
    _speed("cold-read", "stream", "cold sequential read", "MB/s", Ratio(SLAYER, BARE, 0.8)),
    _speed("cold-read-whole", "stream", "the same, opens wait for the whole file", "MB/s",
           Ratio(SLAYER, BARE, 0.8), peer=False),
    _speed("write-close", "stream", "sequential write and close, uploaded at close", "MB/s",
           Ratio(SLAYER, BARE, 0.8)),
    _speed("cold-small", "coldsmall",
           "one reader walks a cold directory, open+read+close of 4 KiB objects", "files/s",
           Ratio(SLAYER, BARE, 0.6)),
    _speed("create-close", "create", "4 KiB files from 8 writers, uploaded at close", "files/s",
           Ratio(SLAYER, BARE, 0.6)),
    _speed("create-writeback", "create", "4 KiB files from 8 writers, uploaded later", "files/s",
           Ratio(SLAYER, LOCAL, 0.3, enough=3000)),
    _speed("list", "listing", "first listing of a large directory", "names/s",
           Ratio(SLAYER, BARE, 1 / 1.5)),
    _speed("rss-idle", "memory", "resident memory, idle", "MB", Limit(SLAYER, 80), peer=False),
    _speed("rss-streams", "memory", "peak resident memory, 16 cold streams", "MB",
           Limit(SLAYER, 300), peer=False),
    _speed("rss-files", "memory", "resident memory after reading many small files", "MB",
           peer=False),
    _speed("rss-growth", "memory", "the same, as a multiple of that after a quarter of them",
           "times", Limit(SLAYER, 1.1), peer=False),
)  # fmt: skip

FAMILIES = tuple(dict.fromkeys(row.family for row in ROWS))


def select(wanted: str | None) -> tuple[Row, ...]:
    """Rows by a comma-separated list of row ids and family names. Raises ValueError."""
    if wanted is None:
        return ROWS
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    known = {row.id for row in ROWS} | set(FAMILIES)
    for name in names:
        if name not in known:
            raise ValueError(f"no row or family {name!r}; there are {', '.join(sorted(known))}")
    return tuple(row for row in ROWS if row.id in names or row.family in names)
