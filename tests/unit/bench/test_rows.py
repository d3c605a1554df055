"""Which rows there are, how they are chosen, and how a value is judged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.families import RUN
from bench.rows import BARE, COLUMNS, FAMILIES, LOCAL, ROWS, Limit, Ratio, judge, select

speeds = st.floats(min_value=1e-3, max_value=1e9)


def test_every_family_has_a_module() -> None:
    assert set(FAMILIES) == set(RUN)


def test_rows_are_told_apart_by_their_ids() -> None:
    ids = [row.id for row in ROWS]
    assert len(set(ids)) == len(ids)
    assert not set(ids) & set(FAMILIES)


def test_criteria_name_existing_columns() -> None:
    for row in ROWS:
        for criterion in row.criteria:
            assert criterion.subject in COLUMNS
            if isinstance(criterion, Ratio):
                assert criterion.reference in COLUMNS


def test_rows_are_selected_by_id_and_by_family_in_table_order() -> None:
    chosen = [row.id for row in select("list, readonly")]
    assert chosen == ["warm-open", "warm-stat", "warm-find", "list"]
    assert select(None) == ROWS


def test_an_unknown_row_is_named_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"'lst'.*list"):
        select("lst")


@given(subject=speeds, reference=speeds, bound=st.floats(min_value=0.1, max_value=2))
def test_a_ratio_passes_exactly_from_its_bound_on(
    subject: float, reference: float, bound: float
) -> None:
    verdict = judge(Ratio("slayerfs", LOCAL, bound), {"slayerfs": subject, LOCAL: reference})
    assert verdict.figure == subject / reference
    assert verdict.passed is (subject / reference >= bound)


def test_a_ratio_that_is_too_low_passes_with_enough_in_absolute_terms() -> None:
    criterion = Ratio("slayerfs", LOCAL, 0.3, enough=3000)
    assert judge(criterion, {"slayerfs": 3000, LOCAL: 25_000}).passed is True
    assert judge(criterion, {"slayerfs": 2999, LOCAL: 25_000}).passed is False
    assert judge(criterion, {"slayerfs": 2999, LOCAL: 9_000}).passed is True
    assert judge(criterion, {"slayerfs": 3000}).passed is True


def test_without_both_values_nothing_is_judged() -> None:
    criterion = Ratio("slayerfs", BARE, 0.8)
    assert judge(criterion, {"slayerfs": 1.0}).passed is None
    assert judge(criterion, {BARE: 1.0}).passed is None
    assert judge(Limit("slayerfs", 80), {}).passed is None


def test_a_limit_is_the_most_that_passes() -> None:
    assert judge(Limit("slayerfs", 80), {"slayerfs": 80}).passed is True
    assert judge(Limit("slayerfs", 80), {"slayerfs": 80.1}).passed is False
