"""Equal parameters of two experiments by magnitude, by storage precision and start seed: Figure 16 explained.

Pairs of runs on instructions and math by the published recipe: one seed in bfloat16, one seed in float32, two seeds in
bfloat16. If equal parameters were anatomy of the language model, all three pairs would have them. A fourth pair is one
seed in bfloat16 at a tenth of the learning rate: there rounding loses most updates, so most parameters must be equal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from aligner_probe.analysis.equality import Equality, MagnitudeBand, compare_numbers
from aligner_probe.arms.names import ALIGNER_1, ALIGNER_10, LLAMA_ADAPTER_10
from aligner_probe.evaluation.intervals import Interval, proportion_interval
from aligner_probe.figures.claims import Claim, above, below
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.drawing import Comparison, Drawing, MissingInputs, panels
from aligner_probe.figures.equality import plot_bands, plot_equality_by_magnitude
from aligner_probe.figures.experiments import FORM_AND_SKILL, LABELS, Experiments, in_brackets
from aligner_probe.figures.looks import BLACK, GREY, LIGHT_GREY, LOOKS
from aligner_probe.figures.paper import EQUAL_PARAMETERS
from aligner_probe.reproduction.results import FinishedRun

#: The arms whose runs are paired.
PAIRED_ARMS = (ALIGNER_1, ALIGNER_10, LLAMA_ADAPTER_10)
FIRST, TENTH = "one seed, bfloat16", "one seed, bfloat16, a tenth of the rate"


class Condition(NamedTuple):
    """The arms compared (on instructions, on math), and how the line is drawn in the colour of its method."""

    arms: tuple[str, str]
    fillstyle: Literal["full", "none", "left", "top"]
    linestyle: Literal["-", "--", ":", "-."]


CONDITIONS = {
    FIRST: Condition(("main", "main"), "full", "-"),
    "one seed, float32": Condition(("float32", "float32"), "none", "--"),
    "two seeds, bfloat16": Condition(("main", "other-seed"), "left", ":"),
    TENTH: Condition(("tenth-rate", "tenth-rate"), "top", "-."),
}
#: Shares that the explanation by rounding predicts, and where it does: half a ULP above the peak learning rate, and
#: below a tenth of it.
LOST, MOVED, NEARLY_NONE = 0.9, 0.05, 0.01
FRACTION = 0.1
#: Between the lines of two conditions, in bands.
APART = 0.16
#: With fewer parameters than this the shares say little.
ENOUGH = 1000


@dataclass(frozen=True)
class Pair:
    """Two runs compared, parameter by parameter; `lr` is the larger of their peak learning rates."""

    method: str
    condition: str
    runs: tuple[FinishedRun, FinishedRun]
    equality: Equality
    lr: float

    def band(self, *, lost: bool) -> tuple[int, int]:
        """How many parameters are equal, and how many there are, in some bands of magnitude.

        With `lost`, the bands where an update is lost; without, those where even a tenth of one moves a parameter.
        """
        inside = [band for band in self.equality.bands if (self.loses(band) if lost else self.moves(band))]
        return sum(band.n_equal for band in inside), sum(band.n for band in inside)

    def loses(self, band: MagnitudeBand) -> bool:
        return band.half_ulp > self.lr

    def moves(self, band: MagnitudeBand) -> bool:
        return band.half_ulp < FRACTION * self.lr


def plot_storage(ax: Axes, pairs: Sequence[Pair]) -> Axes:
    """Draw the share of equal parameters by magnitude, one line for each condition of one method.

    Lines have the method's colour and marker; the filling of the marker tells the condition. Bands in which bfloat16
    loses every update are grey, bands in which it keeps every update are hatched.
    """
    for index, pair in enumerate(pairs):
        condition, look = CONDITIONS[pair.condition], LOOKS[pair.method]
        plot_equality_by_magnitude(
            ax,
            pair.equality,
            color=look.color,
            marker=look.marker,
            fillstyle=condition.fillstyle,
            linestyle=condition.linestyle,
            label=pair.condition,
            offset=APART * (index - (len(pairs) - 1) / 2),
        )
    widest = max((pair.equality for pair in pairs), key=lambda equality: len(equality.bands))
    plot_bands(ax, widest)
    ax.set_ylabel("share exactly equal")
    coarse = next((pair for pair in pairs if pair.equality.grid == "bfloat16"), None)
    if coarse is not None:
        edges = {band.low: index for index, band in enumerate(coarse.equality.bands)}
        ticks = ax.get_xticks()
        shadings: tuple[tuple[Callable[[MagnitudeBand], bool], dict[str, Any], str], ...] = (
            (coarse.loses, {"facecolor": LIGHT_GREY, "alpha": 0.7}, "every update lost in bfloat16"),
            (coarse.moves, {"facecolor": "none", "edgecolor": LIGHT_GREY, "hatch": "///"}, "every update kept"),
        )
        for test, look, label in shadings:
            positions = [ticks[edges[band.low]] for band in coarse.equality.bands if test(band)]
            if positions:
                span = (min(positions) - 0.5, max(positions) + 0.5)
                ax.axvspan(*span, linewidth=0, zorder=0, label=label, **look)
        chance = coarse.equality.chance_share
        ax.axhline(chance, color=GREY, linewidth=0.9, label=f"chance, two starts in bfloat16: {chance:.2g}")
    return ax


def equality_by_storage(collection: Collection) -> Drawing:
    """One panel for each method with the conditions at one learning rate side by side; then those at a tenth of it."""
    experiments = collection.experiments
    all_pairs, missing = _pairs(experiments)
    if not all_pairs:
        raise MissingInputs(missing)
    together = [[pair for pair in all_pairs if pair.method == m and pair.condition != TENTH] for m in PAIRED_ARMS]
    together += [[pair] for pair in all_pairs if pair.condition == TENTH]
    together = [pairs for pairs in together if pairs]
    figure, axes = panels(len(together), sharey=True)
    for ax, pairs in zip(axes, together, strict=True):
        plot_storage(ax, pairs)
        first = pairs[0]
        ax.set_title(f"{LABELS[first.method]}, n = {first.equality.prefix.n:,}, learning rate {first.lr:g}")
    entries = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    entries |= {name: _in_black(name) for name in CONDITIONS if name in entries}
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=3, frameon=False)
    frames = [
        pair.equality.to_frame().assign(method=pair.method, condition=pair.condition, peak_lr=pair.lr)
        for pair in all_pairs
    ]
    runs = [run for pair in all_pairs for run in pair.runs]
    return Drawing(
        figure,
        pd.concat(frames, ignore_index=True),
        "Parameters of the prefix after training on instructions and on math, published recipe: share exactly equal "
        "by magnitude, with 95 % Wilson intervals. Where half a ULP of bfloat16 exceeds the peak learning rate, an "
        "update rounds to nothing; where it is below a tenth of that, every update moves the parameter. Adam's step "
        "can exceed its rate, at most (1 - beta1) / sqrt(1 - beta2) = 3.2 times, so the first band above it is mixed.",
        (*experiments.inputs(runs), *(experiments.adapters[run.id] for run in dict.fromkeys(runs))),
        settings={"lost": LOST, "moved": MOVED, "nearly_none": NEARLY_NONE, "fraction": FRACTION},
        missing=tuple(missing),
        comparisons=tuple(comparison for pair in all_pairs for comparison in _comparisons(pair)),
    )


def _in_black(name: str) -> Line2D:
    """A condition's entry in the legend, for it holds for methods of every colour and marker."""
    look = CONDITIONS[name]
    return Line2D([], [], color=BLACK, marker="o", fillstyle=look.fillstyle, linestyle=look.linestyle, markersize=5)


def _pairs(experiments: Experiments) -> tuple[list[Pair], list[str]]:
    pairs, missing = [], []
    for method in PAIRED_ARMS:
        for condition, (arms, _, _) in CONDITIONS.items():
            runs = [
                next(iter(experiments.results.select(experiment, method, recipe="as-published", arm=arm)), None)
                for experiment, arm in zip(FORM_AND_SKILL, arms, strict=True)
            ]
            first, second = runs
            if first is None or second is None:
                if not _unplanned(method, condition):
                    missing.append(f"{LABELS[method]} as published, {condition}")
                continue
            a, b = (experiments.adapters[run.id] for run in (first, second))
            rates = [run.lr["sft"] for run in (first, second)]
            pairs.append(Pair(method, condition, (first, second), compare_numbers(a, b), max(rates)))
    return pairs, missing


def _unplanned(method: str, condition: str) -> bool:
    """Aligner-1 has too few parameters for a tenth of the rate; LLaMA-Adapter is there to have many in bfloat16."""
    unplanned = {"aligner-1": (TENTH,), "llama-adapter-10": ("one seed, float32", "two seeds, bfloat16")}
    return condition in unplanned.get(method, ())


def _comparisons(pair: Pair) -> list[Comparison]:
    equality = pair.equality
    share = proportion_interval(equality.n_equal, equality.prefix.n)
    about = f"{LABELS[pair.method]}, {pair.condition}: equal parameters"
    ours = f"{equality.n_equal:,} of {equality.prefix.n:,} ({equality.share_equal:.2%})"
    if pair.condition not in (FIRST, TENTH):
        what = "equal parameters vanish with the shared start" if "two" in pair.condition else "float32 loses no update"
        claim = below(share, NEARLY_NONE, what)
        return [Comparison(about, None, ours, f"{claim.sentence}{_few(pair)}", in_brackets(share), claim.verdict)]
    paper = {"aligner-1": EQUAL_PARAMETERS["aligner"], "llama-adapter-10": EQUAL_PARAMETERS["llama_adapter"]}
    printed = paper.get(pair.method) if pair.condition == FIRST else None
    anatomy = "What equal parameters show of anatomy is tested by float32 and by two seeds."
    comparisons = [Comparison(about, printed, ours, anatomy, in_brackets(share))]
    for lost, what in ((True, "updates below half a ULP are lost"), (False, "larger updates move every parameter")):
        n_equal, n = pair.band(lost=lost)
        where = "half a ULP above the peak rate" if lost else "half a ULP below a tenth of the peak rate"
        about = f"{LABELS[pair.method]}, {pair.condition}: equal where {where}"
        if not n:
            comparisons.append(Comparison(about, None, "no such parameters", f"Not tested here: {what}."))
            continue
        share = proportion_interval(n_equal, n)
        claim = _predicted(share, lost, what)
        note = f"{claim.sentence}{_few(pair)}"
        comparisons.append(Comparison(about, None, f"{n_equal:,} of {n:,}", note, in_brackets(share), claim.verdict))
    return comparisons


def _predicted(share: Interval, lost: bool, what: str) -> Claim:
    return above(share, LOST, what) if lost else below(share, MOVED, what)


def _few(pair: Pair) -> str:
    n = pair.equality.prefix.n
    return "" if n >= ENOUGH else f" Only {n} parameters, so this is a hint."
