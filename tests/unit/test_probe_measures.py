"""Gap recovery, floors, doses, capacity and knowledge kept: closed forms, other libraries, and laws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import BalancedAccuracy
from aligner_probe.probing.verdicts.doses import Size, crossing, dose_response, monotone
from aligner_probe.probing.verdicts.measures import Table, capacity, knowledge_kept, measure
from aligner_probe.tasks.task import Example

FEW = {"n_resamples": 200}


def right(share, n=100, seeds=1, seed=0):
    """Scores of which exactly a share is right, elsewhere in each arm."""
    generator = np.random.default_rng(seed)
    rows = np.zeros((seeds, n))
    for row in rows:
        row[generator.permutation(n)[: round(share * n)]] = 1
    return rows


def table(n=100, groups=None, **shares):
    scores = {name.replace("_", "-"): right(share, n, 3, place) for place, (name, share) in enumerate(shares.items())}
    return Table(scores, groups)


def test_gap_recovery_by_hand():
    found = measure(table(base=0.1, constant=0.2, reference=0.9, prompt=0.34, aligner_1=0.76, output_bias=0.83), **FEW)
    assert (found.floor.value, found.floor_arm) == (pytest.approx(0.2), "constant")
    assert found.gap.value == pytest.approx(0.7)
    assert (found.F.value, found.R1.value, found.B.value) == pytest.approx((0.14 / 0.7, 0.56 / 0.7, 0.63 / 0.7))
    assert found.delta is None


@pytest.mark.parametrize("floor", ["base", "constant", "reference_shuffled"])
def test_each_floor_counts(floor):
    """An arm no better than one of the floors recovers nothing, whichever it is."""
    shares = {"base": 0.0, "constant": 0.0, "reference_shuffled": 0.0} | {floor: 0.6}
    found = measure(table(**shares, reference=0.9, aligner_1=0.6), **FEW)
    assert found.R1.value == pytest.approx(0)
    assert found.floor_arm == floor.replace("_", "-")


def test_the_answer_prior_is_no_knowledge():
    """Labels at 80/20 by chance: a reference with .87 on a constant answer's .80 has a gap of hardly anything."""
    found = measure(table(base=0.0, constant=0.8, reference=0.87, aligner_1=0.8), **FEW)
    assert found.gap.low < 0.1
    assert found.R1.value == pytest.approx(0)


def test_delta_is_paired():
    scores = {"base": np.zeros((1, 80)), "reference": np.ones((1, 80)), "aligner-1": right(0.5, 80)}
    found = measure(Table(scores | {"random-subspace": scores["aligner-1"]}), **FEW)
    assert (found.delta.low, found.delta.value, found.delta.high) == (0, 0, 0)


def test_a_reference_no_better_than_the_floor_recovers_no_number():
    found = measure(table(base=0.5, reference=0.5, aligner_1=0.5), **FEW)
    assert found.gap.low < 0
    assert math.isnan(found.R1.value)


def test_missing_base_or_reference_is_said():
    with pytest.raises(AlignerProbeError, match="no scores of reference"):
        measure(table(base=0.1))
    with pytest.raises(AlignerProbeError, match="the same test items"):
        Table({"base": np.zeros((1, 4)), "reference": np.ones((1, 5))})


shares = st.floats(0.05, 0.95)


@settings(max_examples=6, deadline=None)
@given(shares, shares, st.integers(0, 1000), st.floats(0.1, 5), st.floats(-3, 3))
def test_recovery_does_not_depend_on_the_scale_of_scores(low, high, seed, scale, shift):
    """So strict scores and log-likelihoods read alike: R is the same for a + b x."""
    scores = {
        "base": right(0.05 * low, seed=seed),
        "reference": np.ones((2, 100)),
        "aligner-1": right(high, seeds=2, seed=seed + 1),
    }
    plain, moved = (
        measure(Table({name: shift * k + (scale if k else 1) * rows for name, rows in scores.items()}), **FEW).R1
        for k in (0, 1)
    )
    assert (moved.value, moved.low, moved.high) == pytest.approx((plain.value, plain.low, plain.high), abs=1e-9)


@settings(max_examples=6, deadline=None)
@given(st.permutations(range(40)), st.integers(0, 1000))
def test_neither_order_of_items_nor_of_seeds_moves_the_values(order, seed):
    scores = {"base": right(0.1, 40, 1, seed), "reference": right(0.9, 40, 3, seed), "aligner-1": right(0.5, 40, 3, 7)}
    shuffled = {name: rows[::-1][:, list(order)] for name, rows in scores.items()}
    one, other = measure(Table(scores), **FEW), measure(Table(shuffled), **FEW)
    assert (one.R1.value, one.gap.value) == pytest.approx((other.R1.value, other.gap.value))


def test_items_of_a_group_are_drawn_together():
    """Ten copies of each item make no interval narrower, where they are said to be of one group."""
    once = right(0.5, 30, seed=3)
    often, groups = np.repeat(once, 10, axis=1), tuple(str(i) for i in range(30) for _ in range(10))

    def width(rows, groups=None):
        found = measure(
            Table({"base": np.zeros((1, rows.shape[1])), "reference": np.ones((1, rows.shape[1])), "aligner-1": rows},
                  groups), n_resamples=1500,
        ).R1  # fmt: skip
        return found.high - found.low

    assert width(often, groups) == pytest.approx(width(once), rel=0.15)
    assert width(often) < width(once) / 2


def test_groups_of_unequal_size_keep_the_mean_of_items():
    rows = np.array([[1.0, 1.0, 1.0, 0.0]])
    found = Table({"base": rows}, ("a", "a", "a", "b")).score("base", **FEW)
    assert found.value == 0.75
    # Groups are drawn whole, so only all of the first, all of the second, or as they are.
    assert (found.low, found.high) == (0.0, 1.0)


def test_all_right_is_no_certainty():
    found = Table({"base": np.ones((2, 50))}).score("base")
    assert found.value == 1
    assert found.low == pytest.approx(0.025 ** (1 / 50))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 2), min_size=1, max_size=7))
def test_monotone_as_scikit_learn_does_it(values):
    theirs = IsotonicRegression().fit_transform(np.arange(len(values)), values)
    assert monotone(np.array(values)) == pytest.approx(theirs, abs=1e-9)
    together = monotone(np.stack([values, values[::-1]], axis=1))
    assert together[:, 0] == pytest.approx(theirs, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 0.95), st.floats(0.2, 3), st.floats(2, 6))
def test_crossing_of_a_straight_line_in_log_k(share, slope, middle):
    logs = np.array([1.0, 2.5, 4.0, 7.0])
    curve = 0.5 + slope * (logs - middle)
    wanted = middle + (share - 0.5) / slope
    found = float(crossing(share, logs, curve))
    if 1 < wanted < 7:
        assert found == pytest.approx(wanted, abs=1e-9)
    else:
        assert found < 1 if wanted <= 1 else found > 7


def doses(family, *pairs, n=200):
    scores = {"base": np.zeros((1, n)), "reference": np.ones((3, n))}
    scores |= {f"{family}-{k}": right(share, n, 3, k) for k, share in pairs}
    sizes = {f"{family}-{k}": Size(family, k) for k, _ in pairs}
    [found] = measure(Table(scores), sizes, **FEW).doses
    return found


def test_four_sizes_have_a_curve_and_its_interval():
    found = doses("lora", (10, 0.1), (100, 0.4), (1000, 0.6), (10_000, 0.95))
    assert found.fitted
    assert found.k50.value == pytest.approx(10**2.5, rel=1e-6)
    assert 100 < found.k50.low < found.k50.value < found.k50.high < 1000
    assert found.k90.value == pytest.approx(1000 * 10 ** (0.3 / 0.35), rel=1e-6)


def test_under_four_sizes_points_only():
    found = doses("aligner", (176, 0.2), (1328, 0.7), (12_848, 0.8))
    assert not found.fitted
    assert found.k50.value is None
    assert str(found.k50) == "176 to 1,328"
    assert str(found.k90) == "> 12,848"
    assert [point.n_parameters for point in found.points] == [176, 1328, 12_848]


def test_nothing_beyond_the_sizes_tried():
    steep = doses("lora", (10, 0.0), (100, 0.1), (1000, 0.2), (10_000, 0.4))
    assert (str(steep.k50), steep.k50.value, steep.k50.at_most) == ("> 10,000", None, None)
    early = doses("lora", (10, 0.97), (100, 1.0), (1000, 1.0), (10_000, 1.0))
    assert (str(early.k90), early.k90.above) == ("<= 10", None)
    barely = doses("lora", (10, 0.0), (100, 0.0), (1000, 0.0), (10_000, 0.505))
    assert barely.k50.high == math.inf
    assert str(barely.k50).endswith(", > 10,000]")


def test_families_are_never_mixed():
    scores = {"base": np.zeros((1, 50)), "reference": np.ones((1, 50))}
    scores |= {"aligner-1": right(0.1, 50), "lora-1": right(0.9, 50)}
    sizes = {"aligner-1": Size("aligner", 100), "lora-1": Size("lora", 50), "lora-8": Size("lora", 400)}
    found = measure(Table(scores), sizes, **FEW).doses
    assert [(one.family, len(one.points)) for one in found] == [("aligner", 1), ("lora", 1)]


def test_sizes_must_ascend():
    with pytest.raises(AlignerProbeError, match="positive and ascending"):
        dose_response("lora", [("a", 8), ("b", 8)], lambda *_: None)


def test_capacity_counts_facts_right_in_all_wordings():
    groups = ("a", "a", "b", "b", "c", "c")
    scores = {"aligner-1": np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]], dtype=float)}
    found = capacity(Table(scores, groups), np.ones(6), **FEW)
    assert (found.facts.value, found.n_facts) == (1.5, 3)


def test_capacity_counts_a_right_frequent_label_which_scores_under_one():
    labels = tuple(Example("p", " yes" if place < 8 else " no") for place in range(10))
    marks = BalancedAccuracy(("yes", "no")).weights(labels)
    assert marks.min() < 1
    table = Table({"aligner-1": np.stack([marks, marks * 0])}, tuple(map(str, range(10))))
    assert capacity(table, marks, **FEW).facts.value == 5


def test_knowledge_kept_is_a_share_of_what_there_was():
    content = Table({"base": right(0.8, 100), "aligner-1": right(0.2, 100, 2, seed=5)})
    form = Table({"base": right(1.0, 100), "aligner-1": right(0.0, 100, 2)})
    found = knowledge_kept(content, form, "aligner-1", **FEW)
    assert found.kept.value == pytest.approx(0.25)
    assert found.kept.low < 0.25 < found.kept.high < 0.5
    assert (found.format[0].value, found.format[1].value) == (1, 0)


def test_the_seed_is_wired():
    made = table(base=0.1, reference=0.9, aligner_1=0.5)
    assert measure(made, seed=1).R1 == measure(made, seed=1).R1 != measure(made, seed=2).R1
