"""The panel of tasks of known nature as pictures: how F and R_soft tell them apart, and what other knowledge is kept.

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
from aligner_probe.figures.drawing import Comparison, Drawing, Input
from aligner_probe.figures.experiments import LABELS, in_brackets
from aligner_probe.figures.looks import GREY, LOOKS
from aligner_probe.figures.plane import FOLDER, RESULTS, drawable, legend_inside, plot_known, plot_plane, plot_task
from aligner_probe.files import read_json, sha256
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS

#: The natures of tasks that one token may be credited with.
CREDITED = ("form", "latent")
#: The committed results of tasks whose nature nobody knows, and the one that is shown as an example of a verdict.
OPEN, ASKED = "standard-open.json", "operation_splice"


def known_tasks(collection: Collection) -> Drawing:
    """The panel as committed: where its tasks lie, and what training a form leaves of other knowledge.

    Raises AlignerProbeError, with the command that rebuilds them, where the results are missing.
    """
    file = artifact(FOLDER, (RESULTS,)) / RESULTS
    content = read_json(file)
    figure = Figure(figsize=(8.8, 12.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(1.25, 1))
    plot_panel(content, upper)
    plot_kept(content, lower)
    return Drawing(
        figure,
        to_frame(content),
        "Above: what the best prompt (F) and what prompt tuning with ten vectors (R_soft) recover of each task's gap "
        "between floor and reference; the size of a point is what one token (R1) recovers. Each task is named; a "
        "question mark says that its verdict is undetermined. Hollow: memory tasks, which are not judged by R_soft, "
        "because what was trained is tested and a few vectors may just hold it. Dashed: the cuts that all tasks set; "
        "each task is judged by those that the others set. Values beyond the axes "
        "stand at their edge. Below: right answers of another domain after training a form, divided by those before; 1 "
        "were no harm. Each method is at the learning rate that suits the task's own score, so this is also the damage "
        "of a rate; extra09 compares methods at equal form. Lines are 95 % bootstrap intervals over items and seeds.",
        (Input("the probe on the panel", f"{FOLDER}/{RESULTS}", sha256(file)),),
        settings={"budget": content["budget"], "cuts": content["calibrated"]},
        comparisons=tuple(_comparisons(content)),
    )


def a_verdict(collection: Collection) -> Drawing:
    """A verdict as a picture: a task whose nature nobody knows, on the plane with the tasks of known nature.

    Raises AlignerProbeError, with the command that rebuilds them, where the committed results are missing.
    """
    files = [artifact(FOLDER, (name,)) / name for name in (RESULTS, OPEN)]
    known, asked = (read_json(file) for file in files)
    row = next(row for row in asked["tasks"] if row["task"] == ASKED)
    cuts = (row["cuts"]["F"], row["cuts"].get("R_soft", THRESHOLDS.R_soft_cut))
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    ax = plot_known(plot_plane(figure.subplots(), cuts), known["tasks"], faint=True)
    ax.set_title(f"{ASKED} on the micro-world: {row['verdict']}", fontsize=11, pad=14)
    legend_inside(ax)
    plot_task(ax, row | {"task": {"name": ASKED}})
    return Drawing(
        figure,
        to_frame(asked),
        f"The verdict on {ASKED}, a task whose nature nobody knew: {row['verdict']}. {row['reason']} The diamond is "
        "the task with its 95 % intervals; small points are the tasks of known nature, hollow where the test asks for "
        "what was trained (memory). The size of a point is R1. Dashed: the cuts of F and R_soft.",
        tuple(Input("the probe on the panel", f"{FOLDER}/{file.name}", sha256(file)) for file in files),
        settings={"budget": asked["budget"], "cuts": row["cuts"]},
        comparisons=(Comparison(f"{ASKED}: F", None, f"{row['F']['value']:.3f}", "", _in_brackets(row["F"])),
                     Comparison(f"{ASKED}: R1", None, f"{row['R1']['value']:.3f}", "", _in_brackets(row["R1"]))),
    )  # fmt: skip


def to_frame(content: dict[str, Any]) -> pd.DataFrame:
    """One row a task: its nature, its verdict, and every measure with its interval."""
    rows = []
    for row in content["tasks"]:
        record = {name: row[name] for name in ("task", "nature", "kind", "verdict", "right")}
        measures = {name: row[name] for name in ("F", "R_soft", "R1", "B", "delta") if name in row}
        measures |= {f"kept {arm}": kept for arm, kept in row["knowledge_kept"].items()}
        for name, one in measures.items():
            record |= {name: one["value"], f"{name} low": one["low"], f"{name} high": one["high"]}
        rows.append(record)
    return pd.DataFrame(rows)


def _comparisons(content: dict[str, Any]) -> Iterator[Comparison]:
    summary = content["summary"]
    yield Comparison("tasks called what they are", None, f"{summary['right']} of {summary['counted']}")
    yield Comparison(
        "area under the ROC curve of R1, form and latent against new",
        None,
        f"{summary['auc_R1_general_tasks']:.3f} (tasks that test what was not trained), {summary['auc_R1']:.3f} (all)",
    )
    forms = [row["knowledge_kept"] for row in content["tasks"] if row["nature"] == "form"]
    for arm in KEPT_ARMS:
        values = np.array([kept[arm]["value"] for kept in forms if kept.get(arm, {}).get("value") is not None])
        if len(values) > 1:
            mean = bootstrap(lambda mean: mean, values)
            what = f"at the rate that suits the task {LABELS[arm]} learns forms without harm to other knowledge"
            claim = not_worse(_shifted(mean, -1.0), what)
            paper = "form is learned without harm to knowledge" if arm.startswith("aligner") else None
            about = f"{LABELS[arm]}: kept at the rate that suits the task, mean of {len(values)} form tasks"
            yield Comparison(about, paper, f"{mean.value:.3f}", claim.sentence, in_brackets(mean), claim.verdict)
    rows = [row["delta"]["value"] for row in content["tasks"] if row["nature"] in CREDITED]
    deltas = np.array([value for value in rows if value is not None])
    if len(deltas) > 1:
        mean = bootstrap(lambda mean: mean, deltas)
        claim = above(mean, 0, "the global token does more than as many random directions")
        about = f"R1 less that of a random subspace of its size, mean of {len(deltas)} form and latent tasks"
        yield Comparison(about, None, f"{mean.value:+.3f}", claim.sentence, in_brackets(mean), claim.verdict)


def _in_brackets(measure: dict[str, float]) -> str:
    return f"[{measure['low']:.3f}, {measure['high']:.3f}]"


def _shifted(interval: Interval, by: float) -> Interval:
    return replace(interval, value=interval.value + by, low=interval.low + by, high=interval.high + by)


def plot_panel(content: dict[str, Any], ax: Axes) -> Axes:
    """Draw the tasks of a panel on the plane of F and R_soft: a named point a task, and the cuts that all tasks set.

    `content` is what `python -m aligner_probe.probe panel` writes. A task whose reference learned nothing has no
    recovery and is left out; the title says how many tasks are drawn.
    """
    cuts = content["calibrated"]
    plot_plane(ax, None if cuts is None else (cuts["F_cut"], cuts.get("R_soft_cut", THRESHOLDS.R_soft_cut)))
    plot_known(ax, content["tasks"], named=True)
    ax.set_title(
        f"Tasks of known nature, {content['budget']} budget (n = {len(drawable(content['tasks']))})",
        fontsize=11,
        pad=14,
    )
    legend_inside(ax)
    return ax


def plot_kept(content: dict[str, Any], ax: Axes, nature: str = "form") -> Axes:
    """Draw what each method keeps, with its 95 % interval, one row for each task of this nature.

    That is the share of right answers of another domain after training, divided by that before, at the learning rate
    that suits the task. It is no K, which compares methods at equal form.
    """
    rows = [row for row in content["tasks"] if row["nature"] == nature and row["knowledge_kept"]]
    arms = [arm for arm in KEPT_ARMS if any(arm in row["knowledge_kept"] for row in rows)]
    for index, arm in enumerate(arms):
        offset = 0.16 * (index - (len(arms) - 1) / 2)
        for height, row in enumerate(rows):
            kept = row["knowledge_kept"].get(arm)
            if kept is None or kept["value"] is None:
                continue
            label = LABELS[arm] if height == 0 else None
            ax.plot([kept["low"], kept["high"]], [height + offset] * 2, color=LOOKS[arm].color, linewidth=1)
            ax.plot(
                kept["value"], height + offset, LOOKS[arm].marker, color=LOOKS[arm].color, markersize=5, label=label
            )
    ax.set(yticks=range(len(rows)), yticklabels=[row["task"] for row in rows], xlim=(-0.03, 1.08))
    ax.axvline(1, color=GREY, linewidth=0.9, zorder=0)
    ax.invert_yaxis()
    ax.set(xlabel="right answers of another domain, after / before training (no unit)")
    ax.set_title(f"Knowledge kept at the learning rate that suits the task, {nature} tasks", fontsize=11)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax
