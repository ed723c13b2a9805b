"""Form reached against knowledge kept, one row a task: every setting of every method, and K of each method.

drawing = frontiers(Collection([]))  # of the committed results of `aligner-probe probe frontier`
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aligner_probe.arms.catalogue import label_of
from aligner_probe.arms.names import (
    ALIGNER_1,
    ALIGNER_10,
    LORA_8,
    OUTPUT_BIAS,
    PROMPT,
    PROMPT_TUNING,
    RANDOM_SUBSPACE,
)
from aligner_probe.artifacts import artifact
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import Interval
from aligner_probe.figures.claims import Claim, above, below
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.drawing import Comparison, Drawing, Input, MissingInputs
from aligner_probe.figures.experiments import in_brackets
from aligner_probe.figures.looks import GREY, LIGHT_GREY, LOOKS, OTHERS, Look
from aligner_probe.files import read_json, sha256

#: The folder of committed frontiers, and the share of the reference's form at which K is drawn.
FOLDER, SHARE = "frontier", "0.95"
#: What the arms that add the same vectors at every position are compared with.
INDEPENDENT = (ALIGNER_1, OUTPUT_BIAS, RANDOM_SUBSPACE)
#: Where K of a method that does not reach the form stands.
NOWHERE = -0.05
#: How the lines of arms of one colour differ.
LINES = {RANDOM_SUBSPACE: "--"}


def frontiers(collection: Collection) -> Drawing:
    """Draw the committed frontiers. Raises MissingInputs where there are none."""
    try:
        files = sorted(artifact(FOLDER).glob("*.json"))
    except AlignerProbeError as error:
        raise MissingInputs([str(error)]) from error
    contents = [read_json(file) for file in files]
    figure = Figure(figsize=(9.2, 3.7 * len(contents) + 0.7), layout="constrained")
    rows = figure.subplots(len(contents), 2, squeeze=False, width_ratios=(1.7, 1), sharey=True)
    for (left, right), content in zip(rows, contents, strict=True):
        plot_curve(content, left)
        plot_most_kept(content, right)
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return Drawing(
        figure,
        pd.concat([to_frame(content) for content in contents], ignore_index=True),
        "Left: one point a setting, that is a learning rate and a length, or a way to ask; means over "
        f"{_counted(contents)}. Every trained method has equally many settings. Form: the share of test answers in the "
        "task's form. Kept: right answers of another domain, divided by those of the base model alone. Lines join the "
        "most that any setting keeps at a form or more; they are maxima, so they flatter. Shaded: at least "
        f"{SHARE} of the best form of LoRA r=8. Right: K, the most that is kept among the settings in the shaded part, "
        "chosen on other items, and other seeds where there are several, than it is counted on, with 95 % intervals "
        "over items and seeds; a method below the axis does not reach the form.",
        tuple(Input("a frontier", f"{FOLDER}/{file.name}", sha256(file)) for file in files),
        settings={"share": float(SHARE), "seeds": {one["task"]["name"]: one["seeds"] for one in contents}},
        comparisons=tuple(one for content in contents for one in _comparisons(content)),
    )


def plot_curve(content: dict[str, Any], ax: Axes) -> Axes:
    """Draw every setting of every method: form reached (x) against knowledge kept (y), both without unit."""
    needed = next(iter(content["K"][SHARE].values()))["needed"]
    ax.axvspan(needed, 1.05, color=LIGHT_GREY, alpha=0.45, linewidth=0, zorder=0)
    for arm in content["K"][SHARE]:
        points = [(one["form"]["value"], one["kept"]["value"]) for one in content["curve"] if one["arm"] == arm]
        color, marker = look_of(arm)
        forms, kept = staircase(points)
        ax.plot(forms, kept, color=color, linewidth=1.1, linestyle=LINES.get(arm, "-"), alpha=0.8, zorder=2)
        ax.plot(
            *zip(*points, strict=True), linestyle="none", marker=marker, color=color, markersize=4.5, alpha=0.75,
            markeredgewidth=1.2 if marker in ("|", "x") else 0.3, label=label(arm), zorder=3,
        )  # fmt: skip
    ax.set(
        xlim=(-0.04, 1.05), ylim=(-0.1, 1.1), xlabel="form reached (share of test answers)",
        ylabel="knowledge kept (share of the base model's)",
        title=f"{content['task']['name']} (n = {content['form']['items']} and {content['off_domain']['items']} items)",
    )  # fmt: skip
    return ax


def plot_most_kept(content: dict[str, Any], ax: Axes) -> Axes:
    """Draw K of every method with its interval, the methods from the most kept to the least."""
    most = content["K"][SHARE]
    ordered = sorted(most, key=lambda arm: -1.0 if most[arm]["kept"] is None else -most[arm]["kept"]["value"])
    ordered = [arm for arm in ordered if most[arm]["kept"]] + [arm for arm in ordered if not most[arm]["kept"]]
    for x, arm in enumerate(ordered):
        color, marker = look_of(arm)
        kept = most[arm]["kept"]
        value = NOWHERE if kept is None else kept["value"]
        style = {"color": color, "marker": marker, "markersize": 8, "linestyle": "none", "zorder": 3}
        if kept is None:
            ax.plot([x], [value], markerfacecolor="white", **style)
            continue
        ends = [[value - kept["low"]], [kept["high"] - value]]
        ax.errorbar([x], [value], yerr=[[max(0.0, end[0])] for end in ends], capsize=3, elinewidth=1.4, **style)
        ax.annotate(f"{value:.2f}", (x, NOWHERE), fontsize=8, ha="center", va="center")
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.set(title=f"K at {SHARE} of the form", xlim=(-0.5, len(ordered) - 0.2))
    ax.set_xticks(range(len(ordered)), [label(arm) for arm in ordered], rotation=40, ha="right", fontsize=8)
    ax.grid(visible=False, axis="x")
    return ax


def staircase(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The most of y among the points of that x or more, as the corners of a line of steps, from the highest x down."""
    xs, ys, most = [], [], float("-inf")
    for x, y in sorted(points, key=lambda point: (-point[0], -point[1])):
        if y > most:
            if xs:
                xs.append(x)
                ys.append(most)
            xs.append(x)
            ys.append(y)
            most = y
    return xs, ys


def look_of(arm: str) -> Look:
    """An arm's colour and marker."""
    return LOOKS.get(arm, OTHERS[0])


def label(arm: str) -> str:
    """An arm's name in the figure."""
    return "prompts" if arm == PROMPT else label_of(arm)


def to_frame(content: dict[str, Any]) -> pd.DataFrame:
    """One row a setting: form and knowledge with their intervals, and K of its method at each share of the form."""
    rows = []
    for one in content["curve"]:
        row = {"task": content["task"]["name"], "arm": one["arm"], "setting": one["setting"], "seeds": one["n_seeds"]}
        for which in ("form", "kept"):
            row |= {which: one[which]["value"], f"{which} low": one[which]["low"], f"{which} high": one[which]["high"]}
        for share, most in content["K"].items():
            kept = most[one["arm"]]["kept"]
            row |= {f"K at {share}": None if kept is None else kept["value"]}
        rows.append(row)
    return pd.DataFrame(rows)


def _comparisons(content: dict[str, Any]) -> Iterator[Comparison]:
    task = content["task"]["name"]
    for arm, most in content["K"][SHARE].items():
        interval = "" if most["kept"] is None else in_brackets(Interval(**most["kept"]))
        ours = most["said"] if most["kept"] is None else f"{most['kept']['value']:.3f}"
        yield Comparison(f"{task}: K of {label(arm)}", None, ours, "", interval)
    what = "one token keeps more of what the base knows than LoRA at equal form"
    yield from _compared(content, ALIGNER_1, LORA_8, what, "form is learned without harm to knowledge")
    yield from _compared(content, PROMPT_TUNING, LORA_8, "a soft prompt keeps more than LoRA at equal form", None)
    for arm in INDEPENDENT:
        for other in (ALIGNER_10, LORA_8)[: 1 if arm == ALIGNER_1 else 2]:
            what = f"{label(arm)}, which adds the same at every position, keeps less than {label(other)} at equal form"
            yield from _compared(content, arm, other, what, None, lower=True)
    yield from _compared(content, OUTPUT_BIAS, ALIGNER_1, "a free constant shift keeps more than one token", None)


def _compared(
    content: dict[str, Any], a: str, b: str, what: str, paper: str | None, *, lower: bool = False
) -> Iterator[Comparison]:
    for one in content["differences"]:
        if f"{one['share']:g}" != SHARE or {one["a"], one["b"]} != {a, b}:
            continue
        about = f"{content['task']['name']}: K of {label(a)} less K of {label(b)}"
        if one["difference"] is None:
            yield Comparison(about, paper, "one of them does not reach the form")
            continue
        difference = Interval(**one["difference"])
        if one["a"] != a:
            difference = Interval(-difference.value, -difference.high, -difference.low, difference.confidence)
        claim: Claim = below(difference, 0, what) if lower else above(difference, 0, what)
        ours = f"{difference.value:+.3f}"
        yield Comparison(about, paper, ours, claim.sentence, in_brackets(difference), claim.verdict)


def _counted(contents: Sequence[dict[str, Any]]) -> str:
    """How many seeds and items there are, in words."""
    said = [
        f"{one['seeds']} seed{'s' if one['seeds'] > 1 else ''}, {one['form']['items']} test items and "
        f"{one['off_domain']['items']} off-domain items "
        f"({one['task']['name']})"
        for one in contents
    ]
    return "; ".join(said)
