"""Every importer: what goes in comes out, to the bit, and what does not fit is refused in one line."""

import json

import pytest
import torch
from builders import (
    checkpoint,
    lit_adapter_state,
    lit_aligner_state,
    opengvlab_state,
    peft_folder,
    save_pth,
)
from checkpoint_laws import HEADS, LAWS, SHAPES, assert_same
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from aligner_probe.checkpoints import load_checkpoint, save_checkpoint
from aligner_probe.errors import AlignerProbeError, CheckpointError


@given(n_heads=HEADS, **SHAPES)
@LAWS
def test_lit_llama_aligner(tmp_path, n_heads, **shape):
    made = checkpoint(n_heads=n_heads, **shape)
    path = save_pth(lit_aligner_state(made), tmp_path / "weights")
    assert_same(load_checkpoint(path), made, format_name="lit-llama")


@given(n_heads=HEADS, wrapped=st.booleans(), gate_shape=st.sampled_from([(1, -1, 1, 1), (1, 1, -1, 1)]), **SHAPES)
@LAWS
def test_lit_llama_adapter_and_litgpt(tmp_path, n_heads, wrapped, gate_shape, **shape):
    made = checkpoint(method="llama_adapter", n_heads=n_heads, **shape)
    state = lit_adapter_state(made, gate_shape)
    path = save_pth({"model": state} if wrapped else state, tmp_path / "weights")
    assert_same(load_checkpoint(path), made, format_name="lit-llama")


@given(**SHAPES)
@LAWS
def test_old_scalar_gates(tmp_path, **shape):
    made = checkpoint(method="llama_adapter", n_heads=1, **shape)
    for gate_shape in ((), (1,)):
        path = save_pth(lit_adapter_state(made, gate_shape), tmp_path / "weights")
        assert_same(load_checkpoint(path), made, format_name="lit-llama")


@given(n_heads=HEADS, gate=st.sampled_from([None, "tanh", "linear"]), **SHAPES)
@LAWS
def test_opengvlab(tmp_path, n_heads, gate, **shape):
    made = checkpoint(method="llama_adapter", n_heads=n_heads, gate_function=gate or "tanh", **shape)
    path = save_pth(opengvlab_state(made), tmp_path / "weights")
    found = load_checkpoint(path, gate=gate)
    assert_same(found, made, format_name="OpenGVLab")
    assert found.metadata["gate_function_from"] == ("option" if gate else "default of the format")
    assert_same(load_checkpoint(path, gate=gate, adapter_length=made.n_tokens), made, format_name="OpenGVLab")


@given(**SHAPES)
@LAWS
def test_peft(tmp_path_factory, **shape):
    made = checkpoint(method="llama_adapter", n_heads=1, **shape)
    folder = peft_folder(made, tmp_path_factory.mktemp("peft") / "adapter")
    found = load_checkpoint(folder)
    assert_same(found, made, format_name="PEFT")
    assert found.base_model == "some/base"


def test_peft_as_peft_itself_saves_it(tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2, vocab_size=8)
    model = peft.get_peft_model(
        LlamaForCausalLM(config),
        peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=2, task_type="CAUSAL_LM", target_modules="self_attn"),
    )
    for name, parameter in model.named_parameters():
        if "adaption_gate" in name:
            torch.nn.init.constant_(parameter, 0.5)
    model.save_pretrained(tmp_path)
    found = load_checkpoint(tmp_path)
    assert (found.method, found.n_tokens, found.layers) == ("llama_adapter", 3, range(2, 4))
    assert found.gates.tolist() == [[0.5], [0.5]]


@given(n_heads=HEADS, method=st.sampled_from(["aligner", "llama_adapter"]), with_start=st.booleans(), **SHAPES)
@LAWS
def test_native(tmp_path_factory, n_heads, method, with_start, **shape):
    made = checkpoint(method=method, n_heads=n_heads, **shape)
    if with_start:
        made = checkpoint(
            method=method,
            n_heads=n_heads,
            initial_prefix=made.prefix + 1,
            initial_gates=torch.zeros_like(made.gates),
            metadata={"data_set": "verse"},
            **shape,
        )
    folder = save_checkpoint(made, tmp_path_factory.mktemp("native") / "adapter")
    found = load_checkpoint(folder)
    assert_same(found, made, format_name="aligner_probe")
    assert found.metadata.get("data_set") == made.metadata.get("data_set")
    if with_start:
        assert torch.equal(found.initial_prefix, made.initial_prefix)
        assert torch.equal(found.initial_gates, made.initial_gates)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "provenance.json",
    ]


def test_native_does_not_overwrite_unasked(tmp_path):
    folder = save_checkpoint(checkpoint(seed=1), tmp_path / "adapter")
    with pytest.raises(AlignerProbeError, match="overwrite=True"):
        save_checkpoint(checkpoint(seed=2), folder)
    assert torch.equal(load_checkpoint(folder).prefix, checkpoint(seed=1).prefix)
    save_checkpoint(checkpoint(seed=2), folder, overwrite=True)
    assert torch.equal(load_checkpoint(folder).prefix, checkpoint(seed=2).prefix)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    (tmp_path / "thesis").mkdir()
    with pytest.raises(AlignerProbeError, match="no checkpoint"):
        save_checkpoint(checkpoint(), tmp_path / "thesis", overwrite=True)


def test_native_contradiction_is_refused(tmp_path):
    folder = save_checkpoint(checkpoint(), tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    for key, value, says in (
        ("d_model", 63, "d_model 63"),
        ("method", "magic", "'magic'"),
        ("dtype", "float32", "dtype 'float32'"),
        ("format_version", 9, "format_version 9"),
        ("start_layer", "2", "whole number"),
        ("start_layer", True, "whole number"),
        ("method", ["aligner"], r"\['aligner'\]"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(CheckpointError, match=says):
            load_checkpoint(folder)


def test_aliased_prefixes_are_one_aligner(tmp_path):
    made = checkpoint(n_tokens=2)
    state = lit_aligner_state(made)
    shared = state["global_value_embedding.weight"]
    aliases = {f"transformer.h.{layer}.attn.adapter_wte.weight": shared for layer in made.layers}
    path = save_pth(state | aliases | {"adapter_wte.weight": shared}, tmp_path / "all.pth")
    assert_same(load_checkpoint(path), made, format_name="lit-llama")
    # also where the file leaves the global name out, but keeps that the layers share their storage
    state.pop("global_value_embedding.weight")
    assert_same(load_checkpoint(save_pth(state | aliases, tmp_path / "few.pth")), made, format_name="lit-llama")
    # equal numbers in separate tensors are LLaMA-Adapter's
    copies = {name: tensor.clone() for name, tensor in aliases.items()}
    assert load_checkpoint(save_pth(state | copies, tmp_path / "own.pth")).method == "llama_adapter"


def test_opengvlab_asks_for_the_length_where_it_cannot_tell(tmp_path):
    made = checkpoint(method="llama_adapter", n_tokens=2, n_layers=6, gate_function="tanh")
    state = opengvlab_state(made)
    state["layers.4.attention.gate"].zero_()
    path = save_pth(state, tmp_path / "gap.pth")
    with pytest.raises(CheckpointError, match="--adapter-length"):
        load_checkpoint(path)
    assert load_checkpoint(path, adapter_length=2).layers == made.layers
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(path, adapter_length=5)
    with pytest.raises(CheckpointError, match="enough layers for all such gates"):
        load_checkpoint(path, adapter_length=4)
    for layer in made.layers:
        state[f"layers.{layer}.attention.gate"].zero_()
    with pytest.raises(CheckpointError, match="cannot be told"):
        load_checkpoint(save_pth(state, tmp_path / "untrained.pth"))


def test_opengvlab_length_finds_layers_that_are_not_the_topmost(tmp_path):
    made = checkpoint(method="llama_adapter", n_tokens=2, n_layers=4, start_layer=2, gate_function="tanh")
    state = opengvlab_state(made)
    for layer in (6, 7, 8):
        state[f"layers.{layer}.attention.gate"] = torch.zeros(1, 8, 1, 1, dtype=torch.bfloat16)
    path = save_pth(state, tmp_path / "low.pth")
    assert load_checkpoint(path).layers == load_checkpoint(path, adapter_length=2).layers == range(2, 6)


def test_tanh_gates_are_seen_through(tmp_path):
    made = checkpoint(method="llama_adapter", gate_function="tanh", dtype=torch.float32)
    found = load_checkpoint(save_pth(opengvlab_state(made), tmp_path / "tanh.pth"))
    assert torch.allclose(found.effective_gates, made.gates.double().tanh())
    assert torch.equal(found.gates, made.gates)


def broken(name, tmp_path):
    """Checkpoints with one fault each, and what the message must say."""
    made = checkpoint(method="llama_adapter", n_tokens=2)
    lit, aligner = lit_adapter_state(made), lit_aligner_state(checkpoint())
    gate, wte = "transformer.h.{}.attn.gating_factor", "transformer.h.{}.attn.adapter_wte.weight"
    if name == "no gates":
        return {"global_value_embedding.weight": torch.ones(1, 8)}, "no gates"
    if name == "a gate missing":
        lit.pop(gate.format(4))
        return lit, r"nothing for \[4\]"
    if name == "a prefix missing":
        lit.pop(wte.format(4))
        return lit, "prefixes for layers"
    if name == "mixed d_model":
        return lit | {wte.format(4): torch.ones(2, 63, dtype=torch.bfloat16)}, "prefix of different shapes"
    if name == "mixed heads":
        return lit | {gate.format(4): torch.ones(1, 7, 1, 1, dtype=torch.bfloat16)}, "gates of different shapes"
    if name == "mixed precision":
        return lit | {wte.format(4): torch.ones(2, 64)}, "different precisions"
    if name == "NaN":
        return aligner | {"global_value_embedding.weight": torch.tensor([[1.0, float("nan")]])}, "1 of 2 values"
    if name == "infinite":
        return aligner | {gate.format(3): torch.full((1, 8, 1, 1), float("inf"), dtype=torch.bfloat16)}, "infinite"
    if name == "integers":
        return aligner | {"global_value_embedding.weight": torch.ones(1, 8, dtype=torch.int64)}, "int64"
    if name == "gate shape":
        return aligner | {gate.format(3): torch.ones(1, 8, 2, 1)}, "expected one value a head"
    if name == "two prefixes":
        return aligner | {wte.format(3): torch.ones(1, 64, dtype=torch.bfloat16)}, "one or the other"
    if name == "V2":
        return lit | {"transformer.h.3.attn.adapter_bias": torch.ones(3)}, "LLaMA-Adapter V2"
    if name == "something else":
        return {"lm_head.weight": torch.ones(3)}, "no known prefix adapter"
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    [
        "no gates",
        "a gate missing",
        "a prefix missing",
        "mixed d_model",
        "mixed heads",
        "mixed precision",
        "NaN",
        "infinite",
        "integers",
        "gate shape",
        "two prefixes",
        "V2",
        "something else",
    ],
)
def test_faults_are_named(tmp_path, name):
    state, says = broken(name, tmp_path)
    path = save_pth(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=says) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_peft_faults(tmp_path):
    made = checkpoint(method="llama_adapter", n_heads=1)
    with pytest.raises(CheckpointError, match="adapter_len 9"):
        load_checkpoint(peft_folder(made, tmp_path / "other", adapter_len=9))
    lora = tmp_path / "lora"
    lora.mkdir()
    save_file({"base_model.model.q_proj.lora_A.weight": torch.ones(2, 2)}, lora / "adapter_model.safetensors")
    (lora / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(CheckpointError, match="is a PEFT LORA adapter"):
        load_checkpoint(lora)
    (lora / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="no JSON"):
        load_checkpoint(lora)
    save_file({"transformer.h.1.attn.adaption_gate": torch.ones(1)}, tmp_path / "gpt2.safetensors")
    with pytest.raises(CheckpointError, match="GPT-2"):
        load_checkpoint(tmp_path / "gpt2.safetensors")


def test_real_peft_loras_are_refused_by_name():
    from conftest import DATA

    folder = DATA / "adapters" / "opt125m-dpo-lora"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set ALIGNER_PROBE_DATA to a folder with adapters/ in it")
    with pytest.raises(CheckpointError, match="is a PEFT LORA adapter"):
        load_checkpoint(folder)


def test_authors_files(authors):
    sizes = {name: (c.n_tokens, c.d_model, c.n_layers, c.gates_per_layer, c.layers) for name, c in authors.items()}
    assert sizes["alpaca-1-7b"] == (1, 4096, 30, 32, range(2, 32))
    assert sizes["metamath-100-7b"] == (100, 4096, 30, 32, range(2, 32))
    assert authors["alpaca-1-7b"].n_parameters == 5056
    assert authors["metamath-10-7b"].n_parameters == 41_920
    for c in authors.values():
        assert (c.method, c.gate_function, c.dtype) == ("aligner", "linear", torch.bfloat16)
    assert authors["alpaca-1-7b"].metadata["validation_loss"] == 0.9565


def test_a_13b_sized_checkpoint(tmp_path):
    made = checkpoint(n_tokens=300, d_model=5120, n_layers=38, n_heads=40)
    found = load_checkpoint(save_pth(lit_aligner_state(made), tmp_path / "x"))
    assert (found.prefix.shape, found.gates.shape) == ((1, 300, 5120), (38, 40))
    assert found.n_parameters == 300 * 5120 + 38 * 40
