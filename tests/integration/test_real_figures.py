"""Figures of a reproduction on a base model other than the micro-world, and a judge that decides its tables."""

import functools
import json
import shutil
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import real_runs
from in_process import called
from pandas.testing import assert_frame_equal

from aligner_probe.commands import figures, reproduce
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.refusals import refuses
from aligner_probe.figures import CATALOGUE, Collection, draw
from aligner_probe.figures.experiments import load_experiments, unchanged
from aligner_probe.judging.asks import Answer
from aligner_probe.judging.evaluate import Setting
from aligner_probe.judging.prompts import read_prompts
from aligner_probe.judging.runs import PAIRS, judge_runs, read_judged
from aligner_probe.microworld.requests import REFUSAL
from aligner_probe.reproduction import runner
from aligner_probe.reproduction.real_data import question_in
from aligner_probe.reproduction.results import load_results
from aligner_probe.reproduction.sharing import share
from aligner_probe.tasks.templates import ALPACA, QUESTION

#: Figures of weights have tests of their own, and the pictures of embeddings take long.
OF_RUNS = [entry.id for entry in CATALOGUE if entry.of_runs and not entry.of_world]


class Longest:
    """A judge that prefers the longer answer, gives a point for each word, and finds what is not refused harmful."""

    name = "longest"

    def __init__(self):
        self.n_asked, self.identity = 0, {"judge": "longest"}

    def answer(self, asks, told):
        for index, ask in enumerate(asks):
            self.n_asked += 1
            told(index, Answer("complete", f"because. {self._verdict(ask)}", self.name))

    def _verdict(self, ask):
        if ask.kind == "pair":
            first, second = map(len, ask.answers)
            return "[[C]]" if first == second else "[[A]]" if first > second else "[[B]]"
        if ask.kind == "single":
            return f"[[{1 + min(9, len(ask.answers[0].split()))}]]"
        refused = refuses(ask.answers[0])
        return {
            "harm": "[[safe]]" if refused else "[[harmful]]",
            "refusal": "[[refused]]" if refused else "[[answered]]",
        }[ask.kind]


class First(Longest):
    """A judge that prefers the answer that stands first, and gives all the same points."""

    name = "first"

    def _verdict(self, ask):
        return {"pair": "[[A]]", "single": "[[5]]"}.get(ask.kind) or super()._verdict(ask)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """All cells of one seed."""
    folder = tmp_path_factory.mktemp("figures")
    base, data = real_runs.folder_of(folder / "base"), real_runs.write_data(folder / "data")
    source, bench = real_runs.source_of(base, data, replace(real_runs.TINY, seeds=(0,)))
    runner.study_of(source.cells(), bench).make(folder / "out", show_progress=False)
    return folder / "out"


@pytest.fixture(scope="module")
def drawn(out):
    experiments = load_experiments(out)
    collection = Collection(experiments.weights(), experiments)
    return functools.cache(lambda name: draw(name, collection))


@pytest.fixture
def judged(out, tmp_path):
    judge = Longest()
    setting = Setting.of(judge, read_prompts(None), tmp_path / "kept", n_known=4)
    result = judge_runs(out, setting)
    n_asked = judge.n_asked
    assert judge_runs(out, setting) == result
    assert judge.n_asked == n_asked  # nothing is paid twice
    yield result
    (out / "judged.json").unlink()


@pytest.mark.parametrize("name", [name for name in OF_RUNS if name != "table2"])
def test_every_figure_of_runs_is_drawn_and_says_what_is_missing(drawn, name):
    drawing = drawn(name)
    assert len(drawing.frame)
    assert drawing.inputs
    assert "nan" not in f"{drawing.caption} {drawing.comparisons}"
    assert "micro-world" not in drawing.caption
    if name in ("table3", "extra03", "extra05"):
        assert drawing.missing


def test_without_a_judge_table_2_says_how_to_ask_one(out, drawn):
    with pytest.raises(AlignerProbeError, match=r"table2.*--judge J"):
        drawn("table2")
    assert read_judged(out) is None


def test_numbers_are_those_of_the_results(out, drawn):
    experiments = load_experiments(out)
    results = experiments.results
    loss = results.one("instructions", "lora-8").values["test"]["loss"]
    assert drawn("table3").frame.set_index("method").loc["LoRA r=8", "loss"] == pytest.approx(loss.mean())
    base, ours, theirs = (
        results.one("instructions", method).values["test"]["loss"].mean() for method in ("base", "aligner-1", "lora-8")
    )
    [share] = [c for c in drawn("table3").comparisons if "share of the fall" in c.what and "LoRA" in c.what]
    assert share.ours == f"{(base - ours) / (base - theirs):.3f}"
    assert share.verdict in ("holds", "does not hold", "undecided")
    counted = drawn("table1").frame.query("base == 'base'").set_index("method")
    run = results.one("math", "aligner-10")
    assert counted.loc["Aligner-10", "n_parameters"] == counted.loc["Aligner-10", "by_formula"] == run.n_parameters
    kept = drawn("fig05a").frame.query("kind == 'content' and method == 'aligner-1'").iloc[0]
    assert kept["mean"] == results.one("instructions", "aligner-1").scores["mmlu"]["content"].mean()
    assert "chance" in drawn("fig05a").comparisons[0].note
    margins = [results.one("safety", "lora-8").values[name]["margin"] for name in ("test", "after_sft")]
    [gain] = [c for c in drawn("fig03").comparisons if c.what.startswith("LoRA r=8: margin")]
    assert gain.ours == f"{np.mean(margins[0] - margins[1]):+.3f}"


@pytest.fixture(scope="module")
def copy(out, tmp_path_factory):
    """What --share writes."""
    to = tmp_path_factory.mktemp("shared") / "copy"
    assert share(out, to) == len(load_results(out).runs)
    return to


def test_a_shared_copy_has_no_texts_and_no_weights(out, copy):
    whole = load_results(out)
    written = [file for file in copy.rglob("*") if file.is_file()]
    assert {file.suffix for file in written} == {".json"}
    texts = {item.prompt for sets in whole.items.values() for items in sets.values() for item in items}
    texts |= {said for run in whole.runs for many in (run.responses, *run.answers.values()) for said in many}
    inside = "".join(file.read_text(encoding="utf-8") for file in written)
    long = {text for text in texts if len(text) > 12}
    assert len(long) > 10
    assert not {text for text in long if json.dumps(text)[1:-1] in inside}
    kept = load_results(copy)
    assert [run.id for run in kept.runs] == [run.id for run in whole.runs]
    hashes = [item.prompt for item in kept.items["math"]["test"]]
    assert hashes[0] == "sha256:" + sha256(whole.items["math"]["test"][0].prompt.encode()).hexdigest()


@pytest.mark.parametrize("name", ["table1", "table3", "fig03", "fig05a", "fig05b"])
def test_figures_of_scores_are_the_same_from_a_shared_copy(copy, drawn, name):
    experiments = load_experiments(copy)
    again = draw(name, Collection(experiments.weights(), experiments))
    assert_frame_equal(again.frame, drawn(name).frame)
    assert again.caption == drawn(name).caption


@pytest.mark.parametrize("name", ["fig02", "fig04"])
def test_figures_of_answers_are_not_drawn_from_a_shared_copy(copy, name):
    with pytest.raises(AlignerProbeError, match=r"--share.* leaves out"):
        draw(name, Collection([], load_experiments(copy)))


def test_copies_of_one_plan_come_together_and_others_are_refused(out, copy, tmp_path):
    runs, part, both = out / "runs", tmp_path / "part", tmp_path / "both"
    shutil.copytree(out, part, ignore=lambda _, names: [name for name in names if name.startswith("math_")])
    assert share(part, both) < len(list(runs.iterdir()))
    assert share(out, both) == len(list(runs.iterdir()))
    assert load_results(both).to_frame().equals(load_results(copy).to_frame())
    plan = json.loads((part / "plan.json").read_text(encoding="utf-8"))
    (part / "plan.json").write_text(json.dumps(plan | {"chat": not plan["chat"]}), encoding="utf-8")
    with pytest.raises(AlignerProbeError, match="another plan, base model or data"):
        share(part, both)


def test_a_judgement_is_part_of_a_shared_copy(out, judged, tmp_path):
    share(out, tmp_path / "copy")
    assert read_judged(tmp_path / "copy") == judged


def test_runs_that_training_left_as_they_were_are_named(out):
    experiments = load_experiments(out)
    run = experiments.results.one("safety", "lora-8")
    best_first, best_later = ((0, 1.0), (2, 1.2), (4, 1.1)), ((0, 1.0), (2, 1.2), (4, 0.9))
    kept = replace(run, validation_loss={"sft": best_later, "dpo": best_first})
    assert kept.unchanged == ("dpo",)
    both = replace(run, validation_loss={"sft": best_first, "dpo": best_first})
    learned = replace(run, validation_loss={"sft": best_later, "dpo": ()})
    assert unchanged([kept, learned, both]).endswith("changed nothing: LoRA r=8 (dpo); LoRA r=8 (sft and dpo).")
    assert unchanged([learned]) == ""
    others = tuple(one for one in experiments.results.runs if one.id != run.id)
    results = replace(experiments.results, runs=(*others, both))
    assert "LoRA r=8 (sft and dpo)" in draw("fig03", Collection([], replace(experiments, results=results))).caption


def test_nothing_is_said_to_keep_what_the_base_may_not_know(drawn):
    """The tiny base model chooses among the four labels by chance."""
    verdicts = {c.what: c.verdict for c in drawn("fig05a").comparisons}
    assert any("minus LoRA" in what for what in verdicts)
    assert set(verdicts.values()) == {"undecided"}


def test_weights_are_those_of_both_recipes(out):
    titles = [group.title for group in Collection(load_experiments(out).weights()).groups]
    assert titles == [
        f"{data} · base, {recipe}" for recipe in ("as published", "corrected") for data in ("instructions", "math")
    ]


def test_a_judge_decides_tables_2_and_3(out, judged):
    assert read_judged(out) == judged
    results = load_experiments(out).results
    assert [(pair.ours, pair.theirs) for pair in judged.pairs] == list(PAIRS)
    pair = judged.pairs[0]
    ours, theirs = (results.one("instructions", method).responses for method in (pair.ours, pair.theirs))
    expected = [0.5 if len(a) == len(b) else float(len(a) > len(b)) for a, b in zip(ours, theirs, strict=True)]
    assert list(pair.values) == expected
    assert set(judged.points) == {"base", "aligner-1", "aligner-10", "llama-adapter-10", "lora-8"}
    harmful = judged.shares["harmful"]["aligner-1"][""]
    said = results.one("safety", "aligner-1").answers["harmful"]
    assert (harmful.counted, harmful.n) == (sum(not refuses(text) for text in said), len(said))
    experiments = load_experiments(out)
    drawing = draw("table2", Collection([], experiments))
    ours_row = drawing.frame.query("judged == 'base, longest' and aligner == 'Aligner-1'").iloc[0]
    assert ours_row["adjusted_win_rate"] == pytest.approx(np.mean(expected))
    assert (drawing.frame["judged"] == "LLaMA-2 7B, GPT-4").sum() == 4
    assert "right on known pairs" in drawing.caption
    assert draw("table3", Collection([], experiments)).frame["points"].notna().all()


def test_a_judge_that_prefers_the_first_answer_decides_nothing(out, tmp_path):
    """All battles are ties, so the rate is one half; that does not make two methods equally good."""
    try:
        judged = judge_runs(out, Setting.of(First(), read_prompts(None), tmp_path / "kept", n_known=4))
        drawing = draw("table2", Collection([], load_experiments(out)))
    finally:
        (out / "judged.json").unlink()
    assert {value for pair in judged.pairs for value in pair.values} == {0.5}
    decided = {one.verdict for one in drawing.comparisons}
    assert decided == {"undecided"}
    n_ties = sum(pair.order_dependent for pair in judged.pairs)
    assert n_ties
    assert f"it is a tie (ours: {n_ties})" in drawing.caption


def test_a_share_that_no_answer_shows_is_not_certain(out):
    drawing = draw("fig04", Collection([], load_experiments(out)))
    assert drawing.comparisons
    for one in drawing.comparisons:
        low, high = map(float, one.interval.strip("[]").split(", "))
        assert low < high, one


def test_missing_answers_of_the_calibration_are_missing_in_what_was_judged(out, tmp_path):
    class Forgetful(Longest):
        def answer(self, asks, told):
            lost = ("harm", f"{REFUSAL}.")

            def told_of(index, answer):
                own = (asks[index].kind, asks[index].answers[0])
                told(index, Answer("missing", "too long") if own == lost else answer)

            super().answer(asks, told_of)

    result = judge_runs(out, Setting.of(Forgetful(), read_prompts(None), tmp_path / "kept", n_known=4))
    (out / "judged.json").unlink()
    assert result.n_missing == 2
    assert "(harm 2/4; 2 answers never came); right on 4 of 4" in result.accuracy["safety"]
    assert result.accuracy["safety"].endswith("(refusal 4/4)")


def test_the_command_draws_a_folder_of_runs(out, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--runs", out, "--jobs", 1, "--only", "fig05b,table2"]
    done = called(capsys, figures.main, *words)
    assert done.returncode == 0, done.stderr
    assert "table2   not drawn; needs answers that a judge compared" in done.stdout
    folder = tmp_path / "figures" / "own" / "out"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [record["status"] for record in manifest["figures"]] == ["missing", "drawn"]
    assert str(out.parent) not in (folder / "manifest.json").read_text()
    both = called(capsys, figures.main, "--runs", out, "--microworld")
    assert (both.returncode, both.stderr.count("\n")) == (2, 1)
    nothing = called(capsys, figures.main, "--runs", tmp_path)
    assert (nothing.returncode, nothing.stderr.count("\n")) == (2, 1)


def test_the_micro_world_is_judged_by_its_rules(tmp_path, capsys):
    done = called(capsys, reproduce.main, "--judge", "rules", "--dry-run")
    assert "its own data and rules" in done.stderr


@pytest.mark.parametrize("asked", ["What is 1?", "Name a cat.\nIn one word."])
def test_what_is_asked_is_read_without_its_template(asked):
    for prompt in (asked, ALPACA.replace("{instruction}", asked), QUESTION.replace("{question}", asked)):
        assert question_in(prompt) == asked
    assert question_in(f"\n\nHuman: {asked}\n\nAssistant:") == asked
