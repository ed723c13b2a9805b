"""What is refused before any training, and what a probe goes on without: tasks, bases and runs that do not fit."""

from dataclasses import replace

import micro
import numpy as np
import probes
import pytest
from learning import DIVERGES, plant_divergence

from aligner_probe.arms.catalogue import new_arm_adapter
from aligner_probe.arms.names import FULL, FULL_SHUFFLED, LORA_8, REFERENCE_SHUFFLED
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import MultipleChoice
from aligner_probe.figures.probe import write_page
from aligner_probe.probing import cells, gathering, run
from aligner_probe.probing.checks import check_tokens
from aligner_probe.probing.plan import BUDGETS, tune_id
from aligner_probe.probing.probe import carry_out_probe, new_probe, with_batches
from aligner_probe.tasks.task import Example, Task


def tiny(task=None, **changes):
    options = {"scorer": changes.pop("scorer", None), "budget": replace(probes.TINY, **changes)}
    return new_probe(str(micro.base()), task or probes.styled(), ending="", **options)


def said(*completions, prompt="Q: what is the pet of a?\nA:"):
    rows = (Example(f"{prompt} {place}", completion, line=place + 1) for place, completion in enumerate(completions))
    return Task("said", "sft", tuple(rows))


def test_a_tokenizer_that_loses_what_is_to_be_said_is_refused():
    with pytest.raises(AlignerProbeError, match=r"does not give back the references .*' Zürich\.' .*loses: .*ü"):
        with_batches(tiny(said(*[" Zürich."] * 20), scorer="exact"))
    # One lost name in many is no reason to refuse a task.
    rare = [" cat."] * 39 + [" Zürich."]
    assert with_batches(tiny(said(*rare), scorer="exact"))


def test_a_prompt_that_leaves_no_room_for_its_answer_is_refused_by_its_line():
    probe = tiny()
    n = probe.bench.model.cfg.n_ctx
    long = replace(probe.parts.test.examples[1], prompt="cat " * n, line=7)
    parts = replace(probe.parts, test=replace(probe.parts.test, examples=(probe.parts.test.examples[0], long)))
    with pytest.raises(AlignerProbeError, match=rf"1 of 2 prompts .* first on line 7 with \d+ tokens .* of {n} beside"):
        check_tokens(replace(probe.bench, parts=parts))


@pytest.mark.parametrize("spare", [0, 1])
def test_positions_of_prompt_tuning_count_to_the_token(spare):
    """A prompt that just fits can be asked under every arm of its budget; one token more, and it is refused."""
    probe = tiny()
    bench = replace(probe.bench, budget=replace(BUDGETS["standard"], n_validation=4))
    part = replace(probe.parts.test, examples=probe.parts.test.examples[:1])
    words = "cat " * (bench.room(part, 10) - 2 + spare) + "?"
    full = replace(part, examples=(replace(part.examples[0], prompt=words),))
    n_tokens = len(bench.model.tokenizer(words)["input_ids"])
    assert n_tokens in (bench.room(part, 10) - 1 + spare, bench.room(part, 10) + spare)
    bench = replace(bench, parts=replace(probe.parts, test=full))
    if n_tokens > bench.room(part, 10):
        with pytest.raises(AlignerProbeError, match="10 positions of prompt-tuning-10"):
            check_tokens(bench)
        return
    check_tokens(bench)
    with new_arm_adapter("prompt-tuning-10", bench.model, 0).attached():
        assert len(bench.asked(full)[1]) == 1


def test_a_training_prompt_that_cannot_be_asked_does_not_stop_a_probe(tmp_path):
    """What is too long is cut in training; asked about what it was trained on, a model is asked the rest."""
    probe = tiny(n_train_asked=3)
    n = probe.bench.model.cfg.n_ctx
    long = tuple(replace(one, prompt="cat " * (n - 3)) for one in probe.parts.train.examples)
    for train in ((*long[:1], *probe.parts.train.examples[1:]), long):
        bench = replace(probe.bench, parts=replace(probe.parts, train=replace(probe.parts.train, examples=train)))
        [cell] = probe.plan.runs_of("aligner-1")
        cells.carry_out(bench, cell, out=tmp_path / str(len(set(train) & set(long))))
    assert cells.read_result(tmp_path / "1", cell.id)["train"] is not None
    assert cells.read_result(tmp_path / str(len(set(long))), cell.id)["train"] is None


def test_choices_that_only_the_test_has_are_choices():
    options = "A. one\nB. two\nC. three\nD. four\nAnswer:"
    train = Task("t", "sft", tuple(Example(f"{i}? {options}", f" {'ABC'[i % 3]}") for i in range(60)))
    test = Task("t", "sft", tuple(Example(f"test {i}? {options}", f" {'ABCD'[i % 4]}") for i in range(20)))
    probe = new_probe("no such base", train, test=test, budget="quick")
    assert probe.bench.scorer == MultipleChoice((" A", " B", " C", " D"))


def shout(completion, example):
    return completion.strip().upper() == example.completion.strip().upper()


def test_a_scorer_of_the_users_that_has_changed_is_another_probe(tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    monkeypatch.syspath_prepend(tmp_path)
    plans = []
    for body in ("return completion.strip() == example.completion.strip()", "return 0.97"):
        file.write_text(f"def right(completion, example):\n    {body}\n")
        monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)
        __import__("linecache").checkcache()
        __import__("importlib").invalidate_caches()
        probe = tiny(scorer="python:mine:right")
        if plans:
            with pytest.raises(AlignerProbeError, match="another task, base or budget"):
                run.study_of(probe.plan, probe.bench).begin(tmp_path / "out")
            return
        run.study_of(probe.plan, probe.bench).begin(tmp_path / "out")
        run.study_of(probe.plan, probe.bench).begin(tmp_path / "out")
        plans.append(probe)


def test_a_control_of_few_items_is_none(tmp_path):
    found = {"value": 1.0, "low": 0.2, "high": 1.0, "confidence": 0.95, "degenerate": True}
    assert gathering._control(found | {"completions": ["x"] * 19}) is None
    assert gathering._control(found | {"completions": ["x"] * 20}).value == 1.0


def with_full(tmp_path):
    """A probe in which LoRA has not learned, so that full fine-tuning is tried, on shuffled answers too."""
    arms = ("aligner-1", LORA_8, "aligner-1-shuffled", REFERENCE_SHUFFLED, FULL, FULL_SHUFFLED)
    probe = tiny(arms=arms)
    result = carry_out_probe(probe, tmp_path, show_progress=False)
    return probe, result


def test_the_floor_of_full_fine_tuning_is_its_own_on_shuffled_answers(tmp_path):
    probe, result = with_full(tmp_path)
    made = {arm: result.gathered.runs_of(arm) for arm in (LORA_8, REFERENCE_SHUFFLED, FULL, FULL_SHUFFLED)}
    assert all(made.values())
    for reference, shuffled in ((LORA_8, REFERENCE_SHUFFLED), (FULL, FULL_SHUFFLED)):
        table = gathering._table("likelihood", result.gathered.prompts, made, reference, probe.parts)
        for name, arm in (("reference", reference), (REFERENCE_SHUFFLED, shuffled)):
            assert np.array_equal(table.scores[name], [one["scores"]["likelihood"] for one in made[arm]])
    missing = {arm: runs for arm, runs in made.items() if arm != FULL_SHUFFLED}
    table = gathering._table("likelihood", result.gathered.prompts, missing, FULL, probe.parts)
    assert REFERENCE_SHUFFLED not in table.scores  # so that the verdict asks for it


@pytest.mark.slow
def test_a_run_that_diverged_is_left_out_and_named(tmp_path, monkeypatch):
    how = cells.recipe_for

    def too_fast(bench, cell, lr, steps=None):
        return how(bench, cell, DIVERGES if cell.arm in failing else lr, steps)

    monkeypatch.setattr(cells, "recipe_for", too_fast)
    plant_divergence(monkeypatch)
    failing = {REFERENCE_SHUFFLED}
    result = carry_out_probe(tiny(), tmp_path / "one", show_progress=False)
    assert list(result.report["failed"]) == [f"{REFERENCE_SHUFFLED}_start0_order1"]
    assert "the loss is nan at step 2" in next(iter(result.report["failed"].values()))
    assert f"Not run: {REFERENCE_SHUFFLED}" in result.verdict.reason
    assert result.verdict.outcome == "undetermined"
    write_page([result.report], tmp_path / "page.html")
    said_so = f"The run {REFERENCE_SHUFFLED}_start0_order1 came to nothing: "
    assert said_so in (tmp_path / "page.html").read_text()
    failing = {LORA_8}
    with pytest.raises(AlignerProbeError, match=r"no run of the reference came to an end: .*loss is.*standard"):
        carry_out_probe(tiny(arms=("aligner-1", LORA_8)), tmp_path / "other", show_progress=False)
    failing = {"lora-1"}
    arms = ("aligner-1", LORA_8, "aligner-1-shuffled", REFERENCE_SHUFFLED, "lora-1")
    result = carry_out_probe(tiny(arms=arms, tuned=True), tmp_path / "tuned", show_progress=False)
    tried = cells.read_result(tmp_path / "tuned", tune_id("lora-1"))
    assert tried["lr"] == min(trial["rate"] for trial in tried["trials"])
    assert list(result.report["failed"]) == ["lora-1_start0_order1"]
