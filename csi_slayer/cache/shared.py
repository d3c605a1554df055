"""What the parts of one process's cache have in common."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from csi_slayer.cache.direct import Direct
from csi_slayer.cache.events import CacheEvents
from csi_slayer.cache.fresh import Fresh
from csi_slayer.cache.layout import Layout
from csi_slayer.cache.ledger import Ledger
from csi_slayer.cache.marks import Marks

if TYPE_CHECKING:
    from csi_slayer.cache.opened import OpenSegment


@dataclass(slots=True)
class Shared:
    """``opened``: the segments that are open, by name. ``lock`` guards it and the reference counts
    of what is in it; it is held for microseconds. ``parts``: state of map and data file of partial
    segments when they were last closed here, good until then. ``allocates``: whether room is
    allocated for what is fetched before it is written. ``measures``: whether the file system tells
    at once, and exactly, by how much a file has grown."""

    layout: Layout
    ledger: Ledger
    marks: Marks
    events: CacheEvents
    direct: Direct
    fresh: Fresh = field(default_factory=Fresh)
    lock: threading.Lock = field(default_factory=threading.Lock)
    opened: dict[str, OpenSegment] = field(default_factory=dict)
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    allocates: bool = False
    measures: bool = False
