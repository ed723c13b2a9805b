"""Figure 16, and a figure that the paper lacks: equal parameters by magnitude, beside half a unit in the last place."""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from aligner_probe.analysis.equality import LOWEST_EDGE, Equality, compare_numbers
from aligner_probe.analysis.forensics import PairForensics, compare_checkpoints
from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.evaluation.intervals import proportion_interval
from aligner_probe.figures.claims import above
from aligner_probe.figures.collection import PAPER_DATA_SETS, Collection
from aligner_probe.figures.drawing import PANEL_WIDTH, Comparison, Drawing, MissingInputs, panels
from aligner_probe.figures.experiments import FORM_AND_SKILL, WORLD
from aligner_probe.figures.looks import EMPHASIS, GREY, looks_of
from aligner_probe.figures.paper import EQUAL_PARAMETERS

#: The least share of the parameters that is "a large part"; the paper finds more than half.
LARGE_PART = 0.25
BINS = 40
#: As many pairs as a figure shows; the table has all.
MAX_PAIRS = 6
EQUAL = "exactly equal"
#: Where a logarithmic axis of counts begins: below a count of one.
LOWEST_COUNT = 0.7


@dataclass(frozen=True, eq=False)
class _Compared:
    """A pair of checkpoints and the comparison of their parameters; a `control` has two sizes."""

    pair: tuple[PrefixCheckpoint, PrefixCheckpoint]
    report: PairForensics
    control: bool

    @property
    def equality(self) -> Equality:
        return self.report.equality

    @property
    def said(self) -> str:
        """Both checkpoints by their labels, and how many parameters of a control are compared."""
        extra = f", first {self.equality.prefix.n:,}" if self.control else ""
        a, b = (label.replace(" · LLaMA-2", "") for label in (self.equality.label_a, self.equality.label_b))
        return f"{a} / {b}{extra}"


def plot_differences(ax: Axes, equality: Equality, *, color: str) -> Axes:
    """Draw a histogram of |difference| on a log count axis; exact zeros are a stem of their own, at zero."""
    differences = equality.prefix.differences
    other = differences[~equality.prefix.equal]
    top = float(other.max()) if len(other) else 1.0
    edges = np.linspace(0, top, BINS + 1)
    counts, _ = np.histogram(other, bins=edges)
    ax.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=color, edgecolor="white", linewidth=0.3)
    if equality.n_equal:
        ax.plot([0, 0], [LOWEST_COUNT, equality.n_equal], color=EMPHASIS, linewidth=2.5, zorder=3)
        ax.plot([0], [equality.n_equal], color=EMPHASIS, marker="o", linestyle="none", zorder=4, label=EQUAL)
    ax.annotate(
        f"{equality.n_equal:,} of {equality.prefix.n:,}\nexactly equal ({equality.share_equal:.1%})",
        (0.97, 0.95),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize=8,
        color=EMPHASIS,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )
    ax.set_yscale("log")
    ax.set_ylim(LOWEST_COUNT, max(equality.n_equal, counts.max(initial=1), 1) * 2.5)
    ax.set_xlim(-0.03 * top, 1.03 * top)
    ax.set(xlabel="|difference| (no unit)", ylabel="parameters (log scale)")
    return ax


def plot_equality_by_magnitude(
    ax: Axes,
    equality: Equality,
    *,
    color: str,
    marker: str = "o",
    fillstyle: Literal["full", "left", "right", "bottom", "top", "none"] = "full",
    label: str | None = None,
    linestyle: str = "-",
    offset: float = 0.0,
) -> Axes:
    """Draw the share of equal parameters in each band of magnitude, with 95 % Wilson intervals.

    `offset` moves the points to the right, in bands, so that several lines stand side by side.
    """
    bands = [band for band in equality.bands if band.n]
    positions = [_position(band.low) + offset for band in bands]
    shares = np.array([band.share_equal for band in bands])
    wilson = [stats.binomtest(band.n_equal, band.n).proportion_ci(method="wilson") for band in bands]
    errors = np.abs(np.array([[ci.low, ci.high] for ci in wilson]).T - shares)
    ax.errorbar(
        positions,
        shares,
        yerr=errors,
        color=color,
        marker=marker,
        markersize=5,
        fillstyle=fillstyle,
        elinewidth=1.0,
        linewidth=1.3,
        linestyle=linestyle,
        capsize=2,
        label=label,
    )
    ax.set(ylabel="share exactly equal", ylim=(-0.04, 1.04))
    return ax


def plot_half_ulp(
    ax: Axes, equality: Equality, *, color: str = GREY, linestyle: str = "-", label: str | None = None
) -> Axes:
    """Draw half a unit in the last place (ULP) by magnitude: an update smaller than that rounds to nothing."""
    positions = [_position(band.low) for band in equality.bands]
    halves = [band.half_ulp for band in equality.bands]
    ax.plot(positions, halves, drawstyle="steps-mid", color=color, linestyle=linestyle, label=label)
    ax.set_yscale("log", base=2)
    return plot_bands(ax, equality)


def plot_bands(ax: Axes, equality: Equality) -> Axes:
    """Name the bands of magnitude on the horizontal axis."""
    positions = [_position(band.low) for band in equality.bands]
    ax.set(xlabel="|value| = min(|a|, |b|), bands [low, high)", ylabel="half a ULP")
    ax.set_xticks(positions, [_range(band.low, band.high) for band in equality.bands], rotation=35, ha="right")
    return ax


def embedding_differences(collection: Collection) -> Drawing:
    """Draw Figure 16: |difference| between the tokens of two data sets, one subplot for each method and size."""
    pairs = _pairs(collection)
    missing = _missing(collection, pairs)
    if not pairs:
        raise MissingInputs(missing)
    compared = [compare_numbers(a, b) for a, b in pairs]
    figure, axes = panels(len(pairs))
    for ax, (a, b), equality in zip(axes, pairs, compared, strict=True):
        plot_differences(ax, equality, color=looks_of([a])[0].color)
        ax.set_title(f"{a.method_label} · {a.base_model}\n{_run(a)} against {_run(b)}")
    frames = [_histogram_frame(equality) for equality in compared]
    return Drawing(
        figure,
        pd.concat(frames, ignore_index=True),
        "Differences between the parameters at the same position of two checkpoints. The red stem at zero counts those "
        "that are exactly equal; the bars count the others. n = "
        + ", ".join(f"{e.prefix.n:,} ({e.label_a} against {e.label_b})" for e in compared)
        + ". Which parameters are equal, and why, is shown in extra01.",
        tuple(dict.fromkeys(c for pair in pairs for c in pair)),
        settings={"bins": BINS},
        missing=tuple(missing),
        comparisons=tuple(_compare_with_paper(a, b, e) for (a, b), e in zip(pairs, compared, strict=True)),
    )


def equality_by_magnitude(collection: Collection) -> Drawing:
    """Draw equal parameters by magnitude, and half a ULP below; pairs of two sizes control for the shared start."""
    pairs, controls = _pairs(collection), _control_pairs(collection)
    if not pairs and not controls:
        raise MissingInputs(["two checkpoints with parameters to compare"])
    reports = [_Compared(pair, compare_checkpoints(*pair), control=False) for pair in pairs]
    reports += [_Compared(pair, compare_checkpoints(*pair, common_prefix=True), control=True) for pair in controls]
    shown = reports if len(reports) <= MAX_PAIRS else [*reports[: MAX_PAIRS - len(controls)], *reports[len(pairs) :]]
    figure = Figure(layout="constrained")
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure.set_size_inches(max(PANEL_WIDTH * columns, 7.4), 2.6 * rows + 2.9)
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[*[1.0] * rows, 1.15])
    first = None
    for index, compared in enumerate(shown):
        ax = figure.add_subplot(grid[divmod(index, columns)], sharex=first, sharey=first)
        first = first or ax
        _plot_pair(ax, compared)
    ladder = figure.add_subplot(grid[rows, :])
    by_grid = {equality.grid: equality for equality in sorted((one.equality for one in shown), key=_n_bands)}
    for style, (name, equality) in zip(("--", "-.", ":", "-"), by_grid.items(), strict=False):
        plot_half_ulp(ladder, equality, color=GREY, linestyle=style, label=f"{name}: smaller updates are lost")
    # The longest list of bands labels the axes, whichever was drawn last.
    widest = max((one.equality for one in shown), key=_n_bands)
    for ax in figure.axes:
        plot_bands(ax, widest).set_ylabel("half a ULP" if ax is ladder else "share exactly equal")
    for index, ax in enumerate(ax for ax in figure.axes if ax is not ladder):
        lowest = index + columns >= len(shown)
        ax.tick_params(labelbottom=lowest, labelleft=index % columns == 0)
        ax.set_xlabel(ax.get_xlabel() if lowest else "")
        ax.set_ylabel(ax.get_ylabel() if index % columns == 0 else "")
    ladder.legend(loc="upper left")
    frames = [one.report.to_frame().assign(common_prefix=one.control) for one in reports]
    left_out = f" Of {len(reports)} pairs {len(shown)} are drawn; the CSV has all." if len(shown) < len(reports) else ""
    return Drawing(
        figure,
        pd.concat(frames, ignore_index=True),
        "Above: share of exactly equal parameters for one pair of checkpoints in each panel, with 95 % Wilson "
        "intervals; every band has one size of ULP (unit in the last place). Dotted and hollow: controls of different "
        "size, compared over the first parameters that both have. Grey lines: what two independent starts would share. "
        f"Below: half a ULP of the stored precision; an update smaller than that rounds to nothing.{left_out} "
        + " ".join(f"{one.said}: {one.report.verdict}. {one.report.explanation}" for one in reports[:1]),
        tuple(dict.fromkeys(c for pair in (*pairs, *controls) for c in pair)),
        settings={"lowest_edge": LOWEST_EDGE, "interval": "Wilson, 95 %"},
        comparisons=tuple(
            Comparison(
                one.said,
                "equal parameters are anatomy of the language model" if not one.control else None,
                f"{one.equality.n_equal:,} of {one.equality.prefix.n:,} equal, verdict {one.report.verdict}",
                one.report.explanation,
            )
            for one in reports
        ),
    )


def _plot_pair(ax: Axes, compared: _Compared) -> None:
    """One panel of equal parameters by magnitude, in the look of the first checkpoint of the pair."""
    (a, b), equality, control = compared.pair, compared.equality, compared.control
    look = looks_of([a])[0]
    ax.axhline(equality.chance_share, color=GREY, linewidth=1.0, zorder=1)
    plot_equality_by_magnitude(
        ax,
        equality,
        color=look.color,
        marker=look.marker,
        fillstyle="none" if control else "full",
        linestyle=":" if control else "-",
    )
    what = f"{a.method_label}: {_run(a)} / {_run(b)}"
    if control:
        what = f"control: {a.method_label} {_run(a)} / {b.method_label} {_run(b)}"
    bases = " / ".join(dict.fromkeys((a.base_model, b.base_model)))
    equal = f"{equality.n_equal:,} of {equality.prefix.n:,} equal, by chance {equality.chance_share:.2g}"
    ax.set_title(f"{what}\n{bases}\n{equal}", fontsize=8.5)


def _pairs(collection: Collection) -> list[tuple[PrefixCheckpoint, PrefixCheckpoint]]:
    """Checkpoints of one method, size and base on two data sets, in the order of the groups."""
    ordered = [c for group in collection.groups for c in group.checkpoints]
    return [
        (a, b)
        for a, b in combinations(ordered, 2)
        if a.method == b.method
        and a.prefix.shape == b.prefix.shape
        and a.base_model == b.base_model
        and _run(a) != _run(b)
    ]


def _control_pairs(collection: Collection) -> list[tuple[PrefixCheckpoint, PrefixCheckpoint]]:
    """A one-token run against larger ones, of whatever data set or base: what they share can only be the start."""
    ones = [c for c in collection.checkpoints if c.method == "aligner" and c.n_tokens == 1][:1]
    others = [c for c in collection.checkpoints if c.method == "aligner" and c.n_tokens > 1]
    # A reproduction has more than one seed, and only runs of one recipe share it.
    of_runs = collection.experiments.base.name if collection.has_experiments else WORLD
    others = [c for c in others if not c.base_model.startswith(of_runs) or c.base_model == ones[0].base_model]
    largest_first = sorted(others, key=lambda c: -c.n_tokens)
    return [(one, other) for one in ones for other in largest_first[:2]]


def _missing(collection: Collection, pairs: list[tuple[PrefixCheckpoint, PrefixCheckpoint]]) -> list[str]:
    missing = []
    if not any(a.method == "aligner" for a, _ in pairs):
        needs = " and ".join(
            collection.expected_data_sets if len(collection.expected_data_sets) > 1 else PAPER_DATA_SETS
        )
        missing.append(f"Aligner checkpoints of one size and base trained on two data sets ({needs})")
    if not any(a.method == "llama_adapter" for a, _ in pairs):
        missing.extend(collection.missing("llama_adapter") or ["LLaMA-Adapter trained on two data sets"])
    return missing


def _compare_with_paper(a: PrefixCheckpoint, b: PrefixCheckpoint, equality: Equality) -> Comparison:
    is_papers_size = a.n_tokens == (1 if a.method == "aligner" else 10)
    is_ours = {a.data_set, b.data_set} == set(FORM_AND_SKILL)  # what stands for the paper's two
    is_papers = {a.data_set, b.data_set} == set(PAPER_DATA_SETS) and a.base_model == "LLaMA-2 7B" and is_papers_size
    share = proportion_interval(equality.n_equal, equality.prefix.n)
    claim = above(share, LARGE_PART, "a large part of the parameters are exactly equal on two data sets")
    ours_only = f"The published files give {equality.n_equal}. " if is_papers and a.method == "aligner" else ""
    per = equality.per_token
    ours = f"{equality.n_equal:,} of {equality.prefix.n:,}"
    if len(equality.equal_per_token) > 1:
        ours += (
            f"; {per['mean']:.2f} on average a token, sd {per['sd']:.1f}, range {per['min']:.0f} to {per['max']:.0f}"
        )
    return Comparison(
        f"{equality.label_a} against {equality.label_b}: exactly equal",
        EQUAL_PARAMETERS[a.method] if is_papers or (is_papers_size and is_ours) else None,
        ours,
        f"{ours_only}{claim.sentence}",
        f"[{share.low:.3f}, {share.high:.3f}] of all",
        claim.verdict,
    )


def _histogram_frame(equality: Equality) -> pd.DataFrame:
    other = equality.prefix.differences[~equality.prefix.equal]
    counts, edges = np.histogram(other, bins=BINS, range=(0, float(other.max()) if len(other) else 1.0))
    rows = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "n": counts})
    zeros = pd.DataFrame({"low": [0.0], "high": [0.0], "n": [equality.n_equal]})
    return pd.concat([zeros, rows], ignore_index=True).assign(a=equality.label_a, b=equality.label_b)


def _run(checkpoint: PrefixCheckpoint) -> str:
    stage = checkpoint.metadata.get("stage")
    return f"{checkpoint.data_set} {stage}" if stage else checkpoint.data_set


def _n_bands(equality: Equality) -> int:
    return len(equality.bands)


def _position(low: float) -> int:
    """Bands are powers of two, so the exponent is the position; the lowest band, from 0, stands left of 2^-6."""
    return -7 if low == 0 else int(np.log2(low))


def _range(low: float, high: float) -> str:
    return f"{_fraction(low)}–{_fraction(high)}"


def _fraction(value: float) -> str:
    return f"{value:g}" if value >= 1 or value == 0 else f"1/{1 / value:g}"
