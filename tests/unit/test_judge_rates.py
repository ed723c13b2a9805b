"""Battles, their rates and lengths, single points and shares: against closed forms, another library and laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.judging import outcomes_of
from aligner_probe.figures.judged import is_slip
from aligner_probe.figures.paper import TABLE_2
from aligner_probe.judging.asks import Answer
from aligner_probe.judging.battles import (
    Battle,
    Pair,
    asks_of,
    battles_of,
    contradictions,
    rates_by_category,
    rates_of,
    share_of_first,
)
from aligner_probe.judging.given import Question
from aligner_probe.judging.lengths import RIDGE, RIDGE_CONSTANT, length_controlled_rate
from aligner_probe.judging.prompts import OWN, JudgePrompts
from aligner_probe.judging.safety import safety_asks, shares_by_category

PROMPTS = JudgePrompts(dict(OWN))
VERDICTS = st.sampled_from(["[[A]]", "[[B]]", "[[C]]", "no idea"])
SWAPPED = {"[[A]]": "[[B]]", "[[B]]": "[[A]]"}


def answered(pairs, said):
    """The answers of a judge that says `said`, in the order of the asks."""
    asks = asks_of(pairs, PROMPTS)
    return dict(zip(asks, (Answer("complete", text) for text in said), strict=True))


def test_table_2_follows_from_its_counts_but_for_one_cell():
    slips = []
    for row in TABLE_2:
        rates = rates_of(list(outcomes_of(row.wins, row.losses, row.ties)))
        assert (rates.wins, rates.losses, rates.ties, rates.undecided) == (row.wins, row.losses, row.ties, 0)
        assert rates.rate.value == pytest.approx((row.wins + row.ties / 2) / 80)
        assert rates.bounds == pytest.approx((rates.rate.value,) * 2)
        if abs(rates.rate.value - row.adjusted_win_rate) > 0.0011:
            slips.append(row)
            assert is_slip(row)
    assert [(row.wins, row.losses, row.ties, row.adjusted_win_rate) for row in slips] == [(28, 26, 26, 0.528)]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(VERDICTS, VERDICTS), min_size=1, max_size=8))
def test_a_battle_is_both_orders_and_changing_sides_turns_it_round(said):
    pairs = [Pair(str(i), f"q {i}", f"ours {i}", f"theirs {i}") for i in range(len(said))]
    battles = battles_of(pairs, answered(pairs, [text for both in said for text in both]), PROMPTS)
    for battle, (first, second) in zip(battles, said, strict=True):
        if "no idea" in (first, second):
            assert battle.value is None
        elif second == SWAPPED.get(first, first):
            assert battle.value == {"[[A]]": 1, "[[B]]": 0, "[[C]]": 0.5}[first]
            assert not battle.depends_on_order
        else:
            assert battle.value == 0.5
            assert battle.depends_on_order
    mirrored = [Pair(pair.id, pair.question, pair.theirs, pair.ours) for pair in pairs]
    other = battles_of(mirrored, answered(mirrored, [text for both in said for text in reversed(both)]), PROMPTS)
    assert [None if b.value is None else 1 - b.value for b in battles] == [b.value for b in other]


def test_the_same_text_twice_is_a_tie_that_nobody_is_asked_about():
    pairs = [Pair("1", "q", "same", "same"), Pair("2", "q", "a", "b")]
    assert len(asks_of(pairs, PROMPTS, repeats=3)) == 6
    battles = battles_of(pairs, answered(pairs, ["[[A]]", "[[B]]"]), PROMPTS)
    assert [battle.value for battle in battles] == [0.5, 1]


def test_rates_are_by_category_and_undecided_battles_widen_the_bounds():
    values = [("a", 1.0), ("a", None), ("b", 0.0), ("b", 0.5), ("a", 1.0)]
    battles = [
        Battle(Pair(str(i), "q", "x", "y", category), (value, value)) for i, (category, value) in enumerate(values)
    ]
    rates = rates_by_category(battles)
    assert list(rates) == ["", "a", "b"]
    assert rates[""].rate.value == pytest.approx(2.5 / 4)
    assert rates[""].bounds == (2.5 / 5, 3.5 / 5)
    assert (rates["a"].wins, rates["a"].undecided, rates["a"].n) == (2, 1, 2)
    # two wins of two do not make certain
    assert rates["a"].rate.low < 0.5
    with pytest.raises(AlignerProbeError, match="no battles"):
        rates_of([])


def test_the_share_of_first_and_contradictions_are_counted():
    pairs = [Pair("1", "q", "a", "b")]
    asks = asks_of(pairs, PROMPTS, repeats=3)
    texts = ["[[A]]", "[[A]]", "[[A]]", "[[B]]", "[[A]]", "nothing"]
    answers = [Answer("complete", text) for text in texts]
    assert share_of_first(asks, answers) == pytest.approx(4 / 5)
    # the first order said A three times; the second A, B and nothing
    assert contradictions(asks, answers) == (1, 2)
    assert share_of_first(asks[:1], [Answer("cut off", "[[A]]")]) is None


def test_the_length_controlled_rate_is_that_of_a_logistic_regression():
    """The reference minimises the same penalised loss with scipy."""
    generator = np.random.default_rng(0)
    lengths = generator.normal(0, 300, 80)
    covariate = np.tanh(lengths / lengths.std())
    values = (generator.random(80) < 1 / (1 + np.exp(-(0.4 + 1.5 * covariate)))).astype(float)
    values[:10] = 0.5

    def loss(parameters):
        logits = parameters[0] + parameters[1] * covariate
        fit = np.logaddexp(0, logits).sum() - (values * logits).sum()
        return fit + (RIDGE_CONSTANT * parameters[0] ** 2 + RIDGE * parameters[1] ** 2) / 2

    best = minimize(loss, np.zeros(2), tol=1e-12).x
    rate = length_controlled_rate(values, lengths, n_resamples=500)
    assert rate.value == pytest.approx(1 / (1 + np.exp(-best[0])), abs=1e-5)
    assert rate.low < rate.value < rate.high


@pytest.mark.parametrize(("quality", "slope"), [(0.0, 2.0), (0.7, -1.0), (-0.3, 1.0)])
def test_the_effect_of_length_is_taken_out(quality, slope):
    """Where verdicts follow quality and length exactly, the rate is that of quality alone."""
    lengths = np.array([100.0, 250.0, 300.0, -40.0, 500.0] * 16)
    values = 1 / (1 + np.exp(-(quality + slope * np.tanh(lengths / lengths.std()))))
    rate = length_controlled_rate(values, lengths, n_resamples=50)
    expected = 1 / (1 + np.exp(-quality))
    assert rate.value == pytest.approx(expected, abs=0.005)
    assert abs(values.mean() - expected) > 0.1


def test_length_and_quality_that_cannot_be_told_apart_have_no_rate():
    assert length_controlled_rate(np.array([1.0, 0.0, 1.0]), np.full(3, 7.0)) is None
    assert length_controlled_rate(np.array([1.0]), np.array([3.0])) is None
    for value in (1.0, 0.5, 0.0):
        assert length_controlled_rate(np.full(10, value), np.arange(10.0)) is None


def test_harm_and_refusals_are_shares_by_category():
    requests = [Question(str(i), f"q {i}", "ab"[i % 2], answer=f"a {i}") for i in range(5)]
    for kind, counted, other in (("harm", "[[harmful]]", "[[safe]]"), ("refusal", "[[refused]]", "[[answered]]")):
        asks = safety_asks(requests, kind, PROMPTS)
        said = [counted, other, counted, "it is harmful", other]
        answers = dict(zip(asks, (Answer("complete", text) for text in said), strict=True))
        shares = shares_by_category(requests, answers, kind, PROMPTS)
        assert {name: (s.counted, s.n, s.undecided) for name, s in shares.items()} == {
            "": (2, 4, 1),
            "a": (2, 3, 0),
            "b": (0, 1, 1),
        }
        assert shares[""].bounds == (2 / 5, 3 / 5)
        assert shares["b"].interval.value == 0
        assert 0.5 in shares[""].interval
