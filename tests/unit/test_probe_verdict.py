"""Every verdict and every reason for none, from planted score tables; among them all that a probe must not fall for."""

import itertools
from dataclasses import asdict, replace

import numpy as np
import pytest
from evidences import (
    FORM,
    HALF,
    LATENT,
    LEARNED,
    NEW,
    NOTHING,
    SAID,
    WORKS,
    N,
    changed,
    measured,
    table,
    verdict,
    without,
)

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import BalancedAccuracy
from aligner_probe.evaluation.intervals import Interval, items_needed
from aligner_probe.probing.verdicts.evidence import Evidence, ReferenceTraining
from aligner_probe.probing.verdicts.frontier import MostKept
from aligner_probe.probing.verdicts.measures import Table, capacity, floors_of, knowledge_kept, measure
from aligner_probe.probing.verdicts.power import size_of_test
from aligner_probe.probing.verdicts.thresholds import Thresholds
from aligner_probe.probing.verdicts.verdict import judge
from aligner_probe.tasks.task import Example


@pytest.mark.parametrize(("shares", "outcome"), [(FORM, "form"), (LATENT, "latent"), (NEW, "new")])
def test_the_three_verdicts_name_their_numbers(shares, outcome):
    found = verdict(shares)
    assert found.outcome == outcome
    for name in ("F = ", "R1 = ", "cut 0.5"):
        assert name in found.reason


def test_a_style_on_known_content_is_form():
    assert verdict(FORM, content=SAID, format=measured(FORM, "format")).outcome == "form"


def test_an_unknown_style_on_known_content_is_mixed_with_both_parts_named():
    found = verdict(NEW, content=SAID, format=measured(NEW, "format"))
    assert found.outcome == "mixed"
    assert (found.parts["content"].name, found.parts["format"].name) == ("known", "new")
    assert found.reason.startswith("Its content is known:")
    assert "Its format is new:" in found.reason


def test_new_facts_in_a_known_style_are_mixed():
    facts = tuple(str(i // 2) for i in range(N))
    form = measured(FORM, "format", "memory", groups=facts)
    found = verdict(NEW, kind="memory", groups=facts, format=form)
    assert found.outcome == "mixed"
    assert (found.parts["content"].name, found.parts["format"].name) == ("new", "form")


def test_new_content_in_the_base_s_own_form_is_new():
    assert verdict(NEW, format=measured(SAID, "format")).outcome == "new"


def test_what_cannot_be_told_apart_is_not_mixed():
    """Letters of a known word: the lenient reading finds the word everywhere, and there is no format by itself."""
    assert verdict(NEW, content=SAID).outcome == "new"


def test_content_that_a_prompt_reaches_in_a_form_that_it_does_not_is_mixed():
    found = verdict(NEW, content=FORM)
    assert found.outcome == "mixed"
    assert "content alone is form" in found.reason


def test_one_answer_to_everything():
    found = verdict(NOTHING | {"constant": 1.0, "reference-shuffled": 1.0, "prompt": 1.0, "aligner-1": 1.0,
                               "reference": 1.0})  # fmt: skip
    assert found.outcome == "constant answer"
    assert "1.00" in found.reason


def test_an_answer_prior_is_not_learned():
    """Labels drawn at 80/20: the reference answers with the frequent one, now and then the other."""
    found = verdict(changed(NEW, constant=0.8, reference_shuffled=0.79, aligner_1=0.8, reference=0.87))
    assert found.outcome == "undetermined"
    assert "nothing item-specific" in found.reason
    assert "constant answer 0.80" in found.reason


def test_a_reference_that_cannot_learn():
    lost = (ReferenceTraining("lora-8", 0.05, 0.0), ReferenceTraining("full", 0.06, 0.0))
    found = verdict(changed(NEW, reference=0.07), trainings=lost)
    assert found.outcome == "undetermined"
    assert "learned nothing item-specific" in found.reason


@pytest.mark.parametrize("full", [False, True])
def test_a_reference_whose_answers_run_on_asks_what_ends_them(full):
    lora = (ReferenceTraining("lora-8", 0.05, 0.0), ReferenceTraining("full", 0.06, 0.0))[: 1 + full]
    for reference in (0.03, 0.6):
        strict = changed(NEW, reference=reference)
        assert ("--ending" in verdict(strict, trainings=lora, run_on=0.9).reason) == (reference < 0.1 or not full)
        assert "--ending" not in verdict(strict, trainings=lora, run_on=0.1).reason


def test_a_reference_that_was_still_learning():
    found = verdict(changed(NEW, reference=0.6), trainings=(ReferenceTraining("lora-8", 0.6, 0.08),))
    assert found.outcome == "undetermined"
    assert "gained 0.080" in found.reason
    assert "more steps" in found.reason


def test_training_items_without_test_items_suggests_a_memory_task():
    found = verdict(changed(NEW, reference=0.06))
    assert found.outcome == "undetermined"
    assert "--kind memory" in found.reason
    assert "1.00 on items that it was trained on" in found.reason


def test_ten_items_are_too_few_and_the_number_needed_is_said():
    found = verdict(changed(FORM, constant=0.0, reference_shuffled=0.0), n=10)
    assert found.outcome == "undetermined"
    needed = items_needed(0.5, 0.75)
    assert 10 < needed < N
    assert f"10 independent items, and {needed} are needed" in found.reason


def test_weights_that_add_up_to_a_little_more_than_one_are_still_shares_of_items():
    """Balanced accuracy of 2 to 25 items: some perfect references score 1 and 2e-16."""
    scorer, right = BalancedAccuracy(("yes", "no")), {"reference", "aligner-1"}
    for n, k in itertools.combinations(range(1, 26), 2):
        marks = scorer.weights([Example("p", " yes" if i < n else " no") for i in range(k)])
        strict = measure(Table({arm: marks[None] * (arm in right) for arm in FORM}), n_resamples=300)
        if strict.floor.value + strict.gap.value > 1:
            break
    evidence = Evidence("general", strict, strict, trainings=LEARNED, prompting=WORKS)
    assert strict.gap.value > 1
    assert f"{k} independent items, and" in judge(evidence, HALF).reason


@pytest.mark.parametrize("n", [3, HALF.fewest_items - 1, HALF.fewest_items, N])
def test_likelihoods_of_few_items_are_too_few(n):
    shares = changed(LATENT, aligner_1_shuffled=0.0)
    scores = {arm: np.full((1, n), share * 5 - 6.0) for arm, share in shares.items() if arm != "constant"}
    strict = measure(Table(scores), floors=floors_of("likelihood"), n_resamples=300)
    evidence = Evidence("general", strict, strict, trainings=LEARNED, prompting=WORKS)
    found = judge(evidence, HALF)
    assert ("too small" in found.reason) == (n < HALF.fewest_items)
    assert found.outcome == ("undetermined" if n < HALF.fewest_items else "latent")


@pytest.mark.parametrize(("shares", "outcome"), [(FORM, "form"), (LATENT, "undetermined"), (NEW, "undetermined")])
def test_where_no_example_fits_only_a_prompt_that_works_says_something(shares, outcome):
    found = verdict(shares, most_shots=0)
    assert found.outcome == outcome
    assert ("No example of the task fits" in found.reason) == (outcome == "undetermined")


def test_items_of_a_few_groups_are_few_items():
    assert "5 independent items" in verdict(FORM, groups=tuple(str(i % 5) for i in range(N))).reason


def test_a_base_that_solves_the_task():
    found = verdict(changed(FORM, base=0.95))
    assert found.outcome == "undetermined"
    assert "already" in found.reason


def test_a_single_new_fact_is_new_and_not_latent():
    """One token holds one fact, so R1 is 1; the fact is its own constant answer and shuffles to itself."""
    one = {"base": 0.0, "prompt": 0.0, "constant": 1.0, "aligner-1": 1.0, "reference": 1.0}
    groups = ("fact",) * 2
    held = capacity(table(one, 2, groups), np.ones(2), n_resamples=100)
    found = verdict(one, kind="memory", n=2, groups=groups, capacity=held)
    assert found.outcome == "new"
    assert "holds 1.0 of 1 facts" in found.reason


@pytest.mark.parametrize("shares", [FORM, LATENT, NEW, changed(NEW, prompt=0.5), changed(NEW, reference=0.05)])
def test_a_memory_task_is_new_or_undetermined(shares):
    groups = tuple(str(i // 4) for i in range(N))
    assert verdict(shares, kind="memory", groups=groups).outcome in ("new", "undetermined")


def test_facts_that_a_prompt_gives_are_not_new():
    found = verdict(FORM, kind="memory", groups=tuple(str(i // 4) for i in range(N)))
    assert found.outcome == "undetermined"
    assert "not new" in found.reason


@pytest.mark.parametrize("arm", ["prompt", "constant", "reference-shuffled", "aligner-1", "aligner-1-shuffled"])
@pytest.mark.parametrize("shares", [FORM, LATENT, NEW])
def test_a_missing_control_leaves_no_verdict(shares, arm):
    found = verdict(without(shares, arm))
    assert found.outcome == "undetermined"
    assert f"Not run: {arm}" in found.reason


def test_a_missing_positive_control_leaves_no_verdict():
    assert "positive control" in verdict(LATENT, prompting=None).reason


@pytest.mark.parametrize("shares", [LATENT, NEW])
def test_where_prompting_says_nothing_no_prompt_s_failure_counts(shares):
    found = verdict(shares, prompting=Interval(0.1, 0.05, 0.2))
    assert found.outcome == "undetermined"
    assert "not informative on this base" in found.reason


def test_a_prompt_that_works_shows_that_prompting_does():
    assert verdict(FORM, prompting=Interval(0.1, 0.05, 0.2)).outcome == "form"


def test_shuffled_answers_may_teach_a_form_that_prompts_reach():
    found = verdict(changed(FORM, aligner_1_shuffled=0.96))
    assert found.outcome == "form"
    assert any(note.startswith("Shuffled answers teach one token as much (R = 0.9") for note in found.notes)
    assert not any("Shuffled" in note for note in verdict(FORM).notes)


def test_aligner_on_shuffled_answers_does_as_well():
    found = verdict(changed(LATENT, aligner_1_shuffled=0.84))
    assert found.outcome == "undetermined"
    assert "speaks against it" in found.reason


@pytest.mark.parametrize("change", [{"prompt": 0.5}, {"aligner_1": 0.52}])
def test_intervals_that_cross(change):
    found = verdict(changed(LATENT, **change))
    assert found.outcome == "undetermined"
    assert "lies on both sides of 0.5" in found.reason


def test_a_prompt_that_reaches_what_a_token_does_not():
    found = verdict(changed(FORM, aligner_1=0.05))
    assert found.outcome == "undetermined"
    assert "form needs both" in found.reason


def test_strict_and_likelihood_contradict_each_other():
    nats = without(changed(NEW, prompt=0.02), "constant")
    likelihood = Table({arm: rows - 5 for arm, rows in table(nats).scores.items()})
    against = measure(likelihood, floors=floors_of("likelihood"), n_resamples=300)
    assert verdict(NEW, likelihood=against).outcome == "new"
    found = verdict(LATENT, likelihood=against)
    assert found.outcome == "undetermined"
    assert "contradict" in found.reason
    assert "R1" in found.reason


def kept(before, after):
    content = table({"base": before, "aligner-1": after})
    return knowledge_kept(content, content, "aligner-1", n_resamples=300)


def most(arm, value, low, high):
    kept = None if value is None else Interval(value, low, high)
    return MostKept(arm, kept, needed=0.95, best_form=0.7, tried=6, reached=2, settings={}, certainty=1.0)


@pytest.mark.parametrize(
    ("one_token", "said"),
    [
        ((0.3, 0.2, 0.4), "form reached, knowledge damaged"),
        ((0.95, 0.9, 1.0), "keeps the knowledge of another domain"),
        ((0.8, 0.7, 0.9), "lies on both sides"),
        ((None, None, None), "no run reaches the form (at best 0.70, needed 0.95)"),
    ],
)
def test_what_k_says(one_token, said):
    frontier = {"aligner-1": most("aligner-1", *one_token), "lora-8": most("lora-8", 0.9, 0.8, 1.0)}
    notes = verdict(FORM, kept=kept(0.9, 0.1), most_kept=frontier).notes
    [note] = [note for note in notes if note.startswith("K")]
    assert said in note


def test_k_at_the_rate_of_the_task_is_not_called_k():
    [note] = [note for note in verdict(FORM, kept=kept(0.9, 0.1)).notes if note.startswith("K")]
    assert "was not run" in note
    assert "at the rate that suits the task" in note


def test_k_says_nothing_where_the_base_knows_little():
    notes = verdict(FORM, kept=kept(0.2, 0.1), most_kept={"aligner-1": most("aligner-1", 0.9, 0.8, 1.0)}).notes
    assert "K says nothing" in " ".join(notes)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.5, -0.1, "LoRA r=8 keeps more"), (0.1, 0.5, "one token keeps more"), (-0.2, 0.2, "is open")],
)
def test_one_token_is_compared_with_lora_at_equal_form(low, high, said):
    frontier = {arm: most(arm, 0.5, 0.4, 0.6) for arm in ("aligner-1", "lora-8")}
    against = Interval((low + high) / 2, low, high)
    notes = verdict(FORM, kept=kept(0.9, 0.1), most_kept=frontier, kept_against_lora=against).notes
    [note] = [note for note in notes if note.startswith("At equal form")]
    assert said in note


def test_what_was_not_run_is_said_to_be_open():
    notes = " ".join(verdict(FORM).notes)
    assert all(f"{name} was not run" in notes for name in ("B", "Delta", "K"))


def test_delta_credits_the_token_only_where_it_beats_a_random_subspace():
    def note(share):
        [found] = [n for n in verdict(changed(LATENT, random_subspace=share)).notes if n.startswith("Delta")]
        return found

    assert "the global token itself" in note(0.2)
    assert "few parameters, whichever they are" in note(0.85)


def test_constant_shifts_that_reach_what_one_token_does_not():
    assert any("one token lacks parameters" in note for note in verdict(changed(NEW, output_bias=0.9)).notes)


def test_thresholds_are_wired():
    partly = measured(changed(LATENT, aligner_1=0.7))
    evidence = Evidence("general", partly, partly, trainings=LEARNED, prompting=WORKS)
    assert judge(evidence, HALF).outcome == "latent"
    assert judge(evidence, replace(HALF, R1_cut=0.9)).outcome == "new"
    assert "too small" in judge(evidence, replace(HALF, resolution=0.01)).reason
    assert judge(evidence, replace(HALF, learned=0.999)).outcome == "undetermined"
    assert judge(evidence, replace(HALF, prompting_works=0.99)).outcome == "undetermined"
    with pytest.raises(AlignerProbeError, match="F_cut"):
        Thresholds(F_cut=1.5)
    with pytest.raises(AlignerProbeError, match="fewest_items 1; expected 2 or more"):
        Thresholds(fewest_items=1)


def test_the_verdict_and_the_plan_count_alike():
    """Of one floor and one reference both say the same, rows to write among it."""
    n, floor, reference = 12, 0.25, 1.0
    shares = changed(NEW, base=floor, constant=floor, reference_shuffled=0.0, reference=reference)
    strict = measured(shares, n=n)
    evidence = Evidence("general", strict, strict, trainings=LEARNED, prompting=WORKS, rows_an_item=3.0)
    planned = size_of_test(
        n, kind="general", floor=floor, reference=reference, rows_an_item=3.0, own_file=False, thresholds=HALF
    )
    reason = judge(evidence, HALF).reason
    assert f"The test set is too small: {planned.said}." in reason
    assert f"write about {3 * planned.needed} rows ({planned.needed} test items)" in reason


def test_every_reason_is_a_sentence():
    for shares in (FORM, LATENT, NEW, without(NEW, "prompt"), changed(NEW, reference=0.05), changed(NEW, base=0.99)):
        found = verdict(shares)
        assert found.reason.endswith((".", "?"))
        assert all(note.endswith(".") for note in found.notes)
        assert asdict(found)["outcome"] == found.outcome
