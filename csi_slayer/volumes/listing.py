"""Pages of records of which some are left out."""

from __future__ import annotations

from collections.abc import Callable

from csi_slayer.volumes.home import Home, R
from csi_slayer.volumes.ids import ObjectId

# Pages of up to 1,000 records that one call looks through for what it is to show.
_MOST_PAGES = 10


async def filtered_page(
    home: Home[R],
    where: ObjectId,
    after: str,
    limit: int,
    keep: Callable[[R], bool],
) -> tuple[list[tuple[ObjectId, R]], str]:
    """Up to ``limit`` records (0: as many as fit) that ``keep`` lets through, and the name to go
    on after; a page may be short, or even empty, before the end."""
    kept: list[tuple[ObjectId, R]] = []
    for _ in range(_MOST_PAGES):
        found, after = await home.page(where, after, limit - len(kept) if limit > 0 else 0)
        kept += [item for item in found if keep(item[1])]
        if not after or limit <= 0 or len(kept) >= limit:
            break
    return kept, after
