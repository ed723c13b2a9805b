"""Why are values of two checkpoints exactly equal: by storage precision and a shared random start, or something else?

The paper (arXiv 2312.05503, section 5.1) finds 2408 of 4096 values of Aligner-1 equal on Alpaca and MetaMath, and
concludes that they are a property of the language model. There is another explanation: both runs began with the same
random values, and an update smaller than half a ULP of the stored value rounds to nothing. If this is the reason, large
values, whose ULP is large, stay equal, small values do not, and gates, which begin at zero, are not equal at all. Each
verdict of this module is a list of such signs.

    report = compare_checkpoints(load_checkpoint(a), load_checkpoint(b))
    report.verdict, report.explanation, report.to_frame()
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from aligner_probe.analysis.diagnosis import Diagnosis, Signs, diagnose, read_signs
from aligner_probe.analysis.equality import Equality, compare_numbers, never_moved
from aligner_probe.arguments import accepts
from aligner_probe.checkpoints.given import one_checkpoint
from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.html import Shown


@dataclass(frozen=True)
class PairMovement:
    """How far prefix and gates moved, as root mean squares.

    `tokens` and `gates` are relative to the size of the final values. If a start is not stored, they are the distance
    between the two runs, and `from_start` is False.
    """

    tokens: float
    gates: float | None
    from_start: bool


@dataclass(frozen=True, repr=False)
class PairForensics(Shown):
    """What is equal in two checkpoints, why, and which signs show it.

    `never_moved` holds, for a and b, the share of prefix values that are still equal to their start; None if the start
    is not stored. Then `share_equal` is a lower bound for both, provided that both runs began alike and no value came
    back.
    """

    a: str
    b: str
    equality: Equality
    signs: Signs
    never_moved: tuple[float | None, float | None]
    movement: tuple[PairMovement, PairMovement]
    verdict: Diagnosis
    explanation: str

    def shown(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            "verdict": self.verdict,
            "equal parameters": f"{self.equality.n_equal:,} of {self.equality.prefix.n:,}",
            "explanation": self.explanation,
        }

    def to_frame(self) -> pd.DataFrame:
        """One row a magnitude band, with the verdict."""
        return self.equality.to_frame().assign(verdict=self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain numbers and strings, null where something is not defined."""
        equality, gates = self.equality, self.equality.gates
        ulps = equality.prefix.ulps
        return {
            "a": self.a,
            "b": self.b,
            "label_a": equality.label_a,
            "label_b": equality.label_b,
            "n_numbers": equality.prefix.n,
            "n_equal": equality.n_equal,
            "share_equal": equality.share_equal,
            "equal_per_token": _clean(equality.per_token),
            "expected_equal_by_chance": equality.prefix.expected_by_chance,
            "chance_share_of_independent_starts": equality.chance_share,
            "correlation": _finite(equality.prefix.correlation),
            "mean_abs_difference": _finite(equality.prefix.mean_abs_difference),
            "median_ulps": None if ulps is None else float(np.median(ulps)),
            "dtype_a": equality.dtype_a,
            "dtype_b": equality.dtype_b,
            "grid": equality.grid,
            "common_prefix": equality.common_prefix,
            "by_magnitude": [
                {
                    "low": band.low,
                    "high": band.high,
                    "n": band.n,
                    "n_equal": band.n_equal,
                    "half_ulp": band.half_ulp,
                }
                for band in equality.bands
            ],
            "gates": {
                "n": gates.n if gates else 0,
                "n_equal": gates.n_equal if gates else 0,
                "correlation": _finite(gates.correlation) if gates else None,
                "mean_abs_difference": _finite(gates.mean_abs_difference) if gates else None,
            },
            "ladder": self.signs.ladder,
            "start": self.signs.start,
            "never_moved": list(self.never_moved),
            "movement": [
                {"tokens": _finite(m.tokens), "gates": _finite(m.gates), "from_start": m.from_start}
                for m in self.movement
            ],
            "verdict": self.verdict,
            "explanation": self.explanation,
        }


@accepts(pair=("a", "b"), a=one_checkpoint, b=one_checkpoint)
def compare_checkpoints(
    a: PrefixCheckpoint | str | Path, b: PrefixCheckpoint | str | Path, *, common_prefix: bool = False
) -> PairForensics:
    """Compare two checkpoints and say why their equal values are equal.

    Args:
        a: A checkpoint, a path, or a prefix adapter.
        b: The same.
        common_prefix: Compare checkpoints of different sizes over the first values that both have in storage order.

    Returns:
        Equal values by magnitude, how far the checkpoints moved, and the verdict with its explanation.

    Raises:
        AlignerProbeError: The prefixes differ in shape, and `common_prefix` is off.

    Source:
        Section 5.1 of arXiv 2312.05503.
    """
    assert isinstance(a, PrefixCheckpoint)  # the decorator has loaded both
    assert isinstance(b, PrefixCheckpoint)
    equality = compare_numbers(a, b, common_prefix=common_prefix)
    signs = read_signs(a, b, equality)
    verdict, explanation = diagnose(equality, signs)
    return PairForensics(
        a=a.source,
        b=b.source,
        equality=equality,
        signs=signs,
        never_moved=(_share_never_moved(a), _share_never_moved(b)),
        movement=(_movement(a, b), _movement(b, a)),
        verdict=verdict,
        explanation=explanation,
    )


def _share_never_moved(checkpoint: PrefixCheckpoint) -> float | None:
    still = never_moved(checkpoint)
    return None if still is None else float(still.double().mean())


def _movement(run: PrefixCheckpoint, other: PrefixCheckpoint) -> PairMovement:
    """The movement from the stored start (gates begin at zero), or from the other run if the start is not stored."""
    if run.initial_prefix is not None:
        gates_before = torch.zeros_like(run.gates) if run.initial_gates is None else run.initial_gates
        return PairMovement(_relative(run.prefix, run.initial_prefix), _relative(run.gates, gates_before), True)
    n = min(run.prefix.numel(), other.prefix.numel())
    tokens = _relative(run.prefix.reshape(-1)[:n], other.prefix.reshape(-1)[:n])
    gates = _relative(run.gates, other.gates) if run.gates.shape == other.gates.shape else None
    return PairMovement(tokens, gates, False)


def _relative(after: Float[torch.Tensor, "..."], before: Float[torch.Tensor, "..."]) -> float:
    size = float(after.double().pow(2).mean().sqrt())
    moved = float((after.double() - before.double()).pow(2).mean().sqrt())
    return moved / size if size else float("nan")


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _clean(values: dict[str, float]) -> dict[str, float | None]:
    return {key: _finite(value) for key, value in values.items()}
