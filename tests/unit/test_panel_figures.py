"""Pictures of the panel: every task that has a recovery is a point where its numbers are."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from aligner_probe.figures.collection import Collection
from aligner_probe.figures.looks import NATURES
from aligner_probe.figures.panel import ASKED, a_verdict, known_tasks, plot_kept, plot_panel
from aligner_probe.figures.plane import (
    HIGHEST,
    LOWEST,
    diameter,
    drawable,
    plot_known,
    plot_plane,
    plot_task,
    spread,
)


def measure(value, spread=0.05):
    if value is None:
        return {"value": None, "low": None, "high": None}
    return {"value": value, "low": value - spread, "high": value + spread}


def row(task, nature, F, soft, kind="general", R1=0.5, **kept):
    made = {"task": task, "nature": nature, "kind": kind, "verdict": nature, "F": measure(F), "R1": measure(R1)}
    return (
        made
        | {"R_soft": measure(soft)}
        | {"knowledge_kept": {arm.replace("_", "-"): measure(value) for arm, value in kept.items()}}
    )


CONTENT = {
    "budget": "standard",
    "calibrated": {"F_cut": 0.4, "R_soft_cut": 0.45, "R1_cut": 0.2},
    "tasks": [
        row("a", "form", 0.95, 0.98, aligner_1=0.9, lora_8=0.2),
        row("b", "form", 0.85, 3.0, aligner_1=0.5),
        row("c", "latent", 0.0, 0.8),
        row("d", "new", 0.01, 0.05),
        row("e", "new", 0.0, 0.9, kind="memory"),
        row("f", "control", 0.2, 0.3),
        row("g", "new", None, None),
    ],
}


def points(ax):
    """Where each point of the plane stands, by its marker and colour, and whether it is hollow."""
    drawn = {}
    for line in ax.lines:
        if line.get_marker() not in ("None", None, "", "|", "_") and len(line.get_xdata()) == 1:
            look = (line.get_color(), line.get_markerfacecolor() == "white")
            drawn.setdefault(look, []).append(line.get_xydata()[0].tolist())
    return drawn


def test_tasks_stand_where_their_numbers_are_and_cuts_between():
    ax = plot_panel(CONTENT, Figure().subplots())
    # What lies beyond the axes stands at the edge; controls, and what has no recovery, are left out.
    assert points(ax) == {
        (NATURES["form"].color, False): [[0.95, 0.98], [0.85, HIGHEST]],
        (NATURES["latent"].color, False): [[0.0, 0.8]],
        (NATURES["new"].color, False): [[0.01, 0.05]],
        (NATURES["new"].color, True): [[0.0, 0.9]],
    }
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["form (n = 2)", "latent (n = 1)", "new (n = 1)", "new, memory (n = 1)"]
    assert "n = 5" in ax.get_title()
    cuts = {tuple(line.get_xdata()) for line in ax.lines} | {tuple(line.get_ydata()) for line in ax.lines}
    assert {(0.4, 0.4), (0.45, 0.45)} <= cuts


def test_a_point_is_as_large_as_what_one_token_recovers():
    sizes = [diameter(row("a", "form", 1, 1, R1=R1)) for R1 in (-0.2, 0.0, 0.5, 1.0, 1.4)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (sizes[1], sizes[3])
    assert sizes[1] < sizes[2] < sizes[3]


def test_results_without_r_soft_have_it_from_their_scores():
    scores = {"base": 0.0, "constant": 0.1, "reference": 0.9, "prompt-tuning-10": 0.5}
    old = {k: v for k, v in row("old", "form", 0.9, None).items() if k != "R_soft"}
    [drawn] = drawable([old | {"scores": scores}])
    assert drawn["R_soft"]["value"] == pytest.approx((0.5 - 0.1) / (0.9 - 0.1))
    assert drawable([old | {"scores": scores | {"reference": 0.15}}]) == []


def test_quadrants_and_tasks_are_named_and_no_name_covers_another():
    ax = plot_panel(CONTENT, Figure().subplots())
    texts = {text.get_text().strip(): text for text in ax.texts}
    assert {"form", "latent", "new"} <= set(texts)
    places = [texts[task].get_position() for task in "abcde"]
    for x in {x for x, _ in places}:
        heights = sorted(y for other, y in places if other == x)
        assert all(upper - lower > 0.03 for lower, upper in pairwise(heights))
    called_otherwise = CONTENT["tasks"][0] | {"verdict": "undetermined"}
    names = [text.get_text().strip() for text in plot_known(Figure().subplots(), [called_otherwise], named=True).texts]
    assert names == ["a ?"]


@given(st.lists(st.floats(LOWEST, HIGHEST), max_size=20).map(sorted))
def test_labels_keep_their_order_their_distance_and_the_plane(heights):
    places = spread(heights, 0.05, LOWEST, HIGHEST)
    assert all(upper - lower >= 0.05 - 1e-9 for lower, upper in pairwise(places))
    assert all(LOWEST - 1e-9 <= place <= HIGHEST for place in places)


def test_a_task_of_ones_own_stands_at_its_numbers_in_the_colour_of_its_verdict():
    report = {"task": {"name": "mine"}, "verdict": "latent", "F": measure(0.1), "R_soft": measure(0.7),
              "R1": measure(0.3)}  # fmt: skip
    ax = plot_task(plot_plane(Figure().subplots(), (0.48, 0.5)), report)
    assert points(ax) == {(NATURES["latent"].color, False): [[0.1, 0.7]]}
    assert ax.get_legend_handles_labels()[1] == ["mine: latent"]
    recovered = {"recovered": {"prompt": measure(0.9), "prompt-tuning-10": measure(0.95)}}
    by_format = report | {"decided_by": "format", "measures": {"format": recovered | {"gap": {"low": 0.8}}}}
    ax = plot_task(plot_plane(Figure().subplots(), (0.48, 0.5)), by_format)
    assert points(ax) == {(NATURES["latent"].color, False): [[0.9, 0.95]]}
    assert ax.get_legend_handles_labels()[1] == ["mine: latent, by its format score"]
    unlearned = {"measures": {"strict": recovered | {"gap": {"low": 0.04}}}}
    for missing in ({"F": measure(None)}, {"R_soft": measure(None)}, unlearned):
        nowhere = plot_task(Figure().subplots(), report | missing)
        assert "no F or no R_soft" in nowhere.texts[0].get_text()


def test_the_picture_of_a_verdict_is_that_of_the_committed_results():
    drawing = a_verdict(Collection([]))
    [ax] = drawing.figure.axes
    [row] = drawing.frame.query("task == @ASKED", local_dict={"ASKED": ASKED}).to_dict("records")
    [diamond] = [line for line in ax.lines if line.get_marker() == "D" and line.get_markeredgewidth() > 1]
    assert diamond.get_xdata()[0] == row["F"]
    assert ax.get_legend_handles_labels()[1][-1] == f"{ASKED}: {row['verdict']}"
    assert row["verdict"] in ax.get_title()
    assert [one.source for one in drawing.inputs] == ["panel/standard.json", "panel/standard-open.json"]


def test_without_cuts_there_are_none():
    before, after = (
        len(plot_panel(CONTENT | {"calibrated": cuts}, Figure().subplots()).lines)
        for cuts in (CONTENT["calibrated"], None)
    )
    assert before == after + 2


def test_knowledge_kept_has_a_row_a_task_and_a_colour_a_method():
    ax = plot_kept(CONTENT, Figure().subplots())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["Aligner-1", "LoRA r=8"]
    dots = [line.get_xdata()[0] for line in ax.lines if line.get_marker() in ("o", "P")]
    assert sorted(dots) == pytest.approx([0.2, 0.5, 0.9])


def test_the_committed_panel_is_drawn_with_what_it_says_of_knowledge():
    drawing = known_tasks(Collection([]))
    forms = drawing.frame[drawing.frame["nature"] == "form"]
    said = {comparison.what: comparison for comparison in drawing.comparisons}
    ours = said[f"Aligner-1: kept at the rate that suits the task, mean of {len(forms)} form tasks"]
    assert ours.ours == f"{forms['kept aligner-1'].mean():.3f}"
    assert (ours.verdict == "does not hold") == (float(ours.interval.strip("[]").split(", ")[1]) < 0.9)
    delta = drawing.frame[drawing.frame["nature"].isin(["form", "latent"])]["delta"]
    [credit] = [one for what, one in said.items() if what.startswith("R1 less")]
    assert credit.ours == f"{delta.mean():+.3f}"
    assert drawing.inputs[0].source == "panel/standard.json"
