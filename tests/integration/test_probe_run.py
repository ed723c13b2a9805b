"""A whole probe on a tiny untrained base: cells made once, resumed to the same numbers, a report and its page."""

import json
from dataclasses import replace

import micro
import numpy as np
import pytest
from matplotlib.figure import Figure
from probes import TINY, jsonl, numbers, styled, tiny_probe

from aligner_probe.commands import probe as command
from aligner_probe.commands import run as run_command
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import BalancedAccuracy, ExactMatch
from aligner_probe.jobs.folder import RESULT, RUNS
from aligner_probe.models import load_model
from aligner_probe.probing import cells, run
from aligner_probe.probing.bench import ProbeBench, first, shuffled
from aligner_probe.probing.off_domain import off_domain_of
from aligner_probe.probing.plan import BUDGETS, PROMPTS, plan
from aligner_probe.probing.probe import carry_out_probe, new_probe
from aligner_probe.probing.report import comparison, read_report
from aligner_probe.probing.splitting import split_task
from aligner_probe.tasks.loading import load_task
from aligner_probe.tasks.task import Example, Task


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished probe's folder and result."""
    out = tmp_path_factory.mktemp("probe") / "whole"
    return out, carry_out_probe(tiny_probe(), out, show_progress=False)


def test_report_has_its_keys_first_and_every_run(whole):
    out, result = whole
    content = read_report(out)
    for name in ("F", "R_soft", "R1", "B", "delta", "K"):
        assert set(content[name]) == {"value", "low", "high"}
    assert content["B"]["value"] is None
    assert content["verdict"] == result.verdict.outcome == "undetermined"
    assert content["reason"] == result.verdict.reason
    assert {one["id"] for one in content["runs"]} == {c.id for c in tiny_probe().plan.cells} - {PROMPTS}
    assert len(content["provenance"]["base"]) == 64
    assert all(len(digest) == 64 for digest in content["task"]["sha256"].values())
    assert {"base", "prompt", "aligner-1", "lora-8"} <= set(content["samples"][0]["answers"])


@pytest.mark.slow
def test_the_same_plan_gives_the_same_numbers_and_an_interruption_none_other(whole, tmp_path, monkeypatch):
    """Killed after the third cell and, in the fourth, in the middle of training; then resumed."""
    started = []
    real = cells.carry_out

    def killed_later(bench, cell, *, out):
        started.append(cell.id)
        if len(started) == 4:  # of the first attempt
            monkeypatch.setattr(cells._Follow, "stepped", killed_in_training)
        return real(bench, cell, out=out)

    follow = cells._Follow.stepped

    def killed_in_training(self, row):
        follow(self, row)
        if row["step"] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "carry_out", killed_later)
    with pytest.raises(KeyboardInterrupt):
        carry_out_probe(tiny_probe(), tmp_path / "a", show_progress=False)
    monkeypatch.setattr(cells._Follow, "stepped", follow)
    finished = {file: file.stat().st_mtime_ns for file in (tmp_path / "a" / RUNS).glob(f"*/{RESULT}")}
    assert len(finished) == 3
    with pytest.raises(AlignerProbeError, match="--resume"):
        carry_out_probe(tiny_probe(), tmp_path / "a", show_progress=False)
    monkeypatch.setattr(
        run, "carry_out", lambda bench, cell, *, out: started.append(cell.id) or real(bench, cell, out=out)
    )
    started.clear()
    resumed = carry_out_probe(tiny_probe(), tmp_path / "a", resume=True, show_progress=False)
    assert len(started) == len(tiny_probe().plan.cells) - 3
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert numbers(resumed.report) == numbers(whole[1].report)


def test_another_probe_in_the_folder_is_refused(whole):
    with pytest.raises(AlignerProbeError, match="another task, base or budget"):
        carry_out_probe(tiny_probe(steps=6), whole[0], resume=True, show_progress=False)


def test_an_unfinished_probe_says_how_to_go_on(whole, tmp_path):
    from aligner_probe.probing.gathering import gather

    probe = tiny_probe()
    run.study_of(probe.plan, probe.bench).begin(tmp_path)
    with pytest.raises(AlignerProbeError, match=r"7 of 7 cells .* the first prompts; go on: .*--resume"):
        gather(probe.plan, probe.parts, tmp_path)


def test_full_fine_tuning_is_tried_only_where_lora_has_not_learned(whole, tmp_path):
    out, _ = whole
    standard = plan("standard", steps=5)
    full = [cell for cell in standard.cells if cell.only_if_unlearned]
    assert full
    assert all(run.is_wanted(cell, standard, out) for cell in full)
    for cell in standard.runs_of("lora-8"):
        (tmp_path / RUNS / cell.id).mkdir(parents=True)
        (tmp_path / RUNS / cell.id / RESULT).write_text('{"validation": 0.97}')
    assert not any(run.is_wanted(cell, standard, tmp_path) for cell in full)


def test_tuning_takes_the_best_of_the_last_round(tmp_path):
    """Of untrained rates, one far too small never wins."""
    probe = plan(replace(TINY, tuned=True, steps=8, rungs=(0.25, 0.5), arms=("aligner-1",)))
    bench = tiny_probe().bench
    [cell] = [cell for cell in probe.cells if cell.kind == "tune"]
    bench = replace(bench, budget=probe.budget)
    cells.carry_out(bench, cell, out=tmp_path)
    found = cells.read_result(tmp_path, cell.id)
    assert [(trial["steps"]) for trial in found["trials"]] == [2, 2, 2, 4, 4]
    last = {trial["rate"]: trial["validation_loss"] for trial in found["trials"] if trial["steps"] == 4}
    assert found["lr"] == min(last, key=last.get)
    [trained] = [cell for cell in probe.cells if cell.id == "aligner-1_start0_order1"]
    cells.carry_out(bench, trained, out=tmp_path)
    assert cells.read_result(tmp_path, trained.id)["lr"] == found["lr"]


@pytest.mark.slow
def test_start_and_order_are_seeds_apart(tmp_path):
    """Another start makes another adapter, another order another run from the same start."""
    from aligner_probe.checkpoints.adapters import load_adapter

    bench = tiny_probe().bench
    probe = plan(replace(TINY, arms=("aligner-1",), seeds=((0, 0), (1, 0), (0, 1))))
    found = {}
    for cell in probe.runs_of("aligner-1"):
        cells.carry_out(bench, cell, out=tmp_path)
        adapter = load_adapter(tmp_path / RUNS / cell.id / cells.ADAPTER, bench.model)
        found[cell.start_seed, cell.order_seed] = (adapter.start["prefix"], adapter.prefix.detach())
    assert found[0, 0][0].equal(found[0, 1][0])
    assert not found[0, 0][0].equal(found[1, 0][0])
    assert not found[0, 0][1].equal(found[0, 1][1])


@pytest.mark.parametrize("by_group", [False, True])
def test_shuffled_answers_are_the_same_answers_elsewhere(by_group):
    task = Task("t", "sft", tuple(Example(f"{w} {g}?", f" {g}.", str(g)) for g in range(9) for w in range(3)))
    found = shuffled(task, by_group, 0)
    assert found.prompts == task.prompts
    assert sorted(e.completion for e in found.examples) == sorted(e.completion for e in task.examples)
    if by_group:
        assert all(a.completion != b.completion for a, b in zip(task.examples, found.examples, strict=True))
        assert len({(e.group, e.completion) for e in found.examples}) == 9
    assert shuffled(task, by_group, 1).examples != found.examples
    assert found.sha256 != task.sha256


def test_a_single_fact_has_nothing_to_shuffle():
    one = Task("one", "sft", tuple(Example(f"wording {w}?", " gold.", "fact") for w in range(4)))
    probe = new_probe(str(micro.base()), one, kind="memory", budget=TINY)
    assert not any(arm.endswith("shuffled") for arm in probe.plan.arms)


def test_the_best_constant_answer():
    rows = [Example(f"Q {i}", " yes." if i % 3 else " no.", str(i)) for i in range(60)]
    parts = split_task(Task("labels", "sft", tuple(rows)))
    answer, scores = ProbeBench("none", parts, ExactMatch(), TINY).constant()
    assert answer == " yes."
    assert scores["strict"] == [float(e.completion == " yes.") for e in parts.test.examples]


def test_likelihoods_have_no_constant_answer(tmp_path):
    """And no share of items either: the verdict has its reason all the same."""
    probe = new_probe(
        str(micro.base()), styled(), scorer="log_likelihood", budget=replace(TINY, steps=2, reference_steps=2)
    )
    assert probe.bench.constant() == (None, {})
    result = carry_out_probe(probe, tmp_path / "out", show_progress=False)
    assert result.gathered.evidence.strict.floors == ("base", "reference-shuffled")
    assert result.verdict.outcome == "undetermined"
    assert "constant" not in result.verdict.reason


def test_first_is_even():
    assert [e.prompt for e in first(styled(), 3).examples] == [styled().prompts[i] for i in (0, 10, 19)]
    assert len(first(styled(), 99)) == len(styled())


def test_off_domain_items_are_not_of_the_task_s_domain():
    model = load_model(str(micro.base()))
    from aligner_probe.microworld.world import World

    person = World.from_seed(0).people[0]
    facts = Task("facts", "sft", tuple(Example(f"Q: what is the pet of {person}? {i}\nA:", " cat.") for i in range(9)))
    asked = off_domain_of(model, facts)
    assert len(asked) > 40
    assert all(example.content.isdigit() for example in asked.examples)
    other = Task("other", "sft", (Example("Q: what is mirror 123?\nA:", " 321."),))
    kinds = {example.content.isdigit() for example in off_domain_of(model, other).examples}
    assert kinds == {True, False}


def test_command_dry_run_writes_nothing(tmp_path, capsys):
    file = jsonl(tmp_path / "styled.jsonl", styled())
    out = tmp_path / "out"
    options = ["--task", str(file), "--model", str(micro.base()), "--budget", "quick", "--out", str(out)]
    assert command.main(["run", *options, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "because completions are short" in said
    assert "budget quick: 13 cells" in said
    assert "memory: Aligner-1: base" in said
    assert "threads of each process: 1 (the default" in said
    assert said.count("cannot decide:") >= 4
    size = new_probe(str(micro.base()), load_task(file), budget="quick").size_of_test()
    assert f"test: {size.said}\n" in said
    assert f"write about {size.rows} rows" in said
    assert not out.exists()


def test_command_makes_report_page_and_comparison(tmp_path, capsys, monkeypatch, whole):
    monkeypatch.setitem(BUDGETS, "quick", TINY)
    file = jsonl(tmp_path / "styled.jsonl", styled())
    out = tmp_path / "out"
    options = ["--task", str(file), "--model", str(micro.base()), "--budget", "quick", "--jobs", "1"]
    assert command.main(["run", *options, "--out", str(out), "--json", str(tmp_path / "again.json")]) == 0
    said = capsys.readouterr().out
    assert json.loads((tmp_path / "again.json").read_text()) == read_report(out)
    assert read_report(out)["reason"] in said
    # The micro-world's own words are the tokenizer's, so sums are asked off the domain.
    assert read_report(out)["knowledge_kept"].keys() == {"aligner-1", "lora-8"}
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert "What this does not show" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", "").replace("https://matplotlib.org", "")  # fmt: skip
    both = tmp_path / "both.html"
    assert command.main(["compare", str(out), str(whole[0]), "--out", str(both)]) == 0
    assert "2 tasks, compared" in both.read_text()
    table = comparison([read_report(out), read_report(whole[0])])
    assert table["task"].tolist() == ["styled", "styled"]


def test_labels_are_those_of_all_parts():
    rows = [Example(f"Q {i}?", " yes." if i % 2 else " no.", str(i)) for i in range(40)]
    test = Task("t", "sft", (Example("R?", " perhaps.", "r"), Example("S?", " yes.", "s")))
    probe = new_probe("none", Task("labels", "sft", tuple(rows)), test=test, budget="quick")
    assert probe.bench.scorer == BalancedAccuracy(("no.", "perhaps.", "yes."))


def test_a_folder_that_has_a_probe_is_refused_before_the_base_is_loaded(tmp_path, capsys):
    (tmp_path / "plan.json").write_text("{}")
    file = jsonl(tmp_path / "styled.jsonl", styled())
    options = ["--task", str(file), "--model", "no such base", "--out", str(tmp_path)]
    assert run_command(command.main, ["run", *options]) == 2
    assert "holds a probe already; go on with it: --resume" in capsys.readouterr().err


def test_command_mistakes_are_one_line(tmp_path, capsys):
    for argv in (["compare", str(tmp_path)], ["run", "--task", str(tmp_path / "none.jsonl")]):
        assert run_command(command.main, argv) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_the_result_s_scores_as_tables(whole):
    out, result = whole
    content, n_items = read_report(out), len(result.parts.test)
    arms = result.scores().set_index(["kind", "arm"])
    for kind, measured in content["measures"].items():
        assert set(arms.loc[kind].index) == set(measured["scores"])
        for arm, score in measured["scores"].items():
            assert arms.loc[(kind, arm), ["score", "low", "high"]].tolist() == list(score.values())[:3]
            share = measured["recovered"].get(arm, {"value": None})["value"]
            assert arms.loc[(kind, arm), "recovered"] == pytest.approx(np.nan if share is None else share, nan_ok=True)
    trained = result.scores("run").set_index("arm").loc[[one["arm"] for one in content["runs"]]]
    for (arm, row), run_ in zip(trained.iterrows(), content["runs"], strict=True):
        assert (arm, row.start_seed, row.order_seed, row.lr) == (run_["arm"], 0, 1, run_["lr"])
        assert row.n_parameters == run_["n_parameters"]
        for kind, mean in run_["means"].items():
            assert row[kind] == pytest.approx(mean)
    items = result.scores("item")
    assert (items.groupby("arm").item.count() == n_items).all()
    assert {"base", "prompt", "constant"} <= set(items["arm"])
    assert items[items.arm == "base"].start_seed.isna().all()
    assert items[items.arm == "lora-8"].group.tolist() == [one.group for one in result.parts.test.examples]
    assert items.groupby("arm").strict.mean()["base"] == pytest.approx(arms.loc[("strict", "base"), "score"])
    with pytest.raises(AlignerProbeError, match=r"by 'seed'.*arm, run, item"):
        result.scores("seed")


def test_the_result_s_samples_and_plot(whole):
    _, result = whole
    samples = result.samples()
    assert samples["item", "reference"].tolist() == [one.completion for one in result.parts.test.examples]
    assert samples["item", "prompt"].tolist() == result.parts.test.prompts
    scorer = ExactMatch()
    for arm in ("base", "prompt", "aligner-1", "lora-8"):
        again = scorer.score(samples[arm, "answer"].tolist(), result.parts.test.examples)
        assert samples[arm, "right"].tolist() == (again.strict == 1).tolist()
    assert "constant" not in samples
    axes = result.plot()
    assert axes.get_ylabel() == "strict score"
    assert result.plot(Figure().subplots()).get_title() == axes.get_title()
