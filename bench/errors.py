"""What may go wrong in a measurement."""

from __future__ import annotations


class BenchError(Exception):
    """A measurement (or the run's set-up) failed; the message is one line for the table."""
