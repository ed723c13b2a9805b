"""A probe's report as a picture and a page: score against trained numbers, prompts and floors as lines."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aligner_probe.arms.catalogue import label_of
from aligner_probe.arms.names import BASE, CONSTANT, PROMPT, REFERENCE, REFERENCE_SHUFFLED
from aligner_probe.errors import one_of
from aligner_probe.figures.drawing import BLACK, BLUES, GREY, MARKERS, RED, YELLOWS
from aligner_probe.files import write_text
from aligner_probe.probing.report import comparison

COLOURS = {"Aligner": BLUES[0], "LoRA": RED, "LLaMA-Adapter": YELLOWS[0]}
#: Colours and marks of methods of one size, as many as there are; both change, so that none looks like another.
OTHERS = ((BLUES[1], "x"), (YELLOWS[1], "+"), (BLUES[2], "*"), (YELLOWS[2], "1"), (BLACK, "d"))
#: Arms that train nothing, and the floor's, as lines: colour and dashes.
LINES = {BASE: (GREY, "-"), PROMPT: (BLACK, "--"), CONSTANT: (GREY, ":"), REFERENCE_SHUFFLED: (GREY, "-.")}
LABELS = {
    BASE: "base",
    PROMPT: "best prompt",
    CONSTANT: "constant answer",
    REFERENCE: "reference",
    REFERENCE_SHUFFLED: "reference, shuffled answers",
}


def _label(arm: str) -> str:
    return LABELS.get(arm) or label_of(arm)


MEASURES = (
    ("F", "share of the gap that the best prompt recovers"),
    ("R1", "share of the gap that Aligner-1 recovers"),
    ("B", "share that a free output bias in every layer recovers"),
    ("delta", "R1 less what a random subspace of its size recovers"),
    ("K", "right answers of another domain after training, by those before"),
)


def plot_doses(report: dict[str, Any], ax: Axes, which: str = "strict") -> Axes:
    """Scores of each family against trained numbers, log axis, 95 % intervals; base, prompt and floors as lines."""
    one_of(which, report["measures"], "kind of score")
    found = report["measures"][which]
    sizes = {run["arm"]: run["n_parameters"] for run in report["runs"]}
    for marker, (family, dose) in zip(MARKERS, found["doses"].items(), strict=False):
        arms = [point["arm"] for point in dose["points"]]
        _points(ax, [sizes[arm] for arm in arms], [found["scores"][arm] for arm in arms], family,
                COLOURS.get(family, BLUES[1]), marker, line=len(arms) > 1)  # fmt: skip
    in_families = {point["arm"] for dose in found["doses"].values() for point in dose["points"]}
    alone = [arm for arm in sizes if arm not in in_families and not arm.endswith("-shuffled")]
    for place, arm in enumerate(alone):
        colour, marker = OTHERS[place % len(OTHERS)]
        _points(ax, [sizes[arm]], [found["scores"][arm]], _label(arm), colour, marker, line=False)
    for arm, (colour, dashes) in LINES.items():
        if arm in found["scores"]:
            ax.axhline(found["scores"][arm]["value"], color=colour, linestyle=dashes, linewidth=1, label=_label(arm))
    task = report["task"]
    runs = f"{len(report['seeds'])} runs a point" if len(report["seeds"]) > 1 else "one run a point"
    ax.set_title(f"{task['name']}: {task['n']['test']} test items, {runs}, 95 % intervals", fontsize=10)
    ax.set(xscale="log", xlabel="trained numbers", ylabel=f"{which} score")
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_comparison(reports: Sequence[dict[str, Any]], ax: Axes, family: str = "Aligner") -> Axes:
    """One family's recovery against trained numbers for several tasks: the paper's Figure 5b for any tasks.

    Each task has a colour, its best prompt (F) is a dashed line of it.
    """
    colours = (BLUES[0], RED, YELLOWS[0], BLUES[1], YELLOWS[1], BLUES[2], GREY)
    for place, report in enumerate(reports):
        colour, marker = colours[place % len(colours)], MARKERS[place % len(MARKERS)]
        label = f"{report['task']['name']}: {report['verdict']}"
        dose = report["measures"]["strict"]["doses"].get(family)
        points = [] if dose is None else dose["points"]
        known = [point for point in points if point["recovered"]["value"] is not None]
        if known:
            numbers = [point["n_parameters"] for point in known]
            _points(ax, numbers, [p["recovered"] for p in known], label, colour, marker, line=len(known) > 1)
        if report["F"]["value"] is not None:
            ax.axhline(report["F"]["value"], color=colour, linestyle="--", linewidth=1)
    ax.set(xscale="log", xlabel=f"trained numbers ({family})", ylabel="share of the gap recovered")
    ax.set_title("points: trained, 95 % intervals; dashed: the best prompt", fontsize=10)
    if ax.get_legend_handles_labels()[0]:  # none where no reference learned anything
        ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def write_page(reports: Sequence[dict[str, Any]], file: Path) -> None:
    """One self-contained HTML page of a report, or of several side by side."""
    environment = Environment(loader=PackageLoader("aligner_probe.figures", "."), autoescape=True, trim_blocks=True)
    environment.filters["two_digits"] = _two_digits
    page = environment.get_template("probe_report.html.jinja").render(
        reports=reports,
        plots=[_svg(lambda ax, report=report: plot_doses(report, ax)) for report in reports],
        comparison=_svg(lambda ax: plot_comparison(reports, ax)) if len(reports) > 1 else "",
        table=comparison(reports).astype(object).replace({float("nan"): None}).to_dict("records"),
        measures=MEASURES,
        labels=LABELS,
    )
    write_text(file, page)


def _two_digits(value: float | None) -> str:
    """Without the sign of what is nothing; "open" for a bound that does not exist."""
    return "open" if value is None else f"{round(value, 2) + 0.0:.2f}"


def _points(
    ax: Axes, numbers: list[int], found: list[dict], label: str, colour: str, marker: str, *, line: bool
) -> None:
    values = [one["value"] for one in found]
    bounds = [
        [_distance(one["value"], one["low"]) for one in found],
        [_distance(one["high"], one["value"]) for one in found],
    ]
    ax.errorbar(numbers, values, bounds, color=colour, marker=marker, markersize=5, capsize=2, label=label,
                linestyle="-" if line else "none", linewidth=1.2)  # fmt: skip


def _distance(upper: float | None, lower: float | None) -> float:
    """Between two bounds; nothing where one is open."""
    return 0.0 if upper is None or lower is None else max(0.0, upper - lower)


def _svg(draw: Any) -> str:
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    draw(figure.subplots())
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
