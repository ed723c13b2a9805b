"""The judge: counts with known win rates, the rule case by case, both orders."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.judging import Marks, adjusted_win_rate, better, is_overlong, match, outcomes_of
from aligner_probe.figures.judged import is_slip
from aligner_probe.figures.paper import TABLE_2

MARKS = st.builds(Marks, st.booleans(), st.booleans(), st.booleans())


def test_the_papers_counts_give_the_papers_rates_but_for_one():
    for row in TABLE_2:
        assert row.n == 80
        rate = adjusted_win_rate(outcomes_of(row.wins, row.losses, row.ties))
        assert rate.value == (row.wins + row.ties / 2) / 80
        if is_slip(row):
            assert (row.wins, row.losses, row.ties) == (28, 26, 26)
            assert rate.value == 0.5125
        else:
            assert rate.value == pytest.approx(row.adjusted_win_rate, abs=0.0011)
    assert [row.wins for row in TABLE_2 if is_slip(row)] == [28]


def test_interval_of_a_win_rate_is_the_normal_one():
    # of outcomes 1, 1/2, 0: the standard error from their variance
    outcomes = outcomes_of(20, 26, 34)
    rate = adjusted_win_rate(outcomes)
    half = 1.96 * outcomes.std() / np.sqrt(80)
    assert half == pytest.approx(0.083, abs=0.001)
    assert rate.low == pytest.approx(rate.value - half, abs=0.01)
    assert rate.high == pytest.approx(rate.value + half, abs=0.01)


def test_content_comes_before_form_and_form_before_length():
    assert better(Marks(True, False, True), Marks(False, True, False)) == "first"
    assert better(Marks(True, False), Marks(True, True)) == "second"
    assert better(Marks(True, True, True), Marks(True, True, False)) == "second"
    assert better(Marks(False, True), Marks(False, True)) == "tie"
    assert [Marks(c, f).points for c in (True, False) for f in (True, False)] == [10, 6, 4, 0]
    assert is_overlong("one two three four five", "a b")
    assert not is_overlong("one two three four", "a b")


@given(MARKS, MARKS)
def test_the_rule_knows_no_order(a, b):
    swapped = {"first": "second", "second": "first", "tie": "tie"}
    assert better(a, b) == swapped[better(b, a)]


def test_what_depends_on_the_order_is_a_tie():
    def likes_the_first(place, first, second):
        return "first"

    found = match([["a", "b"]], [["c", "d"]], likes_the_first)
    assert (found.wins, found.losses, found.ties, found.order_dependent) == (0, 0, 2, 2)


def test_match_counts_every_seed_and_question():
    answers = {"good": 2, "fair": 1, "bad": 0}

    def judge(place, first, second):
        a, b = answers[first], answers[second]
        return "first" if a > b else "second" if b > a else "tie"

    found = match([["good", "bad", "fair"], ["good", "good", "good"]], [["bad", "good", "fair"]] * 2, judge)
    assert found.outcomes.tolist() == [[1, 0, 0.5], [1, 0.5, 1]]
    assert (found.wins, found.losses, found.ties, found.order_dependent) == (3, 1, 2, 0)
    assert found.win_rate.value == pytest.approx(4 / 6)
    with pytest.raises(AlignerProbeError, match="as many, a row a seed"):
        match([["good"]], [["good", "bad"]], judge)
