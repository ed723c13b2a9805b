"""The panel of tasks of known nature as pictures: how F and R1 tell them apart, and what becomes of other knowledge.

content = json.loads((out / "panel.json").read_text())  # of `aligner-probe probe panel`
plot_panel(content, ax)
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aligner_probe.arms.names import KEPT_ARMS
from aligner_probe.artifacts import artifact
from aligner_probe.evaluation.intervals import Interval, bootstrap
from aligner_probe.figures.claims import above, not_worse
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.drawing import BLACK, BLUES, GREY, RED, Comparison, Drawing, Input
from aligner_probe.figures.experiments import GREEN, LABELS, LOOKS, PURPLE, in_brackets
from aligner_probe.files import read_json, sha256

#: Colour and marker of each nature; memory tasks are hollow.
NATURES = {
    "form": (BLUES[0], "o"),
    "latent": (GREEN, "s"),
    "new": (RED, "^"),
    "mixed": (PURPLE, "D"),
    "open": (GREY, "v"),
    "control": (GREY, "x"),
}
#: Recovery is drawn between these; what lies beyond stands at the edge.
LOWEST, HIGHEST = -0.15, 1.15
#: The committed results, and the natures of tasks that one token may be credited with.
FOLDER, RESULTS, CREDITED = "panel", "standard.json", ("form", "latent")


def known_tasks(collection: Collection) -> Drawing:
    """The panel as committed: where its tasks lie, and what training a form leaves of other knowledge.

    Raises AlignerProbeError, with the command that rebuilds them, where the results are missing.
    """
    file = artifact(FOLDER, (RESULTS,)) / RESULTS
    content = read_json(file)
    figure = Figure(figsize=(8.6, 9.6), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    plot_panel(content, upper)
    plot_kept(content, lower)
    return Drawing(
        figure,
        to_frame(content),
        "Above: what the best prompt and what one token recover of each task's gap between floor and reference. "
        "Hollow: memory tasks, where what was trained is tested and one token may just hold it. Dashed: the cuts that "
        "all tasks set; each is judged by those that the others set. Below: right answers of another domain after "
        "training a form, by those before; 1 were no harm. Lines are 95 % intervals over items and seeds.",
        (Input("the probe on the panel", f"{FOLDER}/{RESULTS}", sha256(file)),),
        settings={"budget": content["budget"], "cuts": content["calibrated"]},
        comparisons=tuple(_comparisons(content)),
    )


def to_frame(content: dict[str, Any]) -> pd.DataFrame:
    """One row a task: its nature, its verdict, and every measure with its interval."""
    rows = []
    for row in content["tasks"]:
        found = {name: row[name] for name in ("task", "nature", "kind", "verdict", "right")}
        measures = {name: row[name] for name in ("F", "R1", "B", "delta")}
        measures |= {f"K {arm}": kept for arm, kept in row["knowledge_kept"].items()}
        for name, one in measures.items():
            found |= {name: one["value"], f"{name} low": one["low"], f"{name} high": one["high"]}
        rows.append(found)
    return pd.DataFrame(rows)


def _comparisons(content: dict[str, Any]) -> Iterator[Comparison]:
    found = content["summary"]
    yield Comparison("tasks called what they are", None, f"{found['right']} of {found['counted']}")
    yield Comparison(
        "area under the ROC curve of R1, form and latent against new",
        None,
        f"{found['auc_R1_general_tasks']:.3f} (tasks that test what was not trained), {found['auc_R1']:.3f} (all)",
    )
    forms = [row["knowledge_kept"] for row in content["tasks"] if row["nature"] == "form"]
    for arm in KEPT_ARMS:
        values = np.array([kept[arm]["value"] for kept in forms if kept.get(arm, {}).get("value") is not None])
        if len(values) > 1:
            mean = bootstrap(lambda mean: mean, values)
            claim = not_worse(_shifted(mean, -1.0), f"{LABELS[arm]} learns forms without harm to other knowledge")
            paper = "form is learned without harm to knowledge" if arm.startswith("aligner") else None
            about = f"K of {LABELS[arm]}, mean of {len(values)} form tasks"
            yield Comparison(about, paper, f"{mean.value:.3f}", claim.sentence, in_brackets(mean), claim.verdict)
    rows = [row["delta"]["value"] for row in content["tasks"] if row["nature"] in CREDITED]
    deltas = np.array([value for value in rows if value is not None])
    if len(deltas) > 1:
        mean = bootstrap(lambda mean: mean, deltas)
        claim = above(mean, 0, "the global token does more than as many random directions")
        about = f"R1 less that of a random subspace of its size, mean of {len(deltas)} form and latent tasks"
        yield Comparison(about, None, f"{mean.value:+.3f}", claim.sentence, in_brackets(mean), claim.verdict)


def _shifted(found: Interval, by: float) -> Interval:
    return replace(found, value=found.value + by, low=found.low + by, high=found.high + by)


def plot_panel(content: dict[str, Any], ax: Axes) -> Axes:
    """F against R1, a point a task, with 95 % intervals and the cuts that all tasks set (dashed).

    A task whose reference learned nothing has no recovery and is left out; the title says how many are.
    """
    shown = [row for row in content["tasks"] if row["F"]["value"] is not None and row["R1"]["value"] is not None]
    shown = [row for row in shown if row["verdict"] != "constant answer" and row["nature"] != "control"]
    for nature, (color, marker) in NATURES.items():
        for memory in (False, True):
            rows = [row for row in shown if row["nature"] == nature and (row["kind"] == "memory") == memory]
            if not rows:
                continue
            x, y = ([_inside(row[name]["value"]) for row in rows] for name in ("F", "R1"))
            ax.errorbar(
                x, y, _bars(rows, "R1", y), _bars(rows, "F", x),
                color=color, marker=marker, markersize=6, markerfacecolor="white" if memory else color,
                linestyle="none", elinewidth=0.8, label=f"{nature}{', memory' if memory else ''} (n = {len(rows)})",
            )  # fmt: skip
    if content["calibrated"] is not None:
        ax.axvline(content["calibrated"]["F_cut"], color=BLACK, linestyle="--", linewidth=0.8)
        ax.axhline(content["calibrated"]["R1_cut"], color=BLACK, linestyle="--", linewidth=0.8)
    ax.set(xlim=(LOWEST - 0.05, HIGHEST + 0.05), ylim=(LOWEST - 0.05, HIGHEST + 0.05))
    ax.set(xlabel="F: share of the gap a prompt recovers", ylabel="R1: share of the gap Aligner-1 recovers")
    ax.set_title(f"Tasks of known nature, {content['budget']} budget (n = {len(shown)})", fontsize=11)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_kept(content: dict[str, Any], ax: Axes, nature: str = "form") -> Axes:
    """K by method, a row a task of this nature: right answers of another domain after training, by those before."""
    rows = [row for row in content["tasks"] if row["nature"] == nature and row["knowledge_kept"]]
    arms = [arm for arm in KEPT_ARMS if any(arm in row["knowledge_kept"] for row in rows)]
    for place, arm in enumerate(arms):
        offset = 0.16 * (place - (len(arms) - 1) / 2)
        for height, row in enumerate(rows):
            found = row["knowledge_kept"].get(arm)
            if found is None or found["value"] is None:
                continue
            label = LABELS[arm] if height == 0 else None
            ax.plot([found["low"], found["high"]], [height + offset] * 2, color=LOOKS[arm][0], linewidth=1)
            ax.plot(found["value"], height + offset, "o", color=LOOKS[arm][0], markersize=5, label=label)
    ax.set(yticks=range(len(rows)), yticklabels=[row["task"] for row in rows], xlim=(-0.03, 1.08))
    ax.invert_yaxis()
    ax.set(xlabel="K: right answers of another domain, after / before")
    ax.set_title(f"Knowledge kept off-domain, {nature} tasks", fontsize=11)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def _inside(value: float) -> float:
    return min(max(value, LOWEST), HIGHEST)


def _bars(rows: list[dict[str, Any]], name: str, drawn: list[float]) -> list[list[float]]:
    low = [value - _inside(row[name]["low"]) for row, value in zip(rows, drawn, strict=True)]
    high = [_inside(row[name]["high"]) - value for row, value in zip(rows, drawn, strict=True)]
    return [[max(0.0, bar) for bar in bars] for bars in (low, high)]
