"""Dose-response: the share that is recovered as a function of the trained parameters, for each family of arms.

The fit is the monotone curve with the least squared distance to the points (isotonic regression), with straight lines
between sizes on a logarithmic axis. It assumes no shape and says nothing beyond the sizes that were tried. There is no
fit across families: a hundred parameters of a prefix and a hundred of a LoRA are different things.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import Interval

#: With fewer sizes no curve is fitted.
FEWEST_SIZES = 4
SHARES = {"k50": 0.5, "k90": 0.9}
#: The logarithm that stands for a dose above the largest size that was tried; its negative for one below the smallest.
#: It is finite so that quantiles can be computed.
_OUTSIDE = 1e6


@dataclass(frozen=True)
class Size:
    """An arm in a dose-response: its family, and its number of trained parameters."""

    family: str
    n_parameters: int


@dataclass(frozen=True)
class Point:
    """One point of a dose-response: the share that an arm recovers."""

    arm: str
    n_parameters: int
    recovered: Interval


@dataclass(frozen=True)
class Dose:
    """The number of trained parameters that recovers a share.

    It is more than `above` and at most `at_most`, which are neighbouring sizes. `above` is None where the smallest size
    suffices, and `at_most` is None where the largest does not. Where a curve was fitted, `value` is the number that it
    gives, with the interval from `low` to `high`. A bound outside the sizes that were `tried` (smallest, largest) is 0
    or infinite.
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
    """A family's points, and the doses that recover half (k50) and nine tenths (k90) of the gap.

    `fitted` says whether a curve was fitted, which takes four sizes. Without one, a dose is only known to lie between
    two sizes.
    """

    family: str
    points: tuple[Point, ...]
    fitted: bool
    k50: Dose
    k90: Dose


def dose_response(family: str, sizes: Sequence[tuple[str, int]], interval: Callable[..., Interval]) -> DoseResponse:
    """The dose-response of a family.

    Args:
        family: the family's name.
        sizes: pairs of an arm and its number of trained parameters, in ascending order.
        interval: `interval(statistic, *arms)` gives the interval of a function of these arms' recovered shares.

    Raises:
        AlignerProbeError: the sizes are not positive and ascending.
    """
    counts = [n for _, n in sizes]
    if not counts or counts[0] < 1 or any(a >= b for a, b in itertools.pairwise(counts)):
        raise AlignerProbeError(f"sizes {counts} of {family}; expected at least one, positive and ascending")
    points = tuple(Point(arm, n, interval(lambda recovered: recovered, arm)) for arm, n in sizes)
    fitted = len(points) >= FEWEST_SIZES
    tried = [(point.arm, point.n_parameters, point.recovered.value) for point in points]
    doses = {name: dose_between(share, tried, interval) for name, share in SHARES.items()}
    return DoseResponse(family, points, fitted, **doses)


def monotone(values: Float[np.ndarray, "sizes ..."]) -> Float[np.ndarray, "sizes ..."]:
    """The non-decreasing sequence with the least squared distance to `values` along the first axis.

    Its entry i is the maximum, over all starts up to i, of the minimum, over all ends from i on, of the mean between.
    """
    n = len(values)
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    fitted = []
    for index in range(n):
        least = [
            np.min([(sums[end + 1] - sums[start]) / (end + 1 - start) for end in range(index, n)], axis=0)
            for start in range(index + 1)
        ]
        fitted.append(np.max(least, axis=0))
    return np.stack(fitted)


def crossing(
    share: float, logs: Float[np.ndarray, " sizes"], curve: Float[np.ndarray, "sizes ..."]
) -> Float[np.ndarray, "..."]:
    """The logarithm of the size where a non-decreasing curve first reaches a share, with straight lines between sizes.

    Minus or plus `_OUTSIDE` where the smallest size reaches it already, or the largest does not; not a number where the
    curve is not finite.
    """
    log = np.where(curve[0] >= share, -_OUTSIDE, np.where(curve[-1] < share, _OUTSIDE, 0.0))
    for index in range(len(logs) - 1):
        below, above = curve[index], curve[index + 1]
        here = (below < share) & (above >= share)
        rise = np.where(here, above - below, 1.0)
        log = np.where(here, logs[index] + (share - below) / rise * (logs[index + 1] - logs[index]), log)
    return np.where(np.isfinite(curve).all(axis=0), log, np.nan)


def dose_between(share: float, tried: Sequence[tuple[str, int, float]], interval: Callable[..., Interval]) -> Dose:
    """The size from which a share is recovered.

    Args:
        share: the share.
        tried: an arm, its size and the share that it recovers, by ascending size. With fewer than four of them the
            dose is only known to lie between two sizes.
        interval: as in `dose_response`.
    """
    arms, counts, values = zip(*tried, strict=True)
    ends, logs = (counts[0], counts[-1]), np.log(counts)
    curve = monotone(np.array(values))
    reached = [index for index, value in enumerate(curve) if value >= share]
    if not reached:
        return Dose(share, counts[-1], None, ends)
    first = reached[0]
    above = counts[first - 1] if first else None
    if len(tried) < FEWEST_SIZES or above is None:
        return Dose(share, above, counts[first], ends)
    fitted = interval(lambda *recovered: crossing(share, logs, monotone(np.stack(recovered))), *arms)

    def number(log: float) -> float:
        return 0.0 if log < logs[0] else math.inf if log > logs[-1] else math.exp(log)

    return Dose(share, above, counts[first], ends, number(fitted.value), number(fitted.low), number(fitted.high))
