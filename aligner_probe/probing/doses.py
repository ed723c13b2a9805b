"""Dose and response: how much is recovered with how many trained numbers, one fit a family of methods.

The fit is the monotone curve nearest to the points (isotonic regression), straight between sizes on a log axis: it
supposes no shape, and nothing beyond the sizes tried. Across families nothing is fitted: a hundred numbers of a prefix
and a hundred of a LoRA are not the same hundred.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import Interval

#: Under this many sizes a curve would be drawn by hope.
FEWEST_SIZES = 4
SHARES = {"k50": 0.5, "k90": 0.9}
#: The logarithm of a dose that was not reached, or lies below the smallest tried: far outside, but a number that
#: quantiles can be taken of.
_OUTSIDE = 1e6


@dataclass(frozen=True)
class Size:
    """What an arm is in a dose-response: its family, and how many numbers it trains."""

    family: str
    n_parameters: int


@dataclass(frozen=True)
class Point:
    """One size: what it recovers."""

    arm: str
    n_parameters: int
    recovered: Interval


@dataclass(frozen=True)
class Dose:
    """How many trained numbers recover a share: more than `above`, at most `at_most`, two neighbouring sizes.

    `above` is None where the smallest size suffices, `at_most` where the largest does not. `value` lies between them
    where a curve was fitted, with its interval; a bound of it beyond the sizes `tried` (smallest, largest) is 0 or
    infinite.
    """

    share: float
    above: int | None
    at_most: int | None
    tried: tuple[int, int]
    value: float | None = None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        smallest, largest = self.tried
        if self.at_most is None:
            return f"> {largest:,}"
        if self.above is None:
            return f"<= {smallest:,}"
        if self.value is None:
            return f"{self.above:,} to {self.at_most:,}"
        low = f"<= {smallest:,}" if self.low == 0 else f"{self.low:,.0f}"
        high = f"> {largest:,}" if self.high == math.inf else f"{self.high:,.0f}"
        return f"{self.value:,.0f} [{low}, {high}]"


@dataclass(frozen=True)
class DoseResponse:
    """A family's points, and the doses that recover half and nine tenths.

    Under four sizes there are `fitted` no curves, and a dose is only known to lie between two sizes.
    """

    family: str
    points: tuple[Point, ...]
    fitted: bool
    k50: Dose
    k90: Dose


def dose_response(family: str, sizes: Sequence[tuple[str, int]], interval: Callable[..., Interval]) -> DoseResponse:
    """A family's dose-response; `sizes` are (arm, trained numbers), from small to large.

    `interval` gives the interval of a statistic of arms' recoveries, by arm name. Raises AlignerProbeError for sizes
    that are not positive and ascending.
    """
    arms, numbers = [arm for arm, _ in sizes], [n for _, n in sizes]
    if not numbers or numbers[0] < 1 or any(a >= b for a, b in itertools.pairwise(numbers)):
        raise AlignerProbeError(f"sizes {numbers} of {family}; expected at least one, positive and ascending")
    points = tuple(Point(arm, n, interval(lambda recovered: recovered, arm)) for arm, n in sizes)
    fitted = len(points) >= FEWEST_SIZES
    doses = {name: _dose(share, points, interval if fitted else None, arms) for name, share in SHARES.items()}
    return DoseResponse(family, points, fitted, **doses)


def monotone(values: Float[np.ndarray, "sizes ..."]) -> Float[np.ndarray, "sizes ..."]:
    """The non-decreasing sequence nearest to `values` by squares: max over starts of the least mean to any end."""
    n = len(values)
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    fitted = []
    for place in range(n):
        least = [
            np.min([(sums[end + 1] - sums[start]) / (end + 1 - start) for end in range(place, n)], axis=0)
            for start in range(place + 1)
        ]
        fitted.append(np.max(least, axis=0))
    return np.stack(fitted)


def crossing(
    share: float, logs: Float[np.ndarray, " sizes"], curve: Float[np.ndarray, "sizes ..."]
) -> Float[np.ndarray, "..."]:
    """Where a non-decreasing curve first reaches a share, straight between sizes; far outside where it is not there."""
    found = np.where(curve[0] >= share, -_OUTSIDE, np.where(curve[-1] < share, _OUTSIDE, 0.0))
    for place in range(len(logs) - 1):
        below, above = curve[place], curve[place + 1]
        here = (below < share) & (above >= share)
        rise = np.where(here, above - below, 1.0)
        found = np.where(here, logs[place] + (share - below) / rise * (logs[place + 1] - logs[place]), found)
    return np.where(np.isfinite(curve).all(axis=0), found, np.nan)


def _dose(share: float, points: tuple[Point, ...], interval: Any, arms: Sequence[str]) -> Dose:
    numbers = [point.n_parameters for point in points]
    tried, logs = (numbers[0], numbers[-1]), np.log(numbers)
    curve = monotone(np.array([point.recovered.value for point in points]))
    reached = [place for place, value in enumerate(curve) if value >= share]
    if not reached:
        return Dose(share, numbers[-1], None, tried)
    first = reached[0]
    above = numbers[first - 1] if first else None
    if interval is None or above is None:
        return Dose(share, above, numbers[first], tried)
    found = interval(lambda *recovered: crossing(share, logs, monotone(np.stack(recovered))), *arms)

    def number(log: float) -> float:
        return 0.0 if log < logs[0] else math.inf if log > logs[-1] else math.exp(log)

    return Dose(share, above, numbers[first], tried, number(found.value), number(found.low), number(found.high))
