"""The dose of examples: which of them an arm trains on, and from how many on half of the gap is recovered."""

import math
from dataclasses import replace

import micro
import numpy as np
import probes
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner_probe.arms.names import BASE, LORA_8, ON_FEW, REFERENCE
from aligner_probe.evaluation import ExactMatch
from aligner_probe.probing.bench import ProbeBench, few
from aligner_probe.probing.cells import material, recipe_for
from aligner_probe.probing.plan import plan
from aligner_probe.probing.splitting import split_task
from aligner_probe.probing.verdicts.measures import Table, measure

COUNTS = ON_FEW | {LORA_8: 400}
ITEMS = 200


def measured(shares, counts=COUNTS, n=ITEMS):
    """Measures of arms that get these shares of the items right, each on the first items."""
    scores = {arm: np.tile(np.arange(n) < round(share * n), (2, 1)).astype(float) for arm, share in shares.items()}
    scores |= {BASE: np.zeros((1, n)), REFERENCE: scores[LORA_8]}
    return measure(Table(scores), examples=counts, n_resamples=200)


def with_shares(*shares):
    return dict(zip(COUNTS, shares, strict=True))


def test_the_dose_is_where_the_curve_reaches_a_half():
    found = measured(with_shares(0.0, 0.2, 0.4, 0.8, 1.0)).examples
    assert found.number == pytest.approx(math.exp(np.interp(0.5, [0.4, 0.8], np.log([16, 64]))), rel=1e-6)
    assert 4 < found.k50.low < found.number < found.k50.high < 64
    assert [(point.arm, point.n_examples) for point in found.points] == list(COUNTS.items())
    assert [point.recovered.value for point in found.points] == pytest.approx([0.0, 0.2, 0.4, 0.8, 1.0])


def test_doses_outside_of_what_was_tried():
    assert measured(with_shares(0.9, 1.0, 1.0, 1.0, 1.0)).examples.number == 1
    assert str(measured(with_shares(0.9, 1.0, 1.0, 1.0, 1.0)).examples.k50) == "<= 1"
    without_all = {arm: n for arm, n in COUNTS.items() if arm != LORA_8}
    never = measured(with_shares(0.0, 0.0, 0.1, 0.2, 1.0), without_all).examples
    assert (never.number, str(never.k50)) == (math.inf, "> 64")
    # Between the largest part and all of them: more than 64.
    assert measured(with_shares(0.0, 0.0, 0.1, 0.2, 1.0)).examples.k50.above == 64


def test_a_probe_without_these_arms_has_no_dose():
    assert measured({LORA_8: 1.0}, {LORA_8: 400}).examples is None
    assert measured({LORA_8: 1.0}).examples is None


def test_a_task_with_fewer_examples_counts_each_number_once():
    found = measured(with_shares(0.0, 0.2, 1.0, 1.0, 1.0), {arm: min(n, 16) for arm, n in COUNTS.items()}).examples
    assert [(point.arm, point.n_examples) for point in found.points][2:] == [(LORA_8, 16)]
    assert (found.k50.above, found.k50.at_most) == (4, 16)


@given(st.lists(st.integers(0, 20), min_size=5, max_size=5), st.lists(st.integers(0, 20), min_size=5, max_size=5))
@settings(max_examples=15, deadline=None)
def test_who_learns_more_from_every_number_needs_no_more(one, more):
    """A law: the dose falls where every share rises."""
    low = [min(a, b) / 20 for a, b in zip(one, more, strict=True)]
    high = [max(a, b) / 20 for a, b in zip(one, more, strict=True)]
    low[-1] = high[-1] = 1.0
    assert measured(with_shares(*high)).examples.number <= measured(with_shares(*low)).examples.number + 1e-9


@given(st.integers(1, 24), st.integers(1, 24), st.booleans(), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_a_part_is_drawn_whole_and_nested(n, more, by_group, seed):
    task = probes.styled()
    if by_group:
        task = replace(task, examples=tuple(replace(e, group=e.group.split()[0]) for e in task.examples))
    small, large = (few(task, k, by_group, seed) for k in sorted((n, more)))
    units = [e.group for e in task.examples] if by_group else list(range(len(task)))
    expected = min(min(n, more), len(set(units)))
    assert [e for e in task.examples if e in small.examples] == list(small.examples)
    assert set(small.examples) <= set(large.examples)
    if by_group:
        chosen = {e.group for e in small.examples}
        assert len(chosen) == expected
        assert len(small) == sum(unit in chosen for unit in units)
    else:
        assert len(small) == expected


def test_an_arm_trains_on_its_part_in_batches_no_larger_and_validates_on_all():
    budget = plan("standard", seeds=((0, 0), (1, 1)), batch_size=8).budget
    bench = ProbeBench(str(micro.base()), split_task(probes.styled(60)), ExactMatch(), budget)
    probe = plan(budget)
    for arm, n in ON_FEW.items():
        first, second = probe.runs_of(arm)
        trained, validation = material(bench, first)
        n = min(n, len(bench.parts.train))
        assert len(trained) == n
        assert set(trained.examples) <= set(bench.parts.train.examples)
        assert validation == bench.parts.validation
        assert recipe_for(bench, first, 0.01).batch_size == min(8, n)
        if n < len(bench.parts.train):
            assert material(bench, second)[0].examples != trained.examples, "each order seed draws its own"
    assert material(bench, probe.runs_of(LORA_8)[0])[0] == bench.parts.train
