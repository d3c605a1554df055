"""Checks of readiness: asked for often, made now and then, and what they find is logged once."""

from __future__ import annotations

import asyncio

import pytest

from csi_slayer.csi import identity
from csi_slayer.csi.identity import Probe, Unhealthy


def test_what_keeps_a_process_from_its_work_is_logged_when_it_changes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "REMEMBERED", -1.0)
    found = [None, "away", "away", "refused", None, None]

    async def check() -> None:
        if (problem := next(answers)) is not None:
            raise Unhealthy(problem)

    async def ask() -> list[str | None]:
        probe = Probe(check)
        return [await probe.problem() for _ in found]

    answers = iter(found)
    assert asyncio.run(ask()) == found
    logged = capsys.readouterr().out
    assert [logged.count(word) for word in ("away", "refused", "ready_again")] == [1, 1, 1]


def test_an_outage_is_told_within_a_second() -> None:
    assert identity.REMEMBERED <= 1


def test_a_check_is_not_made_again_at_once() -> None:
    made = 0

    async def check() -> None:
        nonlocal made
        made += 1

    async def ask() -> None:
        probe = Probe(check)
        for _ in range(3):
            assert await probe.problem() is None

    asyncio.run(ask())
    assert made == 1
