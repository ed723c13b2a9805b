"""Layers below the adapter, computed once: the same logits, gradients and training, no layer run, no wrong file."""

from pathlib import Path

import pytest
import torch
from learning import Letters, model, quick, task
from tiny import MODELS

from aligner_probe.adapters import Aligner, FullFineTune, LoRA, OutputBias, PrefixTuning, PromptTuning
from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import encode
from aligner_probe.training import fit, lower_layers
from aligner_probe.training.lower_layers import SUFFIX, LowerLayers, plan_cache
from aligner_probe.training.objective import Forward
from aligner_probe.training.sequences import Sequences

START = 2


def sequences(n=20, kind="sft"):
    encoded = encode(task(n, kind), Letters(), max_length=64)
    return Sequences([*encoded.sequences, *(encoded.rejected or ())], 0)


def stirred(adapter):
    """Gates open, LoRA's B away from zero: at their start adapters hide what they would do to gradients."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return adapter


def logits_and_gradients(forward, adapter, indices):
    adapter.zero_grad(set_to_none=True)
    with adapter.attached():
        logits = forward(indices).logits
        logits.float().pow(2).mean().backward()
    return logits.detach(), [p.grad.clone() for p in adapter.parameters()]


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [(name, Aligner, {"n_tokens": 3}) for name in MODELS]
    + [(name, LoRA, {}) for name in ("llama_gqa", "gpt2", "neox")]
    + [(name, LoRA, {"targets": "all-linear"}) for name in ("llama_gqa", "phi3", "neox")]
    + [("llama_gqa", OutputBias, {}), ("llama_gqa", PrefixTuning, {"n_tokens": 3})],
)
def test_logits_and_gradients_are_those_of_the_whole_model(name, method, options):
    base, rows = model(name), sequences()
    adapter = stirred(method(base, start_layer=START, **options))
    lower = LowerLayers(base, rows, START)
    whole, kept = Forward(base, rows), Forward(base, rows, lower)
    # Five rows of three lengths, so that some are padded, and not in the order they were computed in.
    some = [7, 3, 12, 0, 5]
    assert len({int(rows.lengths[i]) for i in some}) == 3
    for ours, theirs in zip(
        logits_and_gradients(kept, adapter, some),
        logits_and_gradients(whole, adapter, some),
        strict=True,
    ):
        for a, b in zip(ours, theirs, strict=True):
            assert (a - b).abs().max() <= 1e-6 * max(1.0, b.abs().max())
    # In the very batch that they were computed in, to the last bit.
    as_computed = rows.lengths.argsort(stable=True).tolist()
    a, b = (logits_and_gradients(f, adapter, as_computed) for f in (kept, whole))
    assert torch.equal(a[0], b[0])
    assert all(torch.equal(x, y) for x, y in zip(a[1], b[1], strict=True))


def counted(module):
    """Counts a module's runs without a hook: a hook there would switch keeping off."""
    count = [0]

    class Counts(type(module)):
        def forward(self, *args, **kwargs):
            count[0] += 1
            return super().forward(*args, **kwargs)

    module.__class__ = Counts
    return count


@pytest.mark.parametrize("kind", ["sft", "preference"])
@pytest.mark.parametrize("method", [Aligner, LoRA])
def test_training_is_the_same_and_lower_layers_do_not_run(kind, method):
    losses, calls = [], []
    for cache in (True, False):
        base = model("gpt2")
        train, validation = task(40, kind).split(0.25, seed=0)
        adapter = stirred(method(base, start_layer=START))
        count = counted(base.blocks[0].original_component.mlp.original_component)
        run = fit(
            base, adapter, train, validation=validation, recipe=quick(epochs=4.0), cache=cache, show_progress=False
        )
        losses.append(torch.tensor([*run.loss.dropna(), *run.validation_loss]))
        calls.append(count[0])
    assert torch.allclose(*losses, rtol=1e-5, atol=1e-7)
    assert losses[0][0] != losses[0][-1]
    # One batch (two for pairs) of training and one (one) of validation, against every step.
    assert calls[0] <= 4 < 16 <= calls[1]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda base: LoRA(base, 2), "works from layer 0 on"),
        (lambda base: Aligner(base, 1, 0), "works from layer 0 on"),
        (lambda base: PromptTuning(base, 2), "works from layer 0 on"),
        (lambda base: FullFineTune(base), "works from layer 0 on"),
    ],
)
def test_what_changes_lower_layers_has_none_to_keep(make, says):
    base = model()
    adapter = make(base)
    assert not plan_cache(adapter, 100, 5.0, "auto").kept
    with pytest.raises(AlignerProbeError, match=says):
        fit(base, adapter, task(), recipe=quick(), cache=True, show_progress=False)


def test_when_keeping_is_off_and_why():
    base = model()
    adapter = Aligner(base, 1, START)
    assert plan_cache(adapter, 1000, 1.0, "auto").n_bytes == 1000 * 48 * 4
    assert plan_cache(adapter, 1000, 1.0, "auto", budget=1000 * 48 * 4).kept
    assert "over the budget" in plan_cache(adapter, 1000, 1.0, "auto", budget=1000 * 48 * 4 - 1).reason
    assert "0.5 times" in plan_cache(adapter, 1000, 0.5, "auto").reason
    assert plan_cache(adapter, 1000, 0.5, True).kept
    assert plan_cache(adapter, 1000, 9.0, False).reason == "switched off"
    with Aligner(base, 1, 0).attached():
        assert "another adapter" in plan_cache(adapter, 1000, 9.0, "auto").reason
    with base.hooks(fwd_hooks=[("blocks.1.hook_out", lambda tensor, hook: None)]):
        assert "hooked to blocks.1.hook_out" in plan_cache(adapter, 1000, 9.0, "auto").reason
    with base.hooks(fwd_hooks=[("blocks.2.hook_in", lambda tensor, hook: None)]):
        assert plan_cache(adapter, 1000, 9.0, "auto").kept
    assert plan_cache(adapter, 1000, 9.0, "auto").kept


def test_a_disk_without_room_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    base = model()
    adapter = Aligner(base, 1, START)
    monkeypatch.setattr(lower_layers, "free_bytes", lambda place: 1000 * 48 * 4)
    assert plan_cache(adapter, 1000, 9.0, "auto", folder=tmp_path).kept
    assert "bytes, and out has 192,000 left" in plan_cache(adapter, 1001, 9.0, "auto", folder=Path("out")).reason
    assert plan_cache(adapter, 1001, 9.0, "auto").kept  # a file that may be there already
    monkeypatch.setattr(lower_layers, "free_bytes", lambda place: 0)
    run = fit(base, adapter, task(), recipe=quick(), out=tmp_path / "out", show_progress=False)
    assert "out has 0 left" in run.lower_layers
    monkeypatch.setattr(lower_layers, "free_bytes", lambda place: 2**40)
    again = fit(base, adapter, task(), recipe=quick(), out=tmp_path / "out", resume=True, show_progress=False)
    assert again.lower_layers == "switched off"  # as it was begun
    monkeypatch.setattr(lower_layers, "free_bytes", lambda place: 0)
    with pytest.raises(AlignerProbeError, match=r"has 0 left; .* or make room"):
        fit(base, adapter, task(), recipe=quick(), out=tmp_path / "on", cache=True, show_progress=False)
    assert not (tmp_path / "on").exists()


def test_a_file_is_shared_by_runs_and_never_taken_for_another(tmp_path, monkeypatch):
    base, rows = model(), sequences()
    computed = []
    compute = LowerLayers._compute
    monkeypatch.setattr(LowerLayers, "_compute", lambda self, *a: computed.append(self.key) or compute(self, *a))

    def made(base=base, rows=rows, layer=START):
        return LowerLayers(base, rows, layer, tmp_path)

    first = made()
    assert [p.name for p in tmp_path.iterdir()] == [first.key + SUFFIX]
    assert torch.equal(made().residual([3, 1]), first.residual([3, 1]))
    assert len(computed) == 1
    other = model()
    with torch.no_grad():
        other.blocks[0].mlp.gate.weight[0, 0] += 1
    keys = {first.key, made(layer=1).key, made(rows=sequences(19)).key, made(base=other).key}
    assert len(keys) == len(computed) == 4
    # Cut short, or another file under this name: computed anew.
    path = tmp_path / (first.key + SUFFIX)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + b"x"):
        path.write_bytes(damaged)
        assert torch.equal(made().residual([0]), first.residual([0]))
        assert path.read_bytes() == whole


def test_nothing_is_left_behind(tmp_path):
    base = model()
    out = tmp_path / "run"
    run = fit(base, Aligner(base, 1, START), task(), recipe=quick(), out=out, show_progress=False)
    assert "computed once" in run.lower_layers
    assert sorted(p.name for p in out.iterdir()) == ["lock", "metrics.jsonl", "state.pt"]
    with pytest.raises(AlignerProbeError, match="begun with execution"):
        fit(base, Aligner(base, 1, START), task(), recipe=quick(), out=out, resume=True, cache=False)


def test_padding_and_gathering():
    rows = sequences(6, "preference")
    batch = rows.batch([2, 0])
    lengths = [int(rows.lengths[i]) for i in (2, 0)]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    for row, (index, length) in enumerate(zip((2, 0), lengths, strict=True)):
        begin = int(rows.offsets[index])
        assert torch.equal(batch["input_ids"][row, :length], rows.ids[begin : begin + length])
        assert (batch["labels"][row, length:] == -100).all()
        assert int((batch["labels"][row, 1:] != -100).sum()) == int(rows.labelled[index])
    packed = torch.arange(2.0 * len(rows.ids)).view(-1, 2)
    assert torch.equal(rows.gather(packed, [2, 0])[batch["attention_mask"].bool()][0], packed[rows.offsets[2]])
    assert (rows.gather(packed, [2, 0])[~batch["attention_mask"].bool()] == 0).all()
