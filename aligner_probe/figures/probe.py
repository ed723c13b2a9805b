"""A probe's report as pictures and as a page.

The pictures: the scores of all arms against their trained parameters, what each recovers of the gap, and (in
`plane.py`) where the task stands among tasks of known nature. The page holds them together with the verdict, the
meaning of its words, all controls and sample answers.
"""

import io
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aligner_probe.arms.catalogue import label_of
from aligner_probe.arms.names import BASE, CONSTANT, ON_FEW, PROMPT, REFERENCE, REFERENCE_SHUFFLED
from aligner_probe.errors import one_of
from aligner_probe.figures.drawing import style
from aligner_probe.figures.frontier import SHARE, plot_curve
from aligner_probe.figures.frontier import label as arm_in_frontier
from aligner_probe.figures.looks import BLACK, FAMILIES, GREY, LOOKS, OTHERS, Look, verdict_color
from aligner_probe.figures.plane import known_results, plot_known, plot_plane, plot_task, sizes_of_points
from aligner_probe.figures.words import MEASURES, TERMS, VERDICTS
from aligner_probe.files import write_text
from aligner_probe.probing.report import SHARES, bits_by_arm, comparison, has_gap
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS

#: Arms that train nothing, and the floor's, as lines: colour and dashes.
LINES = {BASE: (GREY, "-"), PROMPT: (BLACK, "--"), CONSTANT: (GREY, ":"), REFERENCE_SHUFFLED: (GREY, "-.")}
LABELS = {
    BASE: "base",
    PROMPT: "best prompt",
    CONSTANT: "constant answer",
    REFERENCE: "reference",
    REFERENCE_SHUFFLED: "reference, shuffled answers",
}
#: Recovery is drawn between these; what lies beyond stands at the edge.
LEAST, MOST = -0.25, 1.25
#: Inches of a picture on a page, so that its letters can be read on a telephone.
WIDTH, HEIGHT = 5.6, 4.6


def plot_doses(report: dict[str, Any], ax: Axes, which: str = "strict") -> Axes:
    """Draw the score of every arm against its trained parameters (log axis), with 95 % intervals.

    Sizes of one family are joined; the base, the best prompt and the floors are horizontal lines. `which` is the kind
    of score; raises AlignerProbeError for one that the report does not have.
    """
    one_of(which, report["measures"], "kind of score")
    scores = report["measures"][which]["scores"]
    _by_parameters(ax, report, which, scores)
    for arm, (color, dashes) in LINES.items():
        if arm in scores:
            ax.axhline(scores[arm]["value"], color=color, linestyle=dashes, linewidth=1, label=_label(arm))
    ax.set_title(f"{report['task']['name']}: {_counted(report)}", fontsize=10)
    ax.set(xscale="log", xlabel="trained parameters", ylabel=f"{which} score")
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_recovery(report: dict[str, Any], ax: Axes) -> Axes:
    """Draw what every arm recovers of the gap (R) against its trained parameters (log axis), with 95 % intervals.

    Grey lines are the floor (0) and the reference (1), the dashed line is the best prompt (F). Values beyond the axis
    stand at its edge. Where there is no gap, a text says so in place of the values.
    """
    shares = report["measures"]["strict"]["recovered"] if has_gap(report) else {}
    recovered = {arm: _clipped(one) for arm, one in shares.items() if one["value"] is not None}
    _by_parameters(ax, report, "strict", recovered)
    if not recovered:
        why = "no R: the reference is not\nclearly above the floor"
        ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center")
    for height in (0, 1):
        ax.axhline(height, color=GREY, linewidth=0.9, zorder=1)
    if (F := recovered.get(PROMPT, {}).get("value")) is not None:
        ax.axhline(F, color=BLACK, linestyle="--", linewidth=1, label="best prompt (F)")
    ax.set(xscale="log", xlabel="trained parameters", ylabel="R, share of the gap", ylim=(LEAST - 0.05, MOST + 0.05))
    ax.set_title(f"{report['task']['name']}: {report['verdict']}\nn = {report['task']['n']['test']} items", fontsize=9)
    return ax


def plot_comparison(reports: Sequence[dict[str, Any]], figure: Figure) -> Figure:
    """Draw what every arm recovers, one panel for each report, with one legend for all: Figure 5b for any tasks."""
    columns = min(2, len(reports))
    rows = -(-len(reports) // columns)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for ax, report in zip(axes, reports, strict=False):
        plot_recovery(report, ax)
        ax.label_outer()
        ax.set_xlabel("trained parameters")
        ax.tick_params(labelbottom=True)
    for ax in axes[len(reports) :]:
        ax.remove()
    entries = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if entries:  # none where no reference learned anything
        figure.legend(
            list(entries.values()), list(entries), loc="outside lower center", ncols=3, fontsize=8, frameon=False
        )
    return figure


def plot_on_plane(reports: Sequence[dict[str, Any]], ax: Axes) -> Axes:
    """Draw one task or several on the plane of F and R_soft, with the cuts of the first and the known tasks behind."""
    cuts = reports[0]["thresholds"]
    plot_plane(ax, (cuts["F_cut"], cuts.get("R_soft_cut", THRESHOLDS.R_soft_cut)))
    known = known_results()
    if known is not None:
        plot_known(ax, known["tasks"], faint=True)
    placed = [one for one in reports if None not in (one["F"]["value"], one.get("R_soft", {}).get("value"))]
    for report in placed or reports[:1]:
        plot_task(ax, report)
    return ax


def write_page(reports: Sequence[dict[str, Any]], file: Path) -> None:
    """Write one self-contained HTML page of a report, or of several side by side."""
    environment = Environment(loader=PackageLoader("aligner_probe.figures", "."), autoescape=True, trim_blocks=True)
    environment.filters |= {
        "two_digits": _two_digits,
        "verdict_color": verdict_color,
        "listed": _listed,
        "losses": _losses,
    }
    several = len(reports) > 1
    table, alike = _comparison_table(reports)
    page = environment.get_template("probe_report.html.jinja").render(
        reports=reports,
        planes=[_plane([report]) for report in reports],
        plots=[_svg(_with_legend(partial(plot_doses, report))) for report in reports],
        comparison=_svg(lambda figure: plot_comparison(reports, figure), rows=-(-len(reports) // 2)) if several else "",
        plane=_plane(reports) if several else "",
        table=table,
        alike=alike,
        samples=[_sample_table(report) for report in reports],
        bits=[_bits_table(report) for report in reports],
        kept=[
            _svg(_with_legend(partial(plot_curve, report["frontier"]))) if report.get("frontier") else ""
            for report in reports
        ],
        most_kept=[_most_kept(report.get("frontier")) for report in reports],
        verdicts=VERDICTS,
        measures=MEASURES,
        terms=TERMS,
        shares=SHARES,
        has_gap=has_gap,
        label=_label,
    )
    write_text(file, page)


def _label(arm: str) -> str:
    return LABELS.get(arm) or label_of(arm)


def _by_parameters(ax: Axes, report: dict[str, Any], which: str, intervals: dict[str, dict[str, Any]]) -> None:
    """Points of every trained arm that `intervals` has a value of; sizes of one family are joined."""
    sizes = {run["arm"]: run["n_parameters"] for run in report["runs"]}
    doses = report["measures"][which]["doses"]
    joined = {point["arm"] for dose in doses.values() for point in dose["points"]}
    alone = [
        arm
        for arm in sizes
        if arm not in joined and arm in intervals and arm not in ON_FEW and not arm.endswith("-shuffled")
    ]
    # Arms and families of a user's own have the looks that are left, one each.
    others = (name for name in (*doses, *alone) if name not in FAMILIES | LOOKS)
    looks = FAMILIES | LOOKS | dict(zip(others, cycle(OTHERS), strict=False))
    for family, dose in doses.items():
        arms = [point["arm"] for point in dose["points"] if point["arm"] in intervals]
        if arms:
            _points(ax, [sizes[arm] for arm in arms], [intervals[arm] for arm in arms], family, looks[family])
    for arm in alone:
        _points(ax, [sizes[arm]], [intervals[arm]], _label(arm), looks[arm])


def _points(ax: Axes, n_parameters: list[int], intervals: list[dict[str, Any]], label: str, look: Look) -> None:
    values = [one["value"] for one in intervals]
    bounds = [
        [_distance(one["value"], one["low"]) for one in intervals],
        [_distance(one["high"], one["value"]) for one in intervals],
    ]
    ax.errorbar(
        n_parameters, values, bounds, color=look.color, marker=look.marker, markersize=6, capsize=2, label=label,
        linestyle="-" if len(intervals) > 1 else "none", linewidth=1.2,
    )  # fmt: skip


def _distance(upper: float | None, lower: float | None) -> float:
    """Between two bounds; nothing where one is open."""
    return 0.0 if upper is None or lower is None else max(0.0, upper - lower)


def _clipped(interval: dict[str, Any]) -> dict[str, float | None]:
    bounds = {name: interval[name] for name in ("value", "low", "high")}
    return {name: None if value is None else min(max(value, LEAST), MOST) for name, value in bounds.items()}


def _counted(report: dict[str, Any]) -> str:
    runs = f"{len(report['seeds'])} runs a point" if len(report["seeds"]) > 1 else "one run a point"
    return f"{report['task']['n']['test']} test items, {runs}, 95 % intervals"


def _comparison_table(reports: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The comparison as rows, and apart from it what is the same in all reports, so that the table is no wider."""
    frame = comparison(reports).astype(object).replace({float("nan"): None})
    settings = [name for name in ("base", "budget", "format", "template", "characters lost") if name in frame]
    alike = {name: frame[name][0] for name in settings if len({str(value) for value in frame[name]}) == 1}
    known = {name: value for name, value in alike.items() if value is not None}
    return frame.drop(columns=list(alike)).to_dict("records"), known


def _sample_table(report: dict[str, Any]) -> dict[str, Any]:
    """The samples as rows, arms as columns; a cell is the answer, and whether it is right where that is recorded.

    Only a strict score of 0 or 1 says that: others are shares or log-likelihoods.
    """
    arms = list(dict.fromkeys(arm for sample in report["samples"] for arm in sample["answers"]))
    marks = {0.0: "wrong", 1.0: "right"}
    rows = [
        {
            "asked": sample["prompt"],
            "wanted": sample["reference"],
            "cells": [
                (sample["answers"].get(arm), marks.get(sample.get("scores", {}).get("strict", {}).get(arm), ""))
                for arm in arms
            ],
        }
        for sample in report["samples"]
    ]
    return {"arms": [_label(arm) for arm in arms], "rows": rows}


def _bits_table(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each arm: its bits per example and its bits over all fresh examples, as means over the arm's runs."""
    return [
        {"arm": _label(arm), "runs": len(its)}
        | {name: _mean(its, name) for name in ("an_example", "excess", "n_examples")}
        for arm, its in bits_by_arm(report["runs"]).items()
    ]


def _most_kept(frontier: dict[str, Any] | None) -> list[dict[str, Any]]:
    """One row an arm of a frontier: K in words, and how many of its settings reach the form."""
    most = {} if frontier is None else frontier["K"][SHARE]
    return [one | {"arm": arm_in_frontier(arm)} for arm, one in most.items()]


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def _two_digits(value: float | None) -> str:
    """Without the sign of what is nothing; "open" for a bound that does not exist."""
    return "open" if value is None else f"{round(value, 2) + 0.0:.2f}"


def _listed(values: dict[str, Any]) -> str:
    """ "torch 2.13, transformers 5.0" of a mapping of names to values."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _losses(items_by_loss: dict[str, int]) -> str:
    """ "1 example for 5 items, 2 examples for 1 item" of numbers of items by how many examples they lost."""
    return ", ".join(
        f"{lost} example{'s' * (int(lost) > 1)} for {items} item{'s' * (items > 1)}"
        for lost, items in items_by_loss.items()
    )


def _plane(reports: Sequence[dict[str, Any]]) -> str:
    """The plane with these tasks, and what the sizes of points mean in its legend."""
    return _svg(_with_legend(partial(plot_on_plane, reports), sizes_of_points()))


def _with_legend(plot: Callable[[Axes], Axes], more: Sequence[Line2D] = ()) -> Callable[[Figure], None]:
    """A function that draws a plot on a figure with its legend below; `more` are further entries."""

    def draw(figure: Figure) -> None:
        ax = plot(figure.subplots())
        if (legend := ax.get_legend()) is not None:
            legend.remove()
        handles = [*ax.get_legend_handles_labels()[0], *more]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)

    return draw


def _svg(draw: Callable[[Figure], Any], *, rows: int = 1) -> str:
    with style():
        figure = Figure(figsize=(WIDTH, HEIGHT if rows == 1 else 2.7 * rows + 0.9), layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
