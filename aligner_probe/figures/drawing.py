"""What a function that draws a figure returns, and what all figures share: text sizes, panels and legends.

Colours and markers are in `looks.py`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.html import Shown, text_of

PANEL_WIDTH, PANEL_HEIGHT, MIN_WIDTH = 4.4, 3.3, 6.8


@dataclass(frozen=True)
class Comparison:
    """A number of the paper beside ours; `paper` is None where the paper prints none.

    `interval` is ours, 95 % unless it says otherwise. `verdict` and `note` say whether the paper's claim holds here, by
    which criterion (`claims.py`); without a verdict there is no claim to judge.
    """

    what: str
    paper: str | None
    ours: str
    note: str = ""
    interval: str = ""
    verdict: str | None = None


@dataclass(frozen=True)
class Input:
    """A file that a figure rests on."""

    label: str
    source: str
    sha256: str


@dataclass(frozen=True, repr=False)
class Drawing(Shown):
    """A finished figure with the data drawn, what it rests on, and what is missing from it."""

    figure: Figure
    frame: pd.DataFrame
    caption: str
    inputs: tuple[PrefixCheckpoint | Input, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()

    def shown(self) -> dict[str, Any]:
        return {
            "caption": self.caption,
            "data": f"{len(self.frame):,} rows: {text_of(list(self.frame.columns))}",
            "missing": self.missing,
        }

    def _ipython_display_(self) -> None:
        """In a notebook: the picture, and what it is of."""
        from IPython.display import HTML, display

        display(self.figure, HTML(self._repr_html_()))


class MissingInputs(Exception):
    """Nothing of a figure can be drawn; `needs` says what it takes."""

    def __init__(self, needs: Sequence[str]):
        super().__init__("; ".join(needs))
        self.needs = tuple(needs)


@contextmanager
def style() -> Iterator[None]:
    """The figures' look; the caller's own matplotlib settings come back afterwards."""
    settings: Any = {
        **sns.axes_style("whitegrid"),
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "figure.titlesize": 12,
        "grid.color": "#E4E4E4",
        "axes.edgecolor": "#B8B8B8",
        "svg.hashsalt": "aligner_probe",
    }
    with matplotlib.rc_context(settings):
        yield


def panels(n: int, *, columns: int = 3, height: float = PANEL_HEIGHT, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of n panels in rows. The last row may stay partly empty, and four panels are two by two. The title
    comes from the catalogue."""
    columns = 2 if n == 4 and columns == 3 else min(n, columns)
    rows = -(-n // columns)
    figure = Figure(figsize=(max(PANEL_WIDTH * columns, MIN_WIDTH), height * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for ax in axes[n:]:
        ax.remove()
    return figure, list(axes[:n])


def legend_below(ax: Axes, *, title: str | None = None, columns: int = 3, offset: float = 0.17) -> None:
    """A legend under the axis, where it hides nothing; of four entries in three columns it makes two by two."""
    entries = len(ax.get_legend_handles_labels()[0])
    columns = 2 if (entries, columns) == (4, 3) else min(entries, columns)
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -offset),
        ncols=columns,
        frameon=False,
        title=title,
        title_fontsize=8,
        handletextpad=0.4,
        columnspacing=1.2,
    )
