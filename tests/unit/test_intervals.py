"""Intervals and power against scipy, closed forms and coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import (
    bootstrap,
    difference_interval,
    equivalence,
    items_needed,
    mcnemar,
    mean_interval,
    power,
    proportion_interval,
)


def scores(n, p, seed=0):
    return (np.random.default_rng(seed).random(n) < p).astype(float)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_as_scipy_does_it(method):
    skewed = np.random.default_rng(1).exponential(size=60)
    ours = mean_interval(skewed, method=method, n_resamples=20_000)
    theirs = stats.bootstrap(
        (skewed,), np.mean, method=method, n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.value == pytest.approx(skewed.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_bca_of_a_ratio_as_scipy_does_it():
    generator = np.random.default_rng(3)
    a, b = generator.exponential(size=(2, 50)) + 0.2
    ours = bootstrap(lambda x, y: x / y, a, b, method="bca", n_resamples=20_000)
    theirs = stats.bootstrap(
        (a, b),
        lambda x, y, axis=-1: x.mean(axis) / y.mean(axis),
        paired=True,
        vectorized=True,
        method="bca",
        n_resamples=20_000,
        rng=np.random.default_rng(4),
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.04)


def test_a_large_sample_has_the_t_interval():
    a, b = np.random.default_rng(5).normal(size=(2, 2000))
    a += 0.1
    ours = difference_interval(a, b)
    theirs = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)


def test_pairing_takes_out_what_makes_items_hard():
    hard = np.random.default_rng(6).normal(size=300)
    a, b = hard + 0.1 + 0.01 * np.sin(np.arange(300)), hard
    paired = difference_interval(a, b)
    assert paired.high - paired.low < 0.01
    assert mean_interval(a).high - mean_interval(a).low > 0.1


def test_seeds_widen_by_their_variance():
    """Standard error squared: sd_seed^2 / seeds + sd_item^2 / items, for scores that are a sum of both."""
    generator = np.random.default_rng(7)
    by_seed, by_item = generator.normal(size=(40, 1)), generator.normal(size=(1, 400))
    found = mean_interval(by_seed + by_item, confidence=0.6827)
    wanted = np.sqrt(by_seed.var() / 40 + by_item.var() / 400)
    assert (found.high - found.low) / 2 == pytest.approx(wanted, rel=0.05)


def test_seeds_of_two_arms_are_drawn_apart():
    generator = np.random.default_rng(8)
    seeds = generator.normal(size=(30, 1)) + np.zeros((1, 50))
    found = difference_interval(seeds, seeds, confidence=0.6827)
    assert (found.high - found.low) / 2 == pytest.approx(np.sqrt(2 * seeds[:, 0].var() / 30), rel=0.05)


def test_one_seed_as_a_row_is_no_seed():
    a, b = scores(50, 0.7), scores(50, 0.4, seed=1)
    assert difference_interval(a, b) == difference_interval(a[None], b[None])


def test_the_seed_is_wired():
    a = np.random.default_rng(0).random(40)
    assert mean_interval(a, seed=1) == mean_interval(a, seed=1)
    assert mean_interval(a, seed=1, n_resamples=501) != mean_interval(a, seed=2, n_resamples=501)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_coverage(method):
    """Of 300 samples of 80 right or wrong answers, about 95 % of intervals hold the truth."""
    generator, held = np.random.default_rng(9), 0
    for _ in range(300):
        a = (generator.random(80) < 0.7).astype(float)
        held += 0.7 in mean_interval(a, method=method, n_resamples=300, seed=int(generator.integers(1 << 30)))
    assert 0.92 < held / 300 < 0.98


def test_gap_recovery_of_three_arms():
    floor, k, reference = scores(400, 0.2), scores(400, 0.6, 1), scores(400, 0.95, 2)
    found = bootstrap(lambda f, x, r: (x - f) / (r - f), floor, k, reference)
    assert found.value == pytest.approx((k.mean() - floor.mean()) / (reference.mean() - floor.mean()))
    assert 0.4 < found.low < found.value < found.high < 0.7
    # With the floor taken as the best of two: a statistic may use numpy as it likes.
    bounded = bootstrap(lambda f, x, r: (x - np.maximum(f, 0.5)) / (r - np.maximum(f, 0.5)), floor, k, reference)
    assert bounded.value < found.value


def test_a_gap_of_nothing_has_no_bounds():
    found = bootstrap(lambda a, b: (a - b) / (a - b), scores(20, 0.5), scores(20, 0.5))
    assert (found.low, found.high) == (-np.inf, np.inf)


@given(st.integers(1, 40), st.sampled_from([0.0, 1.0]))
def test_all_items_alike_is_no_certainty(n, score):
    """Clopper and Pearson's interval of 0 or n of n."""
    found = mean_interval(np.full(n, score), n_resamples=50)
    exact = stats.binomtest(int(score) * n, n).proportion_ci(0.95, method="exact")
    assert found.degenerate
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_arms_that_never_differ_on_few_items_are_not_shown_equivalent():
    same = scores(10, 0.5)
    assert not equivalence(same, same, margin=0.05).equivalent
    many = scores(400, 0.5)
    assert equivalence(many, many, margin=0.05).equivalent


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1 << 30), st.floats(-0.3, 0.3))
def test_tost_decides_as_two_t_tests_do(seed, shift):
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=(2, 500))
    a += shift
    margin, d = 0.2, a - b
    p = max(
        stats.ttest_1samp(d, -margin, alternative="greater").pvalue,
        stats.ttest_1samp(d, margin, alternative="less").pvalue,
    )
    found = equivalence(a, b, margin=margin, n_resamples=2000)
    if not 0.03 < p < 0.08:
        assert found.equivalent == (p < 0.05)
    assert found.difference.confidence == pytest.approx(0.9)


def test_wilson():
    found = proportion_interval(8, 10)
    z = stats.norm.ppf(0.975)
    centre, half = 0.8 + z**2 / 20, z * np.sqrt(0.8 * 0.2 / 10 + z**2 / 400)
    assert (found.low, found.high) == pytest.approx(
        ((centre - half) / (1 + z**2 / 10), (centre + half) / (1 + z**2 / 10))
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.floats(0.01, 0.6), st.floats(0.01, 0.39))
def test_power_by_counting(n, p0, above):
    p1 = p0 + above
    chances = [stats.binom.pmf(k, n, p1) for k in range(n + 1) if stats.binom.sf(k - 1, n, p0) <= 0.05]
    assert power(n, p0, p1) == pytest.approx(sum(chances), abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.02, 0.5), st.floats(0.1, 0.45))
def test_items_needed_is_the_last_n_without_power(p0, above):
    p1 = p0 + above
    n = items_needed(p0, p1)
    assert all(power(m, p0, p1) >= 0.8 for m in range(n, n + 60))
    assert n == 1 or power(n - 1, p0, p1) < 0.8


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (lambda: difference_interval(np.ones(3), np.ones(4)), "the same items"),
        (lambda: mean_interval(np.ones(0)), "the same items"),
        (lambda: mean_interval(np.array([1, np.nan])), "finite"),
        (lambda: mean_interval(np.ones(3), confidence=1.0), "a share"),
        (lambda: mean_interval(scores(9, 0.5)[None].repeat(2, 0), method="bca"), "percentile"),
        (lambda: equivalence(np.ones(3), np.ones(3), margin=0.0), "above 0"),
        (lambda: items_needed(0.5, 0.5), "p0 < p1"),
        (lambda: items_needed(0.5, 0.501), "more than 100,000 items"),
        (lambda: proportion_interval(3, 2), "no more right"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(attempt, says):
    with pytest.raises(AlignerProbeError, match=says):
        attempt()


def test_a_bound_of_zero_is_zero():
    """Sums of n-ths differ by 1e-17 where they are equal, and a verdict asks whether a bound is above 0."""
    for seed in range(60):
        interval = difference_interval(scores(24, 0.7, seed), scores(24, 0.5, 1000 + seed), n_resamples=200)
        assert all(bound == 0 or abs(bound) > 1e-9 for bound in (interval.low, interval.high)), seed


def discordant(n, only_a, only_b):
    """Scores of two arms on n items, of which so many are right in one of them alone; of the others, half in both."""
    a, b = np.zeros(n), np.zeros(n)
    a[:only_a], b[only_a : only_a + only_b] = 1, 1
    both = only_a + only_b + (n - only_a - only_b) // 2
    a[only_a + only_b : both] = b[only_a + only_b : both] = 1
    return a, b


def test_eleven_against_one_of_220_items():
    """The reproduction in lm-evaluation-harness, issue 3831, whose unpaired test calls this no difference."""
    a, b = discordant(220, 11, 1)
    result = mcnemar(a, b)
    # the two tails of twelve coins: none or one head, on either side
    assert result.p == pytest.approx(2 * (1 + 12) / 2**12)
    assert round(result.p, 3) == 0.006
    assert (result.only_a, result.only_b) == (11, 1)
    assert stats.ttest_ind(a, b).pvalue > 0.3


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 30))
def test_mcnemar_is_symmetric_and_ignores_concordant_items(only_a, only_b, n_others):
    a, b = discordant(only_a + only_b + n_others + 1, only_a, only_b)
    result, turned = mcnemar(a, b), mcnemar(b, a)
    assert result.p == turned.p
    assert (result.only_a, result.only_b) == (turned.only_b, turned.only_a) == (only_a, only_b)
    # by its definition: all splits of as many items that are no more likely than this one
    n = only_a + only_b
    chances = stats.binom.pmf(np.arange(n + 1), n, 0.5)
    assert result.p == pytest.approx(chances[chances <= chances[only_a] * (1 + 1e-9)].sum())


@pytest.mark.parametrize(("a", "b"), [([1, 0], [1, 0, 1]), ([0.5, 1], [0, 1]), ([[1, 0]], [[0, 1]])])
def test_mcnemar_of_other_scores_is_refused(a, b):
    with pytest.raises(AlignerProbeError, match="scored 0 or 1"):
        mcnemar(np.array(a, float), np.array(b, float))
