"""R_soft decides what one token cannot: whether any prompt reaches it. A form is judged where content is known."""

from dataclasses import replace

import numpy as np
import pytest
from evidences import FORM, HALF, LATENT, LEARNED, NEW, NOTHING, WORKS, N, measured, table

from aligner_probe.evaluation.intervals import Interval
from aligner_probe.probing.verdicts.evidence import Evidence, ReferenceTraining
from aligner_probe.probing.verdicts.measures import Table, floors_of, measure
from aligner_probe.probing.verdicts.soft_prompts import has_trained
from aligner_probe.probing.verdicts.verdict import judge

SOFT = "prompt-tuning-10"


def likelihoods(soft):
    """The mean log-probability of an answer: shuffled answers teach a part of it, `soft` is that of the soft prompt."""
    nats = {"base": -5.0, "prompt": -4.0, "reference-shuffled": -2.5, "aligner-1": -4.0, "aligner-1-shuffled": -4.0}
    shift = np.random.default_rng(0).normal(0, 0.1, N)
    rows = {arm: np.array([value + shift]) for arm, value in (nats | {"reference": -0.1, SOFT: soft}).items()}
    return measure(Table(rows), floors=floors_of("likelihood"), n_resamples=200)


def evidence(shares, soft, *, train=1.0, nats=-2.4, **more):
    strict = measured(shares | {SOFT: soft})
    content = more.pop("content", strict)
    given = {"trainings": LEARNED, "prompting": WORKS, "soft_train": train, "likelihood": likelihoods(nats)} | more
    return Evidence("general", strict, content, **given)


@pytest.mark.parametrize(
    ("shares", "soft", "outcome"),
    [
        (FORM, 0.97, "form"),
        (LATENT, 0.9, "latent"),
        (NEW, 0.02, "new"),
        # One token holds a part of something new, as one token got .15 of a digit code on a real base.
        (NEW | {"aligner-1": 0.7}, 0.02, "new"),
        # A skill behind a lock in a known style: one token reaches nothing of it, ten trained vectors most.
        (NEW, 0.76, "latent"),
        # A prompt is enough for form, whatever one token does.
        (FORM | {"aligner-1": 0.05}, 0.97, "form"),
    ],
)
def test_r_soft_decides_where_a_soft_prompt_has_trained(shares, soft, outcome):
    made = judge(evidence(shares, soft, likelihood=None, train=1.0), HALF)
    assert made.outcome == outcome
    assert "R_soft = " in made.reason
    assert "R1 = " in made.reason


def test_a_soft_prompt_between_the_poles_decides_nothing():
    made = judge(evidence(NEW, 0.5), HALF)
    assert made.outcome == "undetermined"
    assert "R_soft = 0.4" in made.reason
    assert "on both sides" in made.reason


def test_a_soft_prompt_that_has_not_trained_says_nothing():
    """Neither the trained items nor the likelihood that shuffled answers teach: it says nothing of prompts."""
    made = judge(evidence(NEW, 0.0, train=0.0, nats=-4.8), HALF)
    assert made.outcome == "undetermined"
    assert "the soft prompt has not trained" in made.reason
    # Then one token may still show that the task is there.
    reached = judge(evidence(LATENT, 0.0, train=0.0, likelihood=None), HALF)
    assert reached.outcome == "latent"
    assert "(not trained)" in reached.reason


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        ({}, False),
        ({"nats": -2.4}, True),
        ({"nats": -4.0}, False),
        ({"train": 0.6}, True),
        (
            {"format": measured(NOTHING | {"prompt": 0.0, "aligner-1": 0.0, "reference": 1.0, SOFT: 0.8}, "format")},
            True,
        ),
        (
            {"format": measured(NOTHING | {"prompt": 0.0, "aligner-1": 0.0, "reference": 1.0, SOFT: 0.1}, "format")},
            False,
        ),
    ],
)
def test_when_a_soft_prompt_has_trained(changes, trained):
    made = evidence(NEW, 0.0, **{"train": 0.0, "nats": -4.8} | changes)
    assert has_trained(made, made.strict, HALF) is trained


def test_what_no_soft_prompt_reaches_is_new_even_where_prompts_in_words_say_nothing():
    mute = Interval(0.1, 0.05, 0.2)
    assert judge(evidence(NEW, 0.02, prompting=mute), HALF).outcome == "new"
    reached = judge(evidence(LATENT, 0.9, prompting=mute, likelihood=None), HALF)
    assert reached.outcome == "undetermined"
    assert "form and latent are not separated" in reached.reason
    assert judge(evidence(NEW, 0.02, most_shots=0), HALF).outcome == "new"


def test_shuffled_answers_that_teach_as_much_speak_against_a_soft_prompt_too():
    made = judge(evidence(LATENT | {"aligner-1-shuffled": 0.9}, 0.9, likelihood=None), HALF)
    assert made.outcome == "undetermined"
    assert "speaks against it: R_soft" in made.reason


KNOWN = np.arange(N) < round(0.66 * N)


def half_known(shares):
    """Scores of a form on a base that knows .66 of the contents, which training does not change."""
    scores = {arm: rows * KNOWN for arm, rows in table(shares).scores.items()}
    content = {arm: np.tile(KNOWN.astype(float), (len(rows), 1)) for arm, rows in scores.items()}
    strict = Table(scores)
    return {
        "strict": measure(strict, n_resamples=300),
        "known": measure(strict.only(KNOWN), n_resamples=300),
        "content": measure(Table(content), n_resamples=300),
    }


UNKNOWN_CEILING = (ReferenceTraining("lora-8", 0.65, 0.02, 0.7, 0.02),)


@pytest.mark.parametrize(("shares", "soft", "outcome"), [(FORM, 0.97, "form"), (LATENT, 0.9, "latent")])
def test_the_form_is_judged_where_the_base_knows_the_content(shares, soft, outcome):
    """The validation score can never be .95 here, and one capacity alone was tried."""
    kinds = half_known(shares | {SOFT: soft})
    made = Evidence(
        "general", kinds["strict"], kinds["content"], known=kinds["known"], known_share=0.66, prompting=WORKS,
        trainings=UNKNOWN_CEILING, soft_train=0.66,
    )  # fmt: skip
    found = judge(made, HALF)
    assert found.parts["strict"].name == "undetermined"
    assert found.outcome == outcome
    assert found.decided_by == "known"
    assert "On the 0.66 of the items whose content the base knows" in found.reason
    assert judge(replace(made, known=None), HALF).outcome == "undetermined"


def test_a_form_that_costs_content_is_not_new():
    """Adapters reach the form of every answer and lose the content that the base knew: nothing of it is new."""
    lossy = NOTHING | {"prompt": 0.1, "aligner-1": 0.05, SOFT: 0.15, "reference": 0.97}
    kinds = half_known(lossy)
    form = measured(FORM | {SOFT: 1.0}, "format")
    made = Evidence(
        "general", kinds["strict"], kinds["content"], format=form, prompting=WORKS, soft_train=0.1,
        trainings=LEARNED, known_share=0.66,
    )  # fmt: skip
    found = judge(made, HALF)
    assert found.parts["strict"].name == "new"
    assert found.outcome == "form"
    assert found.decided_by == "format"
    assert "Training teaches no content" in found.reason


def test_known_items_decide_nothing_where_the_reference_loses_their_content():
    """As for names in capital letters on a real base: all write the form, and training loses what stands in it."""
    lossy = NOTHING | {"prompt": 0.02, "aligner-1": 0.1, SOFT: 0.43, "reference": 0.45}
    kinds = half_known(lossy)
    made = Evidence(
        "general", kinds["strict"], kinds["content"], known=kinds["known"], known_share=0.66, prompting=WORKS,
        trainings=tuple(ReferenceTraining(name, 0.3, 0.0, 0.4, 0.0) for name in ("lora-8", "lora-16-all")),
        soft_train=0.43, format=measured(FORM | {SOFT: 1.0}, "format"),
    )  # fmt: skip
    found = judge(made, HALF)
    assert (found.outcome, found.decided_by) == ("form", "format")
    assert "right on 0.48 of the items whose content the base knows" in found.parts["known"].reason
    assert found.parts["known"].name == "undetermined"
    assert judge(replace(made, format=None), HALF).decided_by == "strict"


def test_an_unknown_style_over_known_content_is_mixed():
    kinds = half_known(NEW | {SOFT: 0.02})
    made = Evidence(
        "general", kinds["strict"], kinds["content"], known=kinds["known"], known_share=0.66, prompting=WORKS,
        trainings=UNKNOWN_CEILING, soft_train=0.66,
    )  # fmt: skip
    assert judge(made, HALF).outcome == "mixed"
