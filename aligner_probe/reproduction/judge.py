"""The rule-based judge of the paper's Tables 2 and 3, on this project's questions: content, then form, then length.

It is a rule, not a human or a language model. `evaluation/judging.py` has the rule itself; this says what its marks are
for an answer to an `Item`. What is beyond the length cap is not read.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from aligner_probe.evaluation.content import words
from aligner_probe.evaluation.judging import LENGTH_CAP, Judge, Marks, Match, Outcome, better, is_overlong, match
from aligner_probe.reproduction.items import Item


def marks(item: Item, answer: str) -> Marks:
    """What the rule finds in an answer; its content is looked for within the length cap."""
    cap = int(LENGTH_CAP * len(words(item.reference)))
    _, content, _ = item.scores(_first_words(answer, cap))
    _, _, form = item.scores(answer)
    return Marks(content, form, is_overlong(answer, item.reference))


def judge_of(items: Sequence[Item]) -> Judge:
    """The judge of these questions, as `match` calls it."""

    def judge(place: int, first: str, second: str) -> Outcome:
        return better(marks(items[place], first), marks(items[place], second))

    return judge


def compare(items: Sequence[Item], ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]) -> Match:
    """One model's answers against another's, a row a seed: wins, losses, ties, adjusted win rate with its interval.

    Raises AlignerProbeError where seeds or questions differ in number.
    """
    return match(ours, theirs, judge_of(items))


def points(items: Sequence[Item], answers: Sequence[Sequence[str]]) -> Float[np.ndarray, "seeds questions"]:
    """Single-answer scores of 10, a row a seed: 6 for content and 4 for form."""
    return np.array([[marks(item, text).points for item, text in zip(items, row, strict=True)] for row in answers])


def _first_words(text: str, n: int) -> str:
    """A text up to the end of its n-th word."""
    found = list(re.finditer(r"\w+", text))
    return text if len(found) <= n else text[: found[n - 1].end()] if n else ""
