"""How well each arm's share separates the natures: AUROCs against scikit-learn and by hand, and intervals that hold."""

import json
import math

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from aligner_probe.arms.names import ALIGNER_1, LORA_1, PROMPT, PROMPT_TUNING
from aligner_probe.errors import AlignerProbeError
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.looks import NATURES
from aligner_probe.figures.separators import FILES, name_of, plot_separators, separators, to_frame
from aligner_probe.probing.verdicts.separators import (
    SEPARATORS,
    KnownTask,
    auroc,
    auroc_interval,
    better,
    general_tasks,
    separation,
    shares_of,
)

#: Few values, so that ties are frequent; one to three draws a task.
SHARES = st.lists(
    st.lists(st.sampled_from([-0.1, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=3), min_size=1, max_size=6
)


@pytest.fixture(scope="module")
def panels():
    return [json.loads((ROOT / "artifacts" / "panel" / name).read_text()) for name in FILES]


@pytest.fixture(scope="module")
def drawing():
    return separators(Collection([]))


def test_an_auroc_by_hand():
    # 2 above 1 and 0, 1 above 0 and tied with 1: three and a half of four pairs.
    assert auroc([[2.0], [1.0]], [[1.0], [0.0]]) == 3.5 / 4
    # The two draws of the first task weigh together as much as the one of the second: (1/2 + 1) / 2.
    assert auroc([[1.0, -1.0], [1.0]], [[0.0]]) == 0.75
    with pytest.raises(AlignerProbeError, match="0 tasks against 1; an AUROC needs tasks on both sides"):
        auroc([], [[1.0]])


@given(SHARES, SHARES)
def test_an_auroc_is_that_of_scikit_learn_with_one_weight_a_task(above, below):
    rows = [
        (side, share, 1 / len(task)) for side, tasks in ((1, above), (0, below)) for task in tasks for share in task
    ]
    truth, shares, weights = zip(*rows, strict=True)
    assert auroc(above, below) == pytest.approx(roc_auc_score(truth, shares, sample_weight=weights), abs=1e-12)
    assert auroc(above, below) + auroc(below, above) == pytest.approx(1)


def test_the_interval_of_perfect_separation_is_a_root_and_narrows_with_tasks():
    for n in (1, 3, 6, 35):
        interval = auroc_interval(1.0, n)
        assert (interval.low, interval.high) == (pytest.approx(0.025 ** (1 / n)), 1.0)
        mirrored = auroc_interval(0.0, n)
        assert (mirrored.low, mirrored.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / n)))
    with pytest.raises(AlignerProbeError, match=r"an AUROC of 1\.2 from 3 tasks"):
        auroc_interval(1.2, 3)
    with pytest.raises(AlignerProbeError, match="from 0 tasks"):
        auroc_interval(1.0, 0)


@given(st.floats(0, 1), st.integers(1, 200))
def test_the_bounds_are_where_the_relative_entropy_reaches_what_is_allowed(value, n):
    interval = auroc_interval(value, n)
    assert 0 <= interval.low <= value <= interval.high <= 1
    for bound in (interval.low, interval.high):
        if 1e-9 < bound < 1 - 1e-9:
            terms = [(value, bound), (1 - value, 1 - bound)]
            entropy = sum(p * math.log(p / q) for p, q in terms if p > 0)
            assert n * entropy == pytest.approx(math.log(40), rel=1e-3)


@pytest.mark.parametrize("kind", ["normal", "all or nothing"])
def test_the_interval_covers_the_true_auroc_at_least_as_often_as_it_says(kind):
    generator, n_above, n_below, tries = np.random.default_rng(0), 15, 3, 2000
    if kind == "normal":
        above = generator.normal(math.sqrt(2), 1, (tries, n_above, 1))
        below = generator.normal(0, 1, (tries, 1, n_below))
        true = 0.5 * math.erfc(-1 / math.sqrt(2))  # Phi(1): two normals of spread 1, sqrt(2) apart
    else:  # the worst case: each new task lies below all others, or above them
        true = 0.6
        above = np.zeros((tries, n_above, 1))
        below = np.where(generator.random((tries, 1, n_below)) < true, -1.0, 1.0)
    values = ((above > below) + (above == below) / 2).mean(axis=(1, 2))
    intervals = {value: auroc_interval(value, n_below) for value in np.unique(values).tolist()}
    assert np.mean([true in intervals[value] for value in values.tolist()]) >= 0.95


def test_the_share_is_of_the_gap_over_the_highest_floor():
    scores = {"base": 0.1, "constant": 0.2, "reference-shuffled": 0.15, "reference": 0.7, "aligner-1": 0.45}
    assert shares_of(scores) == pytest.approx({"reference": 1.0, "aligner-1": 0.5})
    assert shares_of(scores | {"reference": 0.29}) is None


def test_the_shares_of_the_committed_panels_are_the_measures_that_their_reports_hold(panels):
    for panel in panels:
        tasks, _ = general_tasks(panel)
        assert tasks
        stored = {row["task"]: row for row in panel["tasks"]}
        for task in tasks:
            for name, arm in (("F", PROMPT), ("R1", ALIGNER_1), ("B", "output-bias")):
                assert task.shares[arm] == pytest.approx(stored[task.name][name]["value"], abs=1e-9)


def test_memory_mixed_control_and_unlearned_tasks_are_left_out_and_named(panels):
    panel = panels[0] | {"tasks": [*panels[0]["tasks"]]}
    flat = panel["tasks"][0]
    panel["tasks"][0] = flat | {"scores": flat["scores"] | {"reference": 0.05}}
    tasks, left_out = general_tasks(panel)
    assert left_out["reference did not learn"] == [flat["task"]]
    assert left_out["mixed"] == ["fresh_pirate", "known_rhymed"]
    assert set(left_out) == {"reference did not learn", "mixed", "memory", "control"}
    assert len(tasks) + sum(map(len, left_out.values())) == len(panel["tasks"])


def made(name, nature, *shares, arms=(PROMPT_TUNING, ALIGNER_1)):
    return KnownTask(name, nature, 0, dict(zip(arms, shares, strict=True)))


#: Prompt tuning separates all; Aligner-1 has one latent task below one of the two new ones.
MADE = [
    made("a", "form", 1.0, 0.9),
    made("b", "form", 0.9, 0.8),
    made("c", "latent", 0.95, 0.2),
    made("d", "new", 0.3, 0.1),
    made("e", "new", 0.1, 0.3),
]


def test_a_separation_holds_the_extremes_and_one_auroc_for_each_question():
    one = separation(MADE, ALIGNER_1)
    assert (one.lowest, one.highest, one.distance) == (0.2, 0.3, pytest.approx(-0.1))
    assert one.reached.value == 5 / 6
    assert one.form_over_latent.value == one.form_over_rest.value == 1
    soft = separation(MADE, PROMPT_TUNING)
    assert soft.distance == pytest.approx(0.6)
    # Two new tasks: the root of 0.025; a latent task alone: 0.025 itself.
    assert soft.reached.low == pytest.approx(0.025**0.5)
    assert one.form_over_latent.low == pytest.approx(0.025)
    assert soft.form_over_latent.value == 0.5
    # A task that is drawn again is no further task, and has no more weight.
    again = separation([*MADE, made("d", "new", 0.25, 0.4)], PROMPT_TUNING)
    assert (again.reached, again.highest) == (soft.reached, 0.3)
    assert separation([*MADE, made("d", "new", 0.25, 0.4)], ALIGNER_1).reached.value == 4.5 / 6
    with pytest.raises(AlignerProbeError, match="an AUROC needs tasks on both sides"):
        separation([task for task in MADE if task.nature != "new"], ALIGNER_1)


def test_two_arms_are_compared_at_half_the_error_each():
    gain = better(MADE, PROMPT_TUNING, ALIGNER_1)
    theirs = auroc_interval(5 / 6, 2, 0.975)
    assert gain.value == pytest.approx(1 / 6)
    assert (gain.low, gain.high) == pytest.approx((0.0125**0.5 - theirs.high, 1 - theirs.low))


def test_a_strip_has_every_task_in_the_look_of_its_nature_and_the_widest_distance_on_top():
    found = [separation(MADE, arm) for arm in (ALIGNER_1, PROMPT_TUNING)]
    ax = plot_separators(Figure().subplots(), MADE, found)
    assert [label.get_text() for label in ax.get_yticklabels()] == [name_of(ALIGNER_1), name_of(PROMPT_TUNING)]
    lines = {line.get_label(): line for line in ax.lines}
    forms = lines[f"form, {name_of(PROMPT_TUNING)}"]
    assert (forms.get_color(), forms.get_marker()) == NATURES["form"]
    assert sorted(forms.get_xdata()) == [0.9, 1.0]
    overlap, apart = (container.patches[0] for container in ax.containers)
    assert (overlap.get_x(), overlap.get_width()) == (0.2, pytest.approx(0.1))
    assert overlap.get_hatch()
    assert (apart.get_x(), apart.get_width()) == (0.3, pytest.approx(0.6))
    texts = [text.get_text() for text in ax.texts]
    assert {"1.00 [0.16, 1.00]", "+0.60", "−0.10"} <= set(texts)
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend[:3] == [
        "form (n = 2 tasks, 2 points)",
        "latent (n = 1 tasks, 1 points)",
        "new (n = 2 tasks, 2 points)",
    ]


def test_the_committed_figure_says_what_the_panels_say(drawing, panels):
    tasks = [task for panel in panels for task in general_tasks(panel)[0]]
    assert len(drawing.frame) == len(SEPARATORS) * len(tasks)
    soft = separation(tasks, PROMPT_TUNING)
    shown = drawing.frame[drawing.frame["arm"] == PROMPT_TUNING]
    assert shown["distance"].unique().tolist() == [soft.distance]
    assert shown[shown["nature"] == "new"]["share"].max() == soft.highest
    assert {task.draw for task in tasks} == set(drawing.frame["draw"]) == {0, 1}
    assert [one.source for one in drawing.inputs] == [f"panel/{name}" for name in FILES]
    for name in ("new_two_hop", "known_rhymed", "control_constant", "unseen_quoted_twice"):
        assert name in drawing.caption
    [judged] = [one for one in drawing.comparisons if one.verdict]
    low, high = map(float, judged.interval.strip("[]").split(", "))
    assert judged.verdict == ("holds" if low > 0 else "does not hold" if high < 0 else "undecided")


def test_of_the_panel_prompt_tuning_leaves_the_widest_distance_and_lora_none(panels):
    tasks = [task for panel in panels for task in general_tasks(panel)[0]]
    distances = {arm: separation(tasks, arm).distance for arm in SEPARATORS}
    assert max(distances, key=distances.__getitem__) == PROMPT_TUNING
    assert distances[LORA_1] < 0
    frame = to_frame(tasks, [separation(tasks, LORA_1)])
    assert frame["lowest form or latent"].iloc[0] < frame["highest new"].iloc[0]


def test_the_table_of_the_documentation_is_that_of_the_committed_panels(panels):
    def written(number):
        return f"{number:.2f}".replace("-", "−").replace("0.", ".", 1)

    tasks = [task for panel in panels for task in general_tasks(panel)[0]]
    found = sorted((separation(tasks, arm) for arm in SEPARATORS), key=lambda one: -one.distance)
    rows = []
    for one in found:
        value, low, high = map(written, (one.reached.value, one.reached.low, one.reached.high))
        rows.append([*map(written, (one.lowest, one.highest, one.distance)), f"{value} [{low}, {high}]"])
    text = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    table = text.split("### What separates the natures")[1].split("|---|---:|---:|---:|---:|\n")[1].split("\n\n")[0]
    assert [[cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()] == rows
