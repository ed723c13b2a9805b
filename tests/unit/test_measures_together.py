"""Measures together: each task is scored by weights that it had no part in, and costs count the other way round."""

import json

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from aligner_probe.arms.names import ALIGNER_1, LORA_8, PROMPT, PROMPT_TUNING
from aligner_probe.errors import AlignerProbeError
from aligner_probe.figures import separators as figure
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.looks import NATURES
from aligner_probe.figures.separators import FILES, LANES, plot_cost
from aligner_probe.probing.verdicts.separators import (
    BITS,
    EXAMPLES,
    KnownTask,
    auroc_interval,
    costs_of,
    general_tasks,
    separation,
)
from aligner_probe.probing.verdicts.together import together

SIDES = (("form", "latent"), ("new",))


def task(name, nature, *shares, bits=1.0, examples=4.0, draw=0):
    measures = dict(zip((PROMPT, PROMPT_TUNING, ALIGNER_1), shares, strict=True))
    return KnownTask(name, nature, draw, measures, {BITS: bits, EXAMPLES: examples})


#: Neither measure separates form and latent from new alone: their sum does.
CROSSED = [
    task("a", "form", 0.0, 1.0, 0.2),
    task("b", "latent", 0.0, 0.2, 1.0),
    task("c", "latent", 0.0, 0.6, 0.6),
    task("h", "form", 0.0, 0.8, 0.45),
    task("d", "new", 0.0, 0.1, 0.65),
    task("e", "new", 0.0, 0.65, 0.1),
    task("f", "new", 0.0, 0.35, 0.4),
    task("g", "new", 0.0, 0.2, 0.5),
]


def test_two_measures_separate_what_neither_does_alone():
    both = together(CROSSED, (PROMPT_TUNING, ALIGNER_1), *SIDES)
    assert both.auroc == auroc_interval(1.0, 4)
    assert both.n_right == sum((score > 0) == (name in "abch") for (name, _), score in both.scores.items()) >= 7
    for alone in (PROMPT_TUNING, ALIGNER_1):
        assert separation(CROSSED, alone).reached.value < 1
        assert together(CROSSED, (alone,), *SIDES).auroc.value < 1


def test_no_task_has_a_part_in_its_own_score():
    """Its own side may be called the other one: its score stays."""
    measures = (PROMPT_TUNING, ALIGNER_1, BITS)
    before = together(CROSSED, measures, *SIDES).scores
    for index, one in enumerate(CROSSED):
        nature = "form" if one.nature == "new" else "new"
        changed = [*CROSSED]
        changed[index] = KnownTask(one.name, nature, 0, one.shares, one.costs)
        assert together(changed, measures, *SIDES).scores[one.name, 0] == pytest.approx(before[one.name, 0])


def test_all_draws_of_a_task_are_left_out_together():
    again = task("a", "form", 0.0, 0.9, 0.3, draw=1)
    one, other = (
        together([*CROSSED, draw], (PROMPT_TUNING, ALIGNER_1), *SIDES)
        for draw in (again, KnownTask("a", "form", 1, dict.fromkeys(again.shares, -9.0), again.costs))
    )
    assert one.scores["a", 0] == pytest.approx(other.scores["a", 0])
    assert one.scores["b", 0] != pytest.approx(other.scores["b", 0])
    # A draw that shows the same is no further task.
    twice = [*CROSSED, *(KnownTask(task.name, task.nature, 1, task.shares, task.costs) for task in CROSSED[::2])]
    before = together(CROSSED, (PROMPT_TUNING, ALIGNER_1), *SIDES)
    after = together(twice, (PROMPT_TUNING, ALIGNER_1), *SIDES)
    assert after.auroc == before.auroc
    for name, score in before.scores.items():
        assert after.scores[name] == pytest.approx(score, abs=1e-3)


def test_costs_count_the_other_way_round():
    tasks = [
        task(str(index), nature, 0.0, 0.0, 0.0, bits=float(bits), examples=float(examples))
        for index, (nature, bits, examples) in enumerate(
            (("form", 1, 1), ("form", 2, 4), ("latent", 3, 3), ("new", 9, 100), ("new", 8, 90), ("new", 7, 200))
        )
    ]
    for cost, lowest, highest in ((BITS, -3, -7), (EXAMPLES, -4, -90)):
        one = separation(tasks, cost)
        assert (one.reached.value, one.lowest, one.highest) == (1, lowest, highest)
        assert together(tasks, (cost,), *SIDES).auroc.value == 1
        ax = plot_cost(Figure().subplots(), tasks, one)
        drawn = {line.get_label(): sorted(line.get_xdata()) for line in ax.lines}
        assert drawn == {n: sorted(t.costs[cost] for t in tasks if t.nature == n) for n in LANES}
        assert {line.get_label(): line.get_color() for line in ax.lines} == {n: NATURES[n].color for n in LANES}


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(-5, 5)), min_size=3, max_size=3))
@settings(max_examples=20, deadline=None)
def test_the_scale_of_a_measure_does_not_matter(changes):
    def scaled(one):
        shares = {
            arm: value * factor + shift
            for (arm, value), (factor, shift) in zip(one.shares.items(), changes, strict=True)
        }
        return KnownTask(one.name, one.nature, one.draw, shares, one.costs)

    measures = (PROMPT_TUNING, ALIGNER_1)
    before = together(CROSSED, measures, *SIDES).scores
    after = together([scaled(one) for one in CROSSED], measures, *SIDES).scores
    assert np.array(list(after.values())) == pytest.approx(np.array(list(before.values())), abs=1e-3)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(AlignerProbeError, match="3 tasks against 1"):
        together(
            [task(str(i), n, 0.0, 0.0, 0.0) for i, n in enumerate(("form", "form", "latent", "new"))], (BITS,), *SIDES
        )
    without = [KnownTask(one.name, one.nature, 0, one.shares) for one in CROSSED]
    with pytest.raises(AlignerProbeError, match="bits of a"):
        together(without, (PROMPT, BITS), *SIDES)


DOSE = {"share": 0.5, "above": 4, "at_most": 16, "tried": [1, 400], "value": 7.5, "low": 4.5, "high": 12.0}


def test_costs_are_read_from_a_row_of_a_panel():
    bits = {LORA_8: {"excess": 800.0, "an_example": 2.0, "a_label": 0.25}, ALIGNER_1: {"an_example": 9.0}}
    row = {"bits": bits, "dose": {"k50": DOSE}}
    assert costs_of(row) == {BITS: 2.0, EXAMPLES: 7.5}
    for change, expected in (
        ({"above": None, "at_most": 1, "value": None}, 1),
        ({"above": 400, "at_most": None, "value": None}, 800),
        ({"value": None}, 16),
    ):
        assert costs_of({"dose": {"k50": DOSE | change}}) == {EXAMPLES: expected}
    assert costs_of({"bits": {}, "dose": None}) == costs_of({}) == {}
    scores = {"base": 0.0, "reference": 1.0, PROMPT: 0.2}
    known = {"task": "t", "nature": "new", "kind": "general", "scores": scores}
    [one], _ = general_tasks({"tasks": [known | row]})
    assert one.costs == {BITS: 2.0, EXAMPLES: 7.5}
    assert one.value(BITS) == -2
    assert one.measures == {PROMPT, "reference", BITS, EXAMPLES}


def test_a_figure_of_panels_with_costs_draws_them_and_puts_all_together(tmp_path, monkeypatch):
    """The committed results, with costs made up: new tasks cost more."""
    for file in FILES:
        panel = json.loads((ROOT / "artifacts" / "panel" / file).read_text())
        for index, row in enumerate(panel["tasks"]):
            cost = 40.0 + index if row["nature"] == "new" else 1.0 + index / 10
            row |= {"bits": {LORA_8: {"an_example": cost}}, "dose": {"k50": DOSE | {"value": cost}}}
        (tmp_path / file).write_text(json.dumps(panel))
    monkeypatch.setattr(figure, "artifact", lambda *_: tmp_path)
    drawing = figure.separators(Collection([]))
    assert len(drawing.figure.axes) == 3
    assert {BITS, EXAMPLES} <= set(drawing.frame["arm"])
    by_name = {row.what: row for row in drawing.comparisons}
    for cost in (BITS, EXAMPLES):
        assert by_name[f"{figure.name_of(cost)}: AUROC of form and latent below new"].ours == "1.000"
    together_rows = [
        row for name, row in by_name.items() if name.startswith("F, R_soft, R1, B, bits, examples together")
    ]
    assert len(together_rows) == 3
    assert together_rows[0].ours.startswith("1.000; 28 of 28 points")
    assert "F, R_soft, R1, B, bits, examples together" in drawing.caption


def test_the_page_says_what_the_committed_panels_say():
    tasks = [
        task
        for file in FILES
        for task in general_tasks(json.loads((ROOT / "artifacts" / "panel" / file).read_text()))[0]
    ]
    text = " ".join((ROOT / "docs" / "measured.md").read_text(encoding="utf-8").split())
    assert "F, R_soft, R1 and B together" in text
    for sides in figure.QUESTIONS.values():
        one = together(tasks, figure.TOGETHER, *sides)
        value, low, high = (f"{x:.2f}".replace("0.", ".", 1) for x in (one.auroc.value, one.auroc.low, one.auroc.high))
        assert f"{value} [{low}, {high}] ({one.n_right} of {len(one.scores)}" in text
