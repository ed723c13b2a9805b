"""How many values of two checkpoints are exactly equal, of what magnitude, and by how much the other values differ.

The paper (arXiv 2312.05503, section 5.1, Figure 16) concludes from equal values on Alpaca and MetaMath that they are a
property of the language model. Equality by magnitude shows the real reason: see `aligner_probe.analysis.forensics`.

    result = compare_numbers(load_checkpoint(a), load_checkpoint(b))
    result.n_equal, result.share_equal, result.to_frame()
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt
from torch import Tensor

from aligner_probe.analysis.precision import chance_equality, coarsest_grid, expected_equal, ulp_distance
from aligner_probe.arguments import ArgumentError, accepts
from aligner_probe.checkpoints.given import one_checkpoint
from aligner_probe.checkpoints.prefix import PrefixCheckpoint, dtype_name
from aligner_probe.errors import AlignerProbeError
from aligner_probe.html import Shown

#: Parameters smaller than this share the lowest magnitude band; few of N(0, 1) are.
LOWEST_EDGE = 2.0**-6


@dataclass(frozen=True)
class MagnitudeBand:
    """The values with low <= min(|a|, |b|) < high, and how many of them are equal in both checkpoints.

    `half_ulp` is the largest half ULP in the band: a smaller update to such a value is lost.
    """

    low: float
    high: float
    n: int
    n_equal: int
    half_ulp: float

    @property
    def share_equal(self) -> float:
        """NaN in an empty band."""
        return self.n_equal / self.n if self.n else float("nan")


@dataclass(frozen=True, repr=False)
class PartEquality(Shown):
    """The prefix or the gates of two checkpoints, compared value by value in storage order.

    `correlation` is Pearson's, None if one side is constant. `expected_by_chance` is the number of equal pairs under a
    random pairing. `ulps` are the differences in steps of the stored grid, None if the precisions differ.
    """

    n: int
    n_equal: int
    correlation: float | None
    mean_abs_difference: float
    expected_by_chance: float
    differences: Float[np.ndarray, " n"]
    equal: Bool[np.ndarray, " n"]
    magnitudes: Float[np.ndarray, " n"]
    ulps: UInt[np.ndarray, " n"] | None

    def shown(self) -> dict[str, Any]:
        return {
            "equal parameters": f"{self.n_equal:,} of {self.n:,}",
            "expected by chance": self.expected_by_chance,
            "correlation": self.correlation,
            "mean absolute difference": self.mean_abs_difference,
        }

    @property
    def share_equal(self) -> float:
        return self.n_equal / self.n


@dataclass(frozen=True, repr=False)
class Equality(Shown):
    """What two checkpoints share; `gates` is None where their gates have different shapes."""

    label_a: str
    label_b: str
    dtype_a: str
    dtype_b: str
    grid: str
    prefix: PartEquality
    gates: PartEquality | None
    bands: tuple[MagnitudeBand, ...]
    equal_per_token: tuple[int, ...]
    numbers_per_token: int
    chance_share: float
    common_prefix: bool

    def shown(self) -> dict[str, Any]:
        return {
            "a": self.label_a,
            "b": self.label_b,
            "precision": f"{self.dtype_a}, {self.dtype_b}",
            "equal in the prefix": f"{self.n_equal:,} of {self.prefix.n:,}",
            "expected by chance": self.prefix.expected_by_chance,
            "equal in the gates": self.gates and f"{self.gates.n_equal:,} of {self.gates.n:,}",
            "correlation": self.prefix.correlation,
        }

    @property
    def n_equal(self) -> int:
        return self.prefix.n_equal

    @property
    def share_equal(self) -> float:
        return self.prefix.share_equal

    @property
    def per_token(self) -> dict[str, float]:
        """Equal values per token: mean, standard deviation (ddof 1), minimum and maximum over tokens, as the paper
        prints them.
        """
        counts = np.asarray(self.equal_per_token, dtype=float)
        spread = float(counts.std(ddof=1)) if len(counts) > 1 else float("nan")
        return {"mean": float(counts.mean()), "sd": spread, "min": float(counts.min()), "max": float(counts.max())}

    def to_frame(self) -> pd.DataFrame:
        """One row a magnitude band."""
        return pd.DataFrame(
            [
                {
                    "a": self.label_a,
                    "b": self.label_b,
                    "low": band.low,
                    "high": band.high,
                    "n": band.n,
                    "n_equal": band.n_equal,
                    "share_equal": band.share_equal,
                    "half_ulp": band.half_ulp,
                    "grid": self.grid,
                }
                for band in self.bands
            ]
        )


@dataclass(frozen=True, eq=False)
class Side:
    """What is compared of one side: a prefix, and gates where there are any."""

    label: str
    source: str
    prefix: Float[Tensor, "prefix_layers n_tokens d_model"]
    gates: Float[Tensor, "n_layers n_gates"] | None = None


#: What `compare_numbers` takes: a checkpoint, loaded or by path, or its prefix alone.
Comparable = PrefixCheckpoint | Tensor | np.ndarray | str | Path | Side


def _side(value: Any, where: str) -> Side:
    """A side of a checkpoint, or of a prefix alone: (prefix_layers, n_tokens, d_model), or fewer dimensions."""
    if isinstance(value, np.ndarray | Tensor):
        prefix = torch.as_tensor(value).detach().cpu()
        if not (prefix.is_floating_point() and 1 <= prefix.ndim <= 3 and prefix.numel()):
            raise ArgumentError(
                f"{where} was given numbers of shape {tuple(prefix.shape)} in {dtype_name(prefix.dtype)}; expected "
                "floating-point numbers of shape (prefix_layers, n_tokens, d_model), (n_tokens, d_model) or (d_model,)"
            )
        name = where.partition("(")[2].rstrip("=)")
        return Side(name, name, prefix.reshape(*(1,) * (3 - prefix.ndim), *prefix.shape))
    checkpoint = one_checkpoint(value, where)
    return Side(checkpoint.label, checkpoint.source, checkpoint.prefix, checkpoint.gates)


@accepts(pair=("a", "b"), a=_side, b=_side)
def compare_numbers(a: Comparable, b: Comparable, *, common_prefix: bool = False) -> Equality:
    """Compare two checkpoints value by value. For tensors or arrays, such as `a.prefix` and `b.prefix`, compare these
    alone.

    Args:
        a: A checkpoint, loaded or by path, or a prefix of shape (prefix_layers, n_tokens, d_model) or fewer dimensions.
        b: The same.
        common_prefix: Compare checkpoints of different sizes over the first values that both have in storage order.
            This is a control for random starts that were drawn from the same stream.

    Returns:
        How many values are equal, by magnitude, for the prefix and for the gates.

    Raises:
        AlignerProbeError: The shapes differ, and `common_prefix` is off.

    Source:
        Section 5.1 and Figure 16 of arXiv 2312.05503.
    """
    assert isinstance(a, Side)  # the decorator has read both
    assert isinstance(b, Side)
    if a.prefix.shape != b.prefix.shape and not common_prefix:
        raise AlignerProbeError(
            f"prefixes of different shape: {a.source} has {_shape(a)}, {b.source} has {_shape(b)}; expected the same "
            "n_tokens and d_model. To compare the first parameters in storage order all the same, as a control for a "
            "shared random stream, use --common-prefix (common_prefix=True)"
        )
    first, second = a.prefix.reshape(-1), b.prefix.reshape(-1)
    n = min(first.numel(), second.numel())
    first, second = first[:n], second[:n]
    # Of two grids the coarser one decides what can be told apart.
    grid = min((coarsest_grid(first), coarsest_grid(second)), key=lambda grid: grid.fraction_bits)
    prefix = compare_part(first, second)
    gates = None
    if a.gates is not None and b.gates is not None and a.gates.shape == b.gates.shape:
        gates = compare_part(a.gates.reshape(-1), b.gates.reshape(-1))
    width = a.prefix.shape[2] if a.prefix.shape[2] == b.prefix.shape[2] else n
    edges = magnitude_edges(prefix.magnitudes)
    rows = prefix.equal[: n - n % width].reshape(-1, width)
    return Equality(
        label_a=a.label,
        label_b=b.label,
        dtype_a=dtype_name(a.prefix.dtype),
        dtype_b=dtype_name(b.prefix.dtype),
        grid=grid.name,
        prefix=prefix,
        gates=gates,
        bands=tuple(
            MagnitudeBand(low, high, *_count(prefix, low, high), half_ulp=grid.half_ulp(high / 2))
            for low, high in pairwise(edges)
        ),
        equal_per_token=tuple(int(count) for count in rows.sum(axis=1)),
        numbers_per_token=width,
        chance_share=chance_equality(grid.dtype),
        common_prefix=a.prefix.shape != b.prefix.shape,
    )


def compare_part(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> PartEquality:
    """Compare two flat tensors value by value. The comparison is exact, because float64 holds every stored value."""
    first, second = a.double().numpy(), b.double().numpy()
    equal = first == second
    # Values near the end of float64's range overflow in a difference or a square: infinite, or no correlation.
    with np.errstate(over="ignore", invalid="ignore"):
        differences = np.abs(first - second)
        constant = np.ptp(first) == 0 or np.ptp(second) == 0
        correlation = np.nan if constant else float(np.corrcoef(first, second)[0, 1])
        mean_difference = float(differences.mean())
    return PartEquality(
        n=len(first),
        n_equal=int(equal.sum()),
        correlation=correlation if np.isfinite(correlation) else None,
        mean_abs_difference=mean_difference,
        expected_by_chance=expected_equal(first, second),
        differences=differences,
        equal=equal,
        magnitudes=np.minimum(np.abs(first), np.abs(second)),
        ulps=ulp_distance(a, b) if a.dtype == b.dtype else None,
    )


def magnitude_edges(magnitudes: Float[np.ndarray, " n"]) -> list[float]:
    """0, 2^-6, 2^-5, ... past the largest magnitude: within a band one ULP has one size."""
    edges = [0.0, LOWEST_EDGE]
    top = max(float(magnitudes.max()), 1.0)
    while edges[-1] <= top:
        edges.append(2 * edges[-1])
    return edges


def _count(part: PartEquality, low: float, high: float) -> tuple[int, int]:
    inside = (part.magnitudes >= low) & (part.magnitudes < high)
    return int(inside.sum()), int(part.equal[inside].sum())


def _shape(side: Side) -> str:
    layers, n_tokens, d_model = side.prefix.shape
    each = f" in each of {layers} layers" if layers > 1 else ""
    return f"{n_tokens} tokens of d_model {d_model}{each} ({dtype_name(side.prefix.dtype)})"


def never_moved(checkpoint: PrefixCheckpoint) -> Bool[Tensor, "prefix_layers n_tokens d_model"] | None:
    """Which values of the prefix are still equal to their start; None if the start is not stored."""
    if checkpoint.initial_prefix is None:
        return None
    return torch.eq(checkpoint.prefix.double(), checkpoint.initial_prefix.double())
