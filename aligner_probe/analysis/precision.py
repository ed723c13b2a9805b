"""Floating-point grids: which values a storage precision can hold, how far apart they lie, and how often two are equal.

A value v in [2^k, 2^(k+1)) that is stored with p bits after the leading one lies on a grid of step 2^(k-p), one ULP. An
update smaller than half of this step rounds back to v: the value does not move. The forensics use this fact.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt
from scipy.special import ndtr
from torch import Tensor

from aligner_probe.checkpoints.prefix import DTYPES, dtype_name

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Grid:
    """The values that a precision can hold."""

    dtype: torch.dtype

    @property
    def name(self) -> str:
        return dtype_name(self.dtype)

    @property
    def fraction_bits(self) -> int:
        """Bits after the leading one: 7 for bfloat16, 10, 23, 52."""
        return round(-np.log2(torch.finfo(self.dtype).eps))

    @property
    def smallest_exponent(self) -> int:
        """Exponent k of the smallest normal number; below 2^k the step no longer shrinks."""
        return round(np.log2(torch.finfo(self.dtype).smallest_normal))

    def half_ulp(self, magnitude: float) -> float:
        """Half the step of the grid at a magnitude: a smaller update to such a number is lost."""
        exponent = self.smallest_exponent
        if magnitude > 0:
            exponent = max(exponent, int(np.floor(np.log2(magnitude))))
        return 2.0 ** (exponent - self.fraction_bits - 1)

    def holds(self, values: Float[Tensor, "..."]) -> bool:
        """Whether every value lies on this grid, so that storing it loses nothing."""
        return bool(torch.equal(values.to(self.dtype).double(), values.double()))


def coarsest_grid(values: Float[Tensor, "..."]) -> Grid:
    """The coarsest grid that holds all values exactly: finds bfloat16 numbers that were saved as float32."""
    grids = [Grid(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)]
    fitting = [grid for grid in grids if grid.fraction_bits <= Grid(values.dtype).fraction_bits and grid.holds(values)]
    return min(fitting, key=lambda grid: grid.fraction_bits, default=Grid(values.dtype))


def ulp_distance(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> UInt[np.ndarray, " n"]:
    """The number of grid steps between two values of one precision; 0 only if they are equal (+0 equals -0).

    Raises ValueError if the precisions differ, because they have no common grid.
    """
    if a.dtype != b.dtype or a.dtype not in DTYPES:
        raise ValueError(
            f"ULP distance between {dtype_name(a.dtype)} and {dtype_name(b.dtype)}; expected one float type"
        )
    first, second = _ordered(a), _ordered(b)
    # As unsigned numbers the difference wraps around to the right answer, even from -max to +max.
    return np.maximum(first, second).astype(np.uint64) - np.minimum(first, second).astype(np.uint64)


def _ordered(values: Float[Tensor, " n"]) -> Int[np.ndarray, " n"]:
    """Integers in the order of the numbers, neighbours one apart."""
    bits = values.contiguous().view(_INTEGERS[values.element_size()]).numpy().astype(np.int64)
    magnitude = bits & (2 ** (8 * values.element_size() - 1) - 1)
    return np.where(bits < 0, -magnitude, magnitude)


def chance_equality(dtype: torch.dtype) -> float:
    """Probability that two independent N(0, 1) numbers, rounded to `dtype`, are equal: .00089 in bfloat16.

    The sum over the grid of P(v)^2, by binades: exact from the normal distribution where a binade has few numbers, and
    P(v) = step x density, integrated, where it has many.
    """
    grid = Grid(dtype)
    total = 0.0
    for exponent in range(max(grid.smallest_exponent, -40), 4):
        step = 2.0 ** (exponent - grid.fraction_bits)
        if grid.fraction_bits <= 10:
            values = 2.0**exponent + step * np.arange(2**grid.fraction_bits)
            # The first number of a binade has a neighbour only half as far below.
            below = np.where(np.arange(len(values)) == 0, step / 4, step / 2)
            total += float(np.sum((ndtr(values + step / 2) - ndtr(values - below)) ** 2))
        else:
            # The density squared is a normal density of variance 1/2 over 2 sqrt(pi).
            low, high = 2.0**exponent * np.sqrt(2), 2.0 ** (exponent + 1) * np.sqrt(2)
            total += step * float(ndtr(high) - ndtr(low)) / (2 * np.sqrt(np.pi))
    return 2 * total


def expected_equal(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Equal pairs to expect if the numbers of `b` were in random order: sum over values of count_a x count_b / n."""
    values, counts = np.unique(a, return_counts=True)
    others, other_counts = np.unique(b, return_counts=True)
    _, at, other_at = np.intersect1d(values, others, assume_unique=True, return_indices=True)
    return float(np.sum(counts[at] * other_counts[other_at]) / len(a))
