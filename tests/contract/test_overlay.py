"""The fast overlay against TransformerLens's own attention, plain Hugging Face and plain einsums."""

import pytest
import torch
from overlays import ADAPTERS, EACH, FAST, SLOW, assert_close, pair, refuse_written_out, shared_pair
from reference import llama
from tiny import frozen, plain, tokens
from tiny_adapters import loss_of, opened
from transformer_lens.model_bridge.generalized_components import PositionEmbeddingsAttentionBridge

from aligner_probe import capped
from aligner_probe.adapters.prefix import Aligner, LLaMAAdapter
from aligner_probe.adapters.prefix_tuning import PrefixTuning
from aligner_probe.attention import FastAttention, FastJointAttention
from aligner_probe.lean import LeanRMSNorm, LeanUnembedding
from aligner_probe.models import load_model

FAST_PARTS = (FastAttention, FastJointAttention, LeanRMSNorm, LeanUnembedding)


@pytest.mark.parametrize("family", FAST)
def test_is_put_in_everywhere_and_left_out_on_request(family):
    fast, own = pair(family)
    for block in fast.blocks:
        assert isinstance(block.attn, FastJointAttention if family == "phi3" else FastAttention)
        assert block.attn._plain
        norms = [module for name, module in block.submodules.items() if name.startswith("ln")]
        assert len(norms) in (2, 4)
        assert all(type(norm) is LeanRMSNorm for norm in norms)
    assert type(fast.ln_final) is LeanRMSNorm
    assert type(fast.unembed) is LeanUnembedding
    assert set(fast.hook_dict) == set(own.hook_dict)
    assert set(fast.original_model.state_dict()) == set(own.original_model.state_dict())
    assert not any(isinstance(module, FAST_PARTS) for module in own.modules())


@pytest.mark.parametrize("family", SLOW)
def test_other_families_keep_transformer_lens_own(family):
    fast, own = pair(family)
    assert not any(isinstance(module, FAST_PARTS) for module in fast.modules())
    assert torch.equal(fast(tokens()), own(tokens()))


#: How far parameters are drawn. With all projections .2 away, Phi-3's gradients in float32 are 1e-3 from those in
#: float64.
FAR = {"lora": 0.2, "lora all linear": 0.1}


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("family", EACH)
def test_logits_and_gradients_against_transformer_lens(family, name, monkeypatch):
    fast, own = shared_pair(family)
    ids, results = tokens(), []
    for model in (own, fast):
        adapter = opened(ADAPTERS[name](model), size=FAR.get(name, 0.7))
        if model is fast:
            refuse_written_out(monkeypatch)
        with adapter.attached():
            logits = model(ids)
            loss_of(logits, ids).backward()
        results.append((logits, *(parameter.grad for parameter in adapter.parameters())))
    assert_close(results[1][0], results[0][0])
    for expected, found in zip(*results, strict=True):
        # Gemma's norms (1 + weight) make scores large here, and TransformerLens's softmax is in float32 whatever the
        # precision: in float64 the two are as far apart. Gradients of LoRA sum over all positions, in another order on
        # each processor: without vector instructions (ATEN_CPU_CAPABILITY=default) 2e-5 was too little for them.
        assert_close(found, expected, 1e-4 if name in FAR else 5e-5 if family == "gemma" else 2e-5)


@pytest.mark.parametrize("family", EACH)
def test_base_is_plain_hugging_face(family):
    """To the bit where both call the same kernels on the same layout.

    In Gemma 2 the capped scores are computed in parts, in Phi-3 a fused projection is split, and in Qwen3 norms are
    computed after queries and keys are transposed.
    """
    base, ids, model = plain(family), tokens(2, 17), frozen(family)
    implementation = "eager" if family == "gemma2" else "sdpa"
    assert base.config._attn_implementation == model.original_model.config._attn_implementation == implementation
    found, expected = model(ids), base(ids).logits
    assert_close(found, expected)
    if family not in ("gemma2", "phi3", "qwen3"):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("family", EACH)
def test_gradients_against_plain_hugging_face(family):
    """One token adds a vector to the input of o_proj, which needs no bridge."""
    model, base, ids = load_model(plain(family)), plain(family).requires_grad_(False), tokens()
    adapter = opened(Aligner(model, 1, 1))
    leaves = {layer: adapter.gated_values(layer)[0].flatten().detach().requires_grad_() for layer in adapter.layers}
    for layer, leaf in leaves.items():
        base.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(
            lambda module, inputs, leaf=leaf: (inputs[0] + leaf,)
        )
    expected = base(ids).logits
    loss_of(expected, ids).backward()
    with adapter.attached():
        logits = model(ids)
        loss_of(logits, ids).backward()
    assert_close(logits, expected)
    # the chain rule from the leaves back to the tokens and gates
    values = torch.stack([adapter.gated_values(layer)[0].flatten() for layer in leaves])
    grads = torch.autograd.grad(
        values, list(adapter.parameters()), torch.stack([leaf.grad for leaf in leaves.values()]), allow_unused=True
    )
    for parameter, grad in zip(adapter.parameters(), grads, strict=True):
        assert_close(parameter.grad, grad)


@pytest.mark.parametrize("method", [Aligner, LLaMAAdapter])
@pytest.mark.parametrize("n_tokens", [1, 5])
@pytest.mark.parametrize("family", ["llama", "llama_gqa"])
def test_float64_against_plain_einsums(family, n_tokens, method, monkeypatch):
    """To 1e-10, which TransformerLens's own softmax in float32 does not allow.

    Hugging Face's norm casts to float32 whatever the model's precision, and so does its table of angles; both are
    written here without the cast, on the model's side. Nothing of ours is changed.
    """
    from transformers.models.llama import modeling_llama

    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def angles(self, x, position_ids):
        width = self.config.hidden_size // self.config.num_attention_heads
        frequencies = 10_000.0 ** (-torch.arange(0, width, 2, dtype=x.dtype) / width)
        angle = position_ids[..., None].to(x.dtype) * torch.cat([frequencies, frequencies])
        return angle.cos(), angle.sin()

    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(modeling_llama.LlamaRotaryEmbedding, "forward", angles)
    ids, base = tokens(), plain(family, torch.float64)
    model = load_model(plain(family, torch.float64))
    adapter = opened(method(model, n_tokens, start_layer=1, dtype=torch.float64))
    with adapter.attached():
        logits = model(ids)
        loss_of(logits, ids).backward()
    prefix, gates = (p.detach().clone().requires_grad_() for p in (adapter.prefix, adapter.gates))
    expected = llama(base, ids, prefix, gates, 1)
    loss_of(expected, ids).backward()
    assert logits.dtype == torch.float64
    assert_close(logits, expected, 1e-10)
    assert_close(adapter.prefix.grad, prefix.grad, 1e-10)
    assert_close(adapter.gates.grad, gates.grad, 1e-10)


@pytest.mark.parametrize("family", EACH)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_left_padding(family, attention, monkeypatch):
    """Masks in both of Hugging Face's forms, bool and additive; padding positions too are TransformerLens's own."""
    models = pair(family)
    ids, pad = tokens(2, 6), 3
    padded = torch.cat([torch.zeros(2, pad, dtype=torch.long), ids], dim=1)
    padded[1, 1:pad] = 7  # the second row is padded less
    mask = (torch.arange(padded.shape[1]) >= torch.tensor([[pad], [1]])).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    for model in models:
        model.original_model.config._attn_implementation = attention
    fast, own = models
    with torch.no_grad():
        alone = fast(ids[:1])
        expected = own(padded, attention_mask=mask, position_ids=positions)
        refuse_written_out(monkeypatch)
        found = fast(padded, attention_mask=mask, position_ids=positions)
    assert_close(found, expected)
    assert_close(found[:1, pad:], alone)


def test_padded_gradients_and_one_mask_for_all_layers(monkeypatch):
    fast, own = pair("llama_gqa")
    ids = tokens(2, 8)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    made, real = [], FastAttention._apply_reconstruct_attention_mask
    results = []
    for model in (own, fast):
        adapter = opened(Aligner(model, 3, 1))
        if model is fast:
            monkeypatch.setattr(
                FastAttention,
                "_apply_reconstruct_attention_mask",
                lambda self, *args: made.append(1) or real(self, *args),
            )
        with adapter.attached():
            loss_of(model(ids, attention_mask=mask)[:, 3:], ids[:, 3:]).backward()
        results.append([parameter.grad for parameter in adapter.parameters()])
    for expected, found in zip(*results, strict=True):
        assert_close(found, expected)
    assert len(made) == 1


@pytest.mark.parametrize("form", ["bool", "additive"])
def test_masks_of_ones_own(form):
    """Any four-dimensional mask is taken at its word, also when it was edited since the last call."""
    fast, own = pair("llama_gqa")
    ids = tokens(2, 8)
    seen = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.4
    seen[:, :, 3] = False  # a row that sees nothing
    mask = seen if form == "bool" else torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    with torch.no_grad():
        first = fast(ids, attention_mask=mask)
        assert_close(first, own(ids, attention_mask=mask))
        mask[:, :, :, 2] = mask[:, :, :, 1]
        again = fast(ids, attention_mask=mask)
        assert_close(again, own(ids, attention_mask=mask))
    assert (again - first).abs().max() > 1e-3


@pytest.mark.parametrize("family", EACH)
@pytest.mark.parametrize("name", ["aligner-5", "lora"])
def test_cached_generation_is_uncached(family, name):
    fast, own = shared_pair(family)
    ids = tokens(2, 5)
    options = {"max_new_tokens": 8, "do_sample": False, "verbose": False, "stop_at_eos": False}
    results = []
    for model in (own, fast):
        adapter = opened(ADAPTERS[name](model), size=0.2)
        with torch.no_grad(), adapter.attached():
            results += [model.generate(ids, use_past_kv_cache=cached, **options) for cached in (True, False)]
    assert all(torch.equal(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("family", EACH)
def test_a_chunk_of_queries_behind_a_cache(family):
    model, ids = load_model(plain(family)), tokens(2, 9)
    with torch.no_grad():
        whole = model(ids)
        first = model.original_model(ids[:, :4], use_cache=True)
        rest = model.original_model(ids[:, 4:], past_key_values=first.past_key_values, use_cache=True)
    assert_close(torch.cat([first.logits, rest.logits], dim=1), whole)


@pytest.mark.parametrize("pad", [0, 3])
def test_gemma_2_in_blocks_of_queries(pad, monkeypatch):
    """With a window of four positions, so that most blocks leave keys out; padding positions see none."""
    monkeypatch.setattr(capped, "QUERIES_AT_ONCE", 5)
    fast, own = shared_pair("gemma2_window")
    ids, results = tokens(2, 14), []
    mask = torch.ones_like(ids)
    mask[0, :pad] = 0
    for model in (own, fast):
        adapter = opened(Aligner(model, 3, 1))
        with adapter.attached():
            logits = model(ids, attention_mask=mask)
            loss_of(logits[:, 3:], ids[:, 3:]).backward()
        results.append((logits, adapter.prefix.grad, adapter.gates.grad))
    for expected, found in zip(*results, strict=True):
        assert_close(found, expected)


def test_sliding_window():
    """The window comes in the mask."""
    ids = tokens(2, 12)
    fast, own = pair("mistral")
    with torch.no_grad():
        unbounded = own(ids)
        for model in (fast, own):
            model.original_model.config.sliding_window = 4
        assert_close(fast(ids), own(ids))
    assert (fast(ids) - unbounded).abs().max() > 1e-3


@pytest.mark.parametrize("family", EACH)
def test_bfloat16(family):
    """No further from the same numbers in float64 than Hugging Face's own bfloat16."""
    model, base, ids = load_model(plain(family, torch.bfloat16)), plain(family, torch.bfloat16), tokens()
    logits = model(ids)
    assert logits.dtype == torch.bfloat16
    exact = plain(family, torch.bfloat16).double()(ids).logits
    theirs = base(ids).logits
    assert (logits - exact).abs().max() <= 1.01 * (theirs - exact).abs().max()
    adapter = opened(Aligner(model, 4, 1))
    with adapter.attached():
        loss_of(model(ids).float(), ids).backward()
    assert adapter.prefix.grad.dtype == torch.float32
    assert adapter.prefix.grad.isfinite().all()


@pytest.mark.parametrize("switch", ["use_attn_result", "use_split_qkv_input", "use_attn_in"])
def test_switches_go_to_transformer_lens_own(switch):
    fast, own = pair("llama_gqa")
    ids = tokens()
    for model in (fast, own):
        getattr(model, f"set_{switch}")(True)
    (logits, found), (_, expected) = fast.run_with_cache(ids), own.run_with_cache(ids)
    assert set(found) == set(expected)
    assert_close(logits, own(ids))
    assert_close(fast(ids), own(ids))
    place = {"use_attn_result": "hook_result", "use_split_qkv_input": "hook_q_input", "use_attn_in": "hook_attn_in"}
    name = f"blocks.1.attn.{place[switch]}"
    assert_close(found[name], expected[name])


def test_compatibility_mode_and_dropout_go_to_transformer_lens_own(monkeypatch):
    calls, real = [], PositionEmbeddingsAttentionBridge.forward

    def counted(self, *args, **kwargs):
        calls.append(self.name)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(PositionEmbeddingsAttentionBridge, "forward", counted)
    model, ids = load_model(plain("llama_gqa")), tokens()
    base = model(ids)
    assert not calls
    for block in model.blocks:
        block.attn.original_component.attention_dropout = 0.5
    model(ids)
    assert not calls  # no dropout outside training
    model.train()
    dropped = model(ids)
    assert len(calls) == 4
    assert not torch.equal(dropped, base)
    model.eval()
    model.enable_compatibility_mode(no_processing=True)
    assert_close(model(ids), base)
    assert len(calls) == 8


@pytest.mark.parametrize(
    "extra",
    [{"key_multiplier": 2.0}, {"sinks": torch.zeros(4)}, {"q_norm": torch.nn.Identity()}],
    ids=lambda extra: next(iter(extra)),
)
def test_what_is_not_plain_is_seen(extra):
    attention = load_model(plain("llama_gqa")).blocks[0].attn
    assert attention._is_plain(attention.original_component)
    for name, value in extra.items():
        setattr(attention.original_component, name, value)
    assert not attention._is_plain(attention.original_component)


@pytest.mark.parametrize("family", EACH)
def test_prefix_tuning_reads_scores(family):
    fast, own = shared_pair(family)
    ids, results = tokens(), []
    for model in (own, fast):
        adapter = opened(PrefixTuning(model, 3))
        with adapter.attached():
            logits = model(ids)
            loss_of(logits, ids).backward()
        results.append((logits, adapter.keys.grad, adapter.values.grad))
    for expected, found in zip(*results, strict=True):
        assert_close(found, expected)


def test_output_attentions():
    """Each layer returns its pattern when asked, and not one bit of the logits changes."""
    patterns, logits = [], []
    for model in (*pair("llama_gqa"), load_model(plain("llama_gqa"))):
        model.blocks[2].attn.register_forward_hook(lambda module, inputs, output: patterns.append(output[1]))
        logits.append(model.original_model(tokens(), output_attentions=len(patterns) < 2).logits)
    assert_close(patterns[0], patterns[1])
    assert patterns[2] is None
    assert torch.equal(logits[0], logits[2])
