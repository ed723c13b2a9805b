"""Adapters that add a constant: on their hooks, as an output bias, merged into a plain model, as steering vectors."""

import json

import pytest
import torch
from conftest import small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import REFERENCES
from tiny import MODELS, base_folder, frozen, plain, save_tokenizer, tokens
from tiny_adapters import opened

from aligner_probe.adapters import Aligner, Houlsby, LLaMAAdapter, LoRA, OutputBias, PrefixTuning
from aligner_probe.adapters.constant import constant_shifts
from aligner_probe.checkpoints import merged, steering
from aligner_probe.checkpoints.adapters import save_adapter
from aligner_probe.checkpoints.exporting import export_adapter
from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.files import sha256
from aligner_probe.models import load_model

MERGEABLE = [name for name in MODELS if name != "phi3"]
WITHOUT_BIAS_IN_VLLM = ("qwen3", "gemma", "olmo2")
CONSTANT = {
    "tanh gates": lambda model: Aligner(model, 1, 1, gate_function="tanh"),
    "one gate a layer": lambda model: Aligner(model, 1, 0, gate_per="layer"),
    "llama_adapter-1": lambda model: LLaMAAdapter(model, 1, 2),
    "output bias": lambda model: OutputBias(model, start_layer=1),
    "random subspace": lambda model: OutputBias(model, 5, start_layer=1),
}


def loaded(folder, dtype=torch.float32):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()


def shifting(model, shifts):
    """The output bias that adds these vectors."""
    bias = OutputBias(model, start_layer=min(shifts))
    with torch.no_grad():
        bias.bias.copy_(torch.stack(list(shifts.values())))
    return bias


def greedy(model, ids, n=8):
    """Written out, without a cache or a generation loop of anyone's."""
    with torch.no_grad():
        for _ in range(n):
            out = model(ids)
            logits = out if torch.is_tensor(out) else out.logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids


def assert_close(found, expected):
    assert (found - expected).detach().abs().max() < 1e-5 * max(1.0, float(expected.detach().abs().max()))


#: llama_gqa, gemma and qwen2 merge in the same way: the first two without biases, the last one with them.
REPEATS = ("llama", "mistral")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in REPEATS else name for name in MERGEABLE]
)
def test_hook_path_is_output_bias_is_merged_model(name, tmp_path):
    base = base_folder(name, tmp_path)
    model, ids = load_model(base), tokens()
    adapter = opened(Aligner(model, 1, 1))
    untouched = model(ids)
    with adapter.attached():
        expected, went_on = model(ids), greedy(model, ids)
    assert (expected - untouched).abs().max() > 0.05

    with shifting(model, constant_shifts(adapter)).attached():
        assert_close(model(ids), expected)

    done = export_adapter(save_adapter(adapter, tmp_path / "adapter"), "merged", tmp_path / "out", model=base)
    plain_model = loaded(tmp_path / "out")
    assert_close(plain_model(ids).logits, expected)
    if name in REFERENCES:  # no hook on either side: the prefix written out in float64 on the base
        numbers = (adapter.prefix.detach().double(), adapter.gates.detach().double())
        einsums = REFERENCES[name](plain(name, torch.float64), ids, *numbers, 1)
        assert_close(plain_model(ids).logits.double(), einsums)
    generated = plain_model.generate(ids[:1], max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
    assert torch.equal(generated[0], went_on[0])
    assert done.checks.max_logit_difference < 1e-5 * max(1.0, done.checks.max_logit)
    assert done.checks.same_greedy_tokens == done.checks.greedy_tokens == 32
    # vLLM's own models of these families have no bias of the attention output
    assert any("vLLM" in note for note in done.notes) == (name in WITHOUT_BIAS_IN_VLLM)

    parameters = dict(plain_model.named_parameters())
    added = set(parameters) - set(dict(plain(name).named_parameters()))
    for added_name in added:
        shifted = "o_proj" in added_name and not added_name.startswith("model.layers.0.")
        assert bool(parameters[added_name].any()) == shifted, added_name
    assert bool(added) == (name not in ("gpt2", "neox"))
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    expected_architecture = (
        "LlamaForCausalLM" if name in ("mistral", "qwen2", "llama_gqa") else type(plain(name)).__name__
    )
    assert written["architectures"] == [expected_architecture] == [type(plain_model).__name__]
    provenance = json.loads((tmp_path / "out" / merged.PROVENANCE).read_text())
    assert provenance["merge"]["max_logit_difference"] == done.checks.max_logit_difference
    assert provenance["source_sha256"] == sha256(tmp_path / "adapter" / "adapter_model.safetensors")
    # a merged model is a base like any other
    assert_close(load_model(tmp_path / "out")(ids), expected)


@given(power=st.integers(-6, 6), seed=st.integers(0, 99), family=st.sampled_from(["llama_gqa", "gpt2", "neox"]))
@settings(max_examples=15, deadline=None)
def test_larger_tokens_with_smaller_gates_are_the_same_constant(power, seed, family):
    """(p, beta) -> (c p, beta / c), to the bit where c is a power of two and no projection has a bias."""
    model = frozen(family)
    one, other = opened(Aligner(model, 1, 1), seed), opened(Aligner(model, 1, 1), seed)
    with torch.no_grad():
        other.prefix.mul_(2.0**power)
        other.gates.div_(2.0**power)
    for layer, shift in constant_shifts(one).items():
        same = torch.equal(shift, constant_shifts(other)[layer])
        assert same == (family == "llama_gqa" or power == 0)


@pytest.mark.parametrize("kind", CONSTANT)
def test_every_constant_is_known(kind):
    model, ids = frozen("llama_gqa"), tokens()
    adapter = opened(CONSTANT[kind](model), size=2.0 if kind == "random subspace" else 0.7)
    with adapter.attached():
        expected = model(ids)
    with shifting(model, constant_shifts(adapter)).attached():
        assert_close(model(ids), expected)
    assert (model(ids) - expected).abs().max() > 0.05


def test_an_output_bias_merges(tmp_path):
    base, ids = base_folder("llama_gqa", tmp_path), tokens()
    adapter = opened(OutputBias(load_model(base), start_layer=1))
    export_adapter(save_adapter(adapter, tmp_path / "adapter"), "merged", tmp_path / "out", model=base)
    with adapter.attached():
        assert_close(loaded(tmp_path / "out")(ids).logits, adapter.model(ids))


def biased(model):
    """A Llama whose attention has biases already."""
    model.config.attention_bias = True
    for layer in model.model.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            linear = getattr(layer.self_attn, name)
            linear.bias = torch.nn.Parameter(torch.linspace(-0.3, 0.4, linear.out_features))


def test_biases_that_are_there_stay(tmp_path):
    base, ids = base_folder("llama_gqa", tmp_path, biased), tokens()
    adapter = opened(Aligner(load_model(base), 1, 1))
    with adapter.attached():
        expected = adapter.model(ids)
    export_adapter(adapter, "merged", tmp_path / "out", model=base)
    assert_close(loaded(tmp_path / "out")(ids).logits, expected)


def test_bfloat16_as_the_base_is_stored(tmp_path):
    base = tmp_path / "base"
    plain("qwen2", torch.bfloat16).save_pretrained(base)
    adapter = opened(Aligner(load_model(base), 1, 1), size=0.3)
    folder = save_adapter(adapter, tmp_path / "adapter")
    done = export_adapter(folder, "merged", tmp_path / "out", model=base)
    assert done.checks.dtype == "bfloat16"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    ids = tokens()
    untouched = adapter.model(ids)
    with adapter.attached():
        expected = adapter.model(ids)
    # no further from float32 than the base itself is in bfloat16
    error = (loaded(tmp_path / "out", torch.bfloat16)(ids).logits.float() - expected).abs().mean()
    rounding = (loaded(base, torch.bfloat16)(ids).logits.float() - untouched).abs().mean()
    assert error < 1.5 * rounding
    assert (expected - untouched).abs().mean() > 5 * rounding
    assert export_adapter(folder, "merged", tmp_path / "f32", model=base, dtype=torch.float32).checks.dtype == "float32"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float16_of_a_base_stored_otherwise(dtype, tmp_path):
    base, ids = tmp_path / "base", tokens()
    plain("llama_gqa", dtype).save_pretrained(base)
    adapter = opened(Aligner(load_model(base), 1, 1), size=0.3)
    folder = save_adapter(adapter, tmp_path / "adapter")
    done = export_adapter(folder, "merged", tmp_path / "out", model=base, dtype=torch.float16)
    assert done.checks.dtype == "float16"
    with adapter.attached():
        expected = adapter.model(ids)
    assert (loaded(tmp_path / "out", torch.float16)(ids).logits - expected).abs().max() < 0.02 * expected.abs().max()


def test_tokenizer_goes_along(tmp_path):
    from transformers import AutoTokenizer

    base = base_folder("mistral", tmp_path)
    save_tokenizer(base)
    adapter = opened(Aligner(load_model(base), 1, 1))
    export_adapter(adapter, "merged", tmp_path / "out", model=base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("w7 w3 else")["input_ids"] == [7, 3, 60]


@pytest.mark.parametrize("name", ["stories260K", "TinyStories-656K"])
def test_real_models_merge(name, tmp_path):
    base = small_model(name)
    from transformers import AutoTokenizer

    adapter = opened(Aligner(load_model(base), 1, 1), size=0.3)
    done = export_adapter(adapter, "merged", tmp_path / "out", model=base)
    assert done.checks.max_logit_difference < 5e-5
    assert done.checks.same_greedy_tokens == done.checks.greedy_tokens
    text = "Once upon a time, "
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")(text, return_tensors="pt")["input_ids"]
    assert torch.equal(ids, AutoTokenizer.from_pretrained(base)(text, return_tensors="pt")["input_ids"])
    with adapter.attached():
        expected = greedy(adapter.model, ids)
    assert torch.equal(greedy(loaded(tmp_path / "out"), ids), expected)
    assert not torch.equal(greedy(loaded(base), ids), expected)


def windowed(model):
    model.config.sliding_window = 4
    if hasattr(model.config, "layer_types"):
        model.config.use_sliding_window = True
        model.config.layer_types = ["sliding_attention"] * 4


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("phi3", None, "Phi3ForCausalLM cannot take a merge: its attention has no biases"),
        ("mistral", windowed, "this MistralForCausalLM has a sliding window of 4"),
        ("qwen2", windowed, "this Qwen2ForCausalLM has a sliding window of 4"),
    ],
)
def test_bases_without_an_exact_place_are_refused_by_name(name, change, says, tmp_path):
    base = base_folder(name, tmp_path, change)
    adapter = opened(Aligner(frozen(name), 1, 1))
    with pytest.raises(AlignerProbeError, match=says):
        export_adapter(adapter, "merged", tmp_path / "out", model=base)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("to", ["merged", "steering"])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda model: Aligner(model, 2, 1), "aligner with 2 tokens cannot be merged.*depends on the input.*lit-llama"),
        (lambda model: LLaMAAdapter(model, 3, 1), "with 3 tokens"),
        (lambda model: LoRA(model), "export it to peft"),
        (lambda model: PrefixTuning(model, 1), "prefix_tuning cannot be merged"),
        (lambda model: Houlsby(model, 4), "houlsby cannot be merged.*ap.save_adapter keeps it as it is"),
    ],
)
def test_what_depends_on_the_input_is_refused(make, says, to, tmp_path):
    adapter = make(frozen("llama_gqa"))
    with pytest.raises(AlignerProbeError, match=says):
        export_adapter(adapter, to, tmp_path / "out", model=tmp_path / "nowhere")
    saved = save_adapter(adapter, tmp_path / "adapter")
    if adapter.method not in ("prefix_tuning", "houlsby"):
        with pytest.raises(AlignerProbeError, match=says):
            export_adapter(saved, to, tmp_path / "out", model=tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


def test_another_base_is_found_out(tmp_path):
    base = base_folder("llama_gqa", tmp_path, lambda model: model.model.layers[2].mlp.up_proj.weight.data.mul_(1.5))
    adapter = opened(Aligner(frozen("llama_gqa"), 1, 1))
    with pytest.raises(AlignerProbeError, match="Is the plain model the adapter's base"):
        export_adapter(adapter, "merged", tmp_path / "new" / "out", model=base)
    folder = save_adapter(adapter, tmp_path / "adapter")
    with pytest.raises(AlignerProbeError, match="another base"):
        export_adapter(folder, "merged", tmp_path / "out", model=base)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]
    # forced, the adapter and the merged model are both of the other base, and agree
    assert export_adapter(folder, "merged", tmp_path / "out", model=base, force=True).checks.same_greedy_tokens == 32


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"vocab_size": 62}, "vocab_size 62 there and 61 here"),
        ({"num_hidden_layers": 3, "intermediate_size": 60}, "num_hidden_layers 3 .*, intermediate_size 60"),
    ],
)
@pytest.mark.parametrize("to", ["merged", "steering"])
def test_a_base_of_other_sizes_is_told_by_them(to, other, says, tmp_path):
    from transformers import LlamaConfig

    config = LlamaConfig(**plain("llama_gqa").config.to_dict() | other | {"architectures": ["LlamaForCausalLM"]})
    config.save_pretrained(tmp_path / "base")
    with pytest.raises(AlignerProbeError, match=says):
        export_adapter(opened(Aligner(frozen("llama_gqa"), 1, 1)), to, tmp_path / "out", model=tmp_path / "base")
    plain("gpt2").save_pretrained(tmp_path / "gpt2")
    with pytest.raises(AlignerProbeError, match="GPT2LMHeadModel there and LlamaForCausalLM here"):
        export_adapter(opened(Aligner(frozen("llama_gqa"), 1, 1)), to, tmp_path / "out", model=tmp_path / "gpt2")


def test_no_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    import shutil

    base = base_folder("llama_gqa", tmp_path)
    adapter = opened(Aligner(load_model(base), 1, 1))
    monkeypatch.setattr(merged.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(AlignerProbeError, match="make room"):
        export_adapter(adapter, "merged", tmp_path / "out", model=base)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("name", MODELS)
def test_steering_as_its_own_usage_says(name, tmp_path):
    """The lines in steering.json, run as they stand: no import from this project."""
    model, ids = frozen(name), tokens()
    adapter = opened(Aligner(model, 1, 1))
    with adapter.attached():
        expected = model(ids)
    export_adapter(adapter, "steering", tmp_path / "out")
    folder = tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == ["steering.json", "steering.safetensors"]
    specification = json.loads((folder / "steering.json").read_text())
    scope = {"folder": str(folder), "model": model, "tokens": ids}
    exec("\n".join(specification["usage"]["transformer_lens"]), scope)
    assert_close(scope["logits"], expected)
    assert (model(ids) - expected).abs().max() > 0.05

    hooked = plain(name)
    exec("\n".join(specification["usage"]["transformers"]), {"folder": str(folder), "model": hooked})
    assert_close(hooked(ids).logits, expected)

    read = steering.read(folder)
    shifts = constant_shifts(adapter)
    assert [entry["layer"] for entry in read.specification["layers"]] == list(adapter.layers)
    for layer, shift in shifts.items():
        assert torch.equal(read.vectors[f"blocks.{layer}.attn.hook_out"], shift.float())


@pytest.mark.parametrize(("name", "same"), [("llama_gqa", False), ("gemma2", False), ("neox", True)])
def test_what_steering_says_of_the_layer_output_is_true(name, same, tmp_path):
    model, ids = frozen(name), tokens()
    adapter = opened(Aligner(model, 1, 1))
    with adapter.attached():
        expected = model(ids)
    export_adapter(adapter, "steering", tmp_path / "out")
    read = steering.read(tmp_path / "out")
    hooks = [
        (f"blocks.{entry['layer']}.hook_out", lambda out, hook, v=read.vectors[entry["hook"]]: out + v)
        for entry in read.specification["layers"]
    ]
    difference = float((model.run_with_hooks(ids, fwd_hooks=hooks) - expected).detach().abs().max())
    assert read.specification["layer_output"] == (steering.IN_PARALLEL if same else steering.IN_SEQUENCE)
    assert difference < 1e-5 * float(expected.detach().abs().max()) if same else difference > 1e-3


def test_steering_from_a_folder_and_its_faults(tmp_path):
    base = base_folder("llama_gqa", tmp_path)
    adapter = opened(Aligner(load_model(base), 1, 1))
    saved = save_adapter(adapter, tmp_path / "adapter")
    with pytest.raises(AlignerProbeError, match="--model"):
        export_adapter(saved, "steering", tmp_path / "out")
    export_adapter(saved, "steering", tmp_path / "out", model=base)
    path = tmp_path / "out" / "steering.json"
    specification = json.loads(path.read_text())
    assert specification["origin"]["source"] == str(saved)
    for change, says in (
        ({"format": "control vector"}, "is no steering folder"),
        ({"format_version": 9}, "this release reads 1"),
        ({"layers": specification["layers"][:1]}, "names 1 hooks, not the 3"),
        ({"d_model": 47}, "not of d_model 47"),
    ):
        path.write_text(json.dumps(specification | change))
        with pytest.raises(CheckpointError, match=says):
            steering.read(tmp_path / "out")
