"""How certain a score is: the bootstrap over items and seeds, tests of equivalence and of discordant items, and the
number of items that is needed.

Arms that are compared were scored on the same items. So every resample draws the same items for all arms (it is
paired), and the difference between arms does not contain how hard the items are. Seeds are drawn for each arm
separately, because runs of two arms with the same seed have nothing in common. After Miller (arXiv 2411.00640).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy import stats

from aligner_probe.errors import AlignerProbeError, one_of

Method = Literal["percentile", "bca"]
#: Scores of one arm: one number an item, or one a seed and item.
Arm = Float[np.ndarray, "... _items"]
#: Of the arms' means, each a number or all resamples' at once, to the same.
Statistic = Callable[..., np.ndarray | float]

#: Resamples at a time: bounds the memory of their item counts.
BLOCK = 1000
#: A bound smaller than this is rounding and stands for 0.
NOTHING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval.

    `degenerate` means that every resample gave the same value, so the items do not tell how certain the value is.
    """

    value: float
    low: float
    high: float
    confidence: float = 0.95
    degenerate: bool = False

    def __contains__(self, number: float | int) -> bool:
        return self.low <= number <= self.high

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def said(interval: Interval) -> str:
    """A value with its interval in two digits, for instance "0.64 [0.55, 0.72]"."""
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


@dataclass(frozen=True)
class Equivalence:
    """Whether two arms differ by less than a margin that was set beforehand: two one-sided tests (TOST).

    `difference` has confidence 1 - 2 alpha; the arms are equivalent where it lies within the margin on both sides.
    """

    difference: Interval
    margin: float
    alpha: float

    @property
    def equivalent(self) -> bool:
        return -self.margin < self.difference.low and self.difference.high < self.margin


def bootstrap(
    statistic: Statistic,
    *arms: Arm,
    confidence: float = 0.95,
    method: Method | str = "percentile",
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The confidence interval of a statistic of the arms' means, for instance of the share of the gap.

    Items are resampled together in all arms. Seeds are resampled separately in each arm that has an axis of seeds. The
    method "bca" corrects for bias and skewness (Efron 1987) and resamples items only. A resample in which the statistic
    is not a number (for instance, the gap is 0) is left out. Raises AlignerProbeError if arms have different items, if
    there are no items, or if an option does not fit.
    """
    one_of(method, get_args(Method), "method")
    rows = _checked(arms, confidence, n_resamples)
    generator = np.random.default_rng(seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(*(row.mean() for row in rows)))
        drawn = np.concatenate(
            [np.ravel(statistic(*means)) for means in _resampled_means(rows, n_resamples, generator)]
        )
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Interval(value, -np.inf, np.inf, confidence)
    degenerate = bool(np.ptp(drawn) <= 1e-12 * max(1.0, abs(value)))
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca" and not degenerate:
        if any(len(row) > 1 for row in rows):
            raise AlignerProbeError(
                "bca resamples items alone, and these arms have seeds; expected method='percentile'"
            )
        tails = _bca_tails(statistic, rows, value, drawn, tails)
    # Sums of shares leave 1e-17 where a bound is 0, and verdicts ask whether it is above 0.
    low, high = (0.0 if abs(bound) < NOTHING else float(bound) for bound in np.quantile(drawn, tails))
    return Interval(value, low, high, confidence, degenerate)


def mean_interval(arm: Arm, **options) -> Interval:
    """The mean score of an arm with its interval; `options` are those of `bootstrap`.

    If all items have the same score, resampling would report certainty. Then the interval extends towards 0 and 1 as
    far as the share of an outcome can be that did not occur in n items: alpha^(1/n), the rule of three.
    """
    found = bootstrap(lambda mean: mean, arm, **options)
    return _with_unseen(found, arm, bounds=(0.0, 1.0))


def difference_interval(a: Arm, b: Arm, **options) -> Interval:
    """Mean score of `a` minus that of `b` on the same items; degenerate ones are widened as in `mean_interval`."""
    found = bootstrap(lambda x, y: x - y, a, b, **options)
    return _with_unseen(found, a, bounds=(-1.0, 1.0))


def equivalence(a: Arm, b: Arm, *, margin: float, alpha: float = 0.05, **options) -> Equivalence:
    """Whether `a` and `b` are as good as each other, up to a margin set in advance (Schuirmann 1987).

    Raises AlignerProbeError for a margin that is not above 0.
    """
    if not margin > 0 or not 0 < alpha < 0.5:
        raise AlignerProbeError(f"margin {margin}, alpha {alpha}; expected a margin above 0 and alpha below one half")
    return Equivalence(difference_interval(a, b, confidence=1 - 2 * alpha, **options), margin, alpha)


@dataclass(frozen=True)
class Discordance:
    """The items that one of two arms alone answers rightly, and McNemar's exact p of so unequal counts or more unequal.

    `p` is two-sided and supposes that both arms are equally good; it is 1 where no item tells them apart.
    """

    only_a: int
    only_b: int
    p: float


def mcnemar(a: Arm, b: Arm) -> Discordance:
    """McNemar's exact test of two arms on the same items, each with the scores 0 and 1, one number an item.

    Items that both arms answer rightly, or both wrongly, do not count. Given the number of the others, as many favour
    one arm as the other where both are equally good, so that their split is binomial with one half. Raises
    AlignerProbeError if the arms have different items, or scores other than 0 and 1.

    Source:
        McNemar (1947); the exact form is the binomial test on the discordant items.
    """
    one, other = (np.asarray(arm, dtype=np.float64) for arm in (a, b))
    if one.ndim != 1 or one.shape != other.shape or not np.isin([one, other], (0.0, 1.0)).all():
        raise AlignerProbeError(
            f"scores of shapes {one.shape} and {other.shape}; expected the same items in both, each scored 0 or 1"
        )
    only_a, only_b = int((one > other).sum()), int((other > one).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return Discordance(only_a, only_b, p)


def proportion_interval(n_right: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's interval of a share of n items."""
    if not 0 <= n_right <= n or n < 1:
        raise AlignerProbeError(f"{n_right} of {n} items; expected at least one, and no more right than there are")
    found = stats.binomtest(n_right, n).proportion_ci(confidence, method="wilson")
    return Interval(n_right / n, float(found.low), float(found.high), confidence)


def power(n: int, p0: float, p1: float, alpha: float = 0.05) -> float:
    """Chance that n items show a share above p0 (exact one-sided binomial test at alpha) where it is truly p1."""
    _check_shares(p0, p1)
    # The fewest right answers that p0 gives with a chance of at most alpha.
    needed = stats.binom.ppf(1 - alpha, n, p0) + 1
    return float(stats.binom.sf(needed - 1, n, p1))


def items_needed(p0: float, p1: float, *, wanted: float = 0.8, alpha: float = 0.05, most: int = 100_000) -> int:
    """The fewest items for which the power to distinguish p1 from p0 reaches the wanted value and stays there.

    The power of an exact test goes up and down as n grows, so the search goes past the last dip. Raises
    AlignerProbeError if more than `most` items are needed.
    """
    _check_shares(p0, p1)
    # A normal approximation brackets the place; the exact powers around it decide.
    spread = stats.norm.isf(alpha) * np.sqrt(p0 * (1 - p0)) + stats.norm.isf(1 - wanted) * np.sqrt(p1 * (1 - p1))
    guess = (spread / (p1 - p0)) ** 2
    n = np.arange(1, int(min(most, 3 * guess + 100)) + 1)
    enough = stats.binom.sf(stats.binom.ppf(1 - alpha, n, p0), n, p1) >= wanted
    if guess > most or not enough[-1]:
        raise AlignerProbeError(
            f"more than {most:,} items would be needed to tell a share of {p1} from {p0}; expected shares further apart"
        )
    short = np.flatnonzero(~enough)
    return int(n[short[-1]] + 1) if len(short) else 1


def _checked(arms: Sequence[Arm], confidence: float, n_resamples: int) -> list[Float[np.ndarray, "_seeds items"]]:
    rows = [np.atleast_2d(np.asarray(arm, dtype=np.float64)) for arm in arms]
    sizes = {row.shape[1] for row in rows}
    if len(sizes) != 1 or 0 in sizes or any(row.ndim != 2 or not np.isfinite(row).all() for row in rows):
        raise AlignerProbeError(
            f"arms of shape {', '.join(str(np.shape(arm)) for arm in arms) or 'none'}; expected finite scores of the "
            "same items, one row a seed"
        )
    if not 0 < confidence < 1 or n_resamples < 1:
        raise AlignerProbeError(f"confidence {confidence}, {n_resamples} resamples; expected a share, and some")
    return rows


def _resampled_means(rows: list[Float[np.ndarray, "_seeds items"]], n_resamples: int, generator: np.random.Generator):
    """Every arm's mean in a block of resamples at a time."""
    n_items = rows[0].shape[1]
    for start in range(0, n_resamples, BLOCK):
        n = min(BLOCK, n_resamples - start)
        items = _shares(n, n_items, generator)
        yield [
            items @ row[0] if len(row) == 1 else ((_shares(n, len(row), generator) @ row) * items).sum(axis=1)
            for row in rows
        ]


def _shares(n: int, size: int, generator: np.random.Generator) -> Float[np.ndarray, "n size"]:
    """How often each of `size` things was drawn in n draws with replacement, as a share."""
    return generator.multinomial(size, np.full(size, 1 / size), size=n) / size


def _bca_tails(
    statistic: Statistic,
    rows: list[Float[np.ndarray, "_seeds items"]],
    value: float,
    drawn: Float[np.ndarray, " resamples"],
    tails: Float[np.ndarray, " two"],
) -> Float[np.ndarray, " two"]:
    """Which quantiles of the resamples to take: bias from their median, acceleration from the jackknife over items."""
    below = (np.mean(drawn < value) + np.mean(drawn <= value)) / 2
    bias = stats.norm.ppf(np.clip(below, 1 / (2 * len(drawn)), 1 - 1 / (2 * len(drawn))))
    n = rows[0].shape[1]
    without = np.asarray(statistic(*((row[0].sum() - row[0]) / max(n - 1, 1) for row in rows)), dtype=np.float64)
    spread = without.mean() - without
    scale = (spread**2).sum() ** 1.5
    acceleration = 0.0 if scale == 0 or not np.isfinite(scale) else (spread**3).sum() / (6 * scale)
    shifted = bias + stats.norm.ppf(tails)
    return stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))


def _with_unseen(found: Interval, arm: Arm, bounds: tuple[float, float]) -> Interval:
    if not found.degenerate:
        return found
    unseen = 1 - ((1 - found.confidence) / 2) ** (1 / np.shape(arm)[-1])
    low, high = (found.value + unseen * (bound - found.value) for bound in bounds)
    return Interval(found.value, min(low, found.value), max(high, found.value), found.confidence, True)


def _check_shares(p0: float, p1: float) -> None:
    if not 0 <= p0 < p1 <= 1:
        raise AlignerProbeError(f"shares {p0} and {p1}; expected 0 <= p0 < p1 <= 1")
