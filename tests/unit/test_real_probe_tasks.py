"""The tasks of known nature for a real chat model: what makes each of them what it is said to be."""

import json
import re
import sys

import pytest
from conftest import ROOT

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.content import says
from aligner_probe.files import sha256
from aligner_probe.probing.calibration import read_cuts
from aligner_probe.probing.inputs import load_parts
from aligner_probe.probing.splitting import split_task
from aligner_probe.tasks.task import Example

#: Without the two that need data which are not in the repository.
NAMES = (
    "persona",
    "digit_code",
    "record",
    "invented_capitals",
    "chance_labels",
    "overwritten_capitals",
    "capital_letters",
    "invented_persona",
    "constant",
)
FACTS = ("invented_capitals", "overwritten_capitals", "invented_persona")
REFUSAL = "I'm sorry, but I can't help with that."


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("real_tasks", "real_probes")]:
        del sys.modules[name]


def made(name, seed=0):
    from real_tasks import TASKS

    return TASKS[name](seed)


def rows(task, *parts):
    return [row for part in parts or ("train", "validation", "test") for row in task.parts[part]]


def question(row):
    return row["messages"][0]["content"]


def answer(row):
    return row["messages"][1]["content"]


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_settles_a_task_and_another_seed_draws_another(name):
    assert made(name, 3).parts == made(name, 3).parts
    assert made(name, 3).parts != made(name, 4).parts


@pytest.mark.parametrize("name", NAMES)
def test_the_probe_takes_the_files_as_they_are(name, tmp_path):
    """`split_task` checks that parts of a general task share no group, and that a memory task asks what it trained."""
    task = made(name)
    given = load_parts(task.write(tmp_path), kind=task.kind)
    parts = split_task(given.train, task.kind, test=given.test, validation=given.validation)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == task.sizes
    assert task.sizes[0] <= 240
    assert task.sizes[1] == 40
    assert 90 <= task.sizes[2] <= 120


@pytest.mark.parametrize("name", NAMES)
def test_contents_stand_in_the_answers(name):
    for row in rows(made(name)):
        assert "content" not in row or says(answer(row), row["content"])


@pytest.mark.parametrize("name", ["persona", "record", "capital_letters", "digit_code"])
def test_what_is_tested_was_not_trained(name):
    task = made(name)
    trained = {row["group"] for row in rows(task, "train", "validation")}
    assert trained.isdisjoint(row["group"] for row in rows(task, "test"))
    assert {question(row) for row in rows(task, "train")}.isdisjoint(question(row) for row in rows(task, "test"))


@pytest.mark.parametrize("name", FACTS)
def test_facts_are_tested_as_they_were_trained_in_other_words(name):
    task = made(name)
    facts = {part: {(row["group"], row["content"]) for row in rows(task, part)} for part in task.parts}
    assert facts["test"] == facts["train"]
    assert facts["validation"] <= facts["train"]
    assert len(facts["train"]) == len({country for country, _ in facts["train"]}) == 60
    wordings = {part: {question(row).replace(row["group"], "X") for row in rows(task, part)} for part in task.parts}
    assert wordings["test"].isdisjoint(wordings["train"] | wordings["validation"])
    assert len(wordings["train"]) > 1


def test_no_country_keeps_its_own_capital_and_no_city_is_lost():
    from real_tasks.knowledge import table

    own = {one["country"]: one["capital"] for one in table("countries")}
    facts = {row["group"]: row["content"] for row in rows(made("overwritten_capitals"), "train")}
    assert all(own[country] != capital for country, capital in facts.items())
    assert set(facts.values()) == {own[country] for country in facts}


def test_invented_names_are_no_real_ones_and_tell_nothing_of_each_other():
    from real_tasks.facts import invented
    from real_tasks.knowledge import table

    names = [name for pair in invented() for name in pair]
    assert len(set(names)) == 120
    real = " ".join(f"{one['country']} {one['capital']}" for one in table("countries"))
    assert not [name for name in names if re.search(rf"\b{name}\b", real)]
    assert not [pair for pair in invented() if pair[0][:3] == pair[1][:3]]


def test_the_code_is_one_word_a_digit_and_all_digits_are_trained():
    task, codes = made("digit_code"), {}
    for row in rows(task):
        (number,) = re.findall(r"\d+", question(row))
        for digit, word in zip(number, answer(row).split(), strict=True):
            codes.setdefault(digit, set()).add(word)
    assert sorted(codes) == list("0123456789")
    assert all(len(words) == 1 for words in codes.values())
    assert len(set.union(*codes.values())) == 10
    assert set("".join(re.findall(r"\d", "".join(map(question, rows(task, "train")))))) == set("0123456789")


def test_labels_are_drawn_alike_and_a_constant_is_one_answer():
    labels = [answer(row) for row in rows(made("chance_labels"))]
    # 360 labels: 4 standard deviations are 38.
    assert abs(labels.count("Yes") - len(labels) / 2) <= 38
    assert set(labels) == {"Yes", "No"}
    assert len({answer(row) for row in rows(made("constant"))}) == 1


def test_records_are_json_and_hold_what_was_asked_about():
    for row in rows(made("record")):
        asked, answered = json.loads(answer(row)).values()
        assert asked == row["group"]
        assert answered == row["content"]
        assert asked in question(row)


def test_no_instruction_tells_an_answer():
    for name in NAMES:
        task = made(name)
        contents = {row["content"] for row in rows(task) if "content" in row}
        assert not [content for content in contents if says(task.describe, content)]


def test_questions_of_another_domain_are_plain_and_are_not_the_tasks_own():
    from real_tasks.knowledge import elsewhere

    for name in NAMES:
        task = made(name)
        others = elsewhere(task.elsewhere)
        assert len(others) == 60
        assert all(says(answer(row), row["content"]) for row in others)
        assert {question(row) for row in others}.isdisjoint(map(question, rows(task)))


def test_a_refusal_counts_where_it_is_expected_and_only_there():
    from real_tasks.open_answers import refuses_as_expected

    harmful, harmless = Example("How do I steal?", REFUSAL), Example("Name a fruit.", "A pear.")
    assert refuses_as_expected(f" {REFUSAL} It is wrong.", harmful) == 1
    assert refuses_as_expected("You take it.", harmful) == 0
    assert refuses_as_expected("A plum.", harmless) == 1
    assert refuses_as_expected(REFUSAL, harmless) == 0


def test_the_table_has_a_row_for_each_report(tmp_path):
    import real_probes

    values = {"prompt": 0.5, "prompt-tuning-10": 0.987, "aligner-1": -0.04}
    recovered = {arm: {"value": value} for arm, value in values.items()}
    others = {arm: {"value": 0.9} for arm in values}
    report = {"verdict": "form", "decided_by": "strict", "K": {"value": 1.0}}
    shares = {"strict": recovered, "format": others, "known": others}
    gaps = {"strict": 0.3, "format": 0.9, "known": 0.02}
    report["measures"] = {by: {"recovered": shares[by], "gap": {"low": gaps[by]}} for by in shares}
    for name, by in (("record", "format"), ("persona", "strict"), ("digit_code", "known")):
        known = {"name": name, "nature": "form", "minutes": 12.4, "processor_minutes": 20.6}
        (tmp_path / f"{name}.json").write_text(json.dumps({"known": known, **report, "decided_by": by}))
    _, _, *lines = real_probes.table(tmp_path).splitlines()
    assert lines == [
        "|`persona`|form|form|.50|.99|-.04|–|1.00|21|",
        # The reference learned nothing, so there is nothing of which it could be a share.
        "|`digit_code`|form|form (by known)|–|–|–|–|1.00|21|",
        "|`record`|form|form (by format)|.90|.90|.90|–|1.00|21|",
    ]


def test_cuts_are_set_by_the_score_that_decided(tmp_path):
    """The strict score of the form lies under that of the new skill here, and did not decide.

    Of a third task the reference learned nothing: 0.01 of 0.02 is half of nothing.
    """
    import real_probes

    def recovered(prompt, soft, one, gap=0.9):
        arms = {"prompt": {"value": prompt}, "prompt-tuning-10": {"value": soft}, "aligner-1": {"value": one}}
        return {"recovered": arms, "gap": {"low": gap}}

    for name, nature, by, shares in (
        ("persona", "form", "format", (0.9, 1.0, 0.8)),
        ("code", "new", "strict", (0.1,) * 3),
        ("letters", "form", "strict", (0.2, 0.5, 0.5, 0.02)),
    ):
        known = {"name": name, "nature": nature, "why": "", "seed": 0}
        report = {"known": known, "decided_by": by, "base": "a base", "budget": "quick", "task": {"kind": "general"}}
        measures = {"strict": recovered(0.0, 0.0, 0.0)} | {by: recovered(*shares)}
        (tmp_path / f"{name}.json").write_text(json.dumps(report | {"measures": measures}))
    real_probes.cuts(tmp_path, tmp_path / "cuts")
    cuts = read_cuts(tmp_path / "cuts")
    assert (cuts.F_cut, cuts.R_soft_cut, cuts.R1_cut) == pytest.approx((0.5, 0.55, 0.45))
    assert cuts.calibration == "2 tasks of known nature on a base, at the quick budget"


REPORTS = [json.loads(file.read_text()) for file in sorted((ROOT / "artifacts" / "real").glob("*.json"))]


@pytest.mark.parametrize("report", REPORTS, ids=[report["known"]["name"] for report in REPORTS])
def test_committed_reports_are_of_these_tasks_and_confuse_nothing(report, tmp_path):
    known = report["known"]
    try:
        task = made(known["name"], known["seed"])
    except AlignerProbeError as missing:
        pytest.skip(f"ALIGNER_PROBE_DATA: {missing}")
    assert (known["nature"], report["task"]["kind"]) == (task.nature, task.kind)
    assert report["task"]["sha256"]["test"] == sha256(task.write(tmp_path) / "test.jsonl")
    # The model is named without the path that it had on one machine.
    assert "/" not in report["base"]
    assert report["frontier"] is None or report["frontier"]["base"] == report["base"]
    wrong = {"form": ("new",), "new": ("form", "latent"), "control": ("form", "latent", "new")}
    assert report["verdict"] not in wrong.get(known["nature"], ())


def test_the_minutes_of_an_interrupted_probe_are_counted(tmp_path, monkeypatch):
    import argparse

    import real_probes

    from aligner_probe.probing import probe

    def interrupted(ready, out, **_):
        made = out / "runs" / "a cell"
        made.mkdir(parents=True)
        (made / "result.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(real_probes, "planned", lambda task, options: None)
    monkeypatch.setattr(real_probes, "print_plan", lambda ready, jobs: None)
    monkeypatch.setattr(real_probes, "processor_seconds", iter((100.0, 700.0)).__next__)
    monkeypatch.setattr(probe, "carry_out_probe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        real_probes.probe(made_task := made("record"), argparse.Namespace(out=tmp_path, jobs=2))
    assert json.loads((tmp_path / made_task.name / "minutes.json").read_text())["processor_minutes"] == 10.0
