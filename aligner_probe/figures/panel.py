"""The panel of tasks of known nature as pictures: how F and R1 tell them apart, and what becomes of other knowledge.

content = json.loads((out / "panel.json").read_text())  # of `python -m aligner_probe.probe panel`
plot_panel(content, ax)
"""

from typing import Any

from matplotlib.axes import Axes

from aligner_probe.figures.drawing import BLACK, BLUES, GREY, RED
from aligner_probe.figures.experiments import GREEN, LABELS, LOOKS, PURPLE
from aligner_probe.probing.gathering import KEPT_ARMS

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
