"""Figures 5a and 5b: knowledge kept after instruction tuning, and a skill by number of trained parameters."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from aligner_probe.evaluation.intervals import Interval
from aligner_probe.figures.claims import MARGIN, Claim, above, as_good, not_worse
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.dots import REST, ROW, Score, plot_scores, to_frame
from aligner_probe.figures.drawing import Comparison, Drawing, MissingInputs, panels
from aligner_probe.figures.experiments import LABELS, Experiments, gap_of, in_brackets, mean_of, unchanged
from aligner_probe.figures.looks import LOOKS
from aligner_probe.reproduction.cells import BASE

INTERVALS = "Large: the mean of all seeds, with its 95 % bootstrap interval over items and seeds; small: each seed."
#: What was not trained in the experiment, in words.
OFF_DOMAIN = {
    "sums": "sums, never asked in training",
    "requests": "requests, never asked in training",
    "mmlu": "MMLU, never asked in training",
}
#: A base model that knows nothing of MMLU chooses right so often, and has nothing to lose.
CHANCE = {"mmlu": 0.25}
#: What the kinds of score say of an answer, and of the label of an option.
SAID = {"content": "the answer is right, in any form", "form": "the answer has the trained form"}
SAID_OF_LABELS = {"content": "the right label is the likeliest one", "form": "the likeliest token is a label"}
#: Points stand at least this factor apart on the axis of sizes.
BESIDE = 1.15
#: The same on other base models than the micro-world.
REAL_MATH_KINDS = {"content": "the final number is right", "strict": "and the answer ends as it was trained to"}
#: Of the math experiment: the paper scores the final answer alone.
MATH_KINDS = {"content": "the final number is right", "strict": "every step is right, too"}


def plot_by_parameters(ax: Axes, scores: Sequence[Score], n_parameters: dict[str, int]) -> Axes:
    """Draw the score against the trained parameters on a log axis; sizes of Aligner are joined.

    The untrained base model is a horizontal line with its 95 % interval as a band.
    """
    positions = _apart({method: n for method, n in n_parameters.items() if n})
    for score in scores:
        color, marker = LOOKS[score.method]
        interval = score.interval
        if score.method == BASE:
            ax.axhline(interval.value, color=color, linewidth=1.2, linestyle="--", label=score.label)
            ax.axhspan(interval.low, interval.high, color=color, alpha=0.12, linewidth=0)
            continue
        x = positions[score.method]
        ax.scatter(np.full(len(score.seeds), x), score.seeds, s=9, color=color, alpha=0.55, linewidth=0, zorder=2)
        errors = [[max(0.0, interval.value - interval.low)], [max(0.0, interval.high - interval.value)]]
        ax.errorbar(
            [x],
            [interval.value],
            yerr=errors,
            color=color,
            marker=marker,
            markersize=10 if marker == "*" else 7,
            markeredgecolor="white",
            markeredgewidth=0.5,
            capsize=2.5,
            linestyle="none",
            label=score.label,
            zorder=3,
        )
    line = [(positions[s.method], s.interval.value) for s in scores if s.method.startswith("aligner")]
    if len(line) > 1:
        ax.plot(*zip(*sorted(line), strict=True), color=LOOKS["aligner-1"][0], linewidth=0.9, alpha=0.6, zorder=1)
    ax.set_xscale("log")
    ax.set(xlabel="trained parameters (log scale)", ylim=(-0.04, 1.04))
    return ax


def _apart(n_parameters: dict[str, int]) -> dict[str, float]:
    """Where methods stand on the axis: those of nearly one size beside each other, not on top."""
    positions: dict[str, float] = {}
    last = 0.0
    for method, n in sorted(n_parameters.items(), key=lambda item: item[1]):
        last = positions[method] = max(float(n), last * BESIDE)
    return positions


def kept(collection: Collection) -> Drawing:
    """Figure 5a: what instruction tuning leaves of what was not trained, content and form apart."""
    experiments = collection.experiments
    methods = experiments.methods("instructions")
    results = experiments.results
    sets = [name for name in OFF_DOMAIN if all(name in r.scores for r in results.select("instructions"))]
    if not sets:
        raise MissingInputs(["scores off the trained domain (sets sums and requests)"])
    figure, axes = panels(2 * len(sets), columns=2, height=REST + ROW * len(methods), sharey=True)
    shown = []
    for index, (name, kind) in enumerate((name, kind) for name in sets for kind in ("content", "form")):
        scores = [
            Score.of(LABELS[m], m, kind, results.scores("instructions", m, kind, name, arm="main")) for m in methods
        ]
        plot_scores(axes[index], scores, hollow="form")
        what = SAID[kind] if name not in CHANCE else SAID_OF_LABELS[kind]
        axes[index].set_title(f"{name}: {what}")
        axes[index].set_xlabel(f"share of items, n = {scores[0].n_items}")
        shown.append(to_frame(scores).assign(set=name))
    runs = [run for method in methods for run in results.select("instructions", method)]
    return Drawing(
        figure,
        pd.concat(shown, ignore_index=True),
        (_kept_on_real(experiments, sets) if experiments.is_real else _kept_on_world(sets))
        + f" {INTERVALS} Seeds: {_seeds(experiments, 'instructions')}.{unchanged(runs)}",
        experiments.inputs(runs),
        missing=experiments.missing("instructions"),
        comparisons=tuple(comparison for name in sets for comparison in _kept_comparisons(experiments, methods, name)),
    )


def _kept_on_world(sets: Sequence[str]) -> str:
    """How the caption of Figure 5a begins on the micro-world."""
    return (
        "After training on the assistant's way of answering, the model is asked what it was not trained on: "
        f"{'; '.join(OFF_DOMAIN[name] for name in sets)}. Content (filled) is what it knew before, form (hollow) how "
        "far the trained way of answering reaches. The paper asks MMLU instead. The control that is missing here, what "
        "a prompt for the same form leaves, is in notebook 03: nearly all sums, and none of the requests, so the lower "
        "panels say nothing of adapters. Each method is at the rate that suits its training, and how much it keeps "
        "depends on that rate; extra09 compares methods at equal form."
    )


def _kept_on_real(experiments: Experiments, sets: Sequence[str]) -> str:
    """How the caption of Figure 5a begins on another base model."""
    base = experiments.results.select("instructions", BASE)
    known = f" The base model chooses right {base[0].mean('content', 'mmlu'):.2f}, chance is .25." if base else ""
    return (
        "After training on Alpaca, the model is asked what it was not trained on: "
        f"{'; '.join(OFF_DOMAIN[name] for name in sets)}. Content (filled): of the labels A to D the right one is the "
        "likeliest next token. Form (hollow): the likeliest of all tokens is a label. No method is compared at equal "
        f"form here.{known}"
    )


def _kept_comparisons(experiments: Experiments, methods: Sequence[str], name: str) -> list[Comparison]:
    content = {m: experiments.results.scores("instructions", m, "content", name) for m in methods}
    comparisons = []
    if BASE not in content:
        return comparisons
    before = mean_of(content[BASE])

    def kept(difference: Interval, what: str) -> Claim:
        if before.low > CHANCE.get(name, -1.0):
            return not_worse(difference, what)
        criterion = f"criterion: its interval above chance, {CHANCE[name]:g}; it is {in_brackets(before)}"
        return Claim("undecided", f"Undecided here: the base model may know nothing of {name} ({criterion}).")

    for method in (m for m in methods if m != BASE):
        claim = kept(gap_of(content[method], content[BASE]), f"{LABELS[method]} keeps what the base knows of {name}")
        about = f"{name}: content after tuning {LABELS[method]}, against {content[BASE].mean():.3f} before"
        paper = "form is learned without harm to knowledge" if method.startswith("aligner") else None
        mean = mean_of(content[method])
        comparisons.append(
            Comparison(about, paper, f"{mean.value:.3f}", claim.sentence, in_brackets(mean), claim.verdict)
        )
    if {"aligner-1", "lora-8"} <= set(content):
        difference = gap_of(content["aligner-1"], content["lora-8"])
        claim = kept(difference, f"Aligner-1 keeps as much of {name} as LoRA")
        about = f"{name}: content kept, Aligner-1 minus LoRA"
        ours = f"{difference.value:+.3f}"
        comparisons.append(Comparison(about, None, ours, claim.sentence, in_brackets(difference), claim.verdict))
    return comparisons


def math_by_parameters(collection: Collection) -> Drawing:
    """Figure 5b: score on a skill that the base lacks, against the number of trained parameters."""
    experiments = collection.experiments
    methods = experiments.methods("math")
    results = experiments.results
    n_parameters = {m: results.select("math", m)[0].n_parameters for m in methods}
    figure, axes = panels(len(MATH_KINDS), height=3.6, sharey=True)
    frames = []
    for ax, (kind, what) in zip(axes, MATH_KINDS.items(), strict=True):
        scores = [Score.of("math", m, kind, results.scores("math", m, kind)) for m in methods]
        plot_by_parameters(ax, scores, n_parameters)
        ax.set_title(REAL_MATH_KINDS[kind] if experiments.is_real else what)
        frames.append(to_frame(scores).assign(n_parameters=[n_parameters[m] for m in methods]))
    axes[0].set_ylabel(f"share of items, n = {frames[0]['n_items'][0]}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    runs = [run for method in methods for run in results.select("math", method)]
    return Drawing(
        figure,
        pd.concat(frames, ignore_index=True),
        f"{_math_said(experiments)} Dashed: the base, untrained, with its interval. {INTERVALS} Lines join sizes of "
        f"Aligner; methods of nearly one size stand beside each other. Seeds: {_seeds(experiments, 'math')}."
        + unchanged(runs),
        experiments.inputs(runs),
        missing=experiments.missing("math"),
        comparisons=tuple(_math_comparisons(experiments, methods, n_parameters)),
    )


def _math_said(experiments: Experiments) -> str:
    if not experiments.is_real:
        return (
            "An operation that the base has never seen, with worked steps, against the trained parameters; the paper's "
            "is GSM8K after MetaMath."
        )
    data = experiments.results.plan["data"]
    return (
        "The share of right answers to GSM8K, without examples in the prompt, against the number of trained "
        "parameters. The methods were trained on "
        f"{data['math']['source']} ({data['math']['trained']:,} rows), those of the paper on MetaMath."
    )


def _math_comparisons(experiments: Experiments, methods: Sequence[str], sizes: dict[str, int]) -> list[Comparison]:
    scores = {m: experiments.results.scores("math", m, "content") for m in methods}
    comparisons = []
    for method in methods:
        mean = mean_of(scores[method])
        about = f"{LABELS[method]}, {sizes[method]:,} parameters: final number right"
        comparisons.append(Comparison(about, None, f"{mean.value:.3f}", "", in_brackets(mean)))

    def compare(a: str, b: str, paper: str, decide) -> None:
        if {a, b} <= set(scores):
            difference = gap_of(scores[a], scores[b])
            claim: Claim = decide(difference)
            about = f"{LABELS[a]} minus {LABELS[b]}"
            ours = f"{difference.value:+.3f}"
            comparisons.append(Comparison(about, paper, ours, claim.sentence, in_brackets(difference), claim.verdict))

    aligners = [m for m in methods if m.startswith("aligner")]
    if len(aligners) > 1:
        largest, smallest = max(aligners, key=sizes.__getitem__), min(aligners, key=sizes.__getitem__)
        what = f"math gains from more tokens ({LABELS[largest]} above {LABELS[smallest]})"
        compare(largest, smallest, "rises with the number of parameters", lambda d: above(d, 0, what))
    compare("lora-8", BASE, "learned", lambda d: above(d, MARGIN, "LoRA learned the operation"))
    compare("lora-8", "aligner-1", "one token is not enough", lambda d: above(d, 0, "LoRA is above Aligner-1"))
    same_size = [m for m in aligners if sizes[m] == sizes.get("llama-adapter-10")]
    for method in same_size:
        what = f"at equal size {LABELS[method]} is as good as LLaMA-Adapter-10"
        gain = gap_of(scores["llama-adapter-10"], scores[BASE]) if BASE in scores else None
        compare(method, "llama-adapter-10", "comparable at equal size", lambda d, w=what, g=gain: as_good(d, g, w))
    return comparisons


def _seeds(experiments: Experiments, experiment: str) -> str:
    seeds = {str(run.seed) for run in experiments.results.select(experiment) if run.seed is not None}
    return ", ".join(sorted(seeds))
