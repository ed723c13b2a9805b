"""The paper's experiments on a tiny base: plan, items, runs that are whole, resumed and never repeated, results."""

import json
import re
from dataclasses import replace

import micro
import pytest
import torch

from aligner_probe.arms.catalogue import REPRODUCED_ARMS
from aligner_probe.checkpoints.adapters import load_adapter
from aligner_probe.checkpoints.native import WEIGHTS
from aligner_probe.checkpoints.reading import load_checkpoint
from aligner_probe.commands import reproduce
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import generate
from aligner_probe.jobs.pool import each
from aligner_probe.microworld import requests, styles
from aligner_probe.microworld.vocabulary import UNKNOWN, pieces, vocabulary
from aligner_probe.microworld.world import World
from aligner_probe.models import load_model
from aligner_probe.reproduction import runner
from aligner_probe.reproduction.cells import EXPERIMENTS
from aligner_probe.reproduction.items import KINDS, scores
from aligner_probe.reproduction.plan import Config, learning_rates, plan, plan_json
from aligner_probe.reproduction.results import load_results
from aligner_probe.reproduction.run import carry_out, new_adapter
from aligner_probe.reproduction.sweep import sweep, trials, try_out
from aligner_probe.reproduction.tasks import ASSISTANT, Maker
from aligner_probe.reproduction.world import recipe_of
from aligner_probe.tasks import encode
from aligner_probe.training.callbacks import Callback

QUICK = ("math_base", "math_aligner-1_corrected_seed0", "safety_aligner-10_corrected_seed1")


class Killed(Callback):
    """Stops a training as a signal would, at a step of its n-th stage."""

    def __init__(self, step, stage=1):
        self.step, self.stage, self.started_stages = step, stage, 0

    def started(self, start):
        self.started_stages += 1

    def stepped(self, row):
        if row["step"] == self.step and self.started_stages == self.stage:
            raise KeyboardInterrupt


def make(out, ids):
    study = runner.study_of(list(micro.runs().values()), micro.bench())
    study.make(out, only=[cell for cell in study.cells if cell.id in ids], show_progress=False)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A folder with three runs."""
    out = tmp_path_factory.mktemp("reproduction")
    make(out, QUICK)
    return out


def test_plan_has_every_method_seed_and_arm():
    runs = plan(Config(), micro.RATES)
    assert len({run.id for run in runs}) == len(runs)
    main = {(r.experiment, r.method, r.seed) for r in runs if r.recipe == "corrected" and r.arm == "main"}
    assert main == {(e, m, s) for e in EXPERIMENTS for m in REPRODUCED_ARMS for s in (0, 1, 2)}
    published = {(r.experiment, r.method) for r in runs if r.recipe == "as-published" and r.arm == "main"}
    assert published == {
        (e, m) for e in ("instructions", "math") for m in ("aligner-1", "aligner-10", "llama-adapter-10", "lora-8")
    }
    assert len({r.seed for r in runs if r.recipe == "as-published" and r.arm == "main"}) == 1
    assert {r.arm for r in runs} == {"main", "gates", "tokens", "other-seed", "float32", "tenth-rate"}


def test_plan_is_the_same_to_the_byte_and_another_for_another_configuration():
    def text(config):
        return plan_json(config, plan(config, micro.RATES), "base", 0)

    assert text(Config()) == text(Config())
    assert text(Config()) != text(Config(steps=201))
    with pytest.raises(AlignerProbeError, match="steps 0"):
        Config(steps=0)


def test_sixty_tokens_are_the_size_of_llama_adapter_on_the_micro_world():
    model, runs = load_model("microworld"), plan(Config(), micro.RATES)
    [train] = [stage.train for stage in micro.bench().materials["math"].stages]
    sizes = {}
    for run in runs:
        if run.method in ("aligner-60", "llama-adapter-10") and (run.arm, run.seed) == ("main", 0):
            sizes[run.method] = new_adapter(run, model, train).n_parameters
    assert len(sizes) == 2
    assert len(set(sizes.values())) == 1


def test_learning_rates_are_there_for_all_that_is_planned():
    assert plan(Config(), learning_rates())


def test_every_text_is_made_of_known_pieces_and_scores_itself():
    known = set(vocabulary(World.from_seed(0)))
    maker = Maker(World.from_seed(0), Config())
    materials = maker.materials()
    asked = [item for m in materials.values() for items in m.items.values() for item in items]
    assert len(maker.questions()) == 80
    for item in [*asked, *maker.questions()]:
        assert set(pieces(item.prompt + item.reference)) <= known - {UNKNOWN}
        assert item.scores(item.reference) == (True, True, True)
        assert re.fullmatch(item.form, item.reference.strip()), item
    for material in materials.values():
        for stage in material.stages:
            for example in (*stage.train.examples, *stage.validation.examples):
                texts = [v for k, v in vars(example).items() if k in ("prompt", "completion", "chosen", "rejected")]
                assert all(set(pieces(text)) <= known - {UNKNOWN} for text in texts)


def test_a_tokenizer_of_whole_words_loses_nothing():
    """Letters by themselves it does not know; texts come back all the same."""
    stage = micro.bench().materials["instructions"].stages[0]
    tokenizer = micro.bench().model.tokenizer
    assert encode(stage.train, tokenizer, max_length=64).lost == {}
    strange = replace(stage.train, examples=(replace(stage.train.examples[0], completion=" a zeppelin."),))
    assert set(encode(strange, tokenizer, max_length=64).lost) == set("zeplin")


def test_what_is_asked_was_not_trained():
    materials = Maker(World.from_seed(0), Config()).materials()
    for name, material in materials.items():
        stage = material.stages[-1]
        trained = {example.group for example in stage.train.examples}
        validated = {example.group for example in stage.validation.examples}
        assert not trained & validated, name
        for item in material.items["test"]:
            subject = {
                "instructions": lambda p: re.search(r"of (\w+)[?.]", p)[1],
                "math": lambda p: " ".join(str(int(n)) for n in re.search(r"(\d\d) splice (\d\d)", p).groups()),
                "safety": lambda p: re.search(r"the (\w+)\?", p)[1],
            }[name](item.prompt)
            assert subject not in trained | validated
    assert {i.category for i in materials["safety"].items["test"]} == {c.name for c in requests.CATEGORIES}


def test_form_and_content_are_scored_apart():
    items = Maker(World.from_seed(0), Config()).materials()["instructions"].items
    for item in items["test"][:20]:
        asked = re.search(r"the \w+ of \w+", item.prompt)[0]
        assert item.scores(styles.PLAIN(asked, item.content)) == (False, True, False)
        assert item.scores(ASSISTANT(asked, "nothing")) == (False, False, True)
    for item in (i for i in items["sums"] if i.category in ("larger", "smaller")):
        a, b = re.findall(r"\d\d", item.prompt)
        wrong = b if a == item.content else a
        if wrong != item.content:
            # Saying the operands is not yet saying the answer.
            assert item.scores(item.reference.replace(f"is {item.content}", f"is {wrong}"))[:2] == (False, False)
    with pytest.raises(AlignerProbeError, match="one each"):
        scores(items["test"], ["a"])


def test_peak_learning_rate_as_published_is_half_the_nominal_one():
    """Eight epochs of a warm-up that lasts sixteen (SCIENCE: 4.5e-3 is never passed)."""
    run = replace(next(r for r in plan(Config(), micro.RATES) if r.recipe == "as-published"), method="aligner-1")
    stage = Maker(World.from_seed(0), Config()).instructions().stages[0]
    how = recipe_of(run, stage, Config())
    last = how.total_steps(len(stage.train))
    assert how.precision == "bf16-true"
    assert last == 8 * how.steps_per_epoch(len(stage.train))
    assert how.lr_at(last, len(stage.train)) == pytest.approx(4.5e-3)


def test_a_finished_run_has_its_adapter_and_its_scores(quick):
    results = load_results(quick)
    assert [run.id for run in results.runs] == [name for name in micro.runs() if name in QUICK]
    run = results.one("safety", "aligner-10")
    assert (run.seeds, run.n_tokens, run.precision) == ({"start": 1, "order": 1}, 10, "float32")
    assert (micro.CONFIG.safety_steps, micro.CONFIG.dpo_steps, micro.CONFIG.evaluate_every) == (3, 4, 2)
    assert run.steps == {"sft": 2, "dpo": 4}  # whole intervals
    assert [step for step, _ in run.validation_loss["dpo"]] == [0, 2, 4]
    assert set(run.scores) == {"test", "after_sft"}
    assert run.lr["dpo"] == micro.RATES["safety"]["aligner-10"]
    model = micro.bench().model
    adapter = load_adapter(run.adapter, model)
    assert adapter.n_parameters == run.n_parameters
    assert adapter.start.keys() == {"prefix", "gates"}
    assert load_checkpoint(run.adapter).initial_prefix is not None
    # One prompt at a time, and scored here.
    with adapter.attached():
        for place, item in enumerate(results.items["safety"]["test"][:6]):
            text = generate(model, [item.prompt], max_new_tokens=8, stop=["\n"])[0]
            assert [run.scores["test"][kind][place] for kind in KINDS] == list(map(float, item.scores(text)))
        said = generate(model, [q.prompt for q in results.questions[:3]], max_new_tokens=8, stop=["\n"])
    assert list(run.responses[:3]) == said
    assert results.scores("safety", "aligner-10", "form").shape == (1, 96)
    frame = results.to_frame()
    assert set(frame["set"]) == {"test", "after_sft"}
    row = frame[(frame["id"] == run.id) & (frame["set"] == "test")].iloc[0]
    assert [row[kind] for kind in KINDS] == [run.mean(kind) for kind in KINDS]
    with pytest.raises(AlignerProbeError, match="has 0 runs of lora-8"):
        results.one("math", "lora-8")


def test_finished_runs_are_never_repeated(quick, monkeypatch):
    before = {file: file.stat().st_mtime_ns for file in (quick / "runs").rglob("*")}

    def never(*_, **__):
        raise AssertionError("a finished run was made again")

    monkeypatch.setattr(runner, "carry_out", never)
    make(quick, QUICK)
    assert {file: file.stat().st_mtime_ns for file in (quick / "runs").rglob("*")} == before


@pytest.mark.parametrize(("step", "stage"), [(2, 1), (3, 2)])
def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path, quick, step, stage):
    run, out = micro.runs()[QUICK[2]], tmp_path
    with pytest.raises(KeyboardInterrupt):
        carry_out(micro.bench(), run, out=out, callbacks=[Killed(step, stage)])
    assert not (out / "runs" / run.id).exists()
    assert (out / "work" / run.id).is_dir()
    carry_out(micro.bench(), run, out=out)
    assert not (out / "work" / run.id).exists()
    whole = json.loads((quick / "runs" / run.id / "result.json").read_text())
    again = json.loads((out / "runs" / run.id / "result.json").read_text())
    assert again | {"seconds": 0} == whole | {"seconds": 0}
    weights = [folder / "runs" / run.id / "adapter" / WEIGHTS for folder in (out, quick)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_arms_freeze_what_they_say():
    task = micro.bench().materials["math"].stages[0].train
    for arm, frozen in (("gates", "prefix"), ("tokens", "gates")):
        adapter = new_adapter(micro.runs()[f"math_aligner-1_corrected_{arm}_seed0"], micro.bench().model, task)
        assert {n for n, p in adapter.named_parameters() if not p.requires_grad} == {frozen}
    assert (adapter.gates != 0).all()


def test_seeds_draw_the_start_and_the_order(tmp_path):
    task = micro.bench().materials["math"].stages[0]
    one, same, other = (
        new_adapter(micro.runs()[f"math_aligner-10_corrected_seed{seed}"], micro.bench().model, task.train)
        for seed in (0, 0, 1)
    )
    assert torch.equal(one.prefix, same.prefix)
    assert not torch.equal(one.prefix, other.prefix)
    orders = [recipe_of(micro.runs()[f"math_aligner-10_corrected_seed{s}"], task, micro.CONFIG).seed for s in (0, 1)]
    assert orders == [0, 1]


def test_pure_bfloat16_is_kept_in_the_file(tmp_path):
    run = micro.runs()["math_aligner-10_as-published_seed1337"]
    bench = micro.bench_of(replace(micro.CONFIG, published_epochs=1.0))
    folder = carry_out(bench, run, out=tmp_path)
    adapter = load_adapter(folder / "adapter", micro.bench().model)
    assert adapter.prefix.dtype == adapter.start["prefix"].dtype == torch.bfloat16
    drawn = new_adapter(run, micro.bench().model, micro.bench().materials["math"].stages[0].train)
    assert torch.equal(adapter.start["prefix"], drawn.prefix.to(torch.bfloat16))


def test_a_folder_of_another_plan_or_a_damaged_one_is_refused(tmp_path, quick):
    other = micro.bench_of(replace(micro.CONFIG, steps=7))
    with pytest.raises(AlignerProbeError, match="another plan, base model, world or data"):
        runner.study_of(list(micro.runs().values()), other).begin(quick)
    with pytest.raises(AlignerProbeError, match=r"plan\.json is missing.*aligner-probe reproduce"):
        load_results(tmp_path)
    (tmp_path / "plan.json").write_text('{"cells": []}')  # a probe's
    with pytest.raises(AlignerProbeError, match=r"plan\.json is no plan of the paper's experiments .*no 'runs'"):
        load_results(tmp_path)
    (tmp_path / "runs" / QUICK[0]).mkdir(parents=True)
    for name in ("plan.json", "items.json"):
        (tmp_path / name).write_text((quick / name).read_text())
    good = json.loads((quick / "runs" / QUICK[0] / "result.json").read_text())
    for bad in ("{", json.dumps(good | {"responses": []}), json.dumps({k: v for k, v in good.items() if k != "arm"})):
        (tmp_path / "runs" / QUICK[0] / "result.json").write_text(bad)
        with pytest.raises(AlignerProbeError, match=r"result\.json is damaged"):
            load_results(tmp_path)


def test_runs_that_fail_are_named_after_the_others_are_made(tmp_path, monkeypatch):
    runs = [micro.runs()[QUICK[0]], micro.runs()[QUICK[1]]]
    bad = replace(runs[1], lr={"sft": -1.0})
    study = runner.study_of(list(micro.runs().values()), micro.bench())
    with pytest.raises(AlignerProbeError, match=rf"1 of 2 runs failed.*{bad.id}: recipe does not fit: lr"):
        study.make(tmp_path, only=[bad, runs[0]], show_progress=False)
    assert [run.id for run in load_results(tmp_path).runs] == [runs[0].id]


def test_sweep_tries_every_method_as_often_and_goes_on(tmp_path, monkeypatch):
    counts = {}
    for trial in [t for e in ("instructions", "math") for t in trials(e, Config(), {})]:
        counts[trial.run.experiment, trial.key] = counts.get((trial.run.experiment, trial.key), 0) + 1
    assert set(counts.values()) == {Config().sweep_rates}
    made = []

    def loss(bench, trial):
        made.append(trial.name)
        return abs(trial.rate - 0.1)

    monkeypatch.setattr("aligner_probe.reproduction.sweep.try_out", loss)
    monkeypatch.setattr("aligner_probe.reproduction.sweep.each", lambda w, b, jobs, n: [(j, loss(b, j)) for j in jobs])
    file = tmp_path / "rates.json"
    sweep(micro.bench(), file, ["made by"], 1, show_progress=False)
    assert learning_rates(file)["math"]["aligner-10"] == 0.1
    assert len(made) == len(set(made))
    assert json.loads(file.read_text())["command"] == "made by"
    assert plan(micro.CONFIG, learning_rates(file))


def test_a_trial_of_dpo_counts_wrong_answers_before_loss():
    trial = trials("safety", micro.CONFIG, micro.RATES["instructions"])[0]
    assert 1.0 <= try_out(micro.bench(), trial) < 1.01  # an untrained base answers nothing right


def test_command_announces_and_refuses(tmp_path, capsys):
    assert (
        reproduce.main(["--model", str(micro.base()), "--out", str(tmp_path), "--only", "math_base", "--dry-run"]) == 0
    )
    said = capsys.readouterr().out
    assert "math_base" in said
    assert "1 of 1 runs to make" in said
    assert "threads of each process: 1 (the default" in said
    assert not list(tmp_path.iterdir())
    with pytest.raises(AlignerProbeError, match="no run's id fits 'nothing'"):
        reproduce.main(["--model", str(micro.base()), "--out", str(tmp_path), "--only", "nothing"])


def _square(bench, job):
    if job == 3:
        raise AlignerProbeError("three")
    return job * job


@pytest.mark.slow
def test_processes_give_what_one_gives():
    found = dict(each(_square, micro.bench(), [1, 2, 3, 4], 2))
    assert {k: v for k, v in found.items() if k != 3} == {1: 1, 2: 4, 4: 16}
    assert str(found[3]) == "three"
