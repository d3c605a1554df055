"""Policy writeback leaves changed keys alone for a while: what was just written may be written
again or removed, and uploads would compete with who is writing."""

from __future__ import annotations

import time

from csi_slayer.catalog import Catalog
from csi_slayer.content.options import ContentOptions

WRITEBACK_REST, WRITEBACK_REST_MAX, WRITEBACK_LOOK = 1.0, 5.0, 0.25
"""Policy writeback uploads when nothing was changed for so many seconds, or when a key has waited
for so many; and looks whether it should no more often than that."""


class Rest:
    """``over``: nothing rests any more, for the volume is about to end."""

    def __init__(self, catalog: Catalog, options: ContentOptions) -> None:
        self._catalog = catalog
        self._options = options
        self.over = False

    @property
    def is_kept(self) -> bool:
        """Whether changed keys are left alone."""
        return self._options.live.durability == "writeback" and not self.over

    def first(self) -> float:
        """Seconds after which what is changed now is looked at, if it is left alone."""
        return WRITEBACK_REST

    def look(self, soonest: float) -> float:
        """When to look at the keys again of which one is due in ``soonest`` seconds."""
        return max(soonest, WRITEBACK_LOOK) if self.is_kept else soonest

    def left(self, since_ns: int) -> float:
        """Seconds that a key is still left alone for, which was noted first at that time; not
        above 0 if it is not."""
        if not self.is_kept:
            return 0.0
        quiet, waited = _age(self._catalog.changed_ns), _age(since_ns)
        return min(WRITEBACK_REST - quiet, WRITEBACK_REST_MAX - waited)


def _age(then_ns: int) -> float:
    """Seconds since then; very many if a clock that was ahead has dated it."""
    age = (time.time_ns() - then_ns) / 1e9
    return age if age > -WRITEBACK_REST_MAX else float("inf")
