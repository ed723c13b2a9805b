"""The spread and mean of the gates by layer and by head, and whether the spread rises with the layer.

These are Figures 6a and 7 to 11 of arXiv 2312.05503. Standard deviations have ddof 1. With one token, the scale of the
gates is not identified: (p, beta) -> (c p, beta / c) leaves Aligner-1 unchanged, also for negative c. So its gates are
given twice: as stored, and scaled for a token of norm sqrt(d_model); the sign of their mean stays arbitrary. With more
tokens the scale is identified, and only the stored gates are given.

    result = gate_statistics(load_checkpoint("published:metamath-1-7b"))
    result.spearman, result.to_frame()
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import stats

from aligner_probe.analysis.precision import coarsest_grid
from aligner_probe.arguments import accepts
from aligner_probe.checkpoints.given import one_checkpoint
from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.errors import AlignerProbeError
from aligner_probe.html import Shown

RESAMPLES = 2000
#: Fisher's z has no end at rho = 1; beyond this, percentiles serve.
MAX_FISHER_RHO = 0.999


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation of the gates' spread with the layer, with a 95 % bootstrap interval over heads.

    `low` and `high` are NaN if a layer has one gate. `rho` is NaN too if there are fewer than three layers.
    """

    rho: float
    low: float
    high: float
    n_layers: int

    def __str__(self) -> str:
        return f"{self.rho:+.3f} [{self.low:+.3f}, {self.high:+.3f}], n = {self.n_layers} layers"


@dataclass(frozen=True, repr=False)
class GateStatistics(Shown):
    """The gates after their function (not rescaled), shape (n_layers, n_heads), and their statistics.

    Attributes:
        spearman: The rank correlation over all adapted layers.
        spearman_upper: The rank correlation over the last floor(n / 2) adapted layers.
        gauge: ||p|| / sqrt(d_model) for one shared token, None otherwise. Gates, means and spreads times this value are
            those for a token of norm sqrt(d_model).
        is_power_of_two: Which stored gates are exactly +-2^k. The step of the grid doubles there, so updates beyond
            that point are lost and gates gather there. `at_powers_of_two` counts them.
        expected_at_powers_of_two: The number without this effect, for gates spread evenly over the logarithm of their
            size.
        std_by_layer_interval, mean_by_layer_interval: 95 % BCa bootstrap intervals over the heads of each layer; the
            rows are low and high.
        std_by_head_interval, mean_by_head_interval: The same for each head position, over the layers.
    """

    label: str
    gates: Float[np.ndarray, "n_layers n_heads"]
    layers: tuple[int, ...]
    std_by_layer: Float[np.ndarray, " n_layers"]
    std_by_layer_interval: Float[np.ndarray, "2 n_layers"]
    mean_by_layer: Float[np.ndarray, " n_layers"]
    mean_by_layer_interval: Float[np.ndarray, "2 n_layers"]
    std_by_head: Float[np.ndarray, " n_heads"]
    std_by_head_interval: Float[np.ndarray, "2 n_heads"]
    mean_by_head: Float[np.ndarray, " n_heads"]
    mean_by_head_interval: Float[np.ndarray, "2 n_heads"]
    spearman: RankCorrelation
    spearman_upper: RankCorrelation
    gauge: float | None
    is_power_of_two: Bool[np.ndarray, "n_layers n_heads"]
    expected_at_powers_of_two: float
    seed: int
    resamples: int

    def shown(self) -> dict[str, Any]:
        return {
            "checkpoint": self.label,
            "layers": f"{self.layers[0]} to {self.layers[-1]}",
            "gates a layer": self.gates.shape[1],
            "spread against layer (Spearman)": str(self.spearman),
            "the same in the upper half": str(self.spearman_upper),
            "gates at powers of two": f"{self.at_powers_of_two:,}, {self.expected_at_powers_of_two:.1f} expected",
        }

    @property
    def flat(self) -> Float[np.ndarray, " n_gates"]:
        """All gates in order: first head to last, bottom layer to top (Figure 11)."""
        return self.gates.reshape(-1)

    @property
    def at_powers_of_two(self) -> int:
        return int(self.is_power_of_two.sum())

    @property
    def one_gate_a_layer(self) -> bool:
        return self.gates.shape[1] == 1

    def to_frame(self) -> pd.DataFrame:
        """One row a layer; gauge-fixed columns only where the gauge is defined."""
        frame = pd.DataFrame(
            {
                "checkpoint": self.label,
                "layer": self.layers,
                "n_heads": self.gates.shape[1],
                "std": self.std_by_layer,
                "std_low": self.std_by_layer_interval[0],
                "std_high": self.std_by_layer_interval[1],
                "mean": self.mean_by_layer,
                "mean_low": self.mean_by_layer_interval[0],
                "mean_high": self.mean_by_layer_interval[1],
            }
        )
        if self.gauge is not None:
            frame["std_gauge_fixed"] = self.std_by_layer * self.gauge
            frame["mean_gauge_fixed"] = self.mean_by_layer * self.gauge
        return frame

    def heads_to_frame(self) -> pd.DataFrame:
        """One row per head position, over layers. Heads of one position in different layers have nothing in common."""
        frame = pd.DataFrame(
            {
                "checkpoint": self.label,
                "head": np.arange(self.gates.shape[1]),
                "n_layers": self.gates.shape[0],
                "std": self.std_by_head,
                "std_low": self.std_by_head_interval[0],
                "std_high": self.std_by_head_interval[1],
                "mean": self.mean_by_head,
                "mean_low": self.mean_by_head_interval[0],
                "mean_high": self.mean_by_head_interval[1],
            }
        )
        if self.gauge is not None:
            frame["std_gauge_fixed"] = self.std_by_head * self.gauge
            frame["mean_gauge_fixed"] = self.mean_by_head * self.gauge
        return frame


@accepts(checkpoint=one_checkpoint, each="checkpoint")
def gate_statistics(checkpoint: PrefixCheckpoint, *, seed: int = 0, resamples: int = RESAMPLES) -> GateStatistics:
    """The spread and mean of the gates by layer and by head, with 95 % bootstrap intervals over heads.

    Args:
        checkpoint: A prefix checkpoint. A path or a prefix adapter does as well. For a list of checkpoints, a list of
            results is returned.
        seed: Seed of the bootstrap, 0 or more.
        resamples: Number of bootstrap resamples, 2 or more.

    Returns:
        Arrays with one value per adapted layer, shape (layers,), or per head, shape (heads,), in units of the gates.
        The spread and its interval are NaN in a layer with a single gate. Intervals are BCa intervals.

    Raises:
        AlignerProbeError: `seed` is negative, or there are fewer than two resamples.

    Source:
        Figures 7 to 10 of arXiv 2312.05503.
    """
    if seed < 0 or resamples < 2:
        raise AlignerProbeError(f"seed {seed} and resamples {resamples}; expected 0 or more, and 2 or more")
    gates = checkpoint.effective_gates.numpy()
    n_layers = len(gates)
    half = n_layers // 2
    one_shared_token = checkpoint.method == "aligner" and checkpoint.n_tokens == 1
    return GateStatistics(
        label=checkpoint.label,
        gates=gates,
        layers=tuple(checkpoint.layers),
        std_by_layer=_std(gates, axis=1),
        std_by_layer_interval=_interval(gates, _std, seed, resamples),
        mean_by_layer=gates.mean(axis=1),
        mean_by_layer_interval=_interval(gates, np.mean, seed, resamples),
        std_by_head=_std(gates, axis=0),
        std_by_head_interval=_interval(gates.T, _std, seed, resamples),
        mean_by_head=gates.mean(axis=0),
        mean_by_head_interval=_interval(gates.T, np.mean, seed, resamples),
        spearman=_rank_correlation(gates, seed, resamples),
        spearman_upper=_rank_correlation(gates[n_layers - half :], seed, resamples),
        gauge=float(checkpoint.prefix.double().norm()) / checkpoint.d_model**0.5 if one_shared_token else None,
        is_power_of_two=_is_power_of_two(checkpoint),
        expected_at_powers_of_two=_expected_at_powers_of_two(checkpoint),
        seed=seed,
        resamples=resamples,
    )


def _is_power_of_two(checkpoint: PrefixCheckpoint) -> Bool[np.ndarray, "n_layers n_heads"]:
    fraction, _ = np.frexp(np.abs(checkpoint.gates.double().numpy()))
    return fraction == 0.5


def _expected_at_powers_of_two(checkpoint: PrefixCheckpoint) -> float:
    """What rounds to 2^k lies between half a small step below it and half a large one above."""
    step = 2.0 ** -coarsest_grid(checkpoint.gates).fraction_bits
    share = np.log2((1 + step / 2) / (1 - step / 4))
    return float(share * (checkpoint.gates != 0).sum())


def _std(values: np.ndarray, axis: int) -> np.ndarray:
    """Standard deviation with ddof 1; NaN of a single number."""
    if values.shape[axis] < 2:
        return np.full(np.delete(values.shape, axis), np.nan)
    return values.std(axis=axis, ddof=1)


def _rank_correlation(gates: Float[np.ndarray, "n_layers n_heads"], seed: int, resamples: int) -> RankCorrelation:
    """The correlation of each layer's gate spread with the layer index; heads are resampled in each layer separately.

    The interval is rho +- 1.96 bootstrap standard errors on Fisher's z scale. Percentiles would be wrong: drawing heads
    again adds noise, noise lowers a rank correlation, and the estimate may lie above nearly all resamples.
    """
    n_layers, n_heads = gates.shape
    if n_layers < 3 or n_heads < 2:
        return RankCorrelation(np.nan, np.nan, np.nan, n_layers)
    rho = float(_spearman(gates.std(axis=1, ddof=1)))
    # Head 3 of two layers is not one thing, so every layer draws its own heads.
    picks = np.random.default_rng(seed).integers(n_heads, size=(resamples, n_layers, n_heads))
    drawn = np.take_along_axis(np.broadcast_to(gates, picks.shape), picks, axis=2)
    rhos = _spearman(drawn.std(axis=2, ddof=1).T)
    if not abs(rho) < MAX_FISHER_RHO:
        low, high = np.nanpercentile(rhos, [2.5, 97.5]) if np.isfinite(rhos).any() else (np.nan, np.nan)
        return RankCorrelation(rho, float(np.fmin(low, rho)), float(np.fmax(high, rho)), n_layers)
    error = float(np.nanstd(np.arctanh(np.clip(rhos, -MAX_FISHER_RHO, MAX_FISHER_RHO)), ddof=1))
    low, high = np.tanh(np.arctanh(rho) + 1.96 * error * np.array([-1, 1]))
    return RankCorrelation(rho, float(low), float(high), n_layers)


def _spearman(spreads: Float[np.ndarray, "n_layers ..."]) -> Float[np.ndarray, "..."]:
    """Spearman's rho along the first axis against 0, 1, 2, ...: Pearson's of the ranks, many at once."""
    ranks = stats.rankdata(spreads, axis=0)
    centred = ranks - ranks.mean(axis=0)
    depth = np.arange(len(spreads)) - (len(spreads) - 1) / 2
    norms = np.linalg.norm(centred, axis=0) * np.linalg.norm(depth)
    product = np.tensordot(depth, centred, axes=1)
    return np.divide(product, norms, out=np.full_like(product, np.nan), where=norms > 0)


def _interval(
    gates: Float[np.ndarray, "n_rows n_drawn"], statistic: Callable[..., np.ndarray], seed: int, resamples: int
) -> Float[np.ndarray, "2 n_rows"]:
    """95 % BCa interval of each row's statistic; where equal gates leave that undefined, the estimate itself."""
    if gates.shape[1] < 2:
        return np.full((2, len(gates)), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (stats.DegenerateDataWarning, RuntimeWarning))
        interval = stats.bootstrap(
            (gates,),
            statistic,
            n_resamples=resamples,
            vectorized=True,
            axis=-1,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return np.where(np.isfinite(np.stack(interval)).all(axis=0), np.stack(interval), statistic(gates, axis=-1))
