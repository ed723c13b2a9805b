"""The dose of examples: how many training examples LoRA r=8 needs for half of what it learns from all of them.

A base model that can do a task already needs to see it a few times; what is new has to be taught by many examples. The
curve between the numbers of examples that were tried is that of `doses.py`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aligner_probe.evaluation.intervals import Interval
from aligner_probe.probing.verdicts.doses import Dose, dose_between


@dataclass(frozen=True)
class ExamplePoint:
    """The share of the gap that an arm recovers from a number of training examples (of facts, in a memory task)."""

    arm: str
    n_examples: int
    recovered: Interval


@dataclass(frozen=True)
class ExampleDose:
    """The points in ascending order, and the number of examples from which R is .5 of the reference or more (k50)."""

    points: tuple[ExamplePoint, ...]
    k50: Dose

    @property
    def number(self) -> float:
        """The dose as one number: the smallest that was tried where that suffices, infinite where none does."""
        return one_number(vars(self.k50), beyond=math.inf)


def one_number(k50: Mapping[str, Any], beyond: float) -> float:
    """A dose, by the names of its fields, as one number: the smallest that was tried where that suffices.

    `beyond` is the number for a dose above all that were tried.
    """
    if k50["at_most"] is None:
        return beyond
    if k50["above"] is None:
        return float(k50["tried"][0])
    return float(k50["at_most"] if k50["value"] is None else k50["value"])


def example_dose(n_examples: dict[str, int], interval: Callable[..., Interval]) -> ExampleDose:
    """The dose of examples of arms that differ in them alone.

    Args:
        n_examples: by arm, the number of its training examples; at least one arm. Where several arms have the same
            number, because the task has no more, the last one counts.
        interval: `interval(statistic, *arms)` gives the interval of a function of these arms' recovered shares.
    """
    arm_of = {n: arm for arm, n in n_examples.items()}
    ordered = sorted(arm_of)
    points = tuple(ExamplePoint(arm_of[n], n, interval(lambda recovered: recovered, arm_of[n])) for n in ordered)
    return ExampleDose(points, dose_between(0.5, [(p.arm, p.n_examples, p.recovered.value) for p in points], interval))
