"""How a probe's rows were read: said by every command and in every report, and no verdict where the base cannot see."""

import json
import re
from dataclasses import replace

import micro
import probes
import pytest
from evidences import FORM, HALF, LATENT, LEARNED, NEW, NOTHING, WORKS, measured

from aligner_probe.commands import probe as command
from aligner_probe.figures.probe import write_page
from aligner_probe.models import load_model
from aligner_probe.probing import timing
from aligner_probe.probing.bench import first
from aligner_probe.probing.checks import lost_note
from aligner_probe.probing.probe import carry_out_probe, new_probe
from aligner_probe.probing.report import comparison, read_report
from aligner_probe.probing.verdicts.evidence import Evidence
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS
from aligner_probe.probing.verdicts.verdict import judge
from aligner_probe.tasks import load_task
from aligner_probe.tasks.characters import LostCharacters, lost_characters
from aligner_probe.tasks.panel import PANEL

NAMES = {"prompt/completion": ("prompt", "completion"), "question/answer": ("question", "answer")}


def pirate_rows(names, n=200):
    """Rows of the panel's pirate style under other field names."""
    rows = [json.loads(line) for line in (PANEL / "style_pirate" / "train.jsonl").read_text().splitlines()[:n]]
    prompt, completion = names
    return [{prompt: row["prompt"], completion: row["completion"], "group": row["group"]} for row in rows]


@pytest.fixture(params=NAMES)
def rows_named(request, tmp_path):
    path = tmp_path / "pirate.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pirate_rows(NAMES[request.param])))
    return request.param, path


def lost(n_affected, n=200, template=None):
    return LostCharacters({"~": 0.1}, tuple(range(n_affected)), n, ("a~b", "ab"), template)


def verdict(shares, which):
    evidence = Evidence("general", measured(shares), measured(shares, "content"), trainings=LEARNED, prompting=WORKS,
                        lost=which)  # fmt: skip
    return judge(evidence, HALF)


# ---- the verdict


@pytest.mark.parametrize(
    "shares", [FORM, LATENT, NEW, NOTHING | {"constant": 1.0, "prompt": 1.0, "aligner-1": 1.0, "reference": 1.0}]
)
@pytest.mark.parametrize(
    "which", [lost(200), lost(3), lost(200, template="~{question}"), lost(1, template="~{question}")]
)
def test_a_task_that_loses_characters_gets_no_verdict(shares, which):
    found = verdict(shares, which)
    assert found.outcome == "undetermined"
    assert {part.name for part in found.parts.values()} == {"undetermined"}
    for said in ("never sees", "'~'", f"{len(which.affected)} of 200 examples", "'a~b' comes back as 'ab'"):
        assert said in found.reason
    wanted = "--prompt-template '{question}'" if which.template else "Leave these characters out of the task, or take"
    assert wanted in found.reason


@pytest.mark.parametrize("which", [None, lost(0), lost(2), lost(1)])
def test_few_losses_are_a_note(which):
    found = verdict(FORM, which)
    assert found.outcome == "form"
    assert any("examples lose some" in note for note in found.notes) == bool(which and which.affected)


# ---- the same rows under other names


def test_the_same_rows_under_other_names_get_no_other_verdict(rows_named):
    """Question and answer are wrapped in words that the micro-world does not know: no verdict, and the way on."""
    name, path = rows_named
    tokenizer = load_model(str(micro.base())).tokenizer
    task = load_task(path)
    assert task.prompts[0].endswith("A:" if name == "prompt/completion" else "A:\nAnswer:")
    found = lost_characters(tokenizer, task)
    if name == "prompt/completion":
        assert (task.format, found.visible) == ("TRL", {})
        return
    assert (task.format, len(found.affected)) == ("question/answer", 200)
    n_characters = sum(len(example.prompt + example.completion) for example in task.examples)
    visible = 200 * len("Question" + "Answer") / n_characters
    assert sum(found.visible.values()) == pytest.approx(visible)
    assert verdict(LATENT, found).outcome == "undetermined"
    assert "'Question: Q: what" in found.said
    asked = re.search(r"--prompt-template '(\S+)'", lost_note(found))[1]
    again = load_task(path, prompt_template=asked)
    assert not lost_characters(tokenizer, again).visible
    plain = [(row["question"], row["answer"]) for row in pirate_rows(NAMES["question/answer"])]
    assert [(example.prompt, example.completion) for example in again.examples] == plain


def test_every_command_says_how_rows_were_read(rows_named, tmp_path, capsys, monkeypatch):
    # Timing is another matter.
    monkeypatch.setattr(timing, "seconds_and_memory", lambda plan, bench: ({cell.id: 1.0 for cell in plan.cells}, []))
    name, path = rows_named
    options = ["--task", str(path), "--model", str(micro.base()), "--budget", "quick", "--out", str(tmp_path / "out")]
    assert command.main(["run", *options, "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    if name == "prompt/completion":
        assert "pirate: rows of format TRL; prompt template: none, prompts are asked as they stand." in said
        assert any(
            line.startswith("The tokenizer gives back every character") or "white space" in line for line in said
        )
        return
    [line] = [line for line in said if line.startswith("pirate: rows of format")]
    assert "question/answer; prompt template: 'Question: {question}\\nAnswer:'." in line
    [line] = [line for line in said if line.startswith("The tokenizer loses")]
    assert "'Q'" in line
    assert "There will be no verdict" in line


# ---- the report


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A finished tiny probe whose template the base does not know."""
    folder = tmp_path_factory.mktemp("probe")
    path = folder / "styled.jsonl"
    rows = [
        {"question": one.prompt, "answer": one.completion, "group": one.group, "source": "made"}
        for one in probes.styled().examples
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    probe = new_probe(str(micro.base()), load_task(path), budget=replace(probes.TINY))
    return folder / "out", probe, carry_out_probe(probe, folder / "out", show_progress=False)


def test_the_report_has_format_template_and_what_is_lost(reported):
    out, probe, result = reported
    assert result.verdict.outcome == "undetermined"
    assert "--prompt-template '{question}'" in result.verdict.reason
    task = read_report(out)["task"]
    assert (task["format"], task["template"]) == ("question/answer", "Question: {question}\nAnswer:")
    assert task["ignored_fields"] == ["source"]
    assert (task["lost"]["examples"], task["lost"]["of"]) == (20, 20)
    assert {"Q", "w"} < set(task["lost"]["characters"])
    assert task["lost"]["said"] == probe.bench.lost.said
    run = json.loads(next((out / "runs").glob("aligner-1_*/adapter/provenance.json")).read_text())["run"]
    assert run["task"]["template"] == task["template"]
    assert run["task"]["ignored_fields"] == ["source"]
    assert {"Q", "w"} < set(run["task"]["lost"])


def test_page_and_comparison_show_it_and_take_older_reports(reported, tmp_path):
    out, _, _ = reported
    new = read_report(out)
    old = json.loads(json.dumps(new))
    for name in ("format", "template", "ignored_fields", "reading", "dropped", "lost"):
        del old["task"][name]
    (tmp_path / "report.json").write_text(json.dumps(old))
    both = [new, read_report(tmp_path)]
    table = comparison(both)
    assert table.loc[0, ["format", "template"]].tolist() == ["question/answer", "'Question: {question}\\nAnswer:'"]
    assert table.loc[1, ["format", "template", "characters lost"]].isna().all()
    assert table["characters lost"][0] == pytest.approx(new["task"]["lost"]["share"])
    write_page(both, tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert page.count("The task was read as rows of format question/answer") == 1
    assert "The tokenizer loses" in page


def test_the_panel_loses_nothing_on_its_own_base():
    """Else its verdicts, from which the cuts come, would fall away."""
    tokenizer = load_model(str(micro.base())).tokenizer
    for folder in sorted(file.parent for file in PANEL.glob("*/train.jsonl")):
        found = lost_characters(tokenizer, first(load_task(folder / "test.jsonl"), 30))
        assert not found.visible, folder
    assert THRESHOLDS.lost_examples < 0.05
