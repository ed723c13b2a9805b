"""The plane of F and R_soft: where a task stands between form, latent and new, with the cuts and tasks of known nature.

F (horizontal) is the share of the gap between floor and reference that the best prompt recovers, and R_soft (vertical)
is the share that prompt tuning recovers. Both axes have no unit; 0 is the floor and 1 the reference. The size of a
point is R1, the share that Aligner-1 recovers.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory

from aligner_probe.artifacts import artifact
from aligner_probe.errors import AlignerProbeError
from aligner_probe.figures.looks import BLACK, GREY, NATURES, verdict_color
from aligner_probe.files import read_json
from aligner_probe.probing.report import shares_that_decided
from aligner_probe.probing.verdicts.separators import soft_share

#: Recovery is drawn between these; what lies beyond stands at the edge.
LOWEST, HIGHEST = -0.15, 1.15
MARGIN = 0.05
#: The committed results of the panel. Those of the quick budget have no R_soft.
FOLDER, RESULTS = "panel", "standard.json"
#: Diameters of points in typographic points, at R1 = 0 or below and at R1 = 1 or above, and of one without R1.
SMALLEST, LARGEST, PLAIN = 4.0, 10.0, 5.0
#: Left and right of the cut of F, the horizontal positions of task names, and the vertical room of one name.
NAMES, ROOM = (0.13, 0.87), 0.042
#: The parts of the plane by what reaches the task (a prompt, a soft prompt), with their names.
PARTS = {(True, None): "form", (False, True): "latent", (False, False): "new"}


def known_results() -> dict[str, Any] | None:
    """Read the committed results of the tasks of known nature, at the standard budget; None where there are none."""
    try:
        return read_json(artifact(FOLDER, (RESULTS,)) / RESULTS)
    except AlignerProbeError:
        return None


def drawable(tasks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tasks that can be drawn on the plane.

    A task whose reference learned nothing has neither F nor R_soft. Results of the panel that were made before R_soft
    was a measure get it from the mean scores, without an interval. Controls and tasks with a constant answer are left
    out too, because their reference learned nothing about single items.
    """
    rows = [row | {"R_soft": _soft(row)} for row in tasks]
    measured = [row for row in rows if row["F"]["value"] is not None and row["R_soft"]["value"] is not None]
    return [row for row in measured if row["verdict"] != "constant answer" and row["nature"] != "control"]


def plot_plane(ax: Axes, cuts: tuple[float, float] | None) -> Axes:
    """Draw the empty plane: axes, the cuts of F and R_soft as dashed lines, and the parts form, latent and new."""
    low, high = LOWEST - MARGIN, HIGHEST + MARGIN
    ax.set(xlim=(low, high), ylim=(low, high))
    ax.set(
        xlabel="F: share of the gap that the best prompt recovers",
        ylabel="R_soft: share of the gap that prompt tuning recovers",
    )
    if cuts is None:
        return ax
    F_cut, soft_cut = cuts
    ax.axvline(F_cut, color=BLACK, linestyle="--", linewidth=0.8)
    ax.plot([low, F_cut], [soft_cut, soft_cut], color=BLACK, linestyle="--", linewidth=0.8)
    for (prompt, soft), name in PARTS.items():
        x = (F_cut, high) if prompt else (low, F_cut)
        y = (low, high) if soft is None else (soft_cut, high) if soft else (low, soft_cut)
        ax.fill_between(x, *y, color=verdict_color(name), alpha=0.06, linewidth=0, zorder=0)
        top = soft is not False
        ax.annotate(
            name, (x[1] if prompt else x[0], y[1] if top else y[0]), xytext=(-6 if prompt else 6, -5 if top else 5),
            textcoords="offset points", color=verdict_color(name), ha="right" if prompt else "left",
            va="top" if top else "bottom", fontsize=11, fontweight="bold",
        )  # fmt: skip
    ax.text(F_cut - 0.01, soft_cut, f"cut {soft_cut:.2f}", fontsize=7, ha="right", va="bottom", color=BLACK)
    along = blended_transform_factory(ax.transData, ax.transAxes)
    ax.text(F_cut, 1.005, f"cut {F_cut:.2f}", transform=along, fontsize=7, ha="center", va="bottom", color=BLACK)
    return ax


def plot_known(ax: Axes, tasks: Sequence[dict[str, Any]], *, named: bool = False, faint: bool = False) -> Axes:
    """Draw tasks of known nature as points with 95 % intervals, in the look of their nature; memory tasks are hollow.

    `named` writes each task's name beside the plane's middle, joined to its point by a thin line. A question mark says
    that the verdict is undetermined; any other verdict than the task's nature stands in brackets. `faint` leaves out
    intervals and draws pale points, behind a task of one's own.
    """
    shown = drawable(tasks)
    for nature, (color, marker) in NATURES.items():
        for memory in (False, True):
            rows = [row for row in shown if row["nature"] == nature and (row["kind"] == "memory") == memory]
            if not rows:
                continue
            x, y = ([inside(row[name]["value"]) for row in rows] for name in ("F", "R_soft"))
            outlined = memory or marker == "x"
            look = {"color": color, "alpha": 0.55 if faint else 1, "zorder": 2 if faint else 3}
            if not faint:
                bars = _bars(rows, "R_soft", y), _bars(rows, "F", x)
                ax.errorbar(x, y, *bars, elinewidth=0.8, linestyle="none", **look)
            for row, left, up in zip(rows, x, y, strict=True):
                ax.plot(
                    left, up, marker, markersize=diameter(row), markerfacecolor="white" if memory else color,
                    markeredgecolor=color if outlined else "white", markeredgewidth=1.0 if outlined else 0.5, **look,
                )  # fmt: skip
            ax.plot(
                [], [], marker, color=color, markersize=6, markerfacecolor="white" if memory else color,
                label=f"{nature}{', memory' if memory else ''} (n = {len(rows)})",
            )  # fmt: skip
    if named:
        _write_names(ax, shown)
    return ax


def plot_task(ax: Axes, report: dict[str, Any], *, color: str | None = None, name: bool = True) -> Axes:
    """Draw one task of one's own: a diamond at its F and R_soft with 95 % intervals, in the colour of its verdict.

    They are those of the kind of score that decided, which the label names where it is not the strict score. A task
    whose reference learned nothing has no F and no R_soft; then the plane says so.
    """
    by = report.get("decided_by", "strict")
    report = report | (shares_that_decided(report) if "measures" in report else {"R_soft": _soft(report)})
    if report["F"]["value"] is None or report["R_soft"]["value"] is None:
        ax.text(
            0.5, 0.5, "This task has no F or no R_soft:\nthe reference learned nothing above the floor,\n"
            "or no soft prompt was trained.",
            transform=ax.transAxes, ha="center", va="center", fontsize=9, color=BLACK,
            bbox={"facecolor": "white", "edgecolor": GREY, "boxstyle": "round"},
        )  # fmt: skip
        return ax
    x, y = inside(report["F"]["value"]), inside(report["R_soft"]["value"])
    color = color or verdict_color(report["verdict"])
    ax.errorbar(
        [x], [y], _bars([report], "R_soft", [y]), _bars([report], "F", [x]), color=color, marker="D",
        markersize=diameter(report) + 2, markeredgecolor=BLACK, markeredgewidth=1.2, elinewidth=2, capsize=3,
        linestyle="none", zorder=5,
        label=f"{report['task']['name']}: {report['verdict']}" + (f", by its {by} score" if by != "strict" else ""),
    )  # fmt: skip
    if name:
        right = x < (LOWEST + HIGHEST) / 2
        ax.annotate(
            report["task"]["name"], (x, y), xytext=(12 if right else -12, 10), textcoords="offset points",
            ha="left" if right else "right", fontsize=9, fontweight="bold", color=BLACK, zorder=6,
        )  # fmt: skip
    return ax


def diameter(row: dict[str, Any]) -> float:
    """The diameter of a task's point, in typographic points: it grows with R1."""
    R1 = row["R1"]["value"]
    return PLAIN if R1 is None else SMALLEST + (LARGEST - SMALLEST) * min(max(R1, 0.0), 1.0)


def sizes_of_points() -> list[Line2D]:
    """Entries of a legend that say what the size of a point is."""
    return [
        Line2D([], [], color=GREY, marker="o", linestyle="none", label=label, markersize=size)
        for label, size in (("R1 = 0 or below", SMALLEST), ("R1 = 1", LARGEST))
    ]


def _soft(row: dict[str, Any]) -> dict[str, float | None]:
    """R_soft of a row or report; of one that was made before it was a measure, from the mean scores."""
    if "R_soft" in row:
        return row["R_soft"]
    return {"value": soft_share(row["scores"]) if "scores" in row else None, "low": None, "high": None}


def legend_inside(ax: Axes) -> None:
    """A legend in the lower right, where hardly a task stands."""
    ax.legend(
        handles=[*ax.get_legend_handles_labels()[0], *sizes_of_points()],
        fontsize=7.5, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 0.045), frameon=False, columnspacing=0.4,
        handletextpad=0.3,
    )  # fmt: skip


def inside(value: float) -> float:
    """The value, or the edge of the plane where it lies beyond."""
    return min(max(value, LOWEST), HIGHEST)


def spread(heights: Sequence[float], room: float, low: float, high: float) -> list[float]:
    """Positions of labels near these heights (ascending), at least `room` apart and between `low` and `high`."""
    positions: list[float] = []
    for height in heights:
        positions.append(max(height, positions[-1] + room if positions else low))
    top = high
    for i in reversed(range(len(positions))):
        positions[i] = min(positions[i], top)
        top = positions[i] - room
    return positions


def _write_names(ax: Axes, tasks: Sequence[dict[str, Any]]) -> None:
    middle = (LOWEST + HIGHEST) / 2
    for on_right, x_name in enumerate(NAMES):
        rows = [row for row in tasks if (row["F"]["value"] > middle) == bool(on_right)]
        rows.sort(key=lambda row: row["R_soft"]["value"])
        heights = [inside(row["R_soft"]["value"]) for row in rows]
        # Low points lie on top of each other, so their names begin lower than they stand.
        for row, height in zip(rows, spread([h - 0.05 for h in heights], ROOM, LOWEST, HIGHEST - 0.03), strict=True):
            x, y = inside(row["F"]["value"]), inside(row["R_soft"]["value"])
            color = NATURES[row["nature"]].color
            other = "" if row["verdict"] == row["nature"] or row["nature"] == "open" else f" ({row['verdict']})"
            other = " ?" if row["verdict"] == "undetermined" else other
            ax.plot([x, x_name], [y, height], color=color, linewidth=0.5, alpha=0.6, zorder=1)
            ax.text(
                x_name, height, f" {row['task']}{other} ", fontsize=7, color=color, va="center",
                ha="right" if on_right else "left",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0},
            )  # fmt: skip


def _bars(rows: Sequence[dict[str, Any]], name: str, drawn: Sequence[float]) -> list[list[float]]:
    """Lengths of the interval below and above each drawn value; nothing where a bound is open."""
    low = [value - _bound(row[name]["low"], value) for row, value in zip(rows, drawn, strict=True)]
    high = [_bound(row[name]["high"], value) - value for row, value in zip(rows, drawn, strict=True)]
    return [[max(0.0, bar) for bar in bars] for bars in (low, high)]


def _bound(bound: float | None, value: float) -> float:
    return value if bound is None else inside(bound)
