"""How well each arm's share of the gap separates new tasks from form and latent ones, as one strip of tasks an arm.

drawing = separators(Collection([]))  # of the committed results of the panel and of its second draw
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from aligner_probe.arms.catalogue import label_of
from aligner_probe.arms.names import ALIGNER_1, OUTPUT_BIAS, PROMPT, PROMPT_TUNING
from aligner_probe.artifacts import artifact
from aligner_probe.evaluation.intervals import said
from aligner_probe.figures.claims import above
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.drawing import Comparison, Drawing, Input
from aligner_probe.figures.experiments import in_brackets
from aligner_probe.figures.looks import GREY, LIGHT_GREY, NATURES
from aligner_probe.figures.plane import FOLDER, HIGHEST, LOWEST, inside
from aligner_probe.files import read_json, sha256
from aligner_probe.probing.verdicts.separators import (
    BITS,
    COSTS,
    EXAMPLES,
    FORM,
    LATENT,
    NEW,
    SEPARATORS,
    KnownTask,
    Separation,
    better,
    general_tasks,
    separation,
)
from aligner_probe.probing.verdicts.together import Together, together

#: The committed results that are compared: the panel, and its tasks drawn anew.
FILES = ("standard.json", "standard-draw1.json")
#: The symbols of measures that have one.
SYMBOLS = {PROMPT: "F", PROMPT_TUNING: "R_soft", ALIGNER_1: "R1", OUTPUT_BIAS: "B"}
#: The measures that are put together, with the costs where they were measured, and what they are asked.
TOGETHER = tuple(SYMBOLS)
QUESTIONS = {
    "form and latent over new": ((FORM, LATENT), (NEW,)),
    "form over latent": ((FORM,), (LATENT,)),
    "form over latent and new": ((FORM,), (LATENT, NEW)),
}
#: The words of a cost.
COST_NAMES = {
    BITS: "excess bits an example, LoRA r=8",
    EXAMPLES: "examples for half of the gap, LoRA r=8",
}
#: By nature, how far above the middle of an arm's row its tasks stand; the rows are 1 apart.
LANES = {FORM: 0.27, LATENT: 0.0, NEW: -0.27}
#: Tasks of one lane alternate between these heights, so that equal shares do not hide each other.
STEPS = (0.0, 0.07, -0.07)
#: The columns of text at the right: where each begins, in points from the axes, and its heading.
COLUMNS = (
    (12, "form, latent over new:\nAUROC [95 %]"),
    (142, "form over latent:\nAUROC [95 %]"),
    (252, "distance"),
)


def separators(collection: Collection) -> Drawing:
    """Draw the shares of all arms from the committed results of two panels: the tasks, and the same tasks drawn anew.

    Raises AlignerProbeError, with the command that rebuilds them, where the results are missing.
    """
    files = [artifact(FOLDER, (name,)) / name for name in FILES]
    tasks: list[KnownTask] = []
    left_out: dict[str, list[str]] = {}
    undecided: dict[str, None] = {}
    for file in files:
        panel = read_json(file)
        usable, others = general_tasks(panel)
        tasks += usable
        compared = {task.name for task in usable}
        undecided |= {
            row["task"]: None for row in panel["tasks"] if row["task"] in compared and row["verdict"] == "undetermined"
        }
        for reason, names in others.items():
            left_out[reason] = list(dict.fromkeys([*left_out.get(reason, []), *names]))
    separations = [separation(tasks, arm) for arm in SEPARATORS]
    costs = [cost for cost in COSTS if all(cost in task.costs for task in tasks)]
    figure = Figure(figsize=(10.6, 8.2 + 2.4 * bool(costs)), layout="constrained")
    if costs:
        grid = figure.add_gridspec(2, len(costs), height_ratios=(8.2, 2.4))
        plot_separators(figure.add_subplot(grid[0, :]), tasks, separations)
        for column, cost in enumerate(costs):
            plot_cost(figure.add_subplot(grid[1, column]), tasks, separation(tasks, cost))
    else:
        plot_separators(figure.subplots(), tasks, separations)
    combined = [together(tasks, [*TOGETHER, *costs], *sides) for sides in QUESTIONS.values()]
    return Drawing(
        figure,
        to_frame(tasks, [*separations, *(separation(tasks, cost) for cost in costs)]),
        "What each arm recovers of the gap between floor and reference, one point a task and draw: "
        f"{_counts(tasks)}; equal shares lie on each other. The arms are ordered by the distance between the lowest "
        "form or latent task and the highest new one. AUROC: the probability that a task of the one kind has the "
        "higher share; ties count one half, and the draws of a task weigh together as one. In brackets: 95 % intervals "
        "that assume nothing about how the shares are distributed (Hoeffding's bound), with n the tasks of the smaller "
        f"side, not their draws: {_smaller(tasks)}. {_said_costs(costs)}{_said_together(combined)} "
        "The distance has no interval, because it rests on two tasks. "
        "Values beyond the axis stand at its edge. Left out, because what is tested was trained, or because the nature "
        f"is none of the three: {_named(left_out)}. Tasks whose verdict is undetermined are not left out "
        f"({', '.join(undecided) or 'there are none'}). The natures are those of one micro-world, and no verdict "
        "uses these AUROCs.",
        tuple(Input("the probe on the panel", f"{FOLDER}/{file.name}", sha256(file)) for file in files),
        settings={"left_out": left_out, "confidence": 0.95},
        comparisons=(*_comparisons(tasks, separations), *_alone_and_together(tasks, costs, combined)),
    )


def plot_separators(ax: Axes, tasks: Sequence[KnownTask], separations: Sequence[Separation]) -> Axes:
    """Draw one row of tasks for each arm, the arm with the largest distance between the natures on top.

    Horizontal: the share of the gap, without unit. Form stands above latent, and latent above new. What lies between
    the lowest form or latent task and the highest new one is shaded, or hatched where they overlap. The AUROCs with
    their intervals stand at the right.
    """
    ordered = sorted(separations, key=lambda one: one.distance)
    for height, one in enumerate(ordered):
        apart = one.distance > 0
        ax.barh(
            height, abs(one.distance), left=min(one.lowest, one.highest), height=0.9, zorder=0,
            color=LIGHT_GREY if apart else "none", edgecolor="none" if apart else GREY,
            hatch=None if apart else "////", linewidth=0,
        )  # fmt: skip
        for nature, lane in LANES.items():
            shares = sorted(task.shares[one.arm] for task in tasks if task.nature == nature)
            heights = [height + lane + STEPS[index % len(STEPS)] for index in range(len(shares))]
            color, marker = NATURES[nature]
            ax.plot(
                [inside(share) for share in shares], heights, linestyle="none", marker=marker, markersize=5.5,
                color=color, markeredgecolor="white", markeredgewidth=0.5, label=f"{nature}, {name_of(one.arm)}",
            )  # fmt: skip
        texts = (said(one.reached), said(one.form_over_latent), f"{one.distance:+.2f}".replace("-", "−"))
        for (x, _), text in zip(COLUMNS, texts, strict=True):
            beside = {"xytext": (x, 0), "textcoords": "offset points", "fontsize": 9}
            ax.annotate(text, (1, height), xycoords=ax.get_yaxis_transform(), va="center", **beside)
    for x, heading in COLUMNS:
        above_it = {"xytext": (x, 5), "textcoords": "offset points", "fontsize": 9}
        ax.annotate(heading, (1, 1), xycoords="axes fraction", va="bottom", fontweight="bold", **above_it)
    ax.set(
        yticks=range(len(ordered)), yticklabels=[name_of(one.arm) for one in ordered],
        ylim=(-0.55, len(ordered) - 0.45), xlim=(LOWEST, HIGHEST),
        xlabel="share of the gap that the arm recovers (0: floor, 1: reference; no unit)",
    )  # fmt: skip
    ax.tick_params(axis="y", labelsize=9)
    ax.grid(visible=False, axis="y")
    for boundary in range(1, len(ordered)):
        ax.axhline(boundary - 0.5, color=GREY, linewidth=0.5, zorder=0)
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="none", markersize=6, label=_count(tasks, nature))
        for nature, (color, marker) in NATURES.items()
        if nature in LANES
    ]
    handles += [
        Patch(facecolor=LIGHT_GREY, label="distance: lowest form or latent less highest new"),
        Patch(
            facecolor="none", edgecolor=GREY, hatch="////", linewidth=0, label="the same where they overlap (below 0)"
        ),
    ]
    ax.legend(
        handles=handles, fontsize=9, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.085)
    )  # fmt: skip
    return ax


def plot_cost(ax: Axes, tasks: Sequence[KnownTask], one: Separation) -> Axes:
    """Draw what the reference took to learn each task (bits an example, or examples), one lane for each nature."""
    for nature, lane in LANES.items():
        costs = sorted(task.costs[one.arm] for task in tasks if task.nature == nature)
        color, marker = NATURES[nature]
        ax.plot(
            costs, [lane + STEPS[index % len(STEPS)] for index in range(len(costs))], linestyle="none", marker=marker,
            markersize=5.5, color=color, markeredgecolor="white", markeredgewidth=0.5, label=nature,
        )  # fmt: skip
    ax.set(
        yticks=list(LANES.values()), yticklabels=list(LANES), ylim=(-0.5, 0.5),
        xscale="log" if one.arm == EXAMPLES else "linear", xlabel=name_of(one.arm),
    )  # fmt: skip
    ax.xaxis.label.set_fontsize(9)
    ax.set_title(f"AUROC {said(one.reached)}", fontsize=9)
    return ax


def name_of(arm: str) -> str:
    """An arm's label, with the symbol of its share where it has one; the words of a cost."""
    if arm in COST_NAMES:
        return COST_NAMES[arm]
    label = "best prompt" if arm == PROMPT else label_of(arm)
    return f"{label} ({SYMBOLS[arm]})" if arm in SYMBOLS else label


def to_frame(tasks: Sequence[KnownTask], separations: Sequence[Separation]) -> pd.DataFrame:
    """One row for each arm, task and draw: the share of the gap, and how well the arm separates the natures.

    Costs stand among the arms, each less than 0: the smaller the cost, the higher the value.
    """
    rows = []
    for one in separations:
        about = {"lowest form or latent": one.lowest, "highest new": one.highest, "distance": one.distance}
        for words, interval in (
            ("form and latent over new", one.reached),
            ("form over latent", one.form_over_latent),
            ("form over latent and new", one.form_over_rest),
        ):
            about |= {
                f"AUROC of {words}": interval.value,
                f"{words}: low": interval.low,
                f"{words}: high": interval.high,
            }
        rows += [
            {"arm": one.arm, "task": task.name, "draw": task.draw, "nature": task.nature, "share": task.value(one.arm)}
            | about
            for task in tasks
        ]
    return pd.DataFrame(rows)


def _comparisons(tasks: Sequence[KnownTask], separations: Sequence[Separation]) -> list[Comparison]:
    rows = [
        Comparison(
            f"{name_of(one.arm)}: AUROC of form and latent over new",
            None,
            f"{one.reached.value:.3f}; lowest of form and latent {one.lowest:.2f}, highest of new {one.highest:.2f}, "
            f"distance {one.distance:+.2f}",
            "",
            in_brackets(one.reached),
        )
        for one in separations
    ]
    rows += [
        Comparison(f"{name_of(one.arm)}: AUROC of form over latent", None, f"{one.form_over_latent.value:.3f}", "",
                   in_brackets(one.form_over_latent))
        for one in separations
    ]  # fmt: skip
    [prompt] = [one for one in separations if one.arm == PROMPT]
    what = f"{name_of(PROMPT)}: AUROC of form over latent and new"
    alone = prompt.form_over_rest
    rows.append(Comparison(what, None, f"{alone.value:.3f}", "", in_brackets(alone)))
    gain = better(tasks, PROMPT_TUNING, ALIGNER_1)
    claim = above(gain, 0, "prompt tuning separates new tasks from form and latent ones better than one token")
    what = f"AUROC of form and latent over new, {name_of(PROMPT_TUNING)} less {name_of(ALIGNER_1)}"
    rows.append(Comparison(what, None, f"{gain.value:+.3f}", claim.sentence, in_brackets(gain), claim.verdict))
    return rows


def _alone_and_together(
    tasks: Sequence[KnownTask], costs: Sequence[str], combined: Sequence[Together]
) -> list[Comparison]:
    rows = []
    for cost in costs:
        one = separation(tasks, cost)
        words = f"{name_of(cost)}: AUROC of form and latent below new"
        rows.append(Comparison(words, None, f"{one.reached.value:.3f}", "", in_brackets(one.reached)))
    for question, one in zip(QUESTIONS, combined, strict=True):
        points = f"{one.auroc.value:.3f}; {one.n_right} of {len(one.scores)} points on the right side"
        what = f"{', '.join(SYMBOLS.get(each, each) for each in one.measures)} together: AUROC of {question}"
        rows.append(Comparison(what, None, points, "", in_brackets(one.auroc)))
    return rows


def _said_costs(costs: Sequence[str]) -> str:
    if not costs:
        return ""
    names = " and ".join(name_of(cost) for cost in costs)
    return f"Below: what the reference took to learn each task ({names}), AUROC of form and latent below new. "


def _said_together(combined: Sequence[Together]) -> str:
    names = ", ".join(SYMBOLS.get(each, each) for each in combined[0].measures)
    each = "; ".join(
        f"{question} {said(one.auroc)}, {one.n_right} of {len(one.scores)} points on the right side"
        for question, one in zip(QUESTIONS, combined, strict=True)
    )
    return f"{names} together, each task scored by a logistic regression on the other tasks: AUROC {each}."


def _names(tasks: Sequence[KnownTask], *natures: str) -> int:
    return len({task.name for task in tasks if task.nature in natures})


def _count(tasks: Sequence[KnownTask], nature: str) -> str:
    points = sum(task.nature == nature for task in tasks)
    return f"{nature} (n = {_names(tasks, nature)} tasks, {points} points)"


def _counts(tasks: Sequence[KnownTask]) -> str:
    return ", ".join(_count(tasks, nature) for nature in LANES)


def _smaller(tasks: Sequence[KnownTask]) -> str:
    form, latent, new = (_names(tasks, nature) for nature in LANES)
    return f"{min(form + latent, new)} for form and latent over new, {min(form, latent)} for form over latent"


def _named(left_out: dict[str, list[str]]) -> str:
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in left_out.items())
