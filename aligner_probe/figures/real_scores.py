"""Figure 3 of a base model other than the micro-world: refusals by category, over-refusal, and preferences."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from aligner_probe.evaluation.intervals import bootstrap
from aligner_probe.figures.claims import above, as_good
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.dots import REST, Score, plot_scores, to_frame
from aligner_probe.figures.drawing import Comparison, Drawing, panels
from aligner_probe.figures.experiments import (
    LABELS,
    ONE,
    RIVALS,
    SHOWN,
    Experiments,
    gap_of,
    in_brackets,
    mean_of,
    unchanged,
)
from aligner_probe.reproduction.cells import BASE
from aligner_probe.reproduction.real_data import HARMLESS

#: Inches of a row.
LINE = 0.62
#: The sets of the safety experiment, and what is right there.
SETS = {
    "harmful": "harmful: the answer refuses",
    HARMLESS: "harmless: the answer does not refuse",
    "test": "held-out pairs: the chosen answer is likelier",
}


def by_category(collection: Collection) -> Drawing:
    """Figure 3: the share of right behaviour by set and category, a panel a set."""
    experiments = collection.experiments
    results = experiments.results
    methods = [method for method in experiments.methods("safety") if method in SHOWN]
    items = results.items["safety"]
    names = [name for name in SETS if name in items]
    rows = {name: _categories(experiments, name) for name in names}
    figure, axes = panels(len(names), columns=3, height=REST + LINE * max(map(len, rows.values())))
    frames = []
    for ax, name in zip(axes, names, strict=True):
        scores = [
            Score.of(f"{category}\nn = {len(indices)}", method, "content", all_scores[:, indices])
            for category, indices in rows[name].items()
            for method in methods
            for all_scores in [results.scores("safety", method, "content", name)]
        ]
        plot_scores(ax, scores)
        ax.set_title(SETS[name])
        ax.set_xlabel("share of items")
        frames.append(to_frame(scores).assign(set=name))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(methods), frameon=False)
    frame = pd.concat(frames, ignore_index=True)
    frame["row"] = frame["row"].str.replace("\n", " ")
    runs = [run for method in methods for run in results.select("safety", method)]
    return Drawing(
        figure,
        frame,
        "Tuned by SFT and then by DPO. A refusal is recognised by its words in the first two sentences: a rule, not a "
        "human or a GPT judge, and not Beaver's. A model that refuses everything is right on the left and wrong in the "
        "middle. "
        "Large: the mean of all seeds with its 95 % bootstrap interval over items and seeds; small: each seed."
        + unchanged(runs)
        + _judged_note(experiments),
        experiments.inputs(runs),
        missing=experiments.missing("safety"),
        comparisons=tuple(_comparisons(experiments, methods, names)),
    )


def _categories(experiments: Experiments, name: str) -> dict[str, np.ndarray]:
    """The indices of the items of each category of a set; harmless questions are one category."""
    items = experiments.results.items["safety"][name]
    categories = dict.fromkeys(item.category for item in items)
    return {c: np.flatnonzero([item.category == c for item in items]) for c in categories}


def _comparisons(experiments: Experiments, methods: Sequence[str], names: Sequence[str]) -> list[Comparison]:
    comparisons = []
    results = experiments.results
    scores = {(m, name): results.scores("safety", m, "content", name) for m in methods for name in names}
    for name in names:
        for method in methods:
            mean = mean_of(scores[method, name])
            about = f"{LABELS[method]}, {SETS[name]}, n = {scores[method, name].shape[1]}"
            comparisons.append(Comparison(about, None, f"{mean.value:.3f}", "", in_brackets(mean)))
    for rival in RIVALS:
        if not {ONE, rival} <= set(methods) or "harmful" not in names:
            continue
        gap = gap_of(scores[ONE, "harmful"], scores[rival, "harmful"])
        gain = gap_of(scores[rival, "harmful"], scores[BASE, "harmful"]) if BASE in methods else None
        claim = as_good(gap, gain, f"Aligner-1 refuses what is harmful as well as {LABELS[rival]}")
        about = f"harmful: Aligner-1 minus {LABELS[rival]}"
        comparisons.append(
            Comparison(about, "comparable", f"{gap.value:+.3f}", claim.sentence, in_brackets(gap), claim.verdict)
        )
    for method in (m for m in methods if m != BASE):
        runs = results.select("safety", method)
        after, before = (np.stack([run.values[name]["margin"] for run in runs]) for name in ("test", "after_sft"))
        gain = bootstrap(lambda a, b: a - b, after, before)
        claim = above(gain, 0, f"DPO makes {LABELS[method]} prefer the chosen answers more than after SFT")
        about = f"{LABELS[method]}: margin of the chosen answer after DPO minus after SFT, nats"
        comparisons.append(
            Comparison(about, "safer", f"{gain.value:+.3f}", claim.sentence, in_brackets(gain), claim.verdict)
        )
    return comparisons


def _judged_note(experiments: Experiments) -> str:
    """What a judge said of the same answers, where one was asked."""
    judged = experiments.judged
    if judged is None or not judged.shares.get("harmful"):
        return ""
    said = "; ".join(
        f"{LABELS[method]} {shares[''].counted} of {shares[''].n} harmful"
        for method, shares in judged.shares["harmful"].items()
        if "" in shares
    )
    right = judged.accuracy.get("safety", "not tried")
    return f" Judge of harm ({judged.judge}; right on known answers: {right}): {said}."
