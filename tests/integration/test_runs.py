"""What a run records and tells: provenance in full, callbacks, Weights & Biases, every option on the command line."""

import json
import sys
import types
from dataclasses import fields, replace

import pytest
import torch
from learning import Stops, model, quick, task

from aligner_probe.adapters import Aligner, LoRA
from aligner_probe.checkpoints.adapters import load_adapter, save_adapter
from aligner_probe.commands import train as command
from aligner_probe.commands.recipe_options import recipe_changes
from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import sha256
from aligner_probe.models import fingerprint
from aligner_probe.training import Recipe, fit, recipe
from aligner_probe.training.callbacks import Callback
from aligner_probe.training.provenance import EncodedTask, provenance, tokenizer_hash, tokens_hash
from aligner_probe.training.state import STATE
from aligner_probe.training.wandb import WeightsAndBiases

KEYS = {
    "": {"method", "options", "n_parameters", "recipe", "seeds", "base", "tokenizer", "task", "validation"}
    | {"began_from", "beside", "execution", "versions", "git", "result"},
    "base": {"name", "architecture", "fingerprint", "dtype", "quantization"},
    "seeds": {"start", "order"},
    "tokenizer": {"class", "sha256", "chat_template"},
    "task": {"name", "kind", "source", "format", "template", "sha256", "tokens_sha256", "n_examples", "encoding"}
    | {"dropped", "ignored_fields", "notes", "lost"},
    "execution": {"device", "threads", "lower_layers", "checkpoint_activations"},
    "versions": {"python", "aligner-probe", "torch", "transformers", "transformer-lens", "tokenizers", "safetensors"},
    "result": {"steps", "stopped_early", "best_step", "best_validation_loss"},
}


def test_a_saved_adapter_says_all_of_what_made_it(tmp_path):
    base = model()
    train, validation = task(40).split(0.25, seed=0)
    adapter = Aligner(base, 2, 1, seed=4)
    start = {name: p.detach().clone() for name, p in adapter.named_parameters()}
    run = fit(base, adapter, train, validation=validation, recipe=quick(seed=7), show_progress=False)
    save_adapter(adapter, tmp_path / "a")  # nothing handed over, as in a notebook
    written = json.loads((tmp_path / "a" / "provenance.json").read_text())
    recorded = written["run"]
    assert recorded == json.loads(json.dumps(run.provenance))
    for place, keys in KEYS.items():
        assert set(recorded[place] if place else recorded) == keys
    assert set(recorded["validation"]) == KEYS["task"]
    assert recorded["options"] == json.loads(json.dumps(adapter.config.to_dict()))
    assert recorded["recipe"] == json.loads(json.dumps(run.recipe.to_dict()))
    assert set(recorded["recipe"]) == {field.name for field in fields(Recipe)}
    assert recorded["seeds"] == {"start": 4, "order": 7}
    assert recorded["base"]["fingerprint"] == fingerprint(base) == written["base"]["fingerprint"]
    assert recorded["task"]["sha256"] == train.sha256
    assert recorded["result"]["best_step"] == run.best_step
    assert recorded["git"] is None or set(recorded["git"]) == {"commit", "dirty"}
    again = load_adapter(tmp_path / "a", base)
    assert again.provenance == recorded
    assert all(torch.equal(again.start[name], start[name]) for name in start)


def test_a_training_that_begins_from_another_says_so(tmp_path):
    base = model()
    first = fit(base, Aligner(base, 1, 1), task(), recipe=quick(), show_progress=False)
    assert (first.provenance["began_from"], first.provenance["beside"]) == (None, [])
    save_adapter(first.adapter, tmp_path / "sft")

    how = {"recipe": quick(steps=5), "out": tmp_path / "dpo", "save_every": 1, "show_progress": False}
    loaded = load_adapter(tmp_path / "sft", base)
    with pytest.raises(KeyboardInterrupt):
        fit(base, loaded, task(kind="preference"), callbacks=[Stops(3)], **how)
    second = fit(base, loaded, task(kind="preference"), resume=True, **how)
    digest = sha256(tmp_path / "sft" / "adapter_model.safetensors")
    file = {"source": str(tmp_path / "sft"), "sha256": digest}
    assert second.provenance["began_from"] == {"file": file, "run": json.loads(json.dumps(first.provenance))}
    # The reference of DPO is what SFT left.
    assert all(torch.equal(second.adapter.start[name], p) for name, p in first.adapter.named_parameters())
    save_adapter(second.adapter, tmp_path / "second")
    written = json.loads((tmp_path / "second" / "provenance.json").read_text())
    assert written["loaded_from"] is None
    assert written["run"]["began_from"]["run"]["task"]["sha256"] == task().sha256
    assert fit(base, loaded, task(kind="preference"), resume=True, **how).provenance == second.provenance
    with pytest.raises(AlignerProbeError, match=r"began from \S*sft, not from numbers that were drawn; resume with"):
        fit(base, Aligner(base, 1, 1), task(kind="preference"), resume=True, **how)
    # What it was trained on since is no longer what was in that file.
    third = fit(base, loaded, task(), recipe=quick(), show_progress=False)
    assert third.provenance["began_from"] == {"file": None, "run": second.provenance}


def test_what_a_broken_off_training_left_is_not_called_drawn():
    base = model()
    adapter = Aligner(base, 1, 1)
    with pytest.raises(KeyboardInterrupt):
        fit(base, adapter, task(), recipe=quick(steps=4), callbacks=[Stops(2)], show_progress=False)
    assert adapter.provenance["result"] == {"steps": 2, "unfinished": True}
    again = fit(base, adapter, task(), recipe=quick(steps=4), show_progress=False)
    assert again.provenance["began_from"]["run"]["result"] == {"steps": 2, "unfinished": True}


def test_a_run_that_an_older_version_began_is_resumed(tmp_path):
    base = model()
    how = {"recipe": quick(steps=4), "out": tmp_path / "run", "show_progress": False}
    done = fit(base, Aligner(base, 1, 1), task(), **how)
    state = torch.load(tmp_path / "run" / STATE, weights_only=True)
    identity = json.loads(state["identity"])
    del identity["beside"], identity["recipe"]["warmup_steps"], state["began_from"]
    torch.save(state | {"identity": json.dumps(identity)}, tmp_path / "run" / STATE)
    again = fit(base, Aligner(base, 1, 1), task(), resume=True, **how)
    assert torch.equal(again.adapter.gates, done.adapter.gates)


def test_an_adapter_that_was_saved_in_bfloat16_is_trained_in_the_recipe_s_precision(tmp_path):
    base = model()
    save_adapter(Aligner(base, 1, 1, dtype=torch.bfloat16), tmp_path / "a")
    loaded = load_adapter(tmp_path / "a", base)
    assert loaded.gates.dtype == torch.bfloat16
    fit(base, loaded, task(), recipe=quick(), show_progress=False)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert not torch.equal(loaded.gates, loaded.gates.bfloat16().float())


def test_other_adapters_that_are_attached_meanwhile_are_recorded(tmp_path):
    base = model()
    how = {"recipe": quick(), "out": tmp_path / "run", "show_progress": False}
    other = LoRA(base, 2, seed=3)
    with other.attached():
        [beside] = fit(base, Aligner(base, 1, 1), task(), **how).provenance["beside"]
    assert (beside["method"], beside["options"]["seed"], len(beside["sha256"])) == ("lora", 3, 64)
    with pytest.raises(AlignerProbeError, match=r"begun with .*beside .*'lora'.* .now"):
        fit(base, Aligner(base, 1, 1), task(), resume=True, **how)


def test_hashes_tell_what_differs():
    class Vocabulary:
        def __init__(self, **ids):
            self.ids = ids

        def get_vocab(self):
            return self.ids

    assert tokenizer_hash(Vocabulary(a=0, b=1)) == tokenizer_hash(Vocabulary(b=1, a=0))
    assert tokenizer_hash(Vocabulary(a=0, b=1)) != tokenizer_hash(Vocabulary(a=1, b=0))
    assert tokenizer_hash(object()) is None
    from aligner_probe.tasks import encode

    base, (one, other) = model(), task(20).split(0.5, seed=0)
    hashes = {
        tokens_hash(encode(part, base.tokenizer, max_length=length, mask_prompt=mask))
        for part, length, mask in ((one, 64, True), (other, 64, True), (one, 9, True), (one, 64, False))
    }
    assert len(hashes) == 4
    encoded = encode(one, base.tokenizer, max_length=64)
    whole = EncodedTask(one, encoded, tokens_hash(encoded))
    assert provenance(Aligner(base, 1, 1), quick(), whole, None, {})["validation"] is None


@pytest.mark.parametrize(("steps", "every", "seen"), [(5, 1000, [0, 5]), (5, 2, [0, 2, 4, 5]), (4, 2, [0, 2, 4])])
def test_the_last_step_is_always_validated(steps, every, seen):
    base = model()
    train, validation = task(40).split(0.25, seed=0)
    how = quick(steps=steps, evaluate_every=every)
    run = fit(base, Aligner(base, 1, 1), train, validation=validation, recipe=how, show_progress=False)
    assert run.validation_loss.index.tolist() == seen
    assert run.best_step == run.validation_loss.idxmin() > 0


def test_lora_as_published_is_not_the_aligner_s_recipe():
    lora = recipe("as-published", method="lora")
    assert (lora.lr, lora.warmup_steps, lora.batch_size, lora.precision) == (3e-4, 100, 128, "bf16-true")
    # A hundred optimiser steps, however many examples and micro-batches there are.
    for n in (50, 50_000):
        assert lora.lr_at(50, n) == pytest.approx(1.5e-4)
        assert lora.lr_at(100, n) == lora.lr_at(101, n) == 3e-4
    aligner = recipe("as-published", method="aligner")
    assert aligner == recipe("as-published")
    assert (aligner.lr, aligner.warmup, aligner.warmup_steps) == (9e-3, 2.0, None)
    assert recipe("as-published", "preference", method="lora") == recipe("as-published", "preference")
    assert recipe("as-published", method="lora", warmup=0.25).warmup_steps is None
    assert recipe("as-published", warmup_steps=7).warmup is None
    with pytest.raises(AlignerProbeError, match="warmup_steps 7 with warmup_counts 'micro_batches'"):
        recipe(warmup_steps=7, warmup_counts="micro_batches")
    assert recipe().warmup == Recipe().warmup == 0.1


def test_corrected_stops_early_unless_its_length_is_given_in_steps():
    assert [recipe(kind=kind).patience for kind in ("sft", "preference")] == [2, 2]
    assert recipe(steps=9).patience is recipe(patience=None).patience is recipe("as-published").patience is None
    assert recipe(steps=9, patience=4).patience == 4
    base = model()
    train, validation = task(40).split(0.25, seed=0)
    how = recipe(lr=0.3, clip=None, epochs=20.0, batch_size=8)
    run = fit(base, LoRA(base, 4), train, validation=validation, recipe=how, show_progress=False)
    assert run.stopped_early
    to_the_end = fit(
        base, LoRA(base, 4), train, validation=validation, recipe=replace(how, epochs=run.metrics.step.max() / 4),
        show_progress=False,
    )  # fmt: skip
    assert (len(to_the_end.loss), to_the_end.stopped_early) == (len(run.loss), False)
    whole = fit(base, LoRA(base, 4), train, recipe=replace(how, epochs=5.0), show_progress=False)
    assert not whole.stopped_early


def test_lost_updates_are_told_of_the_last_part_of_an_epoch_too(tmp_path):
    def trained(out, **options):
        base = model()
        how = quick(steps=5, precision="bf16-true", lr=1e-3)
        shared = {"recipe": how, "out": tmp_path / out, "save_every": 1, "show_progress": False}
        return fit(base, Aligner(base, 10, 1), task(), **shared, **options).metrics.drop(columns="tokens_per_second")

    whole = trained("whole")
    told = whole.dropna(subset=["lost_updates"])
    assert told["step"].tolist() == [3, 5]
    assert told["monitored_epochs"].tolist() == pytest.approx([1, 2 / 3])
    assert told["lost_updates"].between(0, 1, inclusive="neither").all()
    # Taken up in the middle of an epoch, it reports all of it.
    with pytest.raises(KeyboardInterrupt):
        trained("broken", callbacks=[Stops(5)])
    assert trained("broken", resume=True).equals(whole)


class Recorder(Callback):
    def __init__(self):
        self.seen = []

    def started(self, start):
        self.seen.append(("started", start))

    def stepped(self, row):
        self.seen.append(("stepped", row))

    def ended(self, run):
        self.seen.append(("ended", run))

    def failed(self, error):
        self.seen.append(("failed", error))


def test_callbacks_are_told_everything_in_order(tmp_path):
    base = model()
    train, validation = task(40).split(0.25, seed=0)
    told = Recorder()
    shared = {"validation": validation, "recipe": quick(steps=5), "show_progress": False, "callbacks": [told]}
    run = fit(base, Aligner(base, 1, 1), train, **shared)
    names, contents = zip(*told.seen, strict=True)
    assert names == ("started", *["stepped"] * 6, "ended")
    start = contents[0]
    assert (start.first_step, start.n_steps) == (1, 5)
    assert start.memory.total > start.memory.base > 0
    assert start.rule == run.rule
    assert [row["step"] for row in contents[1:-1]] == run.metrics["step"].tolist() == list(range(6))
    assert contents[-1] is run

    class Stops(Callback):
        def stepped(self, row):
            if row["step"] == 2:
                raise RuntimeError("enough")

    shared["callbacks"] = [told, Stops()]
    with pytest.raises(RuntimeError, match="enough"):
        fit(base, Aligner(base, 1, 1), train, **shared)
    assert told.seen[-1][0] == "failed"


def test_weights_and_biases_is_asked_for_and_told(monkeypatch):
    log = []
    summary = {}
    handle = types.SimpleNamespace(
        log=lambda row, step: log.append((step, row)),
        finish=lambda exit_code=0: log.append(exit_code),
        summary=types.SimpleNamespace(update=summary.update),
    )
    asked = {}
    fake = types.ModuleType("wandb")
    fake.login = lambda: asked.update(logged_in=True)
    fake.init = lambda **options: asked.update(options) or handle
    monkeypatch.setitem(sys.modules, "wandb", fake)
    base = model()
    run = fit(
        base,
        LoRA(base, 2),
        task(),
        recipe=quick(steps=3),
        callbacks=[WeightsAndBiases("mine", name="first")],
        show_progress=False,
    )
    assert (asked["project"], asked["name"], asked["logged_in"]) == ("mine", "first", True)
    assert asked["config"]["recipe"]["steps"] == 3
    assert [step for step, _ in log[:-1]] == [1, 2, 3]
    assert [row["loss"] for _, row in log[:-1]] == run.loss.tolist()
    assert log[-1] == 0
    assert summary == run.provenance["result"]


def test_weights_and_biases_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(AlignerProbeError, match="pip install wandb"):
        WeightsAndBiases("mine")


def test_weights_and_biases_without_login_or_network_leave_no_folder(monkeypatch, tmp_path):
    def refuse(**_):
        raise ValueError("No API key configured\nsee there")

    fake = types.ModuleType("wandb")
    fake.login = fake.init = refuse
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(AlignerProbeError, match=r"does not start \(No API key configured\); log in"):
        WeightsAndBiases("mine")
    base, callback = model(), WeightsAndBiases("mine", mode="offline")
    with pytest.raises(AlignerProbeError, match="does not start"):
        fit(base, LoRA(base, 2), task(), out=tmp_path / "run", callbacks=[callback], show_progress=False)
    assert list(tmp_path.iterdir()) == []


def test_every_option_of_every_recipe_and_method_is_on_the_command_line():
    shared = ["--model", "M", "--task", "T", "--out", "O"]
    given = (
        "--lr 1 --weight-decay 2 --betas .8 .9 --batch-size 4 --micro-batch-size 2 --epochs 5 --steps 6 --warmup 7 "
        "--warmup-counts micro_batches --clip none --precision bf16-true --draw replacement --loss-on all "
        "--end-token no --max-length 8 --overlong drop --beta 9 --evaluate-every 10 --patience 11 --min-improvement .1 "
        "--order-seed 12 --train-on all"
    )
    changes = recipe_changes(command.parser().parse_args(shared + given.split()))
    assert changes.keys() | {"warmup_steps"} == {field.name for field in fields(Recipe)}
    made = Recipe(**changes)
    none = {"clip", "warmup_steps"}
    assert all(getattr(made, field.name) != field.default for field in fields(Recipe) if field.name not in none)
    assert made.clip is None
    more = recipe_changes(command.parser().parse_args([*shared, "--warmup-steps", "3", "--patience", "none"]))
    assert more == {"warmup_steps": 3, "patience": None}
    assert not recipe_changes(command.parser().parse_args(shared))
    assert recipe_changes(command.parser().parse_args([*shared, "--clip", "0.5"])) == {"clip": 0.5}
