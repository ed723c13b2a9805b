"""Figure 16, and the figure the paper lacks: equal numbers by magnitude, with the half-ULP ladder."""

from collections.abc import Iterator
from itertools import combinations, cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import stats

from aligner_probe.analysis.equality import LOWEST_EDGE, Equality, compare_numbers
from aligner_probe.analysis.forensics import PairForensics, compare_checkpoints
from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.evaluation.intervals import proportion_interval
from aligner_probe.figures.claims import above
from aligner_probe.figures.collection import PAPER_DATA_SETS, Collection
from aligner_probe.figures.drawing import (
    BLUES,
    GREY,
    MARKERS,
    RED,
    YELLOWS,
    Comparison,
    Drawing,
    MissingInputs,
    panels,
)
from aligner_probe.figures.experiments import WORLD
from aligner_probe.figures.paper import EQUAL_NUMBERS

#: "A large part" of the numbers, of which the paper finds more than half.
LARGE_PART = 0.25
BINS = 40
#: More lines than this cannot be told apart.
MAX_PAIRS = 6


def plot_differences(ax: Axes, equality: Equality, *, color: str) -> Axes:
    """Histogram of |difference| on a log count axis; exact zeros stand apart, as a bar of their own."""
    differences = equality.prefix.differences
    other = differences[~equality.prefix.equal]
    top = float(other.max()) if len(other) else 1.0
    edges = np.linspace(0, top, BINS + 1)
    counts, _ = np.histogram(other, bins=edges)
    ax.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=color, edgecolor="white", linewidth=0.3)
    ax.bar(-2.5 * edges[1], equality.n_equal, width=2 * edges[1], color=RED, label="exactly equal")
    ax.annotate(
        f"{equality.n_equal:,} of {equality.prefix.n:,}\nexactly equal ({equality.share_equal:.1%})",
        (0.97, 0.95),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize=8,
        color=RED,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )
    ax.set_yscale("log")
    ax.set_ylim(0.7, max(equality.n_equal, counts.max(initial=1), 1) * 2.5)
    ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= top])
    ax.set(xlabel="|difference|", ylabel="numbers (log scale)")
    return ax


def plot_equality_by_magnitude(
    ax: Axes,
    equality: Equality,
    *,
    color: str,
    marker: str = "o",
    label: str | None = None,
    linestyle: str = "-",
    offset: float = 0.0,
) -> Axes:
    """Share of equal numbers in each magnitude band, with 95 % Wilson intervals; `offset` keeps several lines apart."""
    bands = [band for band in equality.bands if band.n]
    places = [_place(band.low) + offset for band in bands]
    shares = np.array([band.share_equal for band in bands])
    wilson = [stats.binomtest(band.n_equal, band.n).proportion_ci(method="wilson") for band in bands]
    errors = np.abs(np.array([[ci.low, ci.high] for ci in wilson]).T - shares)
    ax.errorbar(
        places,
        shares,
        yerr=errors,
        color=color,
        marker=marker,
        markersize=5,
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
    """The ladder: the largest update that still rounds to nothing, by magnitude."""
    places = [_place(band.low) for band in equality.bands]
    halves = [band.half_ulp for band in equality.bands]
    ax.plot(places, halves, drawstyle="steps-mid", color=color, linestyle=linestyle, label=label)
    ax.set_yscale("log", base=2)
    return plot_bands(ax, equality)


def plot_bands(ax: Axes, equality: Equality) -> Axes:
    """Name the magnitude bands on the axis."""
    places = [_place(band.low) for band in equality.bands]
    ax.set(xlabel="|value| = min(|a|, |b|), bands [low, high)", ylabel="half a ULP")
    ax.set_xticks(places, [_range(band.low, band.high) for band in equality.bands], rotation=35, ha="right")
    return ax


def embedding_differences(collection: Collection) -> Drawing:
    """Figure 16: |difference| between the tokens of two data sets, one panel a method and size."""
    pairs = _pairs(collection)
    missing = _missing(collection, pairs)
    if not pairs:
        raise MissingInputs(missing)
    compared = [compare_numbers(a, b) for a, b in pairs]
    figure, axes = panels(len(pairs))
    for ax, (a, b), equality in zip(axes, pairs, compared, strict=True):
        plot_differences(ax, equality, color=_colour(a))
        ax.set_title(f"{a.method_label} · {a.base_model}\n{_run(a)} against {_run(b)}")
    frames = [_histogram_frame(equality) for equality in compared]
    return Drawing(
        figure,
        pd.concat(frames, ignore_index=True),
        "Numbers of the same place in two checkpoints; exact zeros apart from small differences. n = "
        + ", ".join(f"{e.prefix.n:,} ({e.label_a} against {e.label_b})" for e in compared)
        + ". Which numbers are equal, and why, is shown in extra01.",
        tuple(dict.fromkeys(c for pair in pairs for c in pair)),
        settings={"bins": BINS},
        missing=tuple(missing),
        comparisons=tuple(_compare_with_paper(a, b, e) for (a, b), e in zip(pairs, compared, strict=True)),
    )


def equality_by_magnitude(collection: Collection) -> Drawing:
    """Equal numbers by magnitude over the half-ULP ladder; runs of different size as a control for the shared start."""
    pairs, controls = _pairs(collection), _control_pairs(collection)
    if not pairs and not controls:
        raise MissingInputs(["two checkpoints with numbers to compare"])
    reports = [(compare_checkpoints(a, b), False) for a, b in pairs]
    reports += [(compare_checkpoints(a, b, common_prefix=True), True) for a, b in controls]
    shown = reports if len(reports) <= MAX_PAIRS else [*reports[: MAX_PAIRS - len(controls)], *reports[len(pairs) :]]
    figure, (ax, ladder) = panels(2, columns=1, sharex=True)
    figure.set_size_inches(7.4, 6.6 + 0.22 * len(shown))
    shades: dict[str, Iterator[str]] = {"aligner": cycle(BLUES), "llama_adapter": cycle(YELLOWS)}
    methods = [a.method for a, _ in (*pairs, *controls)]
    for place, (report, control) in enumerate(shown):
        plot_equality_by_magnitude(
            ax,
            report.equality,
            color=next(shades[methods[reports.index((report, control))]]),
            marker=MARKERS[place % len(MARKERS)],
            linestyle=":" if control else "-",
            label=_describe_pair(report, control),
        )
    grids = {report.equality.grid: report.equality for report, _ in sorted(shown, key=_n_bands)}
    for style, (grid, equality) in zip(("--", "-.", ":", "-"), grids.items(), strict=False):
        chance = equality.chance_share
        label = f"two independent starts in {grid}: {chance:.2g}"
        ax.axhline(chance, color=RED, linewidth=0.9, linestyle=style, label=label)
        plot_half_ulp(ladder, equality, color=GREY, linestyle=style, label=f"{grid}: smaller updates are lost")
    # The longest list of bands labels the axis, whichever grid was drawn last.
    plot_bands(ladder, max((report.equality for report, _ in shown), key=lambda equality: len(equality.bands)))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", fontsize=7, frameon=False)
    ladder.legend(loc="upper left")
    frames = [report.to_frame().assign(common_prefix=control) for report, control in reports]
    left_out = f" Of {len(reports)} pairs {len(shown)} are drawn; the CSV has all." if len(shown) < len(reports) else ""
    return Drawing(
        figure,
        pd.concat(frames, ignore_index=True),
        "Above: share of exactly equal numbers, 95 % Wilson intervals, bands of one ULP size each. Dotted: controls of "
        "different size, compared over the first numbers both have. Below: half a ULP of the stored precision; an "
        f"update smaller than that rounds to nothing.{left_out} "
        + " ".join(f"{_describe_pair(r, c)}: {r.verdict}. {r.explanation}" for r, c in reports[:1]),
        tuple(dict.fromkeys(c for pair in (*pairs, *controls) for c in pair)),
        settings={"lowest_edge": LOWEST_EDGE, "interval": "Wilson, 95 %"},
        comparisons=tuple(
            Comparison(
                _describe_pair(report, control),
                "equal numbers are anatomy of the language model" if not control else None,
                f"{report.equality.n_equal:,} of {report.equality.prefix.n:,} equal, verdict {report.verdict}",
                report.explanation,
            )
            for report, control in reports
        ),
    )


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
    # The micro-world has more than one seed, and only runs of one recipe share it.
    others = [c for c in others if not c.base_model.startswith(WORLD) or c.base_model == ones[0].base_model]
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
    is_papers = {a.data_set, b.data_set} == set(PAPER_DATA_SETS) and a.base_model == "LLaMA-2 7B" and is_papers_size
    share = proportion_interval(equality.n_equal, equality.prefix.n)
    claim = above(share, LARGE_PART, "a large part of the numbers are exactly equal on two data sets")
    ours_only = f"The published files give {equality.n_equal}. " if is_papers and a.method == "aligner" else ""
    per = equality.per_token
    ours = f"{equality.n_equal:,} of {equality.prefix.n:,}"
    if len(equality.equal_per_token) > 1:
        ours += (
            f"; {per['mean']:.2f} on average a token, sd {per['sd']:.1f}, range {per['min']:.0f} to {per['max']:.0f}"
        )
    return Comparison(
        f"{equality.label_a} against {equality.label_b}: exactly equal",
        EQUAL_NUMBERS[a.method] if is_papers or (is_papers_size and a.base_model.startswith(WORLD)) else None,
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


def _describe_pair(report: PairForensics, control: bool) -> str:
    equality = report.equality
    extra = f", first {equality.prefix.n:,}" if control else ""
    a, b = (label.replace(" · LLaMA-2", "") for label in (equality.label_a, equality.label_b))
    return f"{a} / {b}{extra}"


def _colour(checkpoint: PrefixCheckpoint) -> str:
    return BLUES[0] if checkpoint.method == "aligner" else YELLOWS[0]


def _run(checkpoint: PrefixCheckpoint) -> str:
    stage = checkpoint.metadata.get("stage")
    return f"{checkpoint.data_set} {stage}" if stage else checkpoint.data_set


def _n_bands(item: tuple[PairForensics, bool]) -> int:
    return len(item[0].equality.bands)


def _place(low: float) -> int:
    """Bands are powers of two: the exponent is their place; the lowest band, from 0, stands left of 2^-6."""
    return -7 if low == 0 else int(np.log2(low))


def _range(low: float, high: float) -> str:
    return f"{_fraction(low)}–{_fraction(high)}"


def _fraction(value: float) -> str:
    return f"{value:g}" if value >= 1 or value == 0 else f"1/{1 / value:g}"
