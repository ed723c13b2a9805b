"""The judge of the paper's Tables 2 and 3 on this project's questions: content first, then form, then length.

The judge is a rule, not a person and not a language model. The rule itself is in `evaluation/judging.py`; this module
gives the marks of an answer to an `Item`. What comes after the length cap of an answer is not read for its content.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from aligner_probe.evaluation.content import words
from aligner_probe.evaluation.judging import LENGTH_CAP, Judge, Marks, Match, Outcome, better, is_overlong, match
from aligner_probe.reproduction.items import Item


def marks(item: Item, answer: str) -> Marks:
    """The marks of an answer; its content counts only within the length cap."""
    cap = int(LENGTH_CAP * len(words(item.reference)))
    _, content, _ = item.scores(_first_words(answer, cap))
    _, _, form = item.scores(answer)
    return Marks(content, form, is_overlong(answer, item.reference))


def judge_of(items: Sequence[Item]) -> Judge:
    """The judge of these questions, in the form that `match` calls: by the index of a question and two answers."""

    def judge(index: int, first: str, second: str) -> Outcome:
        return better(marks(items[index], first), marks(items[index], second))

    return judge


def compare(items: Sequence[Item], ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]) -> Match:
    """Compare the answers of two models: wins, losses, ties, and the adjusted win rate with its interval.

    `ours` and `theirs` have a row for each seed and an answer for each question. Raises AlignerProbeError where they
    differ in their number of seeds or questions.
    """
    return match(ours, theirs, judge_of(items))


def points(items: Sequence[Item], answers: Sequence[Sequence[str]]) -> Float[np.ndarray, "seeds questions"]:
    """Scores of single answers from 0 to 10, a row for each seed: 6 for the content and 4 for the form."""
    return np.array([[marks(item, text).points for item, text in zip(items, row, strict=True)] for row in answers])


def _first_words(text: str, n: int) -> str:
    """A text up to the end of its n-th word."""
    words_in_text = list(re.finditer(r"\w+", text))
    return text if len(words_in_text) <= n else text[: words_in_text[n - 1].end()] if n else ""
