"""Compare the answers of two models to the same questions: a rule as the judge, both orders, ties, adjusted win rate.

The rule looks at the content first (is the answer true in the world?), then at the form (is it written as it should
be?), then at the length (is it too long?). Answers that agree in all three are a tie. The judge is a rule, not a human
or a language model: it measures these three things and nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from aligner_probe.errors import AlignerProbeError, one_of
from aligner_probe.evaluation.content import words
from aligner_probe.evaluation.intervals import Interval, bootstrap

Outcome = Literal["first", "second", "tie"]
#: Question's place and two answers, to the better one.
Judge = Callable[[int, str, str], Outcome]
#: An answer of more words than this many times the reference's is over-long.
LENGTH_CAP = 2.0
#: Of 10 points, as a share for content; the rest is for form.
CONTENT_SHARE = 0.6
_VALUES = {("first", "second"): 1.0, ("second", "first"): 0.0, ("tie", "tie"): 0.5}


@dataclass(frozen=True)
class Marks:
    """What the rule finds in one answer."""

    content: bool
    form: bool
    overlong: bool = False

    @property
    def points(self) -> float:
        """Single-answer score of 10: 6 for content, 4 for form."""
        return 10 * (CONTENT_SHARE * self.content + (1 - CONTENT_SHARE) * self.form)


@dataclass(frozen=True)
class Match:
    """Outcomes of one model against another: 1 a win, 1/2 a tie, 0 a loss; one row a seed, one column a question.

    `order_dependent` counts comparisons that came out differently when the answers changed places; they are ties.
    """

    outcomes: Float[np.ndarray, "seeds questions"]
    order_dependent: int

    @property
    def wins(self) -> int:
        return int((self.outcomes == 1).sum())

    @property
    def losses(self) -> int:
        return int((self.outcomes == 0).sum())

    @property
    def ties(self) -> int:
        return int((self.outcomes == 0.5).sum())

    @property
    def win_rate(self) -> Interval:
        """(wins + ties / 2) / n, with its bootstrap interval over questions and seeds."""
        return adjusted_win_rate(self.outcomes)


def is_overlong(answer: str, reference: str) -> bool:
    """Whether an answer has more words than the cap allows."""
    return len(words(answer)) > LENGTH_CAP * len(words(reference))


def better(first: Marks, second: Marks) -> Outcome:
    """The rule: content, then form, then length."""
    for a, b in ((first.content, second.content), (first.form, second.form), (not first.overlong, not second.overlong)):
        if a != b:
            return "first" if a else "second"
    return "tie"


def match(ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]], judge: Judge) -> Match:
    """Judge every question in both orders; what does not come out the same both times is a tie.

    `ours` and `theirs` hold the answers of each seed; seeds are paired in their order. Raises AlignerProbeError where
    seeds or questions differ in number, or the judge gives another outcome.
    """
    shapes = [[len(row) for row in rows] for rows in (ours, theirs)]
    if shapes[0] != shapes[1] or len(set(shapes[0])) != 1 or shapes[0][0] == 0:
        raise AlignerProbeError(f"answers to {shapes[0]} and {shapes[1]} questions; expected as many, a row a seed")
    verdicts = [
        [(judge(place, a, b), judge(place, b, a)) for place, (a, b) in enumerate(zip(mine, other, strict=True))]
        for mine, other in zip(ours, theirs, strict=True)
    ]
    for pair in (pair for row in verdicts for pair in row):
        for outcome in pair:
            one_of(outcome, get_args(Outcome), "the judge's outcome")
    outcomes = np.array([[_VALUES.get(pair, 0.5) for pair in row] for row in verdicts])
    return Match(outcomes, sum(pair not in _VALUES for row in verdicts for pair in row))


def adjusted_win_rate(outcomes: Float[np.ndarray, "..."]) -> Interval:
    """Mean of 1 a win, 1/2 a tie, 0 a loss, with a 95 % bootstrap interval over questions (and seeds)."""
    return bootstrap(lambda mean: mean, outcomes)


def outcomes_of(wins: int, losses: int, ties: int) -> Float[np.ndarray, " questions"]:
    """Outcomes with these counts, as a table prints them."""
    return np.repeat([1.0, 0.0, 0.5], [wins, losses, ties])
