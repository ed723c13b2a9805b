"""Training: losses against closed forms, order from the seed, resuming to the bit, lost updates, refusals."""

import json
import math
import random
import signal
import subprocess
import sys
from itertools import chain

import pytest
import torch
from conftest import DATA, ROOT, small_model
from learning import DIVERGES, model, plant_divergence, quick, task

from aligner_probe.adapters import Aligner, LoRA, PromptTuning
from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import Example, Task
from aligner_probe.training import fit, passes, recipe
from aligner_probe.training.losses import Predictions, dpo_loss, sequence_log_probability, sft_loss
from aligner_probe.training.monitor import LostUpdateMonitor
from aligner_probe.training.order import Order


def test_sft_loss_is_the_sum_over_labels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, generator=generator)
    labels = torch.tensor([[-100, 3, 4, -100, 1], [-100, -100, 2, 6, -100]])
    there = [(row, pos) for row in range(2) for pos in range(4) if labels[row, pos + 1] >= 0]
    predictions = Predictions(
        torch.stack([logits[at] for at in there]), torch.stack([labels[r, p + 1] for r, p in there]), (3, 2)
    )
    loss = sft_loss(predictions)
    by_hand = -sum(
        math.log(math.exp(logits[b, t - 1, labels[b, t]]) / sum(math.exp(x) for x in logits[b, t - 1]))
        for b in range(2)
        for t in range(1, 5)
        if labels[b, t] >= 0
    )
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    scores = sequence_log_probability(predictions)
    assert scores.sum().item() == pytest.approx(-by_hand, rel=1e-5)
    for its, score in zip(predictions.split([1, 1]), scores, strict=True):
        assert len(its.counts) == 1
        assert sft_loss(its).item() == pytest.approx(-score.item(), rel=1e-5)


def test_dpo_loss_against_its_formula():
    a, b, c, d = (torch.tensor([x, 0.0]) for x in (-1.0, -3.0, -2.0, -2.5))
    expected = -math.log(1 / (1 + math.exp(-0.3 * ((-1 + 2) - (-3 + 2.5))))) + math.log(2)
    assert dpo_loss(a, b, c, d, 0.3).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["sft", "preference"])
def test_training_lowers_the_loss_and_keeps_the_best(kind):
    base = model()
    train, validation = task(40, kind).split(0.25, seed=0)
    adapter = LoRA(base, 4)
    run = fit(base, adapter, train, validation=validation, recipe=quick(epochs=6.0), show_progress=False)
    losses = run.validation_loss
    assert losses.iloc[-1] < losses.iloc[0]
    assert run.best_validation_loss == losses.min()
    assert losses.idxmin() == run.best_step
    if kind == "preference":
        # nothing has moved before the first step: every pair is a coin toss
        assert losses.iloc[0] == pytest.approx(math.log(2), rel=1e-5)
    assert set(adapter.start) == {name for name, _ in adapter.named_parameters()}
    assert all(p.grad is None for p in base.original_model.parameters())


def test_first_loss_does_not_depend_on_micro_batches():
    runs = []
    for size in (None, 4, 1):
        base = model()
        adapter = LoRA(base, 2)
        runs.append(fit(base, adapter, task(), recipe=quick(micro_batch_size=size), show_progress=False).loss)
    for other in runs[1:]:
        assert other.to_numpy() == pytest.approx(runs[0].to_numpy(), rel=1e-3)


def test_a_batch_of_unlike_lengths_goes_through_the_model_in_parts_and_trains_the_same(monkeypatch):
    rows = tuple(Example(f"{'abcdefgh'[i % 8] * (2 + 9 * (i % 3))}x", "hgfedcba"[i % 7 :]) for i in range(24))
    trained, n_rows = {}, {}
    for a_pass in (1e9, 0.0):  # what a pass costs beside its tokens decides whether a batch is split
        base = model()
        adapter, seen = LoRA(base, 2), []
        monkeypatch.setattr(passes, "tokens_of_a_pass", lambda _, cost=a_pass: cost)
        with base.hooks(fwd_hooks=[("embed.hook_out", lambda out, hook, seen=seen: seen.append(len(out)))]):
            fit(base, adapter, Task("rows", "sft", rows), recipe=quick(epochs=1.0), show_progress=False)
        trained[a_pass], n_rows[a_pass] = dict(adapter.named_parameters()), seen
    assert n_rows[1e9] == [8, 8, 8]
    assert len(n_rows[0.0]) > 6
    assert sum(n_rows[0.0]) == 24
    for name, parameter in trained[0.0].items():
        assert torch.allclose(parameter, trained[1e9][name], rtol=1e-3, atol=1e-5), name


def test_seeds_are_wired():
    def losses(**changes):
        base = model()
        return fit(base, LoRA(base, 2), task(), recipe=quick(**changes), show_progress=False).loss.tolist()

    assert losses() == losses()
    assert losses() != losses(seed=1)
    assert losses(replacement=True) == losses(replacement=True)
    assert losses(replacement=True) != losses(replacement=True, seed=1)


def test_an_epoch_sees_every_example_once():
    order = Order(quick(), 22)
    steps = [order(step) for step in range(1, 7)]
    assert [len(batch) for batch in steps] == [8, 8, 6] * 2
    assert sorted(chain(*steps[:3])) == sorted(chain(*steps[3:])) == list(range(22))
    assert steps[:3] != steps[3:]


def test_warm_up_as_published_and_corrected():
    published = recipe("as-published")
    # 800 examples: 13 steps and 104 micro-batches an epoch, so two epochs of warm-up last 208 steps
    assert published.lr_at(104, 800) == pytest.approx(4.5e-3)
    assert max(published.lr_at(step, 800) for step in range(1, published.total_steps(800) + 1)) == pytest.approx(4.5e-3)
    mended = recipe("corrected", lr=9e-3, batch_size=64, warmup=2.0, epochs=8.0)
    assert mended.lr_at(13, 800) == pytest.approx(4.5e-3)
    assert mended.lr_at(26, 800) == mended.lr_at(99, 800) == 9e-3


def test_early_stopping_keeps_the_best_numbers():
    base = model()
    train, validation = task(40).split(0.25, seed=0)
    adapter = LoRA(base, 4)
    run = fit(
        base,
        adapter,
        train,
        validation=validation,
        recipe=quick(lr=0.3, clip=None, epochs=50.0, patience=2),
        show_progress=False,
    )
    assert run.stopped_early
    assert run.metrics["step"].max() < run.recipe.total_steps(len(train))
    again = fit(base, adapter, train, validation=validation, recipe=quick(lr=1e-9, steps=1), show_progress=False)
    assert again.validation_loss.iloc[0] == pytest.approx(run.best_validation_loss, rel=1e-5)


def test_improvements_too_small_to_count_stop_a_training_that_keeps_its_best():
    def trained(**options):
        base = model()
        train, validation = task(40).split(0.25, seed=0)
        how = quick(lr=1e-3, steps=12, evaluate_every=1, patience=2, **options)
        return fit(base, LoRA(base, 4), train, validation=validation, recipe=how, show_progress=False)

    whole, short = trained(), trained(min_improvement=10.0)
    assert not whole.stopped_early
    # That before training is better than none; no later one is by so much.
    assert short.metrics["step"].max() == 2
    losses = whole.validation_loss.loc[0:2]
    assert short.best_validation_loss == losses.min() < losses.iloc[0]


def test_the_monitor_counts_what_rounds_to_nothing():
    """One update of 1e-3: lost by 1, kept by 1/16 in bfloat16; nothing is lost in float32."""
    for dtype, lost in ((torch.bfloat16, 0.5), (torch.float32, 0.0)):
        parameter = torch.nn.Parameter(torch.tensor([1.0, 0.0625, 3.0], dtype=dtype))
        optimizer = torch.optim.AdamW([parameter], lr=1e-3, weight_decay=0.0)
        monitor = LostUpdateMonitor(optimizer)
        parameter.grad = torch.tensor([0.5, 0.5, 0.0], dtype=dtype)  # the third was due nothing
        monitor.before()
        optimizer.step()
        monitor.after()
        found = monitor.epoch()
        assert (found.updates, found.numbers) == (lost, lost)
        assert monitor.epoch().updates is None


def test_second_moments_do_not_decay_in_bfloat16():
    for dtype, lost in ((torch.bfloat16, 1.0), (torch.float32, 0.0)):
        parameter = torch.nn.Parameter(torch.ones(8, dtype=dtype))
        optimizer = torch.optim.AdamW([parameter], lr=1e-3)
        monitor = LostUpdateMonitor(optimizer)
        for gradient in (1.0, 1e-4):
            parameter.grad = torch.full((8,), gradient, dtype=dtype)
            monitor.before()
            optimizer.step()
            monitor.after()
        assert monitor.epoch().second_moments == lost


def test_bf16_true_trains_in_bfloat16_and_loses_updates():
    base = model()
    adapter = Aligner(base, 10, 1)
    run = fit(base, adapter, task(), recipe=quick(precision="bf16-true", lr=1e-3), show_progress=False)
    assert adapter.prefix.dtype == torch.bfloat16
    assert 0 < run.metrics["lost_updates"].dropna().iloc[-1] < 1


def test_a_run_that_is_taken_or_finished_is_refused(tmp_path):
    base = model()
    out = tmp_path / "run"
    fit(base, LoRA(base, 2), task(), recipe=quick(steps=2), out=out, show_progress=False)
    assert sorted(p.name for p in out.iterdir()) == ["lock", "metrics.jsonl", "state.pt"]
    with pytest.raises(AlignerProbeError, match="--resume"):
        fit(base, LoRA(base, 2), task(), recipe=quick(steps=2), out=out, show_progress=False)
    with pytest.raises(AlignerProbeError, match="begun with recipe"):
        fit(base, LoRA(base, 2), task(), recipe=quick(steps=3), out=out, resume=True, show_progress=False)


def test_a_loss_that_is_not_finite_stops_with_good_numbers(tmp_path, monkeypatch):
    base = model()
    good, spoilt = LoRA(base, 2), LoRA(base, 2)
    fit(base, good, task(), recipe=quick(lr=DIVERGES, steps=2), show_progress=False)
    plant_divergence(monkeypatch, at=3)
    how = quick(lr=DIVERGES, steps=9)
    with pytest.raises(AlignerProbeError, match=r"the loss is nan at step 4.*Lower the learning rate"):
        fit(base, spoilt, task(), recipe=how, out=tmp_path / "run", show_progress=False)
    # Those before the step that led there.
    assert all(torch.equal(*pair) for pair in zip(spoilt.parameters(), good.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lr": 0.0}, "lr 0.0"),
        ({"batch_size": 8, "micro_batch_size": 3}, "a divisor of batch_size 8"),
        ({"batch_size": 8, "micro_batch_size": -4}, "micro_batch_size -4"),
        ({"micro_batch_size": 0}, "micro_batch_size 0"),
        ({"max_length": 0}, "max_length 0"),
        ({"betas": (2.0, 3.0)}, "betas"),
        ({"lr": math.inf}, "lr inf"),
        ({"warmup": 1.0, "warmup_steps": 3}, "both warmup 1.0 and warmup_steps 3"),
        ({"patience": 0}, "patience 0"),
        ({"min_improvement": -1.0}, "min_improvement -1.0"),
        ({"learning_rate": 1.0}, "no option 'learning_rate'"),
    ],
)
def test_recipes_that_do_not_fit(changes, says):
    with pytest.raises(AlignerProbeError, match=says):
        recipe(**changes)


def test_other_refusals():
    base = model()
    with pytest.raises(AlignerProbeError, match="another model object"):
        fit(model(), LoRA(base, 2), task(), show_progress=False)
    with pytest.raises(AlignerProbeError, match="context is 64"):
        fit(base, LoRA(base, 2), task(), recipe=quick(max_length=100), show_progress=False)
    with pytest.raises(AlignerProbeError, match="10 of them the adapter's own; expected at most 54"):
        fit(base, PromptTuning(base, 10), task(), recipe=quick(max_length=60), show_progress=False)
    with pytest.raises(
        AlignerProbeError, match=r"70 tokens of prompt_tuning in a context of 64 leave no room.*at most 62"
    ):
        fit(base, PromptTuning(base, 70), task(), recipe=quick(), show_progress=False)
    for options in ({"save_every": 0}, {"save_every": -3}, {"cache_budget": -1}):
        with pytest.raises(AlignerProbeError, match=next(iter(options))):
            fit(base, LoRA(base, 2), task(), show_progress=False, **options)
    with pytest.raises(AlignerProbeError, match="gates of this aligner has numbers that are not finite"):
        fit(base, Aligner(base, 1, 1, initial_gate=math.nan), task(), show_progress=False)
    for alpha in (0, math.nan):
        with pytest.raises(AlignerProbeError, match=f"alpha {alpha}"):
            LoRA(base, 2, alpha)
    base.tokenizer = None
    with pytest.raises(AlignerProbeError, match="no tokenizer"):
        fit(base, LoRA(base, 2), task(), show_progress=False)


#: It counts the moments before and after whatever computes or writes, and is killed at the one that it is given.
#: It prints how many moments there were.
SCRIPT = """
import os, signal, sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from learning import model, task, quick
from aligner_probe.adapters import Aligner
from aligner_probe.training import fit
from aligner_probe.training.member import Member
from aligner_probe.training.state import RunFolder
base = model()
train, validation = task(40, {kind!r}).split(0.25, seed=0)
adapter = Aligner(base, 4, 1)
moments = 0
def moment():
    global moments
    moments += 1
    if moments == {fatal!r}:
        os.kill(os.getpid(), signal.SIGKILL)
def watched(real):
    def call(*args, **options):
        moment()
        found = real(*args, **options)
        moment()
        return found
    return call
for home, name in (
    (torch.optim.AdamW, "step"), (torch.autograd, "backward"), (torch, "save"), (Member, "next_batch"),
    (Member, "evaluated"), (RunFolder, "record"), (Path, "write_bytes"), (Path, "replace"),
):
    setattr(home, name, watched(getattr(home, name)))
fit(base, adapter, train, validation=validation, recipe=quick(epochs=20.0), out={out!r}, resume=True, save_every=3,
    show_progress=False)
print(moments)
torch.save(dict(adapter.named_parameters()), {result!r})
"""


@pytest.mark.slow  # test_registered_adapters.py has a quick case: one kill by SIGKILL
@pytest.mark.parametrize("kind", ["sft", "preference"])
def test_killed_at_random_moments_it_ends_in_the_same_bits(tmp_path, kind):
    tests = str(ROOT / "tests")

    def start(name, fatal=None):
        out, result = str(tmp_path / name), str(tmp_path / f"{name}.pt")
        text = SCRIPT.format(tests=tests, kind=kind, out=out, result=result, fatal=fatal)
        return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=300)

    whole = start("whole")
    assert whole.returncode == 0, whole.stderr
    # Each time within three tenths of what the whole takes, so that something is always left to be done.
    moments, reached = random.Random(kind), [0]
    for _ in range(2 if kind == "sft" else 3):
        killed = start("killed", fatal=round(moments.uniform(0.1, 0.3) * int(whole.stdout)))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        reached.append(_steps(tmp_path / "killed"))
    assert sorted({*reached, _steps(tmp_path / "whole")}) == [*reached, _steps(tmp_path / "whole")]
    last = start("killed")
    assert last.returncode == 0, last.stderr
    first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "killed"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    rows = [
        [json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("whole", "killed")
    ]
    for ours, theirs in zip(*rows, strict=True):
        assert {k: v for k, v in ours.items() if k != "tokens_per_second"} == {
            k: v for k, v in theirs.items() if k != "tokens_per_second"
        }


def _steps(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    from aligner_probe.training.state import RunFolder

    with RunFolder(tmp_path, {}, resume=False).locked():
        base = model()
        with pytest.raises(AlignerProbeError, match="another run is writing"):
            fit(base, LoRA(base, 2), task(), recipe=quick(), out=tmp_path, show_progress=False)


def test_stories260k_learns_stories_in_capitals():
    folder = small_model("stories260K")
    from aligner_probe.models import load_model
    from aligner_probe.tasks import load_task

    base = load_model(folder)
    rows = load_task(DATA / "data" / "tinystories", prompt_template="", completion_field="text").examples[:48]
    stories = Task(
        "capitals",
        "sft",
        tuple(Example("Story: ", e.completion[:120].upper(), group=str(i)) for i, e in enumerate(rows)),
        template="Story: ",
    )
    train, validation = stories.split(0.25, seed=0)
    run = fit(
        base,
        Aligner(base, 10, 1),
        train,
        validation=validation,
        recipe=recipe(lr=0.02, batch_size=12, epochs=5.0),
        show_progress=False,
    )
    assert run.best_validation_loss < 0.9 * run.validation_loss.iloc[0]
