"""Means and differences of points of 10, with intervals; None stands for an answer without points.

The intervals of `evaluation/intervals.py` are for scores from 0 to 1, so points are turned to that scale, and back.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from aligner_probe.evaluation.intervals import Interval, difference_interval, mean_interval
from aligner_probe.judging.verdicts import HIGHEST

Points = Sequence[float | None]


def mean_points(points: Points, **options: Any) -> Interval | None:
    """The mean of the points that there are; None where there are none. `options` are those of `bootstrap`."""
    known = np.array([point for point in points if point is not None])
    return scaled(mean_interval(known / HIGHEST, **options), HIGHEST) if len(known) else None


def points_difference(first: Points, second: Points, **options: Any) -> Interval | None:
    """Points of the first answers minus those of the second, over questions where both have points.

    None where no question has both. `options` are those of `bootstrap`.
    """
    both = np.array([(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None])
    return scaled(difference_interval(*(both.T / HIGHEST), **options), HIGHEST) if len(both) else None


def scaled(interval: Interval, factor: float | int) -> Interval:
    """The interval of a value that is multiplied by a factor above 0."""
    return Interval(factor * interval.value, factor * interval.low, factor * interval.high, interval.confidence)
