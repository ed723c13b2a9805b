"""From the items of several models to their scores, and to the differences of two models on the same items.

Two models are compared item by item. A test that takes their scores for those of two samples of items (the default of
many tools) misses differences that are plain on the same items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import Discordance, Interval, difference_interval, mcnemar, mean_interval
from aligner_probe.harness.items import Answered, Metric

#: Resamples of a bootstrap, and those where there are more than MANY items, whose intervals vary less.
RESAMPLES, FEWER, MANY = 10_000, 2_000, 2_000


@dataclass(frozen=True)
class Score:
    """What a model reaches in a metric: the mean over items with its 95 % bootstrap interval and standard error.

    Where the metric is no mean of items, the value is lm-eval's own, and there is neither interval nor error.
    """

    metric: str
    filter: str
    model: str
    n: int
    value: float | None
    interval: Interval | None
    standard_error: float | None


@dataclass(frozen=True)
class Difference:
    """The score of `one` minus that of `other` on the same n items, with its paired 95 % bootstrap interval.

    `discordant` has McNemar's exact test where every score is 0 or 1.
    """

    metric: str
    filter: str
    one: str
    other: str
    n: int
    interval: Interval
    discordant: Discordance | None


@dataclass(frozen=True)
class Comparison:
    """The scores of all models in a benchmark, and the differences of all pairs of them."""

    scores: list[Score]
    differences: list[Difference]


def compare(answered: Mapping[str, Mapping[str, Answered]], seed: int = 0) -> dict[str, Comparison]:
    """The comparison of models in each benchmark; `answered` is by benchmark and model, and `seed` of the bootstraps.

    Raises AlignerProbeError where two models answered other items.
    """
    return {name: Comparison(scores_of(its, seed), differences_of(its, seed)) for name, its in answered.items()}


def scores_of(answered: Mapping[str, Answered], seed: int = 0) -> list[Score]:
    """The scores of all models in all metrics of a benchmark. Items of several tasks are pooled."""
    scores = []
    for metric, filter_name in _metrics(answered):
        for model, its in answered.items():
            values = _values(its, metric, filter_name)
            if values is None:
                n = sum(item.filter == filter_name and metric in item.scores for item in its.items)
                scores.append(Score(metric, filter_name, model, n, _own_value(its, metric, filter_name), None, None))
                continue
            interval = mean_interval(values, seed=seed, n_resamples=_resamples(len(values)))
            error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
            scores.append(Score(metric, filter_name, model, len(values), interval.value, interval, error))
    return scores


def differences_of(answered: Mapping[str, Answered], seed: int = 0) -> list[Difference]:
    """The differences of all pairs of models, later ones minus earlier ones, in metrics that are means of items.

    Raises AlignerProbeError where two models answered other items.
    """
    differences = []
    for metric, filter_name in _metrics(answered):
        for first, second in combinations(answered, 2):
            a, b = answered[second], answered[first]
            _check_same_items(second, a, first, b)
            one, other = _values(a, metric, filter_name), _values(b, metric, filter_name)
            if one is None or other is None:
                continue
            interval = difference_interval(one, other, seed=seed, n_resamples=_resamples(len(one)))
            binary = bool(np.isin([one, other], (0.0, 1.0)).all())
            discordant = mcnemar(one, other) if binary else None
            differences.append(Difference(metric, filter_name, second, first, len(one), interval, discordant))
    return differences


def _metrics(answered: Mapping[str, Answered]) -> Sequence[tuple[str, str]]:
    """The metrics and filters of a benchmark, each once."""
    return list(dict.fromkeys((one.metric, one.filter) for its in answered.values() for one in its.metrics))


def _values(answered: Answered, metric: str, filter_name: str) -> Float[np.ndarray, " items"] | None:
    """The scores of the items in a metric; None where its value is no mean of them in some task."""
    if not all(one.is_mean for one in _same(answered, metric, filter_name)):
        return None
    chosen = (item.scores.get(metric) for item in answered.items if item.filter == filter_name)
    values = np.array([score for score in chosen if score is not None], dtype=np.float64)
    return values if len(values) else None


def _own_value(answered: Answered, metric: str, filter_name: str) -> float | None:
    """lm-eval's value of a metric in a single task; None for several tasks."""
    own = _same(answered, metric, filter_name)
    return own[0].value if len(own) == 1 else None


def _same(answered: Answered, metric: str, filter_name: str) -> list[Metric]:
    return [one for one in answered.metrics if (one.metric, one.filter) == (metric, filter_name)]


def _check_same_items(one: str, a: Answered, other: str, b: Answered) -> None:
    def items(answered: Answered) -> list[tuple[str, int, str]]:
        return [(item.task, item.doc_id, item.filter) for item in answered.items]

    if a.prompts != b.prompts or items(a) != items(b):
        raise AlignerProbeError(
            f"{one} and {other} answered other items, so they cannot be compared item by item; ask both into a new "
            "folder: --out DIR"
        )


def _resamples(n: int) -> int:
    return RESAMPLES if n <= MANY else FEWER
