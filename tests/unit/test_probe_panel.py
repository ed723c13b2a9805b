"""The panel of known natures: cuts that tasks set, each judged by the others' cuts, and what is counted."""

import dataclasses
import json
import re

import pytest
from evidences import FORM, LATENT, LEARNED, NEW, NOTHING, WORKS, measured

from aligner_probe.artifacts import artifact
from aligner_probe.commands.probe_panel import NATURES as NATURES_OFFERED
from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import sha256
from aligner_probe.microworld.compositions import compositions
from aligner_probe.probing.panel import (
    FORMAT,
    RIGHT,
    Known,
    Tried,
    area_under_roc,
    as_judged,
    calibrated,
    confusions,
    draw_panel,
    known_tasks,
    leave_one_out,
    panel_report,
    summary,
)
from aligner_probe.probing.verdicts.evidence import Evidence
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS
from aligner_probe.probing.verdicts.verdict import judge
from aligner_probe.tasks.panel import PANEL

PROVENANCE = {"versions": {}, "git": {}, "base": "x"}
REPORT = {"base": "microworld", "provenance": PROVENANCE, "knowledge_kept": {}, "capacity": None}
REPORT |= {"budget": "standard", "task": {"sha256": {}}, "measures": {"strict": {"scores": {}}}, "runs": []}


def tried(name, nature, shares, kind="general", **more):
    groups = tuple(f"fact {place // 2}" for place in range(120)) if kind == "memory" else None
    strict = measured(shares, kind=kind, groups=groups)
    content = measured(shares, "content", kind=kind, groups=groups)
    evidence = Evidence(kind=kind, strict=strict, content=content, trainings=LEARNED, prompting=WORKS)
    report = REPORT | {
        key: {"value": None, "low": None, "high": None} for key in ("F", "R_soft", "R1", "B", "delta", "K")
    }
    known = Known(name, nature, kind, "why", nature != "control")
    return Tried.of(known, evidence, judge(evidence), report | more)


def a_panel():
    lower = FORM | {"aligner-1": 0.8, "prompt": 0.8}
    return [
        tried("a", "form", FORM),
        tried("b", "form", lower),
        tried("c", "latent", LATENT),
        tried("d", "latent", LATENT | {"aligner-1": 0.75}),
        tried("e", "new", NEW),
        tried("f", "new", NEW | {"aligner-1": 0.2}),
        tried("g", "new", NEW | {"aligner-1": 0.99}, kind="memory"),
        tried("h", "control", NOTHING | {"prompt": 0.0, "aligner-1": 0.03, "reference": 0.05}),
    ]


def test_cuts_of_a_panel_lie_between_its_natures():
    cuts = calibrated(a_panel())
    # F: the lowest form .8 against 0; R1: the lowest latent .75 of .98 against a new general task's .2
    assert 0.3 < cuts.F_cut < 0.5
    assert 0.4 < cuts.R1_cut < 0.6


def test_memory_tasks_have_no_say_in_the_cut_of_R1():
    panel = a_panel()
    assert calibrated(panel).R1_cut == calibrated([one for one in panel if one.known.name != "g"]).R1_cut


def test_each_task_is_judged_by_cuts_it_had_no_part_in():
    panel = a_panel()
    for one in leave_one_out(panel):
        assert one.thresholds == calibrated([other for other in panel if other is not one.tried])
    # Planted as latent, with an R1 that lies under what all others set: not saved by a cut of its own.
    odd = tried("odd", "latent", LATENT | {"aligner-1": 0.3})
    [found] = [one for one in leave_one_out([*panel, odd]) if one.tried is odd]
    assert not found.right


def test_the_summary_counts_what_the_panel_is_to_show():
    found = summary(leave_one_out(a_panel()))
    assert (found["counted"], found["right"]) == (7, 7)
    assert found["undetermined"] == found["not_right"] == found["controls_called_form_latent_or_new"] == []
    assert found["auc_R1_general_tasks"] == 1.0
    # The memory task holds all its facts in one token: among all tasks R1 does not tell it from form.
    assert found["auc_R1"] == area_under_roc(a_panel()) == pytest.approx(8 / 12)
    wrong = summary(as_judged([tried("x", "new", FORM), tried("y", "form", NEW), tried("z", "control", FORM)]))
    assert wrong["called_form_or_latent_but_new"] == ["x"]
    assert wrong["called_new_but_form_or_latent"] == ["y"]
    assert wrong["controls_called_form_latent_or_new"] == ["z"]


def test_a_task_whose_reference_learned_nothing_has_no_share_to_rank():
    """Its shares are of a gap that is not there, and may be no numbers at all."""
    nothing = tried("unlearned", "new", NOTHING | {"prompt": 0.0, "aligner-1": 0.0, "reference": 0.0})
    assert area_under_roc([*a_panel(), nothing]) == area_under_roc(a_panel())


def test_a_part_of_the_panel_sets_no_cuts():
    with pytest.raises(AlignerProbeError, match="all lie on one side"):
        leave_one_out([tried("a", "form", FORM), tried("b", "form", FORM)])


def test_confusions_and_report_name_every_task():
    judged = leave_one_out(a_panel())
    assert confusions(judged).loc["new", "new"] == 3
    content = panel_report(judged, calibrated(a_panel()))
    assert [row["task"] for row in content["tasks"]] == list("abcdefgh")
    assert content["tasks"][0]["cuts"]["F"] == judged[0].thresholds.F_cut
    assert panel_report(judged, None)["calibrated"] is None


def test_a_row_holds_the_bits_of_each_arm_as_a_mean_and_the_dose():
    bits = [{"excess": 90.0, "n_examples": 30, "n_labels": 300}, {"excess": 10.0, "n_examples": 10, "n_labels": 20}]
    runs = [{"arm": "lora-8", "bits": each} for each in bits] + [{"arm": "aligner-1", "bits": None}, {"arm": "lora-1"}]
    strict = {"scores": {}, "examples": {"k50": {"value": 3.0}}}
    both = [tried("a", "form", FORM, runs=runs, measures={"strict": strict}), tried("a", "form", FORM)]
    [row, without] = panel_report(as_judged(both), None)["tasks"]
    assert row["bits"] == {"lora-8": {"excess": 50.0, "an_example": 2.0, "a_label": 0.4}}
    assert row["dose"] == {"k50": {"value": 3.0}}
    assert (without["bits"], without["dose"]) == ({}, None)


#: What the committed results were made of: tasks of unknown nature count for nothing.
NATURES = {"quick": tuple(RIGHT), "standard": ("form", "latent", "new", "mixed", "control")}


def tasks_before_compositions(natures):
    """The tasks that the panel had when the committed results were made: compositions have joined it since."""
    composed = {one.name for one in compositions(0, {}, dict.fromkeys("0123456789", ""), "")}
    return [known.name for known in known_tasks(natures=natures) if known.name not in composed]


def committed(budget):
    return json.loads(artifact("panel", (f"{budget}.json",)).joinpath(f"{budget}.json").read_text())


def test_cuts_are_those_that_the_committed_panel_sets():
    cuts = committed("standard")["calibrated"]
    assert {name: getattr(THRESHOLDS, name) for name in cuts} == {name: round(cut, 2) for name, cut in cuts.items()}


@pytest.mark.parametrize("budget", NATURES)
def test_committed_results_are_of_this_panel_and_confuse_nothing(budget):
    content = committed(budget)
    assert (content["format"], content["budget"]) == (FORMAT, budget)
    assert [row["task"] for row in content["tasks"]] == tasks_before_compositions(NATURES[budget])
    for row in content["tasks"]:
        assert row["sha256"]["test"] == sha256(PANEL / row["task"] / "test.jsonl"), f"{row['task']} was probed before"
    found = content["summary"]
    for wrong in ("called_new_but_form_or_latent", "called_form_or_latent_but_new"):
        assert found[wrong] == []
    assert found["controls_called_form_latent_or_new"] == []
    assert found["auc_R1_general_tasks"] >= 0.98


def test_a_committed_draw_is_judged_by_cuts_that_it_had_no_part_in(tmp_path):
    content = committed("standard-draw1")
    assert (content["draw"], content["calibrated"]) == (1, None)
    draw_panel(content["draw"], tmp_path)
    for row in content["tasks"]:
        assert row["sha256"]["test"] == sha256(tmp_path / row["task"] / "test.jsonl")
        # They were judged before R_soft had a cut.
        assert row["cuts"] == {"F": THRESHOLDS.F_cut, "R1": THRESHOLDS.R1_cut}
    found = content["summary"]
    assert found["called_new_but_form_or_latent"] == found["called_form_or_latent_but_new"] == []
    assert found["controls_called_form_latent_or_new"] == []


def test_committed_open_tasks_set_no_cuts():
    content = committed("standard-open")
    assert [row["task"] for row in content["tasks"]] == tasks_before_compositions(("open",))
    assert content["calibrated"] is None
    assert content["summary"]["counted"] == 0


def test_the_command_knows_every_nature():
    """It lists them itself, so that its help needs no torch."""
    assert tuple(RIGHT) == NATURES_OFFERED


def test_the_panel_has_the_natures_that_were_asked_for():
    counts = {}
    for known in known_tasks():
        counts[known.nature] = counts.get(known.nature, 0) + 1
    assert counts["form"] >= 6
    assert counts["latent"] >= 4
    assert counts["new"] >= 8
    assert dataclasses.is_dataclass(known_tasks(["locked_*"])[0])
    assert {known.nature for known in known_tasks(natures=("new", "mixed"))} == {"new", "mixed"}
    names = [known.name for known in known_tasks(["locked_m*", "spelled"])]
    assert names == ["locked_mirror", "spelled", "locked_mirror_pirate", "locked_mirror_record"]
    for only, natures in ((["nothing", "nor_this"], tuple(RIGHT)), (["locked_*"], ("new",))):
        with pytest.raises(AlignerProbeError, match=f"no task of the panel fits {re.escape(' or '.join(only))} and is"):
            known_tasks(only, natures)


def test_a_panel_drawn_anew_has_the_same_tasks_with_other_items(tmp_path):
    """Seed 0 draws the stored one, so another is of the same making."""
    folders = [tmp_path / str(seed) for seed in range(2)]
    for seed, folder in enumerate(folders):
        draw_panel(seed, folder)
        assert [known.name for known in known_tasks(folder=folder)] == [known.name for known in known_tasks()]
    for known in known_tasks():
        for part in ("train", "test"):
            stored, same, other = ((at / known.name / f"{part}.jsonl").read_text() for at in (PANEL, *folders))
            assert same == stored
            assert other != stored, f"{known.name} has the same items whatever the seed"
