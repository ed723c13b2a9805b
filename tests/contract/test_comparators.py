"""Houlsby adapters, LLaMA-Adapter V2 and reparametrised prefix tuning against plain Hugging Face models and PEFT."""

import pytest
import torch
from learning import Stops, model, quick, task
from tiny import MODELS, frozen, plain, tokens
from tiny_adapters import VARIANTS, shaken
from torch import nn

import aligner_probe as ap
from aligner_probe.adapters import Houlsby, LLaMAAdapter, LLaMAAdapterV2, PrefixTuning
from aligner_probe.errors import AlignerProbeError
from aligner_probe.training.rates import default_rate

#: By family: the list of layers in the Hugging Face model, attention and MLP in a layer, and the last norm.
GPT2, NEOX = (
    ("transformer.h", "attn", "transformer.ln_f"),
    ("gpt_neox.layers", "attention", "gpt_neox.final_layer_norm"),
)
LAYOUTS = {"gpt2": GPT2, "neox": NEOX}
LLAMA = ("model.layers", "self_attn", "model.norm")
#: By layout: Hugging Face's names of the norms in a layer, by TransformerLens's.
WITH_POST = {
    "ln1": "input_layernorm",
    "ln1_post": "post_attention_layernorm",
    "ln2": "pre_feedforward_layernorm",
    "ln2_post": "post_feedforward_layernorm",
}
OF_HEADS = {"attn.q_norm": "self_attn.q_norm", "attn.k_norm": "self_attn.k_norm"}
TWO = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"}
NORMS = {
    "gpt2": {"ln1": "ln_1", "ln2": "ln_2"},
    "qwen3": TWO | OF_HEADS,
    "gemma2": WITH_POST,
    "gemma3": WITH_POST | OF_HEADS,
    "olmo2": {"ln1_post": "post_attention_layernorm", "ln2_post": "post_feedforward_layernorm"} | OF_HEADS,
}
#: Hugging Face's names of the linear layers, each with the parts that its output consists of, by LoRA's names.
LINEARS = {
    "gpt2": {"attn.c_attn": "qkv", "attn.c_proj": "o", "mlp.c_fc": ["up"], "mlp.c_proj": ["down"]},
    "neox": {
        "attention.query_key_value": "qkv",
        "attention.dense": "o",
        "mlp.dense_h_to_4h": ["up"],
        "mlp.dense_4h_to_h": ["down"],
    },
    "phi3": {
        "self_attn.qkv_proj": "qkv",
        "self_attn.o_proj": "o",
        "mlp.gate_up_proj": ["gate", "up"],
        "mlp.down_proj": ["down"],
    },
}
SEPARATE = {f"self_attn.{name}_proj": [name] for name in "qkvo"} | {
    f"mlp.{name}_proj": [name] for name in ("gate", "up", "down")
}
POINTS = {
    **{name: f"attn_hook_{name}" for name in "qkv"},
    "o": "attn_hook_out",
    "gate": "mlp_gate_hook_out",
    "up": "mlp_in_hook_out",
    "down": "mlp_out_hook_out",
}


def output_of(result):
    return result[0] if isinstance(result, tuple) else result


def hooked(module, function):
    """Let `function` change what a plain module gives."""

    def hook(_, inputs, result):
        changed = function(output_of(result))
        return (changed, *result[1:]) if isinstance(result, tuple) else changed

    module.register_forward_hook(hook)


def with_residual(network):
    return lambda x: x + network(x)


def compare(adapter, base):
    ids = tokens()
    with torch.no_grad(), adapter.attached():
        found = adapter.model(ids)
    with torch.no_grad():
        expected = base(ids).logits
        assert (expected - adapter.model(ids)).abs().max() > 1e-2
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("family", MODELS)
def test_houlsby_is_a_network_behind_attention_and_mlp_of_the_plain_model(family):
    adapter = shaken(Houlsby(frozen(family), 5, start_layer=1, seed=2))
    base = plain(family)
    layers, attention, _ = LAYOUTS.get(family, LLAMA)
    for index, layer in enumerate(base.get_submodule(layers)):
        for part, name in (("attn", attention), ("mlp", "mlp")) if index >= 1 else ():
            own = adapter.networks[f"{index}_{part}"]
            down, up = nn.Linear(48, 5), nn.Linear(5, 48)
            down.weight, down.bias, up.weight, up.bias = own.down, own.down_bias, own.up, own.up_bias
            hooked(layer.get_submodule(name), with_residual(nn.Sequential(down, nn.GELU(), up)))
    compare(adapter, base)


def test_houlsby_starts_as_the_base_model_and_near_zero():
    adapter = Houlsby(frozen("llama_gqa"), 64, seed=1)
    weights = torch.cat([p.flatten() for n, p in adapter.named_parameters() if not n.endswith("bias")])
    assert weights.abs().max() <= 2e-3
    assert 0.8e-3 < weights.std() < 0.95e-3  # a normal distribution cut off at two deviations: .88 of its own
    assert not any(p.any() for n, p in adapter.named_parameters() if n.endswith("bias"))
    ids = tokens()
    with torch.no_grad(), adapter.attached():
        found = adapter.model(ids)
    assert (found - adapter.model(ids)).abs().max() < 1e-3


def test_houlsby_has_the_size_of_lora_on_llama_2_7b():
    """By the formula of the class, 4.46 million with eight neurons; LoRA r=8 has 4.19 million."""

    def size(layers, d, m):
        return 2 * layers * (2 * m * d + m + d)

    assert Houlsby(frozen("llama_gqa"), 8).n_parameters == size(4, 48, 8)
    assert size(32, 4096, 8) == 4_456_960


def together(parts, interleaved):
    """Scale and bias of a fused layer from those of its parts; interleaved by head in GPT-NeoX."""
    if not interleaved:
        return [torch.cat(kind) for kind in zip(*parts, strict=True)]
    return [torch.stack([one.view(4, -1) for one in kind], dim=1).flatten() for kind in zip(*parts, strict=True)]


@pytest.mark.parametrize("family", MODELS)
def test_llama_adapter_v2_is_scales_and_biases_in_the_plain_model(family):
    """All linear layers but the unembedding, and all norms, of the adapted layers; every module is hooked by name."""
    adapter = shaken(LLaMAAdapterV2(frozen(family), 0, start_layer=1))
    base, used = plain(family), set()
    layers, _, last = LAYOUTS.get(family, LLAMA)

    def own(name):
        used.add(name)
        affine = adapter.tuned[name]
        return affine.scale, torch.zeros_like(affine.scale) if affine.bias is None else affine.bias

    def tune(module, scale, bias):
        hooked(module, lambda y: scale * (y + bias))

    for index, layer in list(enumerate(base.get_submodule(layers)))[1:]:
        for name, parts in LINEARS.get(family, SEPARATE).items():
            values = [own(f"blocks_{index}_{POINTS[part]}") for part in parts]
            tune(layer.get_submodule(name), *together(values, family == "neox" and parts == "qkv"))
        norms = NORMS.get(family, TWO)
        for ours, name in norms.items():
            tune(layer.get_submodule(name), *own(f"blocks_{index}_{ours.replace('.', '_')}_hook_out"))
        assert sum("Norm" in type(module).__name__ for module in layer.modules()) == len(norms)
    tune(base.get_submodule(last), *own("ln_final_hook_out"))
    assert used == set(adapter.tuned)
    assert any(one.bias is not None for name, one in adapter.tuned.items() if "ln" in name) == (family in LAYOUTS)
    compare(adapter, base)


@pytest.mark.parametrize("n_tokens", [1, 3])
def test_llama_adapter_v2_with_a_prefix_is_llama_adapter_on_a_base_with_other_weights(n_tokens):
    """Scales and biases written into the weights of a Qwen 2, which has biases of queries, keys and values."""
    adapter = shaken(LLaMAAdapterV2(frozen("qwen2"), n_tokens, seed=3, prefix_layer=2))
    base = plain("qwen2")
    with torch.no_grad():
        for index, layer in enumerate(base.model.layers):
            for name, [part] in SEPARATE.items():
                own, linear = adapter.tuned[f"blocks_{index}_{POINTS[part]}"], layer.get_submodule(name)
                linear.weight.mul_(own.scale[:, None])
                if linear.bias is None:
                    own.bias.zero_()
                else:
                    linear.bias.add_(own.bias).mul_(own.scale)
            for ours, name in TWO.items():
                layer.get_submodule(name).weight.mul_(adapter.tuned[f"blocks_{index}_{ours}_hook_out"].scale)
        base.model.norm.weight.mul_(adapter.tuned["ln_final_hook_out"].scale)
    first = LLaMAAdapter(ap.load_model(base), n_tokens, 2)
    first.load_state_dict({"prefix": adapter.prefix.prefix, "gates": adapter.prefix.gates})
    ids = tokens()
    with torch.no_grad():
        without = first.model(ids)
        with adapter.attached(), first.attached():
            found, expected = adapter.model(ids), first.model(ids)
    assert (expected - without).abs().max() > 1e-2
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max().clamp(min=1)


def test_llama_adapter_v2_has_the_size_that_the_authors_script_says():
    """Their script says 4,279,744 on LLaMA 7B, with a scale and a bias for each of 32,000 logits."""

    def size(layers, d, d_kv, d_mlp, heads, n_tokens, with_prefix):
        affine = 2 * layers * (3 * d + 2 * d_kv + 2 * d_mlp) + d * (2 * layers + 1)
        return affine + with_prefix * (n_tokens * d + heads)

    assert LLaMAAdapterV2(frozen("llama_gqa"), 5).n_parameters == size(4, 48, 24, 64, 4, 5, 3)
    assert size(32, 4096, 4096, 11008, 32, 10, 30) + 2 * 32_000 == 4_279_744


def test_llama_adapter_v2_starts_as_the_base_model():
    adapter, ids = LLaMAAdapterV2(frozen("qwen3")), tokens()
    with torch.no_grad(), adapter.attached():
        found = adapter.model(ids)
    assert torch.equal(found, adapter.model(ids))


@pytest.mark.parametrize("family", ["llama_gqa", "gpt2"])
def test_the_network_of_prefix_tuning_is_pefts(family):
    peft = pytest.importorskip("peft")
    adapter = shaken(PrefixTuning(frozen(family), 3, seed=4, reparametrise=10))
    n_heads, shape = adapter.shape.n_kv_heads, adapter.shape
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=10,
        token_dim=n_heads * shape.d_head, num_attention_heads=n_heads, num_layers=shape.n_layers,
    )  # fmt: skip
    with torch.random.fork_rng():
        theirs = peft.PrefixEncoder(config)
    ours = adapter.encoder
    weights = {
        "embedding.weight": ours.embedding,
        "transform.0.weight": ours.W1,
        "transform.0.bias": ours.b1,
        "transform.2.weight": torch.cat(list(ours.W2)),
        "transform.2.bias": torch.cat(list(ours.b2)),
    }
    assert {name: p.shape for name, p in theirs.named_parameters()} == {n: p.shape for n, p in weights.items()}
    theirs.load_state_dict(weights)
    both = theirs(torch.arange(3)).view(3, shape.n_layers, 2, n_heads, shape.d_head)
    folded = adapter.folded()
    assert torch.allclose(folded.keys, both[:, :, 0].transpose(0, 1), atol=1e-5)
    assert torch.allclose(folded.values, both[:, :, 1].transpose(0, 1), atol=1e-5)


def test_reparametrised_prefix_tuning_is_saved_folded(tmp_path):
    """Resumed with the network, saved without it; the start is that of the network, too."""
    base = model()
    adapter = PrefixTuning(base, 2, seed=1, reparametrise=6)
    start = adapter.folded()
    run = ap.fit(base, adapter, task(), recipe=quick(), out=tmp_path / "run", show_progress=False)
    loaded = ap.load_adapter(ap.save_adapter(run, tmp_path / "saved"), base)
    assert loaded.config.reparametrise is None
    assert loaded.n_parameters == start.n_parameters
    assert not torch.equal(loaded.keys, start.keys)
    assert torch.equal(loaded.start["keys"], start.keys)
    assert torch.equal(loaded.start["values"], start.values)
    assert loaded.provenance["options"]["reparametrise"] == 6
    ids = torch.arange(2, 9)[None]
    with torch.no_grad(), loaded.attached():
        found = base(ids)
    with torch.no_grad(), adapter.attached():
        assert torch.allclose(base(ids), found, atol=1e-5)
    assert default_rate(adapter) < default_rate(loaded)


@pytest.mark.parametrize("row", ["houlsby", "llama-adapter v2", "prefix tuning, reparametrised"])
def test_a_training_that_was_broken_off_goes_on_to_the_same_bits(row, tmp_path):
    base = model()
    options = {"recipe": quick(), "save_every": 1, "show_progress": False}
    whole = ap.fit(base, VARIANTS[row](base, 1), task(), **options)
    adapter = VARIANTS[row](base, 1)
    with pytest.raises(KeyboardInterrupt):
        ap.fit(base, adapter, task(), out=tmp_path / "run", callbacks=[Stops(3)], **options)
    resumed = ap.fit(base, VARIANTS[row](base, 1), task(), out=tmp_path / "run", resume=True, **options)
    assert resumed.loss.tolist() == whole.loss.tolist()
    pairs = zip(resumed.adapter.parameters(), whole.adapter.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert whole.loss.iloc[-1] < whole.loss.iloc[0]


@pytest.mark.parametrize("row", ["houlsby", "llama-adapter v2", "prefix tuning, reparametrised"])
@pytest.mark.parametrize("to", ["merged", "steering", "peft", "lit-llama", "native"])
def test_exports_are_refused_in_one_line(row, to, tmp_path):
    with pytest.raises(AlignerProbeError, match=r"cannot be merged or written as vectors|has no prefix that") as error:
        ap.export_adapter(VARIANTS[row](frozen("llama_gqa"), 0), to, tmp_path / "out", model=tmp_path / "nowhere")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_published_recipe_of_prompt_tuning():
    published = ap.recipe("as-published", method="prompt_tuning")
    assert (published.lr, published.batch_size, published.weight_decay) == (0.3, 32, 1e-5)
    assert published.total_steps(100) == 30_000
    assert published.lr_at(1, 100) == 0.3
    assert ap.recipe("as-published", method="prompt_tuning", epochs=2.0).total_steps(64) == 4
