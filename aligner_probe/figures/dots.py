"""Scores as dots on a line each: mean and interval large, each seed small. For shares, from 0 to 1."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from aligner_probe.evaluation.intervals import Interval
from aligner_probe.figures.experiments import LABELS, mean_of
from aligner_probe.figures.looks import LOOKS

#: Height of a row of dots, and of a figure's other parts, in inches.
ROW, REST = 0.24, 1.0


@dataclass(frozen=True)
class Score:
    """A method's score on a line of the figure: every seed's mean, and the mean of all with its interval."""

    row: str
    method: str
    kind: str
    seeds: Float[np.ndarray, " seeds"]
    interval: Interval
    n_items: int
    label: str = field(default="")

    @classmethod
    def of(cls, row: str, method: str, kind: str, scores: Float[np.ndarray, "seeds items"], label: str = "") -> "Score":
        return cls(row, method, kind, scores.mean(axis=1), mean_of(scores), scores.shape[1], label or LABELS[method])


def plot_scores(ax: Axes, scores: Sequence[Score], *, hollow: str | None = None) -> Axes:
    """One line a row, from the top; scores of a row lie under each other. Kind `hollow` is drawn as outlines."""
    rows = list(dict.fromkeys(score.row for score in scores))
    labelled: set[str] = set()
    for y, row in enumerate(rows):
        here = [score for score in scores if score.row == row]
        reach = min(0.36, 0.11 * (len(here) - 1))
        offsets = np.linspace(-reach, reach, len(here))
        for offset, score in zip(offsets, here, strict=True):
            _draw(ax, score, y + offset, score.kind == hollow, score.label not in labelled)
            labelled.add(score.label)
        if y % 2:
            ax.axhspan(y - 0.5, y + 0.5, color="#F4F4F4", zorder=0, linewidth=0)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlim=(-0.03, 1.03), ylim=(len(rows) - 0.5, -0.5))
    ax.grid(visible=False, axis="y")
    return ax


def _draw(ax: Axes, score: Score, y: float, hollow: bool, labelled: bool) -> None:
    color, marker = LOOKS[score.method]
    interval = score.interval
    if len(score.seeds) > 1:
        ax.scatter(score.seeds, np.full(len(score.seeds), y), s=7, color=color, alpha=0.5, linewidth=0, zorder=2)
    ax.errorbar(
        [interval.value],
        [y],
        xerr=[[max(0.0, interval.value - interval.low)], [max(0.0, interval.high - interval.value)]],
        color=color,
        marker=marker,
        markersize=9 if marker == "*" else 6,
        markerfacecolor="white" if hollow else color,
        markeredgecolor=color if hollow else "white",
        markeredgewidth=1.1 if hollow else 0.5,
        elinewidth=1.2,
        capsize=2,
        linestyle="none",
        label=score.label if labelled else None,
        zorder=3,
    )


def to_frame(scores: Sequence[Score]) -> pd.DataFrame:
    """One row a score."""
    return pd.DataFrame(
        [
            {
                "row": score.row,
                "method": score.method,
                "label": score.label,
                "kind": score.kind,
                "mean": score.interval.value,
                "low": score.interval.low,
                "high": score.interval.high,
                "n_items": score.n_items,
                "n_seeds": len(score.seeds),
                "seeds": " ".join(f"{value:.4f}" for value in score.seeds),
            }
            for score in scores
        ]
    )
