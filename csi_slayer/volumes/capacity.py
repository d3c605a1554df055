"""Capacities, in bytes; 0 is "not said" in calls and "no limit" in records."""

from __future__ import annotations

from csi_slayer.errors import CapacityOutOfRange, ConfigError

LARGEST = 1 << 60
"""One EiB: the most that a volume may have, and what a service without limits is said to have."""


def check_range(required: int, limit: int) -> None:
    """Raises ConfigError for negative numbers, CapacityOutOfRange for what no volume can have."""
    if required < 0 or limit < 0:
        raise ConfigError("capacity_range: required_bytes and limit_bytes must not be negative")
    if limit and limit < required:
        raise CapacityOutOfRange("capacity_range: limit_bytes is less than required_bytes")
    if required > LARGEST:
        raise CapacityOutOfRange(f"capacity_range: a volume has at most {LARGEST} bytes (1 EiB)")


def choose(required: int, limit: int, source: int = 0) -> int:
    """The capacity of a new volume: as required; as its source's where only an upper limit or
    nothing is said. ``source``: the capacity of what it is made from, 0 for none or no limit."""
    check_range(required, limit)
    chosen = required or source or min(limit, LARGEST)
    if limit and chosen > limit:
        raise CapacityOutOfRange(
            f"capacity_range: the source has {source} bytes, more than limit_bytes"
        )
    return chosen


def fits(capacity: int, required: int, limit: int) -> bool:
    """Whether an existing volume is what a call asks for."""
    if capacity == 0:
        return limit == 0
    return capacity >= required and (limit == 0 or capacity <= limit)


def grown(capacity: int, required: int, limit: int) -> int:
    """The capacity after an expansion; never less than before. Raises CapacityOutOfRange."""
    check_range(required, limit)
    if capacity and limit and capacity > limit:
        raise CapacityOutOfRange(
            f"capacity_range: the volume has {capacity} bytes already, more than limit_bytes:"
            " volumes do not shrink"
        )
    return max(capacity, required) if capacity else 0
