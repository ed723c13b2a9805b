"""Evidence that is kept as JSON gives the same verdict again, and a panel's report can be read and judged again."""

import json
import math
from dataclasses import replace

import pytest
from evidences import FORM, HALF, LATENT, LEARNED, NEW, WORKS, measured, table
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import Interval
from aligner_probe.files import sha256
from aligner_probe.probing.panel import Tried, calibrated, known_tasks, leave_one_out, panel_report, stored
from aligner_probe.probing.verdicts.doses import Size
from aligner_probe.probing.verdicts.evidence import Evidence, ReferenceTraining
from aligner_probe.probing.verdicts.frontier import MostKept
from aligner_probe.probing.verdicts.measures import Capacity, Kept, measure
from aligner_probe.probing.verdicts.stored import as_json, from_json
from aligner_probe.probing.verdicts.verdict import judge
from aligner_probe.tasks.characters import LostCharacters
from aligner_probe.tasks.panel import PANEL

HALVES = (Interval(0.5, 0.4, 0.6), Interval(math.nan, math.nan, math.nan))
SIZES = {name: Size("LoRA", n) for name, n in (("lora-1", 10), ("lora-2", 20), ("lora-4", 40), ("lora-8", 80))}


def full_evidence(shares=FORM, **more):
    """An evidence in which everything is there, also numbers that are infinite or not a number."""
    doses = shares | {"lora-1": 0.1, "lora-2": 0.2, "lora-4": 0.3, "lora-8": 0.45}
    on_few = {"lora-8-on-1": 1, "lora-8-on-4": 4}
    strict = measure(
        table(doses | dict.fromkeys(on_few, 0.2)), SIZES, examples=on_few, floors=("base", "constant"), n_resamples=200
    )
    examples = replace(strict.examples, k50=replace(strict.examples.k50, value=2.0, low=0.0, high=math.inf))
    strict = replace(strict, examples=examples)
    fields = {
        "kind": "general", "strict": strict, "content": measured(shares, "content"), "known": measured(shares),
        "known_share": 0.66, "trainings": (*LEARNED, ReferenceTraining("lora-16-all", 0.9)), "prompting": WORKS,
        "kept": Kept(HALVES, HALVES, HALVES[1]),
        "most_kept": {"aligner-1": MostKept("aligner-1", None, 0.9, 0.7, 6, 0, {"rate .1": 3}, 0.5)},
        "kept_against_lora": HALVES[0], "capacity": Capacity(HALVES[0], 24), "soft_train": 0.3,
        "lost": LostCharacters({"é": 0.25}, (1, 4), 20, ("née", "ne"), None),
    }  # fmt: skip
    return Evidence(**fields | more)


def through_json(evidence):
    return from_json(json.loads(json.dumps(as_json(evidence), allow_nan=False)))


@settings(max_examples=12, deadline=None)
@given(*(st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.8, 0.96, 1.0]),) * 3)
def test_the_verdict_is_the_same(prompt, soft, one):
    shares = NEW | {"prompt": prompt, "prompt-tuning-10": soft, "aligner-1": one}
    evidence = full_evidence(shares)
    assert judge(through_json(evidence), HALF) == judge(evidence, HALF)


def test_all_of_it_comes_back():
    evidence = full_evidence()
    again = through_json(evidence)
    assert as_json(again) == as_json(evidence)
    assert (again.lost, again.trainings, again.capacity) == (evidence.lost, evidence.trainings, evidence.capacity)
    assert math.isnan(again.kept.kept.value)
    assert again.strict.examples.k50 == evidence.strict.examples.k50
    assert again.strict.examples.k50.high == math.inf
    assert type(again.strict.scores["base"]) is Interval


@pytest.mark.parametrize("fields", [[], {"kind": "general"}, {"strict": 3}, as_json(full_evidence()) | {"more": 1}])
def test_what_is_no_evidence_is_refused(fields):
    with pytest.raises(AlignerProbeError, match="the stored evidence is not that of a probe"):
        from_json(fields)


REPORT = {"base": "microworld", "budget": "standard", "knowledge_kept": {}, "capacity": None, "runs": []}
REPORT |= {"provenance": {"versions": {}}, "measures": {"strict": {"scores": {}}}}
REPORT |= {name: {"value": None} for name in ("F", "R_soft", "R1", "B", "delta", "K")}
SHARES = {"style_pirate": FORM, "style_polite": FORM | {"prompt": 0.8}, "locked_mirror": LATENT, "code_digits": NEW}
SHARES |= {"locked_raise": LATENT | {"prompt": 0.1}, "code_colors": NEW | {"prompt": 0.05}}


def probed(**more):
    tried = []
    for known in known_tasks(list(SHARES)):
        report = REPORT | {"task": {"sha256": {"test": sha256(PANEL / known.name / "test.jsonl")}}} | more
        evidence = full_evidence(SHARES[known.name])
        tried.append(Tried.of(known, evidence, judge(evidence), report))
    return tried


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "panel.json"
    path.write_text(json.dumps(panel_report(leave_one_out(probed()), None), allow_nan=False))
    return path


def test_a_panel_is_judged_again_from_its_report(file):
    again = stored(file)
    assert [one.verdict for one in again] == [one.verdict for one in probed()]
    assert calibrated(again) == calibrated(probed())
    content = json.loads(file.read_text())
    assert panel_report(leave_one_out(again), None) == content


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"draw": 2}, "drawn by seed 2; expected 0: --draw"),
        ({"format": "other"}, "expected 'aligner_probe panel report 1' as its format"),
        ({"evidence": None}, "style_pirate is kept without its evidence; probe it again"),
        ({"sha256": {"test": "0"}}, "style_pirate is not, or no longer, this task"),
        ({"task": "gone"}, "gone is not, or no longer, this task"),
    ],
)
def test_a_report_of_something_else_is_refused(file, change, said):
    content = json.loads(file.read_text())
    of_row = not change.keys() & content.keys()
    (content["tasks"][0] if of_row else content).update(change)
    if change == {"evidence": None}:
        del content["tasks"][0]["evidence"]
    file.write_text(json.dumps(content))
    with pytest.raises(AlignerProbeError, match=said):
        stored(file)


def test_other_budgets_are_not_judged_together():
    [one, *others] = leave_one_out(probed())
    quick = replace(one, tried=replace(one.tried, made_by=one.tried.made_by | {"budget": "quick"}))
    with pytest.raises(AlignerProbeError, match="different values of budget: quick, standard"):
        panel_report([quick, *others], None)


def test_the_command_probes_what_is_not_there_yet_and_judges_all(file, tmp_path, capsys):
    from aligner_probe.__main__ import main

    result = tmp_path / "all.json"
    options = ["--add-to", str(file), "--only", *SHARES, "--out", str(tmp_path / "out"), "--json", str(result)]
    assert main(["probe", "panel", *options]) == 0
    assert "each judged by cuts that the others set" in capsys.readouterr().out
    assert json.loads(result.read_text())["tasks"] == json.loads(file.read_text())["tasks"]


def dry_run(file, out, *names):
    from aligner_probe.__main__ import main

    options = ["--add-to", str(file), "--out", str(out), "--budget", "quick", "--dry-run"]
    assert main(["probe", "panel", *options, "--only", *names]) == 0


def test_a_dry_run_says_which_tasks_are_left(file, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "overwrite_16").mkdir(parents=True)
    (out / "overwrite_16" / "report.json").write_text("{}")
    [there, *_] = SHARES
    dry_run(file, out, there, "overwrite_16")
    said = capsys.readouterr().out
    assert f"(in {file})" in said
    assert f"overwrite_16: new, memory (finished in {out})" in said
    assert said.endswith("no task is left to probe\n")
    assert sorted(path.name for path in out.rglob("*")) == ["overwrite_16", "report.json"]


@pytest.mark.slow
def test_a_dry_run_plans_the_first_task_that_is_left(file, tmp_path, capsys):
    dry_run(file, tmp_path / "out", "overwrite_1")
    said = capsys.readouterr().out
    assert "budget quick:" in said
    assert said.endswith("the plan and the time of overwrite_1; tasks to probe: 1, one after another\n")
    assert not (tmp_path / "out").exists()
