"""From samples to the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.plot import plot, relative
from bench.report import markdown, number
from bench.results import Results
from bench.rows import select


@pytest.fixture
def results() -> Results:
    results = Results(select("random-read,rss-idle"), meta={"server": "minio"})
    for value in (100.0, 900.0, 300.0):
        results.add("slayerfs", {"random-read": value})
    results.add("local", {"random-read": 400.0})
    results.add("slayerfs", {"rss-idle": 61.5})
    return results


def test_a_cell_is_the_median_of_its_samples(results: Results) -> None:
    assert results.medians("random-read") == {"slayerfs": 300.0, "local": 400.0}


def test_samples_of_rows_that_nobody_asked_for_are_dropped(results: Results) -> None:
    results.add("slayerfs", {"list": 1.0})
    assert results.medians("list") == {}


def test_a_column_that_failed_once_has_no_value_and_keeps_its_first_reason(
    results: Results,
) -> None:
    results.fail("slayerfs", ["random-read"], "it broke")
    results.fail("slayerfs", ["random-read"], "not mounted")
    assert results.medians("random-read") == {"local": 400.0}
    assert results.failed("slayerfs", ["rss-idle", "random-read"])
    assert not results.failed("slayerfs", ["rss-idle"])
    table = markdown(results)
    assert "slayerfs: it broke" in table
    assert "not mounted" not in table
    assert "| failed | - | - | - | 400 | - |" in table


def test_the_table_says_what_was_reached(results: Results) -> None:
    table = markdown(results)
    assert "| slayerfs >= 0.80 x local | 0.75 x | **FAIL** |" in table
    assert "| slayerfs <= 80 | 61.5 MB | pass |" in table
    assert "| slayerfs-plain >= 0.95 x rclone | - | not measured |" in table
    assert "* server: minio" in table


def test_the_json_holds_samples_and_verdicts(results: Results) -> None:
    first = json.loads(json.dumps(results.to_json()))["rows"][0]
    assert first["samples"]["slayerfs"] == [100.0, 900.0, 300.0]
    assert first["criteria"][0] == {
        "text": "slayerfs >= 0.80 x local",
        "figure": 0.75,
        "passed": False,
    }


def test_numbers_have_three_digits_or_all_before_the_point() -> None:
    assert [number(value) for value in (None, 0.8156, 61.55, 1234567.8)] == [
        "-", "0.816", "61.5", "1,234,568",
    ]  # fmt: skip


def test_the_plot_compares_with_each_rows_reference(results: Results) -> None:
    ((title, shares),) = relative(results).items()
    assert title.endswith("(1 = local)")
    assert shares == {"slayerfs": 0.75}


def test_the_plot_is_a_png(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_anything_to_compare_there_is_no_plot(tmp_path: Path) -> None:
    assert not plot(Results(select("rss-idle")), tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()
