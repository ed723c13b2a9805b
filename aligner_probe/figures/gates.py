"""Figures 6a/7 to 11: gates by layer, by head position, and all in order."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from aligner_probe.analysis.gates import GateStatistics, RankCorrelation, gate_statistics
from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.errors import one_of
from aligner_probe.evaluation.intervals import Interval, bootstrap, proportion_interval
from aligner_probe.figures.claims import above, below
from aligner_probe.figures.collection import Collection, Group
from aligner_probe.figures.drawing import Comparison, Drawing, MissingInputs, legend_below, panels
from aligner_probe.figures.looks import EMPHASIS, GREY, looks_of

SAMPLE_STD = "Standard deviations have ddof 1."
INTERVALS = "Vertical lines: 95 % BCa bootstrap intervals over {drawn}, {resamples} resamples, seed {seed}."
GAUGE = (
    "Aligner-1's gates are drawn as stored; their common scale, and the sign of all at once, are not identified. Fixed "
    "to a token of norm sqrt(d_model), multiply by {factors}."
)
#: Section 5.1 reads the spread as rising with depth and falling again in the upper half.
PAPER_SPREAD = "rises with layer"
PAPER_UPPER = "reversed in the upper half"
#: Random pairings of heads against which a pattern by head position is held.
SHUFFLES = 2000
#: Between the points of two checkpoints at one layer or head position.
APART = 0.14
#: Powers of two that Figure 11 marks, counted down from the largest gate.
OCTAVES = 3
RINGS = "exactly a power of two"


def plot_by_layer(
    ax: Axes,
    statistics: GateStatistics,
    *,
    what: str = "std",
    color: str | None = None,
    marker: str | None = None,
    label: str | None = None,
    offset: float = 0.0,
) -> Axes:
    """Draw the spread ("std") or the mean ("mean") of the gates of each layer, with its 95 % interval.

    `offset` moves the points to the right, in layers, so that the intervals of several checkpoints stand side by side.
    """
    one_of(what, ("std", "mean"), "what")
    values, interval = {
        "std": (statistics.std_by_layer, statistics.std_by_layer_interval),
        "mean": (statistics.mean_by_layer, statistics.mean_by_layer_interval),
    }[what]
    positions = np.asarray(statistics.layers) + offset
    (line,) = ax.plot(positions, values, color=color, marker=marker, markersize=4, linewidth=1.0, label=label, zorder=3)
    ax.vlines(positions, *interval, color=line.get_color(), linewidth=1.0, alpha=0.75, zorder=2)
    heads = statistics.gates.shape[1]
    ax.set(xlabel=f"layer (from 0), n = {heads} heads each", ylabel=f"{_noun(what)} of gates")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _with_zero(ax, what)


def plot_by_head(
    ax: Axes,
    statistics: GateStatistics,
    *,
    what: str = "std",
    color: str | None = None,
    marker: str | None = None,
    label: str | None = None,
    offset: float = 0.0,
) -> Axes:
    """Draw the spread or the mean of the gates at each head position over the layers, with its 95 % interval.

    No line joins the points, because head positions have no order. `offset` moves the points to the right, in head
    positions.
    """
    one_of(what, ("std", "mean"), "what")
    values, interval = {
        "std": (statistics.std_by_head, statistics.std_by_head_interval),
        "mean": (statistics.mean_by_head, statistics.mean_by_head_interval),
    }[what]
    positions = np.arange(len(values)) + offset
    (points,) = ax.plot(
        positions, values, color=color, marker=marker, markersize=4.5, linestyle="none", label=label, zorder=3
    )
    ax.vlines(positions, *interval, color=points.get_color(), linewidth=1.0, alpha=0.75, zorder=2)
    ax.set(xlabel=f"head position, n = {len(statistics.layers)} layers each", ylabel=f"{_noun(what)} over layers")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _with_zero(ax, what)


def plot_all_gates(ax: Axes, statistics: GateStatistics, *, color: str | None = None) -> Axes:
    """Draw every gate in order, from the first head to the last and from the bottom layer to the top.

    Vertical grid lines stand at layers. Dotted lines are powers of two; a gate that is exactly one of them has a ring.
    """
    heads = statistics.gates.shape[1]
    ax.plot(statistics.flat, color=color, marker=".", markersize=3, linestyle="none")
    ax.axhline(0, color=GREY, linewidth=0.8)
    largest = float(np.abs(statistics.flat).max())
    if largest > 0:
        top = int(np.floor(np.log2(largest)))
        for power in 2.0 ** np.arange(top, top - OCTAVES, -1):
            for side in (-power, power):
                if statistics.flat.min() <= side <= statistics.flat.max():
                    ax.axhline(side, color=EMPHASIS, linewidth=0.6, linestyle=":", zorder=0)
    exact = statistics.is_power_of_two.reshape(-1)
    ax.plot(
        np.flatnonzero(exact), statistics.flat[exact], color=EMPHASIS, marker="o", markersize=6.5,
        markerfacecolor="none", markeredgewidth=0.9, linestyle="none", label=RINGS,
    )  # fmt: skip
    step = max(1, len(statistics.layers) // 8)
    names = [str(layer) for layer in statistics.layers[::step]]
    ax.set_xticks([i * heads for i in range(0, len(statistics.layers), step)], names)
    ax.set(xlabel=f"layer ({heads} heads each, in order)", ylabel="gate")
    ax.grid(visible=False, axis="y")
    return ax


def std_by_layer(collection: Collection) -> Drawing:
    """Figures 6a and 7."""
    return _by_layer(collection, "std")


def mean_by_layer(collection: Collection) -> Drawing:
    """Figure 8."""
    return _by_layer(collection, "mean")


def std_by_head(collection: Collection) -> Drawing:
    """Figure 9."""
    return _by_head(collection, "std")


def mean_by_head(collection: Collection) -> Drawing:
    """Figure 10."""
    return _by_head(collection, "mean")


def all_gates(collection: Collection) -> Drawing:
    """Figure 11: one panel a checkpoint."""
    shown = [(group, c) for group in _usable(collection) for c in group.checkpoints]
    statistics = [gate_statistics(c) for _, c in shown]
    figure, axes = panels(len(shown), columns=2, height=2.2)
    looks = [look for group in _usable(collection) for look in looks_of(group.checkpoints)]
    for ax, (group, checkpoint), result, look in zip(axes, shown, statistics, looks, strict=True):
        plot_all_gates(ax, result, color=look.color)
        counted = f"{result.at_powers_of_two} of {result.gates.size} at powers of two"
        expected = f"{result.expected_at_powers_of_two:.1f} expected"
        ax.set_title(f"{group.legend(checkpoint)} · {group.title}\n{counted} ({expected})", fontsize=8.5)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", frameon=False)
    frames = [
        pd.DataFrame(
            {
                "checkpoint": result.label,
                "layer": np.repeat(result.layers, result.gates.shape[1]),
                "head": np.tile(np.arange(result.gates.shape[1]), len(result.layers)),
                "gate": result.flat,
                "is_power_of_two": result.is_power_of_two.reshape(-1),
            }
        )
        for result in statistics
    ]
    return Drawing(
        figure,
        pd.concat(frames, ignore_index=True),
        "Every gate, after its function, from the first head to the last and from the bottom layer to the top. Dotted "
        "lines are powers of two, rings are gates that are exactly one of them. Rows of such gates are a trace of "
        "storage precision: the grid's step doubles there, and an update that got a gate this far gets it no further. "
        "The number to expect is that without rounding.",
        tuple(c for _, c in shown),
        missing=_missing(collection),
        comparisons=tuple(
            Comparison(
                f"{result.label}: gates exactly at a power of two",
                None,
                f"{result.at_powers_of_two} of {result.gates.size}",
                f"{result.expected_at_powers_of_two:.1f} to expect without rounding",
            )
            for result in statistics
        ),
    )


def _by_layer(collection: Collection, what: str) -> Drawing:
    def caption(statistics: Sequence[GateStatistics]) -> str:
        return f"{SAMPLE_STD if what == 'std' else ''} {_intervals('heads', statistics[0])}"

    return _draw(collection, what, plot_by_layer, GateStatistics.to_frame, caption)


def _by_head(collection: Collection, what: str) -> Drawing:
    def caption(statistics: Sequence[GateStatistics]) -> str:
        layers = sorted({len(s.layers) for s in statistics})
        return (
            f"{SAMPLE_STD if what == 'std' else ''} Each point is one head position over "
            f"{' or '.join(map(str, layers))} layers. {_intervals('layers', statistics[0])} Head k of one layer has "
            "nothing in common with head k of another, so a pattern here would be chance."
        )

    return _draw(collection, what, plot_by_head, GateStatistics.heads_to_frame, caption)


def _draw(
    collection: Collection,
    what: str,
    plot: Callable[..., Axes],
    to_frame: Callable[[GateStatistics], pd.DataFrame],
    caption: Callable[[Sequence[GateStatistics]], str],
) -> Drawing:
    spread_of_heads = plot is plot_by_layer and what == "std"
    # One gate a layer has no spread; a checkpoint of such gates is named, not drawn as nothing.
    spreadless = [c for c in collection.checkpoints if spread_of_heads and c.gates_per_layer == 1]
    lacking = [f"spread of {c.label}: it has one gate a layer" for c in spreadless]
    drawn = {id(c) for c in collection.checkpoints} - {id(c) for c in spreadless}
    groups = [group for group in _usable(collection) if any(id(c) in drawn for c in group.checkpoints)]
    if not groups:
        raise MissingInputs(lacking)
    figure, axes = panels(len(groups))
    shown: list[tuple[PrefixCheckpoint, GateStatistics]] = []
    for ax, group in zip(axes, groups, strict=True):
        here = [c for c in group.checkpoints if id(c) in drawn]
        has_intervals = plot is plot_by_head or any(c.gates_per_layer > 1 for c in here)
        over = "layers" if plot is plot_by_head else "heads"
        for index, (checkpoint, look) in enumerate(zip(here, looks_of(here), strict=True)):
            result = gate_statistics(checkpoint)
            shown.append((checkpoint, result))
            offset = APART * (index - (len(here) - 1) / 2)
            plot(ax, result, what=what, label=group.legend(checkpoint), offset=offset, **look._asdict())
        ax.set_title(group.title)
        legend_below(ax, title=f"lines: 95 % bootstrap over {over}" if has_intervals else None)
    statistics = [result for _, result in shown]
    gauges = ", ".join(f"{r.gauge:.3f} ({r.label})" for r in statistics if r.gauge is not None)
    heads = sorted({r.gates.shape[1] for r in statistics})
    return Drawing(
        figure,
        pd.concat([to_frame(result) for result in statistics], ignore_index=True),
        f"{caption(statistics)} n = {' or '.join(map(str, heads))} gates a layer. "
        f"{GAUGE.format(factors=gauges) if gauges else ''}".strip(),
        tuple(checkpoint for checkpoint, _ in shown),
        settings={"ddof": 1, "seed": statistics[0].seed, "resamples": statistics[0].resamples},
        missing=(*_missing(collection), *lacking),
        comparisons=tuple(
            comparison
            for result in statistics
            for comparison in (_by_depth(result, what) if plot is plot_by_layer else [_by_position(result, what)])
        ),
    )


def _by_depth(result: GateStatistics, what: str) -> list[Comparison]:
    if what == "mean":
        mean = bootstrap(lambda mean: mean, result.flat, n_resamples=result.resamples)
        note = "The paper draws the means and prints no number."
        shown = f"[{mean.low:+.4f}, {mean.high:+.4f}]"
        return [Comparison(f"{result.label}: mean of all gates", None, f"{mean.value:+.4f}", note, shown)]
    rows = []
    for part, correlation, paper in (
        ("all layers", result.spearman, PAPER_SPREAD),
        ("upper half", result.spearman_upper, PAPER_UPPER),
    ):
        about = f"{result.label}: Spearman of spread against layer, {part}, n = {correlation.n_layers}"
        if not np.isfinite([correlation.rho, correlation.low, correlation.high]).all():
            rows.append(Comparison(about, paper, "not defined", "Too few layers or heads to judge."))
            continue
        interval = _interval(correlation)
        if part == "all layers":
            claim = above(interval, 0, "the spread of the gates rises with layer")
        else:
            claim = below(interval, 0, "in the upper half the spread falls again")
        ours, shown = f"{correlation.rho:+.3f}", f"[{correlation.low:+.3f}, {correlation.high:+.3f}] over heads"
        rows.append(Comparison(about, paper, ours, claim.sentence, shown, claim.verdict))
    return rows


def _by_position(result: GateStatistics, what: str) -> Comparison:
    """Whether head positions differ more than they do when each layer's heads are shuffled."""
    gates = result.gates
    about = f"{result.label}: range of the {_noun(what)} over head positions"
    if min(gates.shape) < 2:
        return Comparison(about, None, "not defined", "Too few layers or heads to judge.")
    statistic = (
        (lambda g: np.ptp(g.std(axis=-2, ddof=1), axis=-1))
        if what == "std"
        else (lambda g: np.ptp(g.mean(axis=-2), axis=-1))
    )
    spread = np.random.default_rng(result.seed)
    shuffled = spread.permuted(np.broadcast_to(gates, (SHUFFLES, *gates.shape)), axis=-1)
    as_large = int((statistic(shuffled) >= statistic(gates) - 1e-12).sum())
    chance = proportion_interval(as_large, SHUFFLES)
    verdict = "more than chance" if chance.high < 0.05 else "no more than chance"
    note = (
        f"With each layer's heads shuffled the range is as large in {chance.value:.1%} of {SHUFFLES} cases: {verdict}."
    )
    return Comparison(
        about, None, f"{float(statistic(gates)):.4f}", note, f"p in [{chance.low:.3f}, {chance.high:.3f}]"
    )


def _with_zero(ax: Axes, what: str) -> Axes:
    """A line at zero; a spread cannot be negative, so its axis begins there."""
    ax.axhline(0, color=GREY, linewidth=0.9, zorder=1)
    if what == "std":
        ax.autoscale(axis="y")  # a limit that an earlier checkpoint set would cut this one off
        ax.set_ylim(bottom=0)
    return ax


def _intervals(drawn: str, sample: GateStatistics) -> str:
    return INTERVALS.format(drawn=drawn, resamples=sample.resamples, seed=sample.seed)


def _interval(correlation: RankCorrelation) -> Interval:
    return Interval(correlation.rho, correlation.low, correlation.high)


def _usable(collection: Collection) -> tuple[Group, ...]:
    if not collection.groups:
        raise MissingInputs(["a checkpoint of Aligner or LLaMA-Adapter"])
    return collection.groups


def _missing(collection: Collection) -> tuple[str, ...]:
    return (*collection.missing("aligner", 1), *collection.missing("llama_adapter"))


def _noun(what: str) -> str:
    return {"std": "standard deviation", "mean": "mean"}[what]
