"""What a training does where nothing is said: learning rate by method and width, length by the size of the task."""

import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learning import model, quick, task

import aligner_probe as ap
from aligner_probe.adapters import METHODS, Adapter, Aligner, LoRA, OutputBias
from aligner_probe.arms.catalogue import ARMS
from aligner_probe.commands import train as command
from aligner_probe.commands.recipe_options import recipe_changes
from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks.panel import PANEL
from aligner_probe.training import Recipe, fit, recipe
from aligner_probe.training import rates as rates_module
from aligner_probe.training.callbacks import Callback
from aligner_probe.training.rates import DPO_SHARE, at_width, default_rate, rates_of
from aligner_probe.training.recipe import FEWEST_STEPS, MOST_EPOCHS, options_of


def started(base, adapter, train, **options):
    """What a run would do, without a step of it."""

    class Stops(Callback):
        def started(self, start):
            self.start = start
            raise KeyboardInterrupt

    stops = Stops()
    with pytest.raises(KeyboardInterrupt):
        fit(base, adapter, train, callbacks=[stops], show_progress=False, **options)
    return stops.start


def test_every_method_has_rates_and_a_probe_s_arms_try_them():
    assert all("learning_rates" in vars(cls) or cls.__mro__[1] is not Adapter for cls in METHODS.values())
    assert rates_of("aligner") == (0.03, 0.1, 0.3)
    assert (
        rates_of("lora", targets="all-linear") == rates_of("lora", targets=("gate_proj", "q")) == (0.001, 0.004, 0.015)
    )
    assert rates_of("lora", targets="q,k,v,o") == rates_of("lora") == (0.004, 0.015, 0.05)
    for arm in ARMS.values():
        assert arm.tried_rates == rates_of(arm.method, **arm.options) or arm.name == "random-subspace"
    assert ARMS["random-subspace"].tried_rates == rates_of("output_bias", subspace=176)
    assert ARMS["aligner-1"].stored_rate_on(4096) == at_width(rates_of("aligner"), 4096)[1] == 0.0031


def test_the_default_rate_is_by_method_width_and_kind(monkeypatch):
    base = model()
    rates = {adapter.method: default_rate(adapter) for adapter in (Aligner(base, 1, 1), LoRA(base, 2))}
    assert rates == {"aligner": 0.1, "lora": 0.015}
    assert default_rate(OutputBias(base, start_layer=1)) < default_rate(OutputBias(base, start_layer=1, subspace=3))
    assert default_rate(LoRA(base, 2), "preference") == 0.015 * DPO_SHARE
    # Adapted MLPs diverge at the rate of attention.
    assert {default_rate(LoRA(base, 2, targets=targets)) for targets in ("all-linear", ("q", "up"), "down")} == {0.004}
    assert default_rate(LoRA(base, 2, targets="q,k,v,o")) == 0.015
    # On a base twice as wide as the one that the table is for.
    monkeypatch.setattr(rates_module, "WIDTH", base.cfg.d_model // 2)
    assert default_rate(Aligner(base, 1, 1)) == 0.05
    assert default_rate(LoRA(base, 2)) == 0.0075


@pytest.mark.parametrize(("kind", "lr"), [("sft", 0.1), ("preference", 0.001)])
def test_fit_and_recipe_and_train_take_the_same_defaults(kind, lr):
    base = model()
    found = [
        started(base, Aligner(base, 1, 1), task(60, kind), **options).provenance["recipe"]
        for options in ({}, {"recipe": recipe("corrected", kind)}, {"recipe": recipe(kind=kind, method="aligner")})
    ]
    assert found[0] == found[1] == found[2]
    assert (found[0]["lr"], found[0]["batch_size"], found[0]["steps"]) == (lr, 16, FEWEST_STEPS)
    parsed = command.parser().parse_args(["--model", "M", "--task", "T", "--out", "O"])
    assert recipe_changes(parsed) == {}


def test_what_is_given_is_taken_as_before():
    """What these gave when the defaults were 1e-2, batches of 32 and three epochs."""
    for n in (5, 54, 5000):
        for given_ in ({"epochs": 3.0}, {"steps": 7}, {"epochs": 1.0, "batch_size": 5}, {"steps": 9, "batch_size": 64}):
            made = recipe(lr=1e-2, **given_).settled(n, lr=0.5)
            assert (made.lr, made.epochs, made.steps) == (1e-2, given_.get("epochs", 3.0), given_.get("steps"))
            assert (made.batch_size, made.evaluate_every) == (given_.get("batch_size", 32), 0)
            assert made.patience == (None if "steps" in given_ else 2)
    some = recipe(batch_size=12, evaluate_every=7, patience=5).settled(60, lr=0.5)
    assert (some.batch_size, some.evaluate_every, some.patience, some.steps) == (12, 7, 5, FEWEST_STEPS)
    assert recipe(evaluate_every=0).settled(60).evaluate_every == 0
    assert recipe(micro_batch_size=3).settled(60).batch_size == 18


@pytest.mark.parametrize("kind", ["sft", "preference"])
@pytest.mark.parametrize("method", ["aligner", "lora"])
@pytest.mark.parametrize("n", [1, 60, 50_000])
def test_the_recipe_as_published_leaves_nothing_open(kind, method, n):
    published = recipe("as-published", kind, method=method)
    settled = published.settled(n, lr=0.5)
    assert replace(settled, evaluate_every=None) == published
    assert settled.evaluate_every == 0
    assert settled.total_steps(n) == round(published.epochs * math.ceil(n / published.batch_size))


@given(n=st.integers(1, 200_000), micro=st.sampled_from([None, 1, 3, 4]), size=st.sampled_from([None, 12, 24]))
def test_a_length_by_the_size_of_the_task(n, micro, size):
    made = recipe(micro_batch_size=micro, batch_size=size).settled(n, lr=0.1)
    steps, epochs = made.total_steps(n), made.total_steps(n) / made.steps_per_epoch(n)
    assert steps >= FEWEST_STEPS or epochs == pytest.approx(MOST_EPOCHS)
    assert 3 - 0.5 <= epochs <= MOST_EPOCHS
    assert size is None or made.batch_size == size
    assert 1 <= made.evaluate_every <= math.ceil(steps / 8)
    # It is settled now, and says the same as the open one.
    assert made.settled(n, lr=0.7) == made
    assert recipe(micro_batch_size=micro, batch_size=size).total_steps(n) == steps


def test_an_open_rate_is_one_line_where_it_is_needed():
    with pytest.raises(AlignerProbeError, match=r"leaves the learning rate .*; give one \(lr=\)"):
        recipe().lr_at(1, 20)
    assert Recipe(lr=0.1).settled(9).lr == 0.1
    with pytest.raises(AlignerProbeError, match=r"lr 0\.0 .expected more than 0, or None"):
        recipe(lr=0.0)


def test_a_run_says_whether_it_was_long_enough(capsys):
    base = model()
    train, held_out = task(40).split(0.25, seed=0)

    def run(lr, steps, validation=held_out, **options):
        how = quick(lr=lr, steps=steps, evaluate_every=1, **options.pop("how", {}))
        return fit(
            base, LoRA(base, 4), train, validation=validation, recipe=how, **({"show_progress": False} | options)
        )

    short = run(1e-4, 3)
    assert (short.still_falling, short.best_step) == (True, 3)
    assert "best at the last step (3)" in short.advice
    assert "train longer" in short.advice
    assert "--steps 240 --batch-size 8" in short.advice
    assert short.advice in repr(short)
    assert len(repr(short)) < 500
    unknown = run(1e-4, 3, validation=None)
    assert unknown.still_falling is None
    assert "not known" in unknown.advice
    worse = run(3.0, 4, how={"clip": None})
    assert worse.best_step < 4
    assert worse.still_falling is False
    assert worse.best_step or "nothing was learned" in worse.advice
    assert capsys.readouterr().out == ""
    shown = run(1e-4, 3, show_progress=True)
    assert capsys.readouterr().out.strip() == f"lora: {shown.advice}"


def test_what_a_run_will_do_is_told_before_it():
    base = model()
    train, held_out = task(40).split(0.25, seed=0)
    start = started(base, Aligner(base, 1, 1), train, validation=held_out)
    assert start.schedule == (
        "learning rate 0.1, 200 steps of 16 examples (100 epochs), validated every 25 steps, stopped after 2 "
        "validations without a lower loss"
    )
    assert start.n_steps == 200
    said = started(base, Aligner(base, 1, 1), train, recipe=quick(epochs=1.0)).schedule
    assert said == "learning rate 0.02, 4 steps of 8 examples (1 epoch)"


def test_a_run_with_the_old_defaults_is_resumed_by_the_options_that_the_message_names(tmp_path):
    base, out = model(), tmp_path / "run"
    train, held_out = task(60).split(0.1, seed=0)
    shared = {"validation": held_out, "out": out, "show_progress": False}
    old = {"lr": 1e-2, "epochs": 3.0, "batch_size": 32, "evaluate_every": 0, "patience": 2}
    done = fit(base, Aligner(base, 1, 1), train, recipe=Recipe(**old), **shared)
    with pytest.raises(AlignerProbeError, match=r"begun with recipe lr 0\.01 .now 0\.1") as refused:
        fit(base, Aligner(base, 1, 1), train, resume=True, **shared)
    [said] = re.findall(
        r"resume with the same options, (.*) \(recipe\((.*)\)\), or name another folder", str(refused.value)
    )
    options = command.parser().parse_args(["--model", "M", "--task", "T", "--out", "O", *said[0].split()])
    arguments = eval(f"dict({said[1]})")
    for changes in (recipe_changes(options), arguments, {"lr": 0.01, "epochs": 3.0}):
        again = fit(base, Aligner(base, 1, 1), train, recipe=recipe(**changes), resume=True, **shared)
        assert torch.equal(again.adapter.gates, done.adapter.gates)


@pytest.mark.parametrize("name", ["corrected", "as-published"])
@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 0.3, "weight_decay": 0.5, "betas": (0.5, 0.9), "clip": None, "patience": None, "beta": 2.0},
        {"steps": 5, "warmup_steps": 3, "mask_prompt": True, "append_eos": False, "replacement": False, "seed": 9},
        {"warmup": 2.0, "batch_size": 9, "micro_batch_size": 3, "max_length": 77, "overlong": "drop", "clip": 0.25},
        {"min_improvement": 0.01, "evaluate_every": 4, "precision": "bf16-true", "epochs": 2.5},
    ],
)
def test_the_options_that_a_message_names_make_the_recipe_again(name, changes):
    wanted = recipe(name, **changes).settled(60, lr=0.1)
    now = recipe("corrected").settled(60, lr=0.2)
    before = wanted.to_dict()
    before["betas"] = list(before["betas"])  # as JSON keeps it
    options, arguments = re.fullmatch(r"(.*) \(recipe\((.*)\)\)", options_of(before, now.to_dict())).groups()
    shared = ["--model", "M", "--task", "T", "--out", "O"]
    given_ = recipe_changes(command.parser().parse_args([*shared, *options.split()]))
    made = recipe("corrected", **given_).settled(60, lr=0.2).to_dict()
    assert {key: made[key] for key in made if key != "betas"} == {key: before[key] for key in made if key != "betas"}
    assert list(made["betas"]) == before["betas"]
    assert set(given_) == set(eval(f"dict({arguments})"))
    assert options_of(before, before) == ""


def test_what_an_option_has_to_be_left_out_for_is_said():
    before = recipe("corrected").settled(60, lr=0.1)
    now = replace(before, micro_batch_size=4, max_length=9)
    assert options_of(before.to_dict(), now.to_dict()).startswith("without --micro-batch-size without --max-length (")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "strict"),
    [
        (lambda base: Aligner(base, 1), 0.8),
        (lambda base: LoRA(base, 8), 0.8),
        (lambda base: OutputBias(base, start_layer=2), 0.8),
    ],
)
def test_the_defaults_learn_a_task_of_sixty_examples(adapter, strict):
    """With the defaults of before, 1e-2 and six steps, Aligner-1 was right on none."""
    base = ap.load_model("microworld")
    pirate = ap.load_task(PANEL / "style_pirate")
    train, held_out = replace(pirate, examples=pirate.examples[:60]).split(0.1, seed=0)
    made = adapter(base)
    run = ap.fit(base, made, train, validation=held_out, show_progress=False)
    with made.attached():
        assert ap.score_task(base, held_out).mean("strict") >= strict
    assert run.best_validation_loss < 0.1 * run.validation_loss.iloc[0]
