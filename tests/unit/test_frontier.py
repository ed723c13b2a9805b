"""K as a frontier: what is chosen, on which items, that a maximum over runs does not flatter it, and its intervals."""

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aligner_probe.errors import AlignerProbeError
from aligner_probe.probing.verdicts.frontier import Frontier, Reading

REFERENCE = "lora-8"


def reading(arm: str, rate: float, seed: int, form, kept, steps: int = 60) -> Reading:
    form, kept = (np.asarray(values, dtype=np.float64) for values in (form, kept))
    return Reading(arm, rate, steps, seed, form, kept, np.ones_like(kept))


def drawn(
    generator: np.random.Generator,
    *,
    n_settings: int = 8,
    n_seeds: int = 3,
    n_items: int = 40,
    right: float = 0.5,
    spread: float = 0.0,
    arms: tuple[str, ...] = (REFERENCE,),
    form: float = 1.0,
) -> Frontier:
    """Runs that all keep `right` in truth; each run's own luck is uniform within `spread`, on all its items."""
    readings = []
    for arm, rate, seed in product(arms, range(1, n_settings + 1), range(n_seeds)):
        p = right + generator.uniform(-spread, spread)
        kept = generator.random(n_items) < p
        readings.append(reading(arm, float(rate), seed, generator.random(30) < form, kept))
    return Frontier(tuple(readings), np.ones(n_items))


def naive(frontier: Frontier, arm: str = REFERENCE) -> float:
    """The highest mean of any setting, which is what a table shows."""
    by_setting: dict[str, list[float]] = {}
    for one in frontier.readings:
        if one.arm == arm:
            by_setting.setdefault(one.setting, []).append(float(one.kept.mean()))
    return max(float(np.mean(values)) for values in by_setting.values()) / float(frontier.before.mean())


def plain(frontier: Frontier, arm: str, share: float) -> float | None:
    """K by plain loops: each seed's score on one half, at the setting that the other seeds and half choose."""
    its = [one for one in frontier.readings if one.arm == arm]
    names, seeds = list(dict.fromkeys(one.setting for one in its)), sorted({one.seed for one in its})
    of = {(one.setting, one.seed): one for one in its}
    level = frontier.level
    forms = {name: np.mean([of[name, seed].form.mean() for seed in seeds]) for name in names}
    good = [name for name in names if forms[name] >= share * level - 1e-9]
    if not good:
        return None
    total = 0.0
    for seed, half in product(seeds, range(2)):
        choosers = [other for other in seeds if other != seed] or seeds
        scores = {name: np.mean([of[name, s].kept[1 - half :: 2].mean() for s in choosers]) for name in good}
        best = max(good, key=lambda name: (round(scores[name], 12), round(forms[name], 12)))
        total += of[best, seed].kept[half::2].sum() / len(seeds)
    return total / frontier.before.sum()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6), st.integers(4, 21))
@example(211, 4, 2, 10)  # two settings are alike in all that chooses between them
def test_it_is_the_plain_loop(seed, n_seeds, n_settings, n_items):
    generator = np.random.default_rng(seed)
    made = drawn(
        generator, n_settings=n_settings, n_seeds=n_seeds, n_items=n_items, arms=(REFERENCE, "other"), form=0.8
    )
    for arm in made.arms:
        expected = plain(made, arm, 0.95)
        most = made.most_kept(arm, n_resamples=2)
        assert (most.kept is None) == (expected is None)
        if most.kept is not None:
            assert most.kept.value == pytest.approx(expected)


@pytest.mark.parametrize("spread", [0.0, 0.3])
@pytest.mark.parametrize("n_seeds", [2, 3])
def test_the_most_of_equal_runs_is_no_more_than_the_truth(spread, n_seeds):
    generator = np.random.default_rng(1)
    values, flattered = [], []
    for _ in range(200):
        made = drawn(generator, n_settings=12, n_seeds=n_seeds, spread=spread)
        values.append(made.most_kept(REFERENCE, n_resamples=1).kept.value)
        flattered.append(naive(made))
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - 0.5) < 3.5 * error
    assert np.mean(flattered) > 0.5 + 10 * error  # what the choice on other items and seeds takes away


def test_with_one_seed_the_luck_of_items_does_not_count():
    generator = np.random.default_rng(2)
    values = [drawn(generator, n_seeds=1).most_kept(REFERENCE, n_resamples=1).kept.value for _ in range(300)]
    assert abs(np.mean(values) - 0.5) < 3.5 * np.std(values) / np.sqrt(len(values))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(3)
    hits = [0.5 in drawn(generator, n_items=60).most_kept(REFERENCE, n_resamples=300).kept for _ in range(120)]
    assert np.mean(hits) > 0.88


def test_a_setting_below_the_form_is_not_taken_however_much_it_keeps():
    rows = []
    for seed in range(3):
        rows += [
            reading(REFERENCE, 0.1, seed, np.ones(10), np.full(8, 0.25)),
            reading("aligner-1", 0.1, seed, np.ones(10), np.full(8, 0.5)),
            reading("aligner-1", 0.01, seed, np.full(10, 0.9), np.ones(8)),
        ]
    made = Frontier(tuple(rows), np.ones(8))
    assert made.most_kept("aligner-1").kept.value == pytest.approx(0.5)
    assert made.most_kept("aligner-1").settings == {"lr 0.1, 60 steps": 6}
    assert made.most_kept("aligner-1", 0.9).kept.value == pytest.approx(1)
    assert (made.most_kept("aligner-1").tried, made.most_kept("aligner-1").reached) == (2, 1)


def test_no_run_that_reaches_the_form_is_an_answer_of_its_own():
    generator = np.random.default_rng(4)
    rows = [reading(REFERENCE, 0.1, s, np.ones(10), np.ones(6)) for s in range(2)]
    rows += [reading("aligner-1", 0.1, s, np.full(10, 0.4), generator.random(6) < 0.5) for s in range(2)]
    made = Frontier(tuple(rows), np.ones(6))
    most = made.most_kept("aligner-1")
    assert most.kept is None
    assert most.certainty == 0
    assert most.best_form == pytest.approx(0.4)
    assert most.said == "no run reaches the form (at best 0.40, needed 0.95)"
    assert made.difference("aligner-1", REFERENCE) is None


def test_a_setting_that_lacks_a_seed_counts_as_tried_alone():
    rows = [reading(REFERENCE, 0.1, s, np.ones(4), np.full(6, 0.5)) for s in range(2)]
    rows.append(reading(REFERENCE, 0.3, 0, np.ones(4), np.ones(6)))  # the other seed's loss was not finite
    most = Frontier(tuple(rows), np.ones(6)).most_kept(REFERENCE)
    assert most.kept.value == pytest.approx(0.5)
    assert (most.tried, most.reached) == (2, 1)


def test_knowledge_is_a_share_of_what_the_base_model_has():
    rows = [reading(REFERENCE, 0.1, s, np.ones(4), [1, 0, 0, 0, 0, 0, 1, 0]) for s in range(2)]
    before = np.array([1.0, 1, 1, 0, 0, 0, 1, 0])
    assert Frontier(tuple(rows), before).most_kept(REFERENCE).kept.value == pytest.approx(0.5)


def test_where_everything_is_kept_the_interval_reaches_as_far_as_so_many_items_allow():
    rows = [reading(REFERENCE, 0.1, s, np.ones(4), np.ones(50)) for s in range(3)]
    kept = Frontier(tuple(rows), np.ones(50)).most_kept(REFERENCE).kept
    assert kept.degenerate
    assert (kept.value, kept.high) == pytest.approx((1, 1))
    assert kept.low == pytest.approx(0.025 ** (1 / 50))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_a_difference_is_the_difference_and_turns_round(seed):
    made = drawn(np.random.default_rng(seed), arms=(REFERENCE, "other"), n_items=20)
    one, other = (
        made.difference("other", REFERENCE, n_resamples=200),
        made.difference(REFERENCE, "other", n_resamples=200),
    )
    values = [made.most_kept(arm, n_resamples=2).kept.value for arm in ("other", REFERENCE)]
    assert one.value == pytest.approx(values[0] - values[1])
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert made.difference("other", "other", n_resamples=50).value == 0


def test_a_paired_difference_is_more_certain_than_two_numbers():
    # Both arms keep the same items, one of them one item more: how many items are hard says nothing of the difference.
    generator = np.random.default_rng(5)
    easy = (generator.random(60) < 0.5).astype(float)
    rows = [reading(REFERENCE, 0.1, s, np.ones(4), easy) for s in range(3)]
    more = easy.copy()
    more[np.flatnonzero(easy == 0)[0]] = 1
    rows += [reading("other", 0.1, s, np.ones(4), more) for s in range(3)]
    made = Frontier(tuple(rows), np.ones(60))
    difference, alone = made.difference("other", REFERENCE), made.most_kept("other").kept
    assert difference.high - difference.low < 0.5 * (alone.high - alone.low)


def test_the_curve_has_every_setting():
    made = drawn(np.random.default_rng(6), n_settings=3, form=0.7)
    points = made.curve(REFERENCE)
    assert [point.rate for point in points] == [1.0, 2.0, 3.0]
    for point in points:
        its = [one for one in made.readings if one.setting == point.setting]
        assert point.form.value == pytest.approx(np.mean([one.form for one in its]))
        assert point.kept.value == pytest.approx(np.mean([one.kept for one in its]))
        assert point.kept.low <= point.kept.value <= point.kept.high


@pytest.mark.parametrize(
    ("rows", "before", "says"),
    [
        ([reading("other", 0.1, 0, np.ones(3), np.ones(4))], np.ones(4), "no readings of the reference"),
        ([reading(REFERENCE, 0.1, 0, np.ones(3), np.ones(4))], np.ones(5), "the same items"),
        ([reading(REFERENCE, 0.1, 0, np.ones(3), np.ones(4))] * 2, np.ones(4), "one reading for each setting"),
        ([reading(REFERENCE, 0.1, 0, np.ones(3), np.ones(4))], np.zeros(4), "nothing to keep"),
    ],
)
def test_what_cannot_be_compared_is_refused(rows, before, says):
    with pytest.raises(AlignerProbeError, match=says):
        Frontier(tuple(rows), before)
