"""Runs that share their batches: the numbers that each has alone, one that leaves, one that is killed and goes on."""

import json

import pytest
import torch
from learning import Letters, Stops, quick, task
from tiny import bridge, tokens

from aligner_probe.adapters import Aligner, FullFineTune, LLaMAAdapter, LoRA, OutputBias, PrefixTuning, PromptTuning
from aligner_probe.adapters.side_by_side import SideBySide
from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import Example, Task
from aligner_probe.training import Training, fit, fit_together
from aligner_probe.training.callbacks import Callback

START = 2
QUIET = {"show_progress": False}
LONGER = Task(
    "longer", "sft", tuple(Example(f"{'abcdefgh'[i % 8] * (9 + i % 3)}x", "hgfedcba"[i % 7 :]) for i in range(20))
)


def model(name="llama_gqa", dtype=torch.float64):
    base = bridge(name, dtype)
    base.tokenizer = Letters()
    return base


def of(method, base, seed, **options):
    """An adapter away from its start, where gates and B hide what would be wrong with gradients."""
    dtype = torch.float64 if base.original_model.dtype == torch.float64 else torch.float32
    adapter = method(base, start_layer=START, seed=seed, dtype=dtype, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return adapter


def numbers(adapter):
    return torch.cat([p.detach().flatten() for p in adapter.parameters()])


def three(base, method, **options):
    """Three runs that differ in all that may differ: start, order, rate, data, length, clipping and its strength."""
    train, held_out = task(24).split(0.25, seed=0)
    longer, longer_held_out = LONGER.split(0.25, seed=0)
    shared = {"epochs": 1.0, "batch_size": 6, "evaluate_every": 2}
    return [
        Training(
            adapter=of(method, base, 0, **options), task=train, validation=held_out,
            recipe=quick(**shared, steps=5, lr=0.03, clip=0.01, weight_decay=0.1),
        ),
        # The longest rows, and it leaves after the third step.
        Training(
            adapter=of(method, base, 1, **options), task=longer, validation=longer_held_out,
            recipe=quick(**shared, steps=3, lr=0.1, clip=None, seed=1),
        ),
        Training(
            adapter=of(method, base, 2, **options), task=train, validation=held_out,
            recipe=quick(**shared, steps=5, lr=0.01, seed=2, micro_batch_size=3, precision="float32"),
        ),
    ]  # fmt: skip


def alone(base, one, **options):
    return fit(
        base, one.adapter, one.task, validation=one.validation, recipe=one.recipe, callbacks=one.callbacks,
        **QUIET, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        pytest.param("llama_gqa", Aligner, {}, marks=pytest.mark.slow),
        ("llama_gqa", Aligner, {"n_tokens": 3}),
        ("neox", Aligner, {"n_tokens": 3}),
        ("gpt2", LLaMAAdapter, {"n_tokens": 3}),
        ("llama_gqa", LoRA, {"targets": ("q", "k", "v", "o")}),
        ("llama_gqa", LoRA, {"targets": "all-linear"}),
        pytest.param("gpt2", LoRA, {"targets": "all-linear"}, marks=pytest.mark.slow),
        pytest.param("phi3", LoRA, {"targets": "all-linear"}, marks=pytest.mark.slow),
        pytest.param("llama_gqa", OutputBias, {}, marks=pytest.mark.slow),
        ("llama_gqa", OutputBias, {"subspace": 5}),
        ("gemma2", PrefixTuning, {"n_tokens": 3}),
    ],
)
def test_each_run_has_the_numbers_it_has_alone(name, method, options):
    base = model(name)
    apart = [alone(base, one, cache=False) for one in three(base, method, **options)]
    before = [numbers(one.adapter) for one in three(base, method, **options)]
    for cache in (True, False):
        together = fit_together(base, three(base, method, **options), cache=cache, **QUIET)
        for mine, theirs, start in zip(together, apart, before, strict=True):
            assert (numbers(theirs.adapter) - start).abs().max() > 1e-3
            # Prefix tuning weighs its two attentions in float32.
            near = 5e-6 if method is PrefixTuning else 1e-10
            assert (numbers(mine.adapter) - numbers(theirs.adapter)).abs().max() <= near
            assert (mine.best_step, mine.stopped_early) == (theirs.best_step, theirs.stopped_early)
            # Losses are summed in float32.
            assert mine.loss.tolist() == pytest.approx(theirs.loss.tolist(), rel=1e-6, nan_ok=True)
            assert mine.validation_loss.to_dict() == pytest.approx(theirs.validation_loss.to_dict(), rel=1e-6)
            assert mine.metrics["lr"].tolist() == pytest.approx(theirs.metrics["lr"].tolist(), nan_ok=True)


def test_clipping_is_each_run_s_own():
    """Were gradients clipped by the norm of all, the run with a clip of .01 would hold back the one without."""
    base = model()
    first, second, _ = three(base, LoRA)
    with_clip, without = fit_together(base, [first, second], **QUIET)
    again = [alone(base, one) for one in three(base, LoRA)[:2]]
    assert (numbers(with_clip.adapter) - numbers(again[0].adapter)).abs().max() <= 1e-10
    assert (numbers(without.adapter) - numbers(again[1].adapter)).abs().max() <= 1e-10


def test_preferences_and_answers_methods_and_checkpointing_mix():
    base = model()

    def both():
        preferences, held_out = task(20, "preference").split(0.25, seed=0)
        return [
            Training(adapter=of(LoRA, base, 0), task=preferences, validation=held_out, recipe=quick(steps=4)),
            Training(adapter=of(Aligner, base, 1, n_tokens=2), task=task(20), recipe=quick(steps=4, batch_size=5)),
        ]

    apart = [alone(base, one, cache=False) for one in both()]
    for more in ({"cache": False}, {"cache": True}, {"checkpoint_activations": True}):
        for mine, theirs in zip(fit_together(base, both(), **more, **QUIET), apart, strict=True):
            assert (numbers(mine.adapter) - numbers(theirs.adapter)).abs().max() <= 1e-10
            assert mine.loss.tolist() == pytest.approx(theirs.loss.tolist(), rel=1e-6, nan_ok=True)


def test_one_that_stops_early_leaves_the_batch():
    base = model()
    train, held_out = task(24).split(0.25, seed=0)

    def two():
        shared = {"batch_size": 6, "evaluate_every": 1, "steps": 12}
        return [
            Training(adapter=of(LoRA, base, 0), task=train, validation=held_out,
                     recipe=quick(**shared, lr=3.0, clip=None, patience=2)),
            Training(adapter=of(LoRA, base, 1), task=train, validation=held_out, recipe=quick(**shared, patience=99)),
        ]  # fmt: skip

    stopped, other = fit_together(base, two(), **QUIET)
    assert stopped.stopped_early
    assert stopped.metrics["step"].iloc[-1] < 12 == other.metrics["step"].iloc[-1]
    for mine, one in zip((stopped, other), two(), strict=True):
        theirs = alone(base, one)
        assert mine.best_step == theirs.best_step
        assert (numbers(mine.adapter) - numbers(theirs.adapter)).abs().max() <= 1e-9


class Told(Callback):
    def __init__(self):
        self.said = []

    def started(self, start):
        self.said.append(f"started {start.first_step}")

    def ended(self, run):
        self.said.append("ended")

    def failed(self, error):
        self.said.append(f"failed: {error}")


def test_one_that_diverges_leaves_the_batch_with_good_numbers_and_its_reason(tmp_path):
    base, told = model(), [Told(), Told()]
    wild = Training(adapter=of(LoRA, base, 0), task=task(), callbacks=told[:1],
                    recipe=quick(lr=1e160, clip=None, warmup=0.0, steps=6))  # fmt: skip
    tame = Training(adapter=of(LoRA, base, 1), task=task(), callbacks=told[1:], recipe=quick(steps=6))
    first, second = fit_together(base, [wild, tame], out=tmp_path / "out", save_every=1, **QUIET)
    assert "so training stops" in str(first)
    assert torch.isfinite(numbers(wild.adapter)).all()
    theirs = alone(base, Training(adapter=of(LoRA, base, 1), task=task(), recipe=quick(steps=6)))
    assert (numbers(second.adapter) - numbers(theirs.adapter)).abs().max() <= 1e-10
    assert told[0].said == ["started 1", f"failed: {first}"]
    assert told[1].said == ["started 1", "ended"]
    # It is not tried again where the folder is taken up.
    again = [Training(adapter=of(LoRA, base, i), task=task(), recipe=one.recipe) for i, one in enumerate((wild, tame))]
    found = fit_together(base, again, out=tmp_path / "out", resume=True, **QUIET)
    assert str(found[0]) == str(first)
    assert torch.equal(numbers(found[1].adapter), numbers(second.adapter))


def kept(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]


@pytest.mark.parametrize("at", [3, *(pytest.param(at, marks=pytest.mark.slow) for at in (1, 4))])
def test_twice_and_killed_it_ends_in_the_same_bits(tmp_path, at):
    """Killed before the first state, as one has just left, and after."""
    base = model(dtype=torch.float32)
    ended = {}
    for name in ("whole", "again", "killed"):
        if name == "killed":
            runs = three(base, Aligner, n_tokens=2)
            runs[0] = Training(**{**vars(runs[0]), "callbacks": [Stops(at)]})
            with pytest.raises(KeyboardInterrupt):
                fit_together(base, runs, out=tmp_path / name, save_every=2, **QUIET)
            assert (tmp_path / name / "state.pt").exists() == (at > 2)
        runs = fit_together(
            base, three(base, Aligner, n_tokens=2), out=tmp_path / name, resume=True, save_every=2, **QUIET
        )
        ended[name] = [numbers(run.adapter) for run in runs]
    for name in ("again", "killed"):
        assert all(map(torch.equal, ended[name], ended["whole"]))
        assert kept(tmp_path / name) == kept(tmp_path / "whole")
    with pytest.raises(AlignerProbeError, match="begun with"):
        fit_together(base, three(base, Aligner, n_tokens=3), out=tmp_path / "whole", resume=True, **QUIET)


def test_a_callback_meets_its_own_adapter_alone():
    base, ids = model(), tokens()
    seen = {}

    class Looks(Callback):
        def __init__(self, name):
            self.name = name

        def stepped(self, row):
            seen[self.name, row["step"]] = base(ids).detach()

    runs = three(base, LoRA)
    runs = [Training(**{**vars(one), "callbacks": [Looks(i)]}) for i, one in enumerate(runs)]
    fit_together(base, runs, **QUIET)
    for i, one in enumerate(three(base, LoRA)):
        with one.adapter.attached():
            assert (base(ids) - seen[i, 0]).abs().max() < 1e-12
    assert (seen[0, 3] - seen[2, 3]).abs().max() > 1e-3
    assert {step for i, step in seen if i == 1} == {0, 1, 2, 3}


def test_rows_side_by_side_are_those_of_each_adapter():
    base, ids = model(), tokens(batch=5)
    one, other = of(Aligner, base, 0, n_tokens=2), of(LoRA, base, 1)
    both = SideBySide([one, other])
    with both.attached(), both.on([2, 3]):
        found = base(ids)
    for adapter, rows in ((one, slice(0, 2)), (other, slice(2, 5))):
        with adapter.attached():
            assert (base(ids[rows]) - found[rows]).abs().max() < 1e-12
    with both.attached():
        with both.only(1):
            whole = base(ids)
        with pytest.raises(AlignerProbeError, match="whose rows"):
            base(ids)
    with other.attached():
        assert torch.equal(base(ids), whole)


def test_what_shares_no_batch_is_refused():
    base, other = model(), model()
    one = Aligner(base, 1, START)
    for wrong, says in (
        ([one, PromptTuning(base, 2)], "prompt_tuning does not work row by row"),
        ([FullFineTune(base), one], "full does not work row by row"),
        ([one, one], "one adapter twice"),
        ([], "no adapters"),
    ):
        with pytest.raises(AlignerProbeError, match=says):
            fit_together(base, [Training(adapter=adapter, task=task()) for adapter in wrong], **QUIET)
    with pytest.raises(AlignerProbeError, match="another model object"):
        fit_together(base, [Training(adapter=a, task=task()) for a in (one, Aligner(other, 1, START))], **QUIET)
