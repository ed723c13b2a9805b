"""Figure 3: safe answers by category, after supervised tuning and DPO."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from aligner_probe.figures import real_scores
from aligner_probe.figures.claims import above, as_good
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.dots import REST, Score, plot_scores, to_frame
from aligner_probe.figures.drawing import Comparison, Drawing, panels
from aligner_probe.figures.experiments import LABELS, Experiments, gap_of, in_brackets, mean_of
from aligner_probe.microworld.requests import CATEGORIES
from aligner_probe.reproduction.cells import BASE
from aligner_probe.reproduction.items import Item

#: The paper's methods; more would not be told apart on one line.
SHOWN = (BASE, "aligner-1", "aligner-10", "llama-adapter-10", "lora-8")
HARMFUL = {category.name for category in CATEGORIES if category.harmful}
KIND = "content"
LINE = 0.62


def by_category(collection: Collection) -> Drawing:
    """Share of the right answer by category: a refusal to what is harmful, help with what is not."""
    experiments = collection.experiments
    if experiments.is_real:
        return real_scores.by_category(collection)
    methods = [m for m in experiments.methods("safety") if m in SHOWN]
    items = experiments.results.items["safety"]["test"]
    categories = sorted(dict.fromkeys(item.category for item in items), key=lambda name: name not in HARMFUL)
    groups = {
        "harmful: the answer is a refusal": [c for c in categories if c in HARMFUL],
        "harmless: the answer helps": [c for c in categories if c not in HARMFUL],
    }
    groups = {title: names for title, names in groups.items() if names}
    tallest = max(map(len, groups.values()))
    figure, axes = panels(len(groups), height=REST + LINE * tallest)
    frames = []
    for ax, (title, names) in zip(axes, groups.items(), strict=True):
        scores = [
            Score.of(f"{name}\nn = {len(indices)}", method, KIND, all_scores[:, indices])
            for name in names
            for indices in [_indices_of(items, {name})]
            for method in methods
            for all_scores in [experiments.results.scores("safety", method, KIND)]
        ]
        plot_scores(ax, scores)
        ax.set_title(title)
        ax.set_xlabel("share of items with the right answer")
        frames.append(to_frame(scores).assign(group=title))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(methods), frameon=False)
    frame = pd.concat(frames, ignore_index=True)
    frame["row"] = frame["row"].str.replace("\n", " ")
    runs = [run for method in methods for run in experiments.results.select("safety", method)]
    return Drawing(
        figure,
        frame,
        "Tuned to prefer the safe answer (supervised, then DPO). The rule looks for the right answer's words in the "
        "answer: it is a rule, not a human or a GPT judge, and not Beaver's. Large: the mean of all seeds, with its "
        "95 % bootstrap interval over items and seeds; small: each seed.",
        experiments.inputs(runs),
        missing=experiments.missing("safety"),
        comparisons=tuple(_comparisons(experiments, methods, items)),
    )


def _indices_of(items: Sequence[Item], categories: set[str]) -> np.ndarray:
    return np.flatnonzero([item.category in categories for item in items])


def _comparisons(experiments: Experiments, methods: Sequence[str], items: Sequence[Item]) -> list[Comparison]:
    harmful = _indices_of(items, HARMFUL)
    harmless = np.setdiff1d(np.arange(len(items)), harmful)
    scores = {m: experiments.results.scores("safety", m, KIND) for m in methods}
    comparisons = []
    for method in methods:
        for what, indices in (("harmful: refused", harmful), ("harmless: helped", harmless)):
            if len(indices):
                mean = mean_of(scores[method][:, indices])
                about = f"{LABELS[method]}, {what}, n = {len(indices)}"
                comparisons.append(Comparison(about, None, f"{mean.value:.3f}", "", in_brackets(mean)))
    if not len(harmful):
        return comparisons
    for rival in ("llama-adapter-10", "lora-8"):
        if not {"aligner-1", rival} <= set(scores):
            continue
        difference = gap_of(scores["aligner-1"][:, harmful], scores[rival][:, harmful])
        gain = gap_of(scores[rival][:, harmful], scores[BASE][:, harmful]) if BASE in scores else None
        claim = as_good(difference, gain, f"Aligner-1 refuses what is harmful as well as {LABELS[rival]}")
        about = f"harmful, all categories: Aligner-1 minus {LABELS[rival]}"
        ours = f"{difference.value:+.3f}"
        comparisons.append(
            Comparison(about, "comparable", ours, claim.sentence, in_brackets(difference), claim.verdict)
        )
    runs = experiments.results.select("safety", "aligner-1")
    if runs and all("after_sft" in run.scores for run in runs):
        before = experiments.results.scores("safety", "aligner-1", KIND, "after_sft")
        gain = gap_of(scores["aligner-1"][:, harmful], before[:, harmful])
        claim = above(gain, 0, "DPO makes Aligner-1 safer than supervised tuning alone")
        about = "harmful: Aligner-1 after DPO minus after supervised tuning"
        paper = "safer"
        comparisons.append(
            Comparison(about, paper, f"{gain.value:+.3f}", claim.sentence, in_brackets(gain), claim.verdict)
        )
    return comparisons
