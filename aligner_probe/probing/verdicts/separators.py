"""How well each measure of a probe separates tasks that are new from those that are form or latent.

The measure of an arm is its share of the gap between floor and reference (`measures.py`). Two other measures are costs,
which say what the reference took to learn the task: bits (excess description length) and examples (the dose). Of a cost
the lower value counts as the higher. Measures are compared on general tasks whose nature is known and whose reference
learned them. The area under the ROC curve (AUROC) of a measure is the probability that a task of one nature has a
higher value than a task of another, where ties count one half. `together.py` puts measures together.

A task that is drawn anew with another seed is no other task, so the draws of one task weigh together as one. The
intervals count tasks, not draws.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import rel_entr

from aligner_probe.arms.names import (
    ALIGNER_1,
    ALIGNER_10,
    ALIGNER_100,
    FLOORS,
    LLAMA_ADAPTER_10,
    LORA_1,
    LORA_8,
    OUTPUT_BIAS,
    PROMPT,
    PROMPT_TUNING,
    RANDOM_SUBSPACE,
    REFERENCE,
)
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import Interval
from aligner_probe.probing.verdicts.example_doses import one_number
from aligner_probe.probing.verdicts.measures import recovery
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS

#: The arms whose shares are compared.
SEPARATORS = (
    PROMPT,
    PROMPT_TUNING,
    ALIGNER_1,
    ALIGNER_10,
    ALIGNER_100,
    "gates-only",
    OUTPUT_BIAS,
    RANDOM_SUBSPACE,
    LLAMA_ADAPTER_10,
    LORA_1,
)
#: What the reference took to learn the task: excess description length in bits an example, and the dose of examples.
BITS, EXAMPLES = "bits", "examples"
COSTS = (BITS, EXAMPLES)
#: The natures that are separated.
FORM, LATENT, NEW = "form", "latent", "new"
#: An expectation below this counts as 0.
LEAST = 1e-12
#: The shares of one nature: for each task, those of all its draws.
Shares = Sequence[Sequence[float]]


@dataclass(frozen=True)
class KnownTask:
    """A draw of a general task of known nature.

    Args:
        name: the task, which all its draws share.
        nature: "form", "latent" or "new".
        draw: the seed that drew it.
        shares: by arm, the share of the gap between floor and reference; no unit.
        costs: what the reference took, in bits an example ("bits") and in examples ("examples"); empty where that was
            not measured.
    """

    name: str
    nature: str
    draw: int
    shares: dict[str, float]
    costs: dict[str, float] = field(default_factory=dict)

    def value(self, measure: str) -> float:
        """The value of a measure, higher where the task is easier to reach: the share of an arm, or less the cost."""
        return -self.costs[measure] if measure in COSTS else self.shares[measure]

    @property
    def measures(self) -> set[str]:
        """The measures that the task has a value of."""
        return {*self.shares, *self.costs}


@dataclass(frozen=True)
class Separation:
    """How well the value of one measure separates the natures.

    Args:
        arm: the arm whose share it is, or the cost.
        reached: AUROC of form and latent tasks over new ones.
        form_over_latent: AUROC of form tasks over latent ones.
        form_over_rest: AUROC of form tasks over latent and new ones.
        lowest: the lowest value among the form and latent tasks.
        highest: the highest value among the new tasks.
    """

    arm: str
    reached: Interval
    form_over_latent: Interval
    form_over_rest: Interval
    lowest: float
    highest: float

    @property
    def distance(self) -> float:
        """The lowest value of form and latent less the highest of new; negative where they overlap."""
        return self.lowest - self.highest


def shares_of(scores: dict[str, float]) -> dict[str, float] | None:
    """The share of the gap of every arm, from mean scores by arm.

    None where the reference is not more than `least_gap` above the floor, because it learned nothing then.
    """
    reference, floors = scores[REFERENCE], [scores[arm] for arm in FLOORS if arm in scores]
    if reference - max(floors) <= THRESHOLDS.least_gap:
        return None
    return {arm: float(recovery(score, reference, *floors)) for arm, score in scores.items() if arm not in FLOORS}


def soft_share(scores: dict[str, float]) -> float | None:
    """R_soft from mean scores by arm; None where prompt tuning was not run, or the reference did not learn."""
    shares = shares_of(scores)
    return None if shares is None else shares.get(PROMPT_TUNING)


def costs_of(row: dict[str, Any]) -> dict[str, float]:
    """What the reference took to learn a task, from its row in a panel's results; only what was measured.

    A dose that lies above all numbers of examples is taken as twice the largest of them, and one below as the smallest.
    """
    costs = {}
    bits, dose = row.get("bits", {}).get(LORA_8), row.get("dose")
    if bits is not None:
        costs[BITS] = bits["an_example"]
    if dose is not None:
        costs[EXAMPLES] = one_number(dose["k50"], beyond=2.0 * dose["k50"]["tried"][1])
    return costs


def general_tasks(panel: dict[str, Any]) -> tuple[list[KnownTask], dict[str, list[str]]]:
    """The tasks of a panel's results that can be compared, and the names of the others by the reason for that.

    The reasons are "mixed", "control", "open" (natures that are not separated), "memory", and "reference did not
    learn". `panel` is what `aligner-probe probe panel --json` writes.
    """
    tasks: list[KnownTask] = []
    left_out: dict[str, list[str]] = {}
    for row in panel["tasks"]:
        shares = shares_of(row["scores"])
        if row["nature"] not in (FORM, LATENT, NEW):
            left_out.setdefault(row["nature"], []).append(row["task"])
        elif row["kind"] == "memory":
            left_out.setdefault("memory", []).append(row["task"])
        elif shares is None:
            left_out.setdefault("reference did not learn", []).append(row["task"])
        else:
            tasks.append(KnownTask(row["task"], row["nature"], panel.get("draw", 0), shares, costs_of(row)))
    return tasks, left_out


def auroc(above: Shares, below: Shares) -> float:
    """The probability that a task of `above` has a higher share than one of `below`; ties count one half.

    Every task weighs the same, however many draws it has. Raises AlignerProbeError where one side has no task.
    """
    if not len(above) or not len(below):
        raise AlignerProbeError(
            f"{len(above)} tasks against {len(below)}; an AUROC needs tasks on both sides: probe tasks of "
            "other natures too"
        )
    return float(np.mean([[_wins(one, other) for other in below] for one in above]))


def auroc_interval(value: float, n: int, confidence: float = 0.95) -> Interval:
    """The interval of an AUROC that assumes nothing about how the shares are distributed.

    An AUROC of two sides with at least n independent tasks each is a mean over ways to match them into n independent
    pairs. Therefore it strays from its expectation theta no more often than a mean of n independent values between 0
    and 1 does, and P(AUROC >= a) <= exp(-n KL(a, theta)) for a >= theta. The interval holds all theta for which both
    tails are at least (1 - confidence) / 2. Where the sides do not overlap, the lower bound is the n-th root of that.

    A bootstrap over tasks would say [1, 1] there, however few tasks there are.

    Args:
        value: the AUROC, 0 to 1.
        n: the number of tasks on the smaller side; draws of one task count once.
        confidence: the confidence.

    Raises:
        AlignerProbeError: the AUROC is not between 0 and 1, or there is no task.

    Source:
        Hoeffding (1963), Probability inequalities for sums of bounded random variables, theorem 1 and section 5.
    """
    if not 0 <= value <= 1 or n < 1 or not 0 < confidence < 1:
        raise AlignerProbeError(
            f"an AUROC of {value} from {n} tasks at confidence {confidence}; expected an AUROC between 0 and 1, at "
            "least one task, and a confidence between 0 and 1"
        )
    allowed = math.log(2 / (1 - confidence)) / n
    # The bounds mirror each other: what is the AUROC one way is 1 less it the other way.
    low, high = _lowest_expectation(value, allowed), 1 - _lowest_expectation(1 - value, allowed)
    return Interval(value, low, high, confidence)


def separation(tasks: Iterable[KnownTask], arm: str, confidence: float = 0.95) -> Separation:
    """How well the share of this arm, or this cost, separates the natures of these tasks, which all have a value of it.

    Raises AlignerProbeError where a nature has no task.
    """
    shares: dict[str, dict[str, list[float]]] = {FORM: {}, LATENT: {}, NEW: {}}
    for task in tasks:
        shares[task.nature].setdefault(task.name, []).append(task.value(arm))
    form, latent, new = (list(shares[nature].values()) for nature in (FORM, LATENT, NEW))

    def compared(above: Shares, below: Shares) -> Interval:
        return auroc_interval(auroc(above, below), min(len(above), len(below)), confidence)

    return Separation(
        arm,
        reached=compared([*form, *latent], new),
        form_over_latent=compared(form, latent),
        form_over_rest=compared(form, [*latent, *new]),
        lowest=min(map(min, [*form, *latent])),
        highest=max(map(max, new)),
    )


def better(tasks: Sequence[KnownTask], one: str, other: str, confidence: float = 0.95) -> Interval:
    """How much higher the AUROC of form and latent over new is by the share of one arm than by that of another.

    The interval is that between the corners of both arms' intervals, each at half the error (Bonferroni), so that it
    needs no assumption about how the two depend on each other.
    """
    ours, theirs = (separation(tasks, arm, (1 + confidence) / 2).reached for arm in (one, other))
    return Interval(ours.value - theirs.value, ours.low - theirs.high, ours.high - theirs.low, confidence)


def _wins(one: Sequence[float], other: Sequence[float]) -> float:
    difference = np.subtract.outer(np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64))
    return float(np.mean((difference > 0) + (difference == 0) / 2))


def _lowest_expectation(value: float, allowed: float) -> float:
    """The lowest theta from which `value` is no further than `allowed`, as a relative entropy in nats."""

    def excess(theta: float) -> float:
        return float(rel_entr(value, theta) + rel_entr(1 - value, 1 - theta)) - allowed

    if excess(LEAST) <= 0:
        return 0.0
    # SciPy's stubs leave open whether a report comes with the root; without `full_output` none does.
    return float(brentq(excess, LEAST, value, xtol=LEAST))  # pyright: ignore[reportArgumentType]
