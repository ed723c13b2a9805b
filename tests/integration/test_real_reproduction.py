"""The experiments on published data, whole, on a tiny chat model: data, measures, runs, results, and the command."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import real_runs
import torch
from in_process import called

from aligner_probe.adapters import LoRA
from aligner_probe.artifacts import artifact
from aligner_probe.commands import reproduce
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import MultipleChoice, generate
from aligner_probe.jobs.ray_tasks import RayTasks
from aligner_probe.models import load_model
from aligner_probe.reproduction import runner, scales, timing
from aligner_probe.reproduction.measures import Choices, Losses, Pairs
from aligner_probe.reproduction.real import distinct_runs
from aligner_probe.reproduction.results import load_results
from aligner_probe.tasks.chat import Conversation
from aligner_probe.tasks.chat_template import template_of
from aligner_probe.tasks.task import as_read

#: For a tokenizer of few pieces, in which a template alone has a hundred tokens.
LONG = {"max_length": 400, "dpo_max_length": 400}
MADE = ("instructions_base", "instructions_lora-8_corrected_seed1", "safety_aligner-1_corrected_seed0", "math_base")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    return real_runs.folder_of(folder / "base"), real_runs.write_data(folder / "data")


@pytest.fixture(scope="module")
def sources(here):
    """The source and the bench, with chat prompts and with texts."""
    return {chat: real_runs.source_of(*here, chat=chat) for chat in (True, False)}


@pytest.fixture(scope="module")
def made(tmp_path_factory, sources):
    """A folder with four cells."""
    out = tmp_path_factory.mktemp("runs")
    source, bench = sources[True]
    cells = source.cells()
    runner.study_of(cells, bench).make(out, only=[c for c in cells if c.id in MADE], show_progress=False)
    return out


@pytest.mark.parametrize("chat", [True, False])
def test_nothing_asked_was_trained_and_the_same_files_give_the_same_rows(here, sources, chat):
    source, _ = sources[chat]
    again, _ = real_runs.source_of(*here, chat=chat)
    assert again == source
    for material in source.materials().values():
        for stage in material.stages:
            trained = {as_read(example.prompt) for example in stage.train.examples}
            assert not trained & {as_read(example.prompt) for example in stage.validation.examples}
            assert not trained & {as_read(item.prompt) for items in material.items.values() for item in items}
            assert all(isinstance(example.prompt, Conversation) is chat for example in stage.train.examples)
    sizes = {name: len(items) for m in source.materials().values() for name, items in m.items.items() if name != "test"}
    # A transcript in which one speaker speaks twice is no conversation.
    assert source.data.about["pairs"].get("dropped", 0) == int(chat)
    assert sizes == {"mmlu": 4, "harmful": 3, "harmless": 4}
    assert {item.category for item in source.materials()["math"].items["mmlu"]} == set(real_runs.SUBJECTS)
    assert [len(source.materials()[e].stages[-1].train) for e in ("instructions", "math", "safety")] == [12, 12, 10]


def test_texts_are_asked_as_they_were_trained(sources):
    source, _ = sources[False]
    math = source.materials()["math"]
    assert math.items["test"][0].prompt.startswith("Question: What is ")
    assert math.stages[0].train.examples[0].prompt.startswith("Question: What is ")
    assert source.questions()[0].prompt.endswith("### Response:")
    chat, _ = sources[True]
    assert chat.questions()[0].prompt.startswith("who is cat")


def log_probability(model, prompt_ids, ids):
    """The log-probability of each of `ids` after the prompt, by one plain forward pass."""
    with torch.no_grad():
        logits = model.original_model(torch.tensor([prompt_ids + ids])).logits[0].double().log_softmax(-1)
    return np.array([logits[len(prompt_ids) + i - 1, token].item() for i, token in enumerate(ids)])


def ids_of(model, prompt, answer, *, end=True):
    tokenizer, template = model.tokenizer, template_of(model.tokenizer)
    asked = template.prompt_text(prompt)
    whole = tokenizer(asked + answer + ("<|im_end|>" if end else ""), add_special_tokens=False)["input_ids"]
    before = tokenizer(asked, add_special_tokens=False)["input_ids"]
    return before, whole[len(before) :]


def test_measures_are_those_of_plain_forward_passes(sources):
    source, bench = sources[True]
    model = bench.model
    losses = source.materials()["instructions"].measures["test"]
    assert isinstance(losses, Losses)
    expected = [-log_probability(model, *ids_of(model, e.prompt, e.completion)).mean() for e in losses.examples]
    assert losses.of(model).values["loss"] == pytest.approx(expected, abs=1e-4)
    pairs = source.materials()["safety"].measures["test"]
    assert isinstance(pairs, Pairs)
    expected = [
        log_probability(model, *ids_of(model, p.prompt, p.chosen)).sum()
        - log_probability(model, *ids_of(model, p.prompt, p.rejected)).sum()
        for p in pairs.preferences
    ]
    measured = pairs.of(model)
    assert measured.values["margin"] == pytest.approx(expected, abs=1e-3)
    assert measured.scores["content"] == "".join(str(int(margin > 0)) for margin in expected)


def test_the_choice_is_that_of_the_multiple_choice_scorer_and_of_greedy_generation(sources):
    source, bench = sources[True]
    model = bench.model
    choices = source.materials()["math"].measures["mmlu"]
    assert isinstance(choices, Choices)
    adapter = LoRA(model, seed=3)
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter.parameters():  # so that answers differ between questions
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    with adapter.attached():
        measured = choices.of(model)
        scored = MultipleChoice(choices.labels).score(model, choices.examples).content
        said = generate(model, [e.prompt for e in choices.examples], max_new_tokens=1)
    assert [int(d) for d in measured.scores["content"]] == scored.tolist()
    assert [d == "1" for d in measured.scores["form"]] == [text in choices.labels for text in said]
    right = [text == e.completion for text, e in zip(said, choices.examples, strict=True)]
    assert [d == "1" for d in measured.scores["strict"]] == right


def test_answers_that_go_round_in_circles_are_seen():
    assert distinct_runs("one two three four five six") == 1
    assert distinct_runs("one two") == 1
    assert distinct_runs("yes no " * 20) == pytest.approx(2 / 37)


def test_results_have_scores_values_and_answers(made, sources):
    source, bench = sources[True]
    results = load_results(made)
    assert [run.id for run in results.runs] == [cell.id for cell in source.cells() if cell.id in MADE]
    assert (results.is_real, results.base_name) == (True, "base")
    run = results.one("safety", "aligner-1")
    assert set(run.scores) == {"test", "after_sft", "harmful", "harmless", "questions"}
    assert set(run.values) == {"test", "after_sft", "questions"}
    assert run.values["test"]["margin"].shape == (5,)
    assert run.steps == {"sft": 2, "dpo": 2}
    harmful = results.items["safety"]["harmful"]
    by_hand = [item.scores(said)[1] for item, said in zip(harmful, run.answers["harmful"], strict=True)]
    assert run.scores["harmful"]["content"].tolist() == by_hand
    assert run.answers["harmless"] == list(run.responses)
    asked = [[{"role": "user", "content": item.prompt}] for item in results.questions]
    base = results.one("instructions", "base")
    assert list(base.responses) == generate(bench.model, asked, max_new_tokens=6)
    assert results.one("math", "base").responses == ()
    plan = json.loads((made / "plan.json").read_text())
    assert plan["data"]["alpaca"]["source"] == "alpaca/train.jsonl"
    assert plan["lacks"]
    assert str(made.parent) not in (made / "plan.json").read_text()
    assert "NaN" not in (made / "runs" / run.id / "result.json").read_text()
    frame = results.to_frame()
    assert np.isnan(frame.query("set == 'test' and experiment == 'safety'")["strict"]).all()
    file = made / "runs" / "math_base" / "result.json"
    whole = file.read_text()
    try:
        file.write_text(json.dumps(json.loads(whole) | {"responses": ["a"]}))
        with pytest.raises(AlignerProbeError, match=r"result\.json is damaged"):
            load_results(made)
    finally:
        file.write_text(whole)


def test_other_data_are_refused_in_the_same_folder(made, here, tmp_path):
    base, data = here
    other = real_runs.write_data(tmp_path / "data")
    rows = (data / "gsm8k" / "test.jsonl").read_text().splitlines()
    random.Random(1).shuffle(rows)
    (other / "gsm8k" / "test.jsonl").write_text("\n".join(rows))
    source, bench = real_runs.source_of(base, other)
    with pytest.raises(AlignerProbeError, match="another plan, base model, world or data"):
        runner.study_of(source.cells(), bench).begin(made)


def test_the_command_times_makes_and_goes_on(here, tmp_path, monkeypatch, capsys):
    base, data = here
    monkeypatch.setitem(scales.SCALES, "laptop", replace(real_runs.TINY, name="laptop"))
    words = ["--model", base, "--data", data, "--experiment", "math", "--only", "math_a*_seed0"]
    words += ["--jobs", 1, "--out", tmp_path / "out"]
    dry = called(capsys, reproduce.main, *words, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    for said in ("math_aligner-1_corrected_seed0", "2 of 2 runs to make", "the chat template", "12 trained"):
        assert said in dry.stdout
    assert "what scale laptop cannot decide" in dry.stdout
    assert not (tmp_path / "out").exists()
    first = called(capsys, reproduce.main, *words)
    assert first.returncode == 0, first.stderr
    made = sorted((tmp_path / "out" / "runs").iterdir())
    for run in load_results(tmp_path / "out").runs:
        assert (f"{run.id}: no step of" in first.stdout) is bool(run.unchanged)
    before = [file.stat().st_mtime_ns for file in made]
    again = called(capsys, reproduce.main, *words)
    assert "0 of 2 runs to make" in again.stdout
    shared = called(capsys, reproduce.main, "--out", tmp_path / "out", "--share", tmp_path / "copy")
    assert "2 runs" in shared.stdout
    assert {run.id for run in load_results(tmp_path / "copy").runs} == {file.name for file in made}
    assert [file.stat().st_mtime_ns for file in made] == before


@pytest.mark.parametrize("real", [True, False])
def test_runs_on_gpus_of_a_cluster_are_not_timed_on_the_cpu_here(here, tmp_path, monkeypatch, capsys, real):
    """Steps of the base model were timed on the head node's CPU, for hours, and said nothing about the runs."""

    def refuse(*_):
        raise AssertionError("a step was timed")

    monkeypatch.setattr(timing, "time_needed", refuse)
    monkeypatch.setattr(RayTasks, "n_at_once", lambda self: 4)
    monkeypatch.setitem(scales.SCALES, "laptop", replace(real_runs.TINY, name="laptop"))
    base, data = here
    words = ["--model", base, "--data", data] if real else []
    words += ["--backend", "ray", "--gpus-per-run", 1, "--experiment", "math", "--out", tmp_path / "out", "--dry-run"]
    done = called(capsys, reproduce.main, *words)
    assert done.returncode == 0, done.stderr
    assert "4 at once on GPUs of the cluster" in done.stdout
    assert "no step was timed, because the base model is on the CPU here" in done.stdout
    assert ("hours by one A100 by arithmetic from sizes" in done.stdout) is real


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scale", "paper"], "--scale is for other base models than the micro-world"),
        (["--judge", "rules"], "--judge is for other base models"),
        (["--model", "BASE", "--sweep"], "leave out --model, or --sweep"),
        (["--model", "BASE", "--data", "nowhere"], "is no folder; expected one with alpaca/"),
        (
            ["--model", "BASE", "--data", "EMPTY", "--experiment", "math"],
            "is missing; expected the data of the experiments (math): gsm8k/train.jsonl, gsm8k/test.jsonl, "
            "mmlu/test.jsonl; name their folder: --data FOLDER",
        ),
        (["--model", "BASE", "--scale", "paper", "--experiment", "safety"], "the Vicuna questions are not there"),
        (["--model", "BASE", "--data", "DATA", "--only", "x"], "no run's id fits 'x'"),
        (["--model", "BASE", "--data", "DATA", "--gpus-per-run", "1"], "is for --backend ray"),
        (["--share", "copy"], "name their folder: --out OUT"),
        (["--share", "copy", "--out", "EMPTY"], "plan.json is missing"),
        (["--share", "copy", "--out", str(artifact("reproduction"))], "has results of the micro-world"),
        (["--model", "nobody/nothing", "--scale", "paper", "--dry-run"], "the sizes of nobody/nothing are not known"),
    ],
)
def test_errors_are_one_line_before_anything_is_made(here, tmp_path, monkeypatch, capsys, words, said):
    base, data = here
    (tmp_path / "empty").mkdir()
    names = {"BASE": base, "DATA": data, "EMPTY": tmp_path / "empty"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALIGNER_PROBE_DATA", raising=False)
    done = called(capsys, reproduce.main, *[names.get(word, word) for word in words])
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["empty"]


def test_what_the_paper_takes_is_computed_without_its_base_model(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--model", "meta-llama/Llama-2-7b-hf", "--scale", "paper", "--dry-run", "--experiment", "instructions"]
    done = called(capsys, reproduce.main, *words)
    assert done.returncode == 0
    assert "on LLaMA-2 7B (6,738,415,616 parameters), whose weights are not here" in done.stdout
    assert "instructions_lora-8_as-published_seed1337" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_real_small_model_makes_every_cell(tmp_path, capsys, monkeypatch):
    from conftest import small_model

    base = small_model("stories260K")
    data = real_runs.write_data(tmp_path / "data")
    monkeypatch.setitem(scales.SCALES, "laptop", replace(real_runs.TINY, name="laptop", seeds=(0,), **LONG))
    words = ["--model", base, "--data", data, "--jobs", 1, "--out", tmp_path / "out"]
    done = called(capsys, reproduce.main, *words)
    assert done.returncode == 0, done.stderr
    results = load_results(tmp_path / "out")
    assert len(results.runs) == 15
    assert load_model(base).cfg.d_model == results.plan["sizes"]["d_model"]
