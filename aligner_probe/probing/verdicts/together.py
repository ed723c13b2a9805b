"""How well several measures separate the natures together: a logistic regression that never saw the task it scores.

All draws of a task are left out, the other tasks set the coefficients, and the task gets its score from them. So a
measure that separates only by accident does not help. The measures are put on one scale (mean 0, spread 1 of the tasks
that set the coefficients). Tasks weigh the same, however many draws they have, and so do both sides. The AUROC of the
scores and its interval are those of a single measure (`separators.py`). The interval takes the scores as given: it does
not count that they come from nearly the same tasks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import Interval
from aligner_probe.probing.verdicts.separators import COSTS, EXAMPLES, KnownTask, auroc, auroc_interval


@dataclass(frozen=True)
class Together:
    """How well measures separate the tasks of some natures from those of others.

    Args:
        measures: the measures, names of arms or costs.
        above: the natures that shall have the higher scores.
        below: the natures of the other side.
        auroc: AUROC of the scores.
        scores: by (task, draw), the score that the other tasks' coefficients give it, in logits; above 0 it lies with
            `above`.
        n_right: the number of draws on the right side of 0.
    """

    measures: tuple[str, ...]
    above: tuple[str, ...]
    below: tuple[str, ...]
    auroc: Interval
    scores: dict[tuple[str, int], float]
    n_right: int


def together(
    tasks: Sequence[KnownTask],
    measures: Sequence[str],
    above: Sequence[str],
    below: Sequence[str],
    confidence: float = 0.95,
) -> Together:
    """Separate the tasks of the natures `above` from those of `below` by several measures at once.

    Args:
        tasks: tasks that have a value of every measure; those of other natures take no part.
        measures: names of arms, or costs (`separators.COSTS`).
        above: natures, for instance form and latent.
        below: natures, for instance new.
        confidence: the confidence of the interval.

    Raises:
        AlignerProbeError: there are fewer than two tasks on a side, or a task lacks a measure.
    """
    taking_part = [task for task in tasks if task.nature in (*above, *below)]
    lacking = sorted({f"{name} of {task.name}" for task in taking_part for name in set(measures) - task.measures})
    sides = [{task.name for task in taking_part if task.nature in side} for side in (above, below)]
    if lacking or min(map(len, sides)) < 2:
        raise AlignerProbeError(
            f"{len(sides[0])} tasks against {len(sides[1])}, without {', '.join(lacking) or 'a gap'}; expected two "
            "tasks or more on each side, and every measure of each: probe them with the standard budget"
        )
    values = np.array([[_feature(task, name) for name in measures] for task in taking_part])
    truth = np.array([task.nature in above for task in taking_part])
    names = np.array([task.name for task in taking_part])
    logits = np.empty(len(taking_part))
    for name in np.unique(names):
        out = names == name
        logits[out] = _scores(values[~out], truth[~out], _weights(names[~out], truth[~out]), values[out])
    by_task = [
        [[float(logit) for logit in logits[names == name]] for name in np.unique(names[side])]
        for side in (truth, ~truth)
    ]
    value = auroc(*by_task)
    return Together(
        tuple(measures),
        tuple(above),
        tuple(below),
        auroc_interval(value, min(map(len, sides)), confidence),
        {(task.name, task.draw): float(logit) for task, logit in zip(taking_part, logits, strict=True)},
        int(((logits > 0) == truth).sum()),
    )


def _feature(task: KnownTask, measure: str) -> float:
    """A measure as the regression takes it: numbers of examples by their logarithm, since doses span decades."""
    if measure in COSTS:
        return -math.log2(task.costs[measure]) if measure == EXAMPLES else -task.costs[measure]
    return task.shares[measure]


def _weights(names: np.ndarray, truth: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Weights with which the draws of one task weigh as one, and both sides the same; they add up to the tasks."""
    _, task, draws = np.unique(names, return_inverse=True, return_counts=True)
    weights = 1 / draws[task]
    sides = np.where(truth, weights[truth].sum(), weights[~truth].sum())
    return weights / sides * len(draws) / 2


def _scores(
    values: Float[np.ndarray, "n measures"],
    truth: Bool[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    of: Float[np.ndarray, "others measures"],
) -> Float[np.ndarray, " others"]:
    """The logits of the rows `of`, by the coefficients that the other tasks set."""
    from sklearn.linear_model import LogisticRegression

    mean = np.average(values, axis=0, weights=weights)
    spread = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
    scale = np.where(spread > 0, spread, 1.0)
    # With the penalty that is scikit-learn's default. Without one, tasks that are told apart without an error would
    # have coefficients without bounds.
    model = LogisticRegression().fit((values - mean) / scale, truth, sample_weight=weights)
    return model.decision_function((of - mean) / scale)
