"""Adapters against independent references: plain einsums, PEFT, and each other."""

import pytest
import torch
from reference import REFERENCES
from tiny import MODELS, bridge, frozen, plain, tokens
from tiny_adapters import loss_of, opened

from aligner_probe.adapters.lora import LoRA
from aligner_probe.adapters.output_bias import OutputBias
from aligner_probe.adapters.prefix import Aligner, LLaMAAdapter
from aligner_probe.adapters.prefix_tuning import PrefixTuning
from aligner_probe.hooks import project


def prefix_adapter(model, method, n_tokens, **options):
    cls = Aligner if method == "aligner" else LLaMAAdapter
    return opened(cls(model, n_tokens, start_layer=1, **options))


@pytest.mark.parametrize("n_tokens", [1, 5])
@pytest.mark.parametrize("method", ["aligner", "llama_adapter"])
@pytest.mark.parametrize("family", REFERENCES)
@pytest.mark.parametrize("gate_function", ["linear", "tanh"])
def test_logits_and_gradients_against_plain_einsums(family, method, n_tokens, gate_function):
    ids = tokens()
    adapter = prefix_adapter(frozen(family), method, n_tokens, gate_function=gate_function)
    with adapter.attached():
        logits = adapter.model(ids)
        loss_of(logits, ids).backward()
    # the reference in float64, so that all of the difference is ours
    prefix, gates = (p.detach().double().requires_grad_() for p in (adapter.prefix, adapter.gates))
    effective = torch.tanh(gates) if gate_function == "tanh" else gates
    expected = REFERENCES[family](plain(family, torch.float64), ids, prefix, effective, 1)
    loss_of(expected, ids).backward()
    assert (logits.double() - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)
    for ours, theirs in ((adapter.prefix.grad, prefix.grad), (adapter.gates.grad, gates.grad)):
        assert (ours.double() - theirs).abs().max() <= 1e-5 * max(1.0, theirs.abs().max())
    if n_tokens > 1:
        assert adapter.prefix.grad.abs().max() > 1e-6


@pytest.mark.parametrize("family", MODELS)
def test_zero_gates_are_the_base_to_the_bit(family):
    model, ids = frozen(family), tokens()
    base = model(ids)
    for adapter in (Aligner(model, 3, 1), Aligner(model, 1, 1), LLaMAAdapter(model, 2, 0), LoRA(model)):
        with adapter.attached():
            assert torch.equal(model(ids), base)


@pytest.mark.parametrize("family", MODELS)
def test_one_token_is_an_output_bias(family):
    """W_O concat_h(beta_h W_V^h p) at every position."""
    model, ids = frozen(family), tokens()
    adapter = opened(Aligner(model, 1, 1))
    bias = OutputBias(model, start_layer=1)
    with torch.no_grad():
        for i, layer in enumerate(adapter.layers):
            values = project(model, layer, "v", adapter.prefix[0])[0] * adapter.gates[i][:, None]
            o = model.blocks[layer].attn.o.original_component
            weight = o.weight.T if type(o).__name__ == "Conv1D" else o.weight
            bias.bias[i] = weight @ values.flatten()
    with adapter.attached():
        ours = model(ids)
    with bias.attached():
        assert (model(ids) - ours).abs().max() < 1e-5 * max(1.0, ours.abs().max())


@pytest.mark.parametrize("family", ["llama", "llama_gqa"])
def test_against_peft_adaption_prompt(family):
    peft = pytest.importorskip("peft")
    ids, model = tokens(), frozen(family)
    adapter = opened(LLaMAAdapter(model, 3, start_layer=1, gate_per="layer"))
    config = peft.AdaptionPromptConfig(
        adapter_len=3, adapter_layers=3, task_type="CAUSAL_LM", target_modules="self_attn"
    )
    theirs = peft.get_peft_model(plain(family), config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "adaption_" in name:
                layer = int(name.split("layers.")[1].split(".")[0]) - 1
                parameter.copy_(adapter.gates[layer] if "gate" in name else adapter.prefix[layer][None])
    with adapter.attached():
        ours = model(ids)
    assert (ours - theirs(ids).logits).abs().max() < 1e-5 * ours.abs().max()
    assert (ours - model(ids)).abs().max() > 0.01


ATTENTION = ("q", "k", "v", "o")
SEPARATE = [name for name in MODELS if name not in ("gpt2", "neox", "phi3")]
#: What Hugging Face calls the projections of an MLP without a gate.
NAMED = {"gpt2": {"up": "mlp.c_fc", "down": "mlp.c_proj"}, "neox": {"up": "dense_h_to_4h", "down": "dense_4h_to_h"}}
#: Gemma's norms make scores large. In float32 PEFT itself is 1e-5 from its own numbers in float64.
NEAR = {"gemma": 5e-5, "gemma2": 5e-5}


def peft_twin(family, adapter, targets, dtype=torch.float32):
    """PEFT's LoRA on the plain model with the adapter's numbers, and all pairs of parameters, ours and theirs."""
    peft = pytest.importorskip("peft")
    modules = {target: NAMED.get(family, {}).get(target, f"{target}_proj") for target in adapter.config.targets}
    theirs = peft.get_peft_model(
        plain(family, dtype),
        peft.LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=targets if targets == "all-linear" else list(modules.values()),
            task_type="CAUSAL_LM",
            fan_in_fan_out=family == "gpt2",
        ),
        autocast_adapter_dtype=False,
    )
    pairs = []
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            layer = next(part for part in name.split(".") if part.isdigit())
            (target,) = (target for target, module in modules.items() if f"{module}.lora_" in name)
            pairs.append(((adapter.A if "lora_A" in name else adapter.B)[f"{layer}_{target}"], parameter))
    # Each of our parameters has one of theirs, and they have no others.
    assert sorted(id(ours) for ours, _ in pairs) == sorted(id(parameter) for parameter in adapter.parameters())
    with torch.no_grad():
        for ours, parameter in pairs:
            parameter.copy_(ours)
    return theirs, pairs


def compare_with_peft(adapter, family, targets, near, dtype=torch.float32):
    """Logits, and the gradient of every A and B."""
    ids, model = tokens(), adapter.model
    theirs, pairs = peft_twin(family, adapter, targets, dtype)
    with adapter.attached():
        ours = model(ids)
        loss_of(ours, ids).backward()
    expected = theirs(ids).logits
    loss_of(expected, ids).backward()
    assert (ours - expected).abs().max() < min(near, 1e-5) * expected.abs().max()
    assert (ours - model(ids)).abs().max() > 0.01
    for mine, parameter in pairs:
        assert (mine.grad - parameter.grad).abs().max() < near * max(1.0, parameter.grad.abs().max())


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("llama_gqa", ("q", "v")),
        ("llama_gqa", ATTENTION),
        ("llama_gqa", ("down",)),
        ("llama_gqa", ("up", "gate")),
        ("llama_gqa", ("up", "v")),
        *((family, "all-linear") for family in SEPARATE),
        ("gpt2", ("up", "down")),
        ("neox", ("down", "up")),
        ("phi3", ("o", "down")),
    ],
)
def test_against_peft_lora(family, targets, fast):
    adapter = opened(LoRA(frozen(family, fast=fast), r=4, alpha=6, targets=targets), size=0.2)
    compare_with_peft(adapter, family, targets, NEAR.get(family, 1e-5))


@pytest.mark.parametrize("family", ["llama_gqa", "gemma", "qwen3"])
def test_against_peft_lora_in_float64(family):
    """There, all that is left is the rounding of float64."""
    model = bridge(family, torch.float64)
    adapter = opened(LoRA(model, r=4, alpha=6, targets="all-linear", dtype=torch.float64), size=0.2)
    compare_with_peft(adapter, family, "all-linear", 1e-12, torch.float64)


@pytest.mark.parametrize("fast", [True, False])
def test_lora_on_the_halves_of_a_fused_projection_is_the_weights_with_b_a_added(fast):
    """Phi-3 has one projection for gate and up, and one for query, key and value: PEFT would give each one A."""
    ids = tokens()
    adapter = opened(LoRA(frozen("phi3", fast=fast), r=4, alpha=6, targets="all-linear"), size=0.2)
    merged = plain("phi3")
    with torch.no_grad():
        for layer, block in enumerate(merged.model.layers):
            added = {t: 1.5 * adapter.B[f"{layer}_{t}"] @ adapter.A[f"{layer}_{t}"] for t in adapter.config.targets}
            block.self_attn.qkv_proj.weight += torch.cat([added[t] for t in "qkv"])
            block.self_attn.o_proj.weight += added["o"]
            block.mlp.gate_up_proj.weight += torch.cat([added["gate"], added["up"]])
            block.mlp.down_proj.weight += added["down"]
    with adapter.attached():
        ours = adapter.model(ids)
    expected = merged(ids).logits
    assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (ours - adapter.model(ids)).abs().max() > 0.01


@pytest.mark.parametrize("family", ["llama_gqa", "gpt2", "neox", "gemma2"])
def test_prefix_tuning_is_one_softmax_over_both(family):
    """Against the definition: the prefix's keys stand beside the layer's own before one softmax."""
    model, ids = frozen(family), tokens()
    adapter = opened(PrefixTuning(model, 3))
    seen = {}
    layer = 0  # the first layer's inputs are the base's
    names = (*adapter.family.query_hooks, "hook_attn_scores", "hook_v", "hook_z")

    def keep(tensor, hook, name):
        seen[name] = tensor.detach().clone()

    hooks = [(f"blocks.{layer}.attn.{n}", lambda t, hook, n=n: keep(t, hook, n)) for n in names]
    model.run_with_hooks(ids, fwd_hooks=hooks)
    with adapter.attached():
        adapted = {}
        model.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", lambda t, hook: adapted.update(z=t))])
    groups = model.cfg.n_heads // adapter.shape.n_kv_heads
    k, v = (t[layer].repeat_interleave(groups, dim=1) for t in (adapter.keys, adapter.values))
    from aligner_probe.hooks import score_scale

    scores = torch.einsum("bphd,nhd->bhpn", adapter.family.final_query(seen), k) * score_scale(model, layer)
    if family == "gemma2":
        scores = 50 * torch.tanh(scores / 50)
    both = torch.cat([scores, seen["hook_attn_scores"]], dim=-1).softmax(-1)
    own = seen["hook_v"].repeat_interleave(groups, dim=2)
    expected = torch.einsum("bhpn,nhd->bphd", both[..., :3], v) + torch.einsum("bhps,bshd->bphd", both[..., 3:], own)
    assert (adapted["z"] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["llama_gqa", "gpt2", "neox"])
def test_two_adapters_add(family):
    model, ids = frozen(family), tokens()
    first, second, both = (OutputBias(model, start_layer=1) for _ in range(3))
    opened(first, 1), opened(second, 2)
    with torch.no_grad():
        both.bias.copy_(first.bias + second.bias)
    with first.attached(), second.attached():
        stacked = model(ids)
    with both.attached():
        assert (model(ids) - stacked).abs().max() < 1e-5 * max(1.0, stacked.abs().max())
    # prefix adapters too: two halves of the gate are one whole
    whole, half, other = (prefix_adapter(model, "aligner", 4) for _ in range(3))
    with torch.no_grad():
        half.gates.mul_(0.25)
        other.gates.mul_(0.75)
    with whole.attached():
        expected = model(ids)
    with half.attached(), other.attached():
        assert (model(ids) - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max())


def test_bfloat16_base_with_float32_adapter():
    model, ids = bridge("llama_gqa", torch.bfloat16), tokens()
    adapter = prefix_adapter(model, "aligner", 4)
    with adapter.attached():
        logits = model(ids)
        loss_of(logits.float(), ids).backward()
    assert logits.dtype == torch.bfloat16
    assert adapter.prefix.grad.dtype == torch.float32
    expected = REFERENCES["llama_gqa"](
        plain("llama_gqa", torch.bfloat16).double(),
        ids,
        adapter.prefix.detach().double(),
        adapter.gates.detach().double(),
        1,
    )
    assert (logits.double() - expected).abs().max() < 0.05 * expected.abs().max()
