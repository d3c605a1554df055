"""What programs repeat fills no disk with lines."""

from __future__ import annotations

from csi_slayer.observability.ration import LINES, PERIOD, Ration


def test_so_many_lines_in_each_period_and_the_rest_are_counted() -> None:
    now = 1000.0
    ration = Ration(lambda: now)
    assert [ration.take() for _ in range(LINES + 7)] == [0] * LINES + [None] * 7
    now += PERIOD - 1
    assert ration.take() is None
    now += 1
    assert [ration.take() for _ in range(LINES + 1)] == [8] + [0] * (LINES - 1) + [None]
