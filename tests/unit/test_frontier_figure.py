"""The picture of form against knowledge: every setting where its numbers are, the steps above them, and K beside."""

import json

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from aligner_probe import artifacts
from aligner_probe.errors import AlignerProbeError
from aligner_probe.figures import draw
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.frontier import NOWHERE, frontiers, plot_curve, plot_most_kept, staircase, to_frame
from aligner_probe.figures.looks import LOOKS
from aligner_probe.probing.frontier import FORMAT, as_text, measured
from aligner_probe.probing.verdicts.frontier import Frontier, Reading


def content(one_token_form=1.0):
    """A frontier of planted scores: LoRA keeps .9 of 20 items, one token .3, and the prompt all."""
    shares = {"lora-8": (1.0, 0.9), "aligner-1": (one_token_form, 0.3), "aligner-10": (1.0, 0.6)}
    readings = []
    for arm, (form, kept) in shares.items():
        for steps, seed in ((15, 0), (15, 1), (60, 0), (60, 1)):
            right = np.arange(20) < 20 * (kept if steps == 60 else 1)
            reached = np.arange(10) < 10 * (form if steps == 60 else 0.2)
            readings.append(Reading(arm, 0.1, steps, seed, 1.0 * reached, 1.0 * right, 1.0 * right))
    readings.append(Reading("prompt", None, None, 0, np.ones(10), np.ones(20), np.zeros(20), way="4-shot"))
    made = Frontier(tuple(readings), np.ones(20), form_before=np.zeros(10))
    return {
        "format": FORMAT, "task": {"name": "planted"}, "form": {"items": 10}, "off_domain": {"items": 20}, "seeds": 2,
        "readings": [], **measured(made),
    }  # fmt: skip


@pytest.fixture(scope="module")
def planted():
    return content()


def markers(ax, arm):
    """The points of an arm, by its colour and marker."""
    color, marker = LOOKS[arm]
    lines = [line for line in ax.lines if (line.get_color(), line.get_marker()) == (color, marker)]
    return [point for line in lines for point in line.get_xydata().tolist()]


def test_settings_stand_at_form_and_knowledge(planted):
    ax = plot_curve(planted, Figure().subplots())
    assert markers(ax, "lora-8") == [pytest.approx([0.2, 1.0]), pytest.approx([1.0, 0.9])]
    assert markers(ax, "aligner-1") == [pytest.approx([0.2, 1.0]), pytest.approx([1.0, 0.3])]
    assert ax.get_legend_handles_labels()[1] == ["LoRA r=8", "Aligner-1", "Aligner-10", "prompts"]
    assert "n = 10" in ax.get_title()
    assert "20" in ax.get_title()


def test_k_stands_beside_with_its_interval_the_most_first(planted):
    ax = plot_most_kept(planted, Figure().subplots())
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["prompts", "LoRA r=8", "Aligner-10", "Aligner-1"]
    assert markers(ax, "lora-8") == [pytest.approx([1, 0.9])]
    assert markers(ax, "aligner-1") == [pytest.approx([3, 0.3])]
    assert [text.get_text() for text in ax.texts] == ["1.00", "0.90", "0.60", "0.30"]


def test_a_method_that_does_not_reach_the_form_is_hollow_and_below_the_axis():
    ax = plot_most_kept(content(one_token_form=0.5), Figure().subplots())
    assert markers(ax, "aligner-1") == [pytest.approx([3, NOWHERE])]
    [line] = [line for line in ax.lines if line.get_marker() == LOOKS["aligner-1"].marker]
    assert line.get_markerfacecolor() == "white"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12))
def test_no_point_is_above_the_steps(points):
    xs, ys = staircase(points)
    assert xs == sorted(xs, reverse=True)
    assert ys == sorted(ys)
    assert set(zip(xs, ys, strict=True)) & set(points)
    for x, y in points:
        assert y <= max(height for at, height in zip(xs, ys, strict=True) if at >= x)


def test_the_table_has_every_setting_with_k(planted):
    frame = to_frame(planted)
    assert len(frame) == 3 * 2 + 1
    lora = frame[(frame["arm"] == "lora-8") & (frame["form"] == 1)]
    assert lora["kept"].tolist() == pytest.approx([0.9])
    assert lora["K at 0.95"].tolist() == pytest.approx([0.9])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Artifacts are looked for in a folder with two frontiers."""
    (tmp_path / "frontier").mkdir()
    for name, made in (("a", content()), ("b", content(one_token_form=0.5))):
        (tmp_path / "frontier" / f"{name}.json").write_text(as_text(made))
    monkeypatch.setattr(artifacts, "PLACES", (tmp_path,))
    return tmp_path


def test_claims_follow_the_differences(folder):
    drawing = frontiers(Collection([]))
    assert len(drawing.figure.axes) == 4
    assert [one.source for one in drawing.inputs] == ["frontier/a.json", "frontier/b.json"]
    told = [(one.what, one.ours, one.verdict) for one in drawing.comparisons if "Aligner-1 less K of LoRA" in one.what]
    assert told == [
        ("planted: K of Aligner-1 less K of LoRA r=8", "-0.600", "does not hold"),
        ("planted: K of Aligner-1 less K of LoRA r=8", "one of them does not reach the form", None),
    ]
    independent = next(one for one in drawing.comparisons if one.what.endswith("Aligner-1 less K of Aligner-10"))
    assert (independent.ours, independent.verdict) == ("-0.300", "holds")


def test_without_frontiers_the_command_that_makes_them_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "PLACES", (tmp_path,))
    with pytest.raises(AlignerProbeError, match="probe frontier --task panel:TASK"):
        draw("extra09", Collection([]))


def test_a_report_as_text_is_json_with_a_line_for_each_reading(planted):
    rows = [{"arm": "lora-8", "form": "01"}, {"arm": "lora-8", "form": "11"}]
    text = as_text(planted | {"readings": rows})
    assert json.loads(text) == json.loads(json.dumps(planted | {"readings": rows}))
    assert '\n  {"arm": "lora-8", "form": "11"}\n' in text


def test_the_documents_say_what_the_committed_frontier_says():
    made = json.loads((ROOT / "artifacts" / "frontier" / "style_pirate.json").read_text())
    most = {arm: one["kept"] for arm, one in made["K"]["0.95"].items()}

    def short(value):
        return f"{value:.2f}".removeprefix("0")

    row = next(line for line in (ROOT / "docs" / "microworld.md").read_text().splitlines() if "orthogonal" in line)
    names = {
        "lora-8": "LoRA",
        "aligner-10": "Aligner-10",
        "llama-adapter-10": "LLaMA-Adapter-10",
        "output-bias": "free output bias",
        "random-subspace": "random subspace",
        "aligner-1": "Aligner-1",
    }
    for arm, name in names.items():
        value, low, high = (short(most[arm][bound]) for bound in ("value", "low", "high"))
        assert f"{name} {value} [{low}, {high}]" in row
    assert f"LoRA {short(most['lora-8']['value'])}, one token {short(most['aligner-1']['value'])}" in " ".join(
        (ROOT / "README.md").read_text().split()
    )
    assert min(most["prompt"]["low"], most["prompt-tuning-10"]["low"]) > 0.98  # "leave all"
