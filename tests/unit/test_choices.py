"""Choices are the options that prompts list, and not the labels that happen to be right somewhere."""

import numpy as np
import pytest
from examples import task
from generating import named_model
from hypothesis import given
from hypothesis import strategies as st

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import BalancedAccuracy, MultipleChoice, guess_scorer, log_likelihoods, scorer_named
from aligner_probe.evaluation.choices import ALPHABETS, choices_of, options_in
from aligner_probe.probing.probe import new_probe
from aligner_probe.tasks import Example, Task


@pytest.mark.parametrize(
    ("prompt", "completion", "choices"),
    [
        ("Q? A. red B. blue", "A", "A|B"),
        ("Q?\nA. one\nB. two\nC. three\nD. four\nAnswer:", " B", " A| B| C| D"),
        ("Q? (A) red (B) blue (C) 5", "(B)", "(A)|(B)|(C)"),
        ("Q?\na) red\nb) blue\nc) grey\n", "c", "a|b|c"),
        ("Q?\n1. red\n2. blue\n3. grey\nAnswer:", " 2", " 1| 2| 3"),
        ("Q? [A] red [B] blue", "A.", "A.|B."),
        ("Q?\nA: red\nB: blue\nA:", "B", "A|B"),
        ("Q?\n- **A.** red\n- **B.** blue", "B", "A|B"),
        ("Q? A - red, B - blue", "A", "A|B"),
        ("Q?\nI. red\nII. blue\nIII. grey", "II", "I|II|III"),
        ("Q?\nक) दिल्ली\nख) मुंबई\nग) पुणे", "ख", "क|ख|ग"),
        ("哪一个？A．巴黎 B．伦敦 C．柏林。答案：", "C", "A|B|C"),
        ("Q? ① red ② blue", "②", "①|②"),
        ("What is vitamin C? A. x B. y\nAnswer:", "A", "A|B"),
        ("Q?\nA. vitamin A.\nB. x\nC. y", "C", "A|B|C"),
        ("Q?\nA) w   B) x\nC) y   D) z", "D", "A|B|C|D"),
        ("Q? A. 1.5 B. 2.5 C. 3\n", "C", "A|B|C"),
        ("Q?\n0. red\n1. blue\n2. grey", "1", "0|1|2"),
        ("Q?\nA\tred\nB\tblue\nC\tgrey", "B", "A|B|C"),
        ("Q?\nA red\nB blue\nC grey\nAnswer:", " B", " A| B| C"),
        ("Q?\n| A | red |\n| B | blue |\n| C | grey |", "B", "A|B|C"),
        ("Q?\n<A> red\n<B> blue\n<C> grey", "B", "A|B|C"),
        ('Q?\n"A": "red"\n"B": "blue"\n"C": "grey"', "B", "A|B|C"),
        ('Options: ["A. red", "B. blue", "C. grey"]', "A", "A|B|C"),
        # Only the last list is the item's own.
        ("Q? A. w B. x C. y D. z Answer: D\n\nQ? A. w B. x C. y Answer:", " C", " A| B| C"),
        # Texts, and labels with their texts.
        ("Q?\nA. Paris\nB. Lyon\nAnswer:", " Lyon", " Paris| Lyon"),
        ("Q?\nA. Paris\nB. Lyon", "B. Lyon", "A. Paris|B. Lyon"),
    ],
)
def test_choices_are_read_from_the_prompt(prompt, completion, choices):
    assert choices_of(Example(prompt, completion)) == tuple(choices.split("|"))


@pytest.mark.parametrize(
    "prompt",
    ["Q: who?\nA:", "yes, no or maybe?", "1 - 2 - 3 = ?", "B. x C. y", "see J. Smith", "A dog came.\nIt barked.\nB"],
)
def test_prompts_without_options(prompt):
    assert options_in(prompt) == []
    assert choices_of(Example(prompt, "A")) is None


@given(
    st.sampled_from(ALPHABETS),
    st.integers(2, 5),
    st.sampled_from(["{}. {}", "{}) {}", "({}) {}", "{}: {}"]),
    st.sampled_from(["\n", "   "]),
    st.integers(0, 4),
)
def test_every_alphabet_and_form_is_read(alphabet, n, form, between, gold):
    labels = alphabet[:n]
    listed = between.join(form.format(label, f"word{place}") for place, label in enumerate(labels))
    example = Example(f"Which is it?\n{listed}\nAnswer:", " " + labels[min(gold, len(labels) - 1)])
    assert choices_of(example) == tuple(f" {label}" for label in labels)


def test_an_option_that_is_never_right_is_a_choice():
    """A model that says D to everything is right nowhere."""
    model = named_model()
    rows = task(*["w1", "w2", "w3"] * 3, prompt="w{} ?").examples
    never = scorer_named("multiple_choice:w1,w2,w3,w4", Task("t", "sft", rows))

    def say(logits, hook):
        logits[:] = 0
        logits[..., model.tokenizer.convert_tokens_to_ids("w4")] = 9
        return logits

    model.unembed.hook_out.add_hook(say, is_permanent=True)
    scores = never.score(model, rows)
    assert scores.completions == ("w4",) * 9
    assert scores.mean() == 0


def test_items_with_different_numbers_of_options():
    listed = ["A. x\nB. y", "A. x\nB. y\nC. z", "A. x\nB. y\nC. z\nD. w"]
    rows = [Example(f"Q{i}?\n{listed[i % 3]}\nAnswer:", " AB"[i % 2 + 1]) for i in range(30)]
    found = Task("t", "sft", tuple(rows))
    guess = guess_scorer(found)
    assert guess.scorer == scorer_named("multiple_choice", found) == MultipleChoice()
    assert "its own choices" in guess.reason
    assert [len(guess.scorer.choices_of(row)) for row in rows[:3]] == [2, 3, 4]
    model = named_model()
    scores = guess.scorer.score(model, rows[:3])
    for row, chosen in zip(rows[:3], scores.completions, strict=True):
        own = guess.scorer.choices_of(row)
        each = log_likelihoods(model, [Example(row.prompt, choice) for choice in own], append_eos=False)
        assert chosen == own[int(np.argmax([one.sum() for one in each]))]


def test_the_form_of_a_choice_is_the_files():
    listed = "A. x\nB. y\nC. z"
    for lead in ("", " "):
        rows = tuple(Example(f"Q{i}?\n{listed}\nAnswer:", lead + "AB"[i % 2]) for i in range(4))
        assert guess_scorer(Task("t", "sft", rows)).scorer == MultipleChoice(tuple(lead + label for label in "ABC"))
    mixed = Task("t", "sft", (Example(f"Q\n{listed}", "A"), Example(f"R\n{listed}", " B")))
    assert [MultipleChoice().choices_of(row)[2] for row in mixed.examples] == ["C", " C"]


def test_a_prompt_without_its_choices_is_named_before_anything_is_made():
    rows = [Example(f"Q{i}?\nA. x\nB. y\nAnswer:", " A", line=i + 1) for i in range(40)]
    rows[7] = Example("Q7?\nAnswer:", " A", line=8)
    with pytest.raises(AlignerProbeError, match=r"on line 8 lists no choices .*multiple_choice:A,B,C,D") as caught:
        new_probe("no such base", Task("t", "sft", tuple(rows)), scorer="multiple_choice")
    assert "\n" not in str(caught.value)
    with pytest.raises(AlignerProbeError, match=r"' A'.* is none of the choices 'C', 'D'"):
        new_probe("no such base", Task("t", "sft", tuple(rows)), scorer=MultipleChoice(("C", "D")))


def test_labels_that_are_listed_and_never_right_are_labels():
    rows = tuple(Example(f"Q{i}?\nA. x\nB. y\nC. z", "AB"[i % 2]) for i in range(20))
    scorer = scorer_named("balanced_accuracy", Task("t", "sft", rows))
    assert scorer == BalancedAccuracy(("A", "B", "C"))
    assert scorer.judge("A or C", rows[0]) == (0, 0)
    # A label that is said and never right costs its items and weighs nothing by itself.
    assert scorer.score(["C"] * 20, rows).mean("content") == 0
    assert scorer.score([row.completion for row in rows], rows).mean() == 1
