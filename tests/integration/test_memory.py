"""The memory estimate against the allocator's peak and by hand for LLaMA-2 7B; checkpointed layers, the same bits."""

import importlib

import pytest
import torch
from learning import model, quick, task
from peaks import peak_of
from tiny import MODELS
from transformers import LlamaConfig, LlamaForCausalLM

from aligner_probe.adapters import Aligner, Houlsby, LLaMAAdapterV2, LoRA, PrefixTuning
from aligner_probe.errors import AlignerProbeError
from aligner_probe.models import load_model
from aligner_probe.tasks.encoding import IGNORED, Tokens
from aligner_probe.training import fit, recipe
from aligner_probe.training.losses import sft_loss
from aligner_probe.training.memory import BaseSizes, capacity, estimate_memory, memory_of
from aligner_probe.training.objective import Forward
from aligner_probe.training.sequences import Sequences

ROWS, POS = 8, 64
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 200,
    "max_position_embeddings": POS,
}
GPT2 = {"n_embd": 64, "n_layer": 4, "n_head": 4, "vocab_size": 200, "n_positions": POS}
LLAMA2_7B = BaseSizes(
    d_model=4096,
    n_layers=32,
    n_heads=32,
    d_head=128,
    d_mlp=11008,
    d_vocab=32000,
    n_parameters=6_738_415_616,
    itemsize=2,
)


def base_of(name, dtype):
    family, sizes = MODELS[name]
    transformers = importlib.import_module("transformers")
    sizes = GPT2 if family == "GPT2" else sizes | SIZES | {"num_hidden_layers": sizes["num_hidden_layers"]}
    model_class = getattr(transformers, family + ("LMHeadModel" if family == "GPT2" else "ForCausalLM"))
    return load_model(model_class(model_class.config_class(**sizes)).to(dtype).eval())


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        pytest.param("llama_gqa", 0.9, 1.3, marks=pytest.mark.slow),
        pytest.param("neox", 0.7, 1.75, marks=pytest.mark.slow),
        pytest.param("gpt2", 0.7, 1.65, marks=pytest.mark.slow),
        pytest.param("gemma2", 0.8, 1.4, marks=pytest.mark.slow),  # LLaMA-Adapter V2 with checkpoints: 1.33
        *(pytest.param(name, 0.8, 1.3, marks=pytest.mark.slow) for name in ("qwen3", "phi3", "gemma3", "olmo2")),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_the_estimate_against_the_allocator(name, low, high, dtype):
    base = base_of(name, dtype)
    ids = torch.randint(0, 200, (ROWS, POS), generator=torch.Generator().manual_seed(0))
    rows = [Tokens(row, row.clone(), 0) for row in ids]
    for adapter in (
        Aligner(base, 1, 1),
        Aligner(base, 10, 1),
        LoRA(base, 8),
        LoRA(base, 8, targets=("o",)),
        LoRA(base, 8, targets="all-linear"),
        Houlsby(base, 8),
        LLaMAAdapterV2(base, 3),
    ):
        for checkpoint in (False, True):
            forward = Forward(base, Sequences(rows, 0), None, adapter.layers.start if checkpoint else None)

            def step(forward=forward):
                sft_loss(forward(range(ROWS))).backward()

            with adapter.attached():
                measured = peak_of(adapter, step)
            estimated = estimate_memory(adapter, recipe(batch_size=ROWS), POS, checkpoint=checkpoint).activations
            assert low < estimated / measured < high, (adapter, checkpoint)


def test_logits_are_estimated_for_labels_alone():
    """With 40 times as many words as dimensions and four labels in 64 tokens, all logits would be most of it."""
    sizes = MODELS["llama_gqa"][1] | SIZES | {"vocab_size": 2560}
    base = load_model(LlamaForCausalLM(LlamaConfig(**sizes)).eval())
    ids = torch.randint(0, 2560, (ROWS, POS), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, IGNORED)
    labels[:, -4:] = ids[:, -4:]
    rows = [Tokens(row, its, POS - 4) for row, its in zip(ids, labels, strict=True)]
    forward, adapter, how = Forward(base, Sequences(rows, 0)), Aligner(base, 1, 1), recipe(batch_size=ROWS)
    with adapter.attached():
        measured = peak_of(adapter, lambda: sft_loss(forward(range(ROWS))).backward())
    assert 0.9 < estimate_memory(adapter, how, POS, labels=4).activations / measured < 1.3
    assert estimate_memory(adapter, how, POS).activations / measured > 3


def test_a_training_is_planned_with_the_labels_that_it_has(monkeypatch):
    base, seen = model(), []
    real = estimate_memory
    monkeypatch.setattr(
        "aligner_probe.training.inputs.estimate_memory", lambda *a, **k: seen.append(k["labels"]) or real(*a, **k)
    )
    fit(base, Aligner(base, 1, 1), task(), recipe=quick(steps=1, epochs=None), show_progress=False)
    # Words of four to six letters are asked for, and the end token.
    assert seen == [7]


@pytest.mark.parametrize(("name", "at_most"), [("qwen3", 1.15), ("gemma2", 1.6)])
def test_a_step_takes_little_more_memory_than_that_of_a_llama_of_the_same_size(name, at_most):
    """At 4 x 512, where the scores of one layer alone take more than half of the Llama's step.

    Gemma 2 has four norms a layer, and two masks, since plain Hugging Face has no kernel for it.
    """
    ids, peaks = torch.randint(0, 200, (4, 512), generator=torch.Generator().manual_seed(0)), []
    for family in ("llama_gqa", name):
        base = base_of(family, torch.float32)
        adapter = Aligner(base, 1, 1)
        with adapter.attached():
            peaks.append(
                peak_of(adapter, lambda base=base: base(ids, use_cache=False).logsumexp(-1).mean().backward(), 1)
            )
    assert peaks[1] <= at_most * peaks[0]
    assert peaks[0] / 2 < 4 * 4 * 4 * 512**2


def test_llama2_7b_in_bfloat16_trains_on_a_card_of_24_gb():
    aligner = {"n_parameters": 5056, "start_layer": 2}
    fits = memory_of(LLAMA2_7B, rows=4, pos=512, **aligner)
    assert fits.base == 2 * 6_738_415_616
    # 30 layers: two norms' inputs in float32; q, k, v, heads and three of the MLP's in bfloat16; then the logits.
    layer = 2 * 4 * 4096 + 2 * (4 * 4096 + 3 * 11008)
    assert fits.activations == 4 * 512 * (30 * layer + 14 * 32000 + 4 * 4096)
    assert fits.adapter + fits.optimiser == 10 * 4 * 5056
    assert 22e9 < fits.total < 24e9
    fits.check(int(24e9), "a card")
    too_much = memory_of(LLAMA2_7B, rows=16, pos=512, **aligner)
    with pytest.raises(AlignerProbeError, match="--checkpoint-activations"):
        too_much.check(int(24e9), "a card")
    again = memory_of(LLAMA2_7B, rows=16, pos=512, checkpoint=True, **aligner)
    assert again.total < 24e9
    assert str(again).startswith("base 13.5 GB, ")
    # A full fine-tune's numbers alone do not fit, whatever the activations.
    with pytest.raises(AlignerProbeError, match=r"a card has 24\.0 GB"):
        memory_of(LLAMA2_7B, rows=1, pos=8, n_parameters=LLAMA2_7B.n_parameters, itemsize=2).check(int(24e9), "a card")


def test_fit_refuses_what_surely_does_not_fit(monkeypatch, tmp_path):
    base = model()
    adapter = Aligner(base, 1, 1)
    estimate = estimate_memory(adapter, quick(), 14)
    assert capacity(base)[0] > 2**28
    monkeypatch.setattr("aligner_probe.training.planning.capacity", lambda model: (estimate.base, "this toy"))
    with pytest.raises(AlignerProbeError, match="this toy has"):
        fit(base, adapter, task(), recipe=quick(), out=tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "kind"), [("llama_gqa", "sft"), ("gpt2", "preference"), ("neox", "sft")])
def test_checkpointed_layers_train_to_the_same_bits(name, kind):
    for make in (lambda base: Aligner(base, 3, 1), lambda base: LoRA(base, 4), lambda base: PrefixTuning(base, 2)):
        ended = []
        for checkpoint in (False, True):
            base = model(name)
            adapter = make(base)
            fit(
                base,
                adapter,
                task(16, kind),
                recipe=quick(steps=3),
                checkpoint_activations=checkpoint,
                show_progress=False,
            )
            ended.append(torch.cat([p.detach().flatten() for p in adapter.parameters()]))
            assert "forward" not in base.blocks[-1].__dict__
        assert torch.equal(*ended)
