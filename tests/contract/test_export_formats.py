"""To PEFT and lit-llama and back: held to the libraries' own computation, and to the bit where nothing is computed."""

import json
import shutil

import pytest
import torch
from builders import checkpoint, peft_folder
from checkpoint_laws import HEADS, LAWS, SHAPES, assert_same
from conftest import DATA
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import MODELS, frozen, plain, tokens
from tiny_adapters import opened

from aligner_probe.adapters import Aligner, LLaMAAdapter, LoRA, PromptTuning
from aligner_probe.checkpoints import lit_llama, load_checkpoint, peft
from aligner_probe.checkpoints.adapters import load_adapter, save_adapter
from aligner_probe.checkpoints.exporting import export_adapter
from aligner_probe.checkpoints.peft_lora import load_lora
from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.files import sha256

APART = [name for name in MODELS if name not in ("gpt2", "neox", "phi3")]
LORAS = {
    "smollm135m-medflashcards-lora/100ep-step500": ("HuggingFaceTB/SmolLM-135M-Instruct", 30, 576, 192),
    "opt125m-dpo-lora": ("facebook/opt-125m", 12, 768, 768),
}


def assert_close(found, expected):
    found, expected = found.detach(), expected.detach()
    assert (found - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


def adapted(adapter, ids):
    """Logits with the adapter, which must do something."""
    with adapter.attached():
        logits = adapter.model(ids)
    assert (logits - adapter.model(ids)).abs().max() > 0.01
    return logits


@pytest.fixture
def library():
    return pytest.importorskip("peft")


@pytest.mark.parametrize("targets", [("q", "k", "v", "o"), "all-linear", ("v", "down")])
@pytest.mark.parametrize("family", APART)
def test_lora_to_peft(library, family, targets, tmp_path):
    ids = tokens()
    adapter = opened(LoRA(frozen(family), r=4, alpha=6, targets=targets, start_layer=1), size=0.2)
    export_adapter(adapter, "peft", tmp_path / "peft")
    theirs, ours = library.PeftModel.from_pretrained(plain(family), tmp_path / "peft"), adapted(adapter, ids)
    assert_close(theirs(ids).logits, ours)
    assert_close(theirs.merge_and_unload()(ids).logits, ours)
    # and back, and from the saved folder without any base: the same numbers
    export_adapter(save_adapter(adapter, tmp_path / "saved"), "peft", tmp_path / "again")
    here, again = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("peft", "again"))
    assert here.keys() == again.keys()
    assert all(torch.equal(here[name], again[name]) for name in here)
    returned = load_adapter(tmp_path / "again", frozen(family))
    assert returned.config == adapter.config
    assert all(torch.equal(a, b) for a, b in zip(returned.parameters(), adapter.parameters(), strict=True))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama_gqa", {"target_modules": ["q_proj", "v_proj"]}),
        ("qwen3", {"target_modules": ["o_proj", "k_proj"], "use_rslora": True}),
        ("gemma2", {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [2, 3]}),
        ("mistral", {"target_modules": r".*self_attn\.(q|v)_proj"}),
        ("llama_gqa", {"target_modules": "all-linear"}),
        ("gemma3", {"target_modules": "all-linear", "use_rslora": True}),
        ("olmo2", {"target_modules": ["up_proj", "down_proj", "gate_proj"], "layers_to_transform": [1, 2]}),
        ("qwen2", {"target_modules": ["q_proj"], "init_lora_weights": "gaussian", "lora_dropout": 0.1}),
    ],
)
def test_lora_from_peft(library, family, options, tmp_path):
    ids = tokens()
    theirs = library.get_peft_model(
        plain(family), library.LoraConfig(r=4, lora_alpha=7, task_type="CAUSAL_LM", **options)
    )
    opened_lora = [parameter for name, parameter in theirs.named_parameters() if "lora_" in name]
    with torch.no_grad():
        for index, parameter in enumerate(opened_lora):
            draw = torch.Generator().manual_seed(index)
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    theirs.eval().save_pretrained(tmp_path / "theirs")
    adapter = load_adapter(tmp_path / "theirs", frozen(family))
    assert_close(adapted(adapter, ids), theirs(ids).logits)
    # once more through our writer
    export_adapter(tmp_path / "theirs", "peft", tmp_path / "ours")
    ours = library.PeftModel.from_pretrained(plain(family), tmp_path / "ours")
    assert_close(ours(ids).logits, theirs(ids).logits)


def real_lora(name):
    folder = DATA / "adapters" / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set ALIGNER_PROBE_DATA to a folder with adapters/ in it")
    return folder


@pytest.mark.parametrize("name", LORAS)
def test_real_loras_are_read_without_a_base(name, tmp_path):
    folder = real_lora(name)
    base, n_layers, d_in, d_v = LORAS[name]
    found = load_lora(folder)
    assert (found.r, found.alpha, found.base_model) == (16, 32, base)
    assert found.layers == list(range(n_layers))
    assert found.modules == ["self_attn.q_proj", "self_attn.v_proj"]
    assert found.A[3, "self_attn.v_proj"].shape == (16, d_in)
    assert found.B[3, "self_attn.v_proj"].shape == (d_v, 16)
    stored = load_file(folder / "adapter_model.safetensors")
    assert found.n_parameters == sum(tensor.numel() for tensor in stored.values())
    # written again, the tensors are the file's own
    export_adapter(folder, "peft", tmp_path / "again")
    written = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert written.keys() == stored.keys()
    assert all(torch.equal(written[key], stored[key]) for key in stored)


def smollm():
    """SmolLM-135M's attention, with a small vocabulary and MLP: random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=32, vocab_size=61)).eval()


def test_a_real_lora_attaches_and_does_what_peft_does(library):
    from aligner_probe.models import load_model

    folder, ids = real_lora("smollm135m-medflashcards-lora/100ep-step500"), tokens()
    adapter = load_adapter(folder, load_model(smollm()))
    assert_close(adapted(adapter, ids), library.PeftModel.from_pretrained(smollm(), folder)(ids).logits)


def test_a_lora_folder_becomes_a_native_one(whole_lora, lora_folder, tmp_path):
    model, theirs = whole_lora
    plain("llama_gqa").save_pretrained(tmp_path / "base")
    with pytest.raises(AlignerProbeError, match="--model M"):
        export_adapter(theirs, "native", tmp_path / "out")
    done = export_adapter(theirs, "native", tmp_path / "out", model=tmp_path / "base")
    expected, found = load_adapter(theirs, model), load_adapter(done.path, model)
    assert found.config == expected.config
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters(), strict=True))
    written = json.loads((done.path / "provenance.json").read_text())
    digest = sha256(theirs / "adapter_model.safetensors")
    named = json.loads((theirs / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert written["loaded_from"] == {"source": str(theirs), "sha256": digest, "base_model": named}
    plain("gpt2").save_pretrained(tmp_path / "other")
    with pytest.raises(AlignerProbeError, match="not the base that this adapter is on"):
        export_adapter(expected, "native", tmp_path / "wrong", model=tmp_path / "other")
    torch.save(load_file(theirs / "adapter_model.safetensors"), lora_folder / "adapter_model.bin")
    (lora_folder / "adapter_model.safetensors").unlink()
    export_adapter(lora_folder, "native", tmp_path / "bin", model=tmp_path / "base")
    # in memory it has its base, of any family, and a native folder is copied with what it knows
    export_adapter(LoRA(frozen("gpt2")), "native", tmp_path / "fused")
    save_adapter(expected, tmp_path / "saved", run={"recipe": "none"})
    export_adapter(tmp_path / "saved", "native", tmp_path / "again", model=tmp_path / "base")
    assert load_adapter(tmp_path / "again", model).provenance == {"recipe": "none"}
    export_adapter(expected, "native", tmp_path / "memory")
    assert load_adapter(tmp_path / "memory", model).config == expected.config


def test_a_lora_of_another_architecture_is_refused_by_name():
    with pytest.raises(CheckpointError, match=r"model\.decoder\.layers\.N\.self_attn.*facebook/opt-125m.*LlamaFor"):
        load_adapter(real_lora("opt125m-dpo-lora"), frozen("llama"))


@pytest.fixture(scope="module")
def whole_lora(tmp_path_factory):
    """A model, and a LoRA in PEFT's form that fits it."""
    model = frozen("llama_gqa")
    adapter = opened(LoRA(model, r=4, targets=("q", "v")))
    return model, export_adapter(adapter, "peft", tmp_path_factory.mktemp("whole") / "peft").path


@pytest.fixture
def lora_folder(whole_lora, tmp_path):
    """A copy of it to break."""
    return shutil.copytree(whole_lora[1], tmp_path / "peft")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"use_dora": True}, "has use_dora true"),
        ({"modules_to_save": ["lm_head"]}, r'has modules_to_save \["lm_head"\]'),
        ({"bias": "lora_only"}, 'has bias "lora_only"'),
        ({"rank_pattern": {"q_proj": 2}}, "has rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "has alpha_pattern"),
        ({"layer_replication": [[0, 2]]}, "has layer_replication"),
        ({"trainable_token_indices": [3]}, "has trainable_token_indices"),
        ({"lora_bias": True}, "has lora_bias"),
        ({"a_new_option": 7}, "has a_new_option 7"),
        ({"init_lora_weights": "pissa"}, "'pissa', which changes the base's own weights"),
        ({"r": 0}, "has r 0"),
        ({"r": True}, "has r True"),
        ({"lora_alpha": None}, "alpha None"),
        ({"r": 5}, "says r 5"),
        ({"peft_type": "IA3"}, "is PEFT IA3"),
    ],
)
def test_loras_that_are_not_plain_are_refused_by_name(lora_folder, change, says):
    path = lora_folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=says) as caught:
        load_lora(lora_folder)
    assert "\n" not in str(caught.value)


def lora_key(layer, module, half="A", stack="model.layers"):
    return f"base_model.model.{stack}.{layer}.{module}.lora_{half}.weight"


@pytest.mark.parametrize(
    ("drop", "add", "says"),
    [
        ([lora_key(2, "self_attn.q_proj")], {}, "only one of lora_A and lora_B for self_attn.q_proj of layer 2"),
        ([lora_key(2, "self_attn.q_proj", half) for half in "AB"], {}, "nothing for q_proj of layer 2"),
        (
            [lora_key(3, f"self_attn.{m}_proj", half) for half in "AB" for m in "qv"],
            {},
            "nothing for q_proj of layer 3",
        ),
        ([], {lora_key(4, f"self_attn.{m}_proj", half): (4, 4) for half in "AB" for m in "qv"}, "adapts layer 4"),
        ([], {lora_key(1, "mlp.router", half): (4, 4) for half in "AB"}, r"model\.layers\.N\.mlp\.router"),
        ([], {lora_key(1, "mlp.up_proj", half): (4, 4) for half in "AB"}, "nothing for up_proj of layer 0"),
        ([], {lora_key(1, "attn", stack="vision.layers"): (4, 4)}, "expected one stack"),
        ([], {"base_model.model.model.embed_tokens.lora_embedding_A": (4, 4)}, "an embedding's"),
        ([], {lora_key(99999, "self_attn.q_proj"): (4, 4)}, "holds"),
        ([], {lora_key(1, "self_attn.q_proj"): (4, 50)}, "does not fit this model: A.1_q"),
        ([], {lora_key(1, "self_attn.q_proj"): (4,)}, r"lora_A \(4,\)"),
        ([], {lora_key(1, "self_attn.q_proj"): torch.full((4, 48), float("nan"))}, "NaN"),
        ([], {lora_key(1, "self_attn.q_proj"): torch.ones(4, 48, dtype=torch.float16)}, "expected one precision"),
    ],
)
def test_loras_with_gaps_or_damage_are_refused(whole_lora, lora_folder, drop, add, says):
    path = lora_folder / "adapter_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if name not in drop}
    made = {name: torch.ones(tensor) if isinstance(tensor, tuple) else tensor for name, tensor in add.items()}
    save_file(tensors | made, path)
    with pytest.raises(CheckpointError, match=says):
        load_adapter(lora_folder, whole_lora[0])


@pytest.mark.parametrize("family", ["gpt2", "neox", "phi3"])
def test_fused_projections_have_no_peft_form(family, lora_folder, tmp_path):
    with pytest.raises(AlignerProbeError, match="in one projection"):
        export_adapter(LoRA(frozen(family)), "peft", tmp_path / "out")
    with pytest.raises(AlignerProbeError, match="in one projection"):
        export_adapter(save_adapter(LoRA(frozen(family)), tmp_path / "saved"), "peft", tmp_path / "out")
    with pytest.raises(AlignerProbeError, match="in one projection"):
        load_adapter(lora_folder, frozen(family))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("provenance.json", {"base": None}),
        ("provenance.json", {"base": {}}),
        ("adapter_config.json", {"options": {"r": 8}}),
        ("adapter_config.json", {"options": {"r": 8, "alpha": "much"}}),
        ("adapter_config.json", {"options": {"r": 7, "alpha": 8}}),
        ("adapter_config.json", {"options": []}),
    ],
)
def test_damaged_lora_folders_of_our_own(whole_lora, file, change, tmp_path):
    folder = save_adapter(opened(LoRA(whole_lora[0])), tmp_path / "saved")
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | change))
    with pytest.raises(CheckpointError) as caught:
        export_adapter(folder, "peft", tmp_path / "out")
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "out").exists()


def tied(adapter):
    """All heads of a layer share their gate."""
    with torch.no_grad():
        adapter.gates.copy_(adapter.gates[:, :1].expand_as(adapter.gates))
    return adapter


PROMPTS = {
    "one gate a layer": lambda model: opened(LLaMAAdapter(model, 3, 1, gate_per="layer")),
    "equal gates": lambda model: tied(opened(LLaMAAdapter(model, 3, 0))),
    "tanh": lambda model: opened(LLaMAAdapter(model, 2, 2, gate_per="layer", gate_function="tanh")),
    "aligner": lambda model: opened(Aligner(model, 4, 1, gate_per="layer")),
}


@pytest.mark.parametrize("family", ["llama", "llama_gqa", "mistral"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_adaption_prompt_in_peft(library, family, kind, tmp_path):
    ids = tokens()
    adapter = PROMPTS[kind](frozen(family))
    done = export_adapter(adapter, "peft", tmp_path / "peft")
    expected = adapted(adapter, ids)
    theirs = library.PeftModel.from_pretrained(plain(family), tmp_path / "peft")
    assert_close(theirs(ids).logits, expected)
    assert any("tanh(gate)" in note for note in done.notes) == (kind == "tanh")
    # back, as the LLaMA-Adapter that it is there
    returned = load_adapter(tmp_path / "peft", frozen(family))
    assert returned.method == "llama_adapter"
    with returned.attached():
        assert_close(returned.model(ids), expected)


def test_adaption_prompt_where_peft_would_compute_something_else(tmp_path):
    def says(message, adapter, **options):
        with pytest.raises(AlignerProbeError, match=message):
            export_adapter(adapter, "peft", tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    says("3 of 3 layers have a gate of its own for each head", opened(LLaMAAdapter(frozen("llama"), 3, 1)))
    for family in ("qwen2", "gemma", "gpt2", "phi3"):
        says(f"AdaptionPrompt on {family}", LLaMAAdapter(frozen(family), 3, 1, gate_per="layer"))
    plain("llama").save_pretrained(tmp_path / "base")
    low = checkpoint(method="llama_adapter", n_heads=1, d_model=48, n_layers=2, start_layer=0, dtype=torch.float32)
    folder = peft_folder(low, tmp_path / "low")
    says("layers 0 to 1 of 4 are adapted; PEFT counts", folder, model=tmp_path / "base")
    config = plain("llama").config
    high = checkpoint(method="llama_adapter", n_heads=1, d_model=48, n_layers=2, start_layer=2)
    peft.check_base(config, high)
    for change, message in (({"attention_bias": True}, "add twice"), ({"head_dim": 16}, "do not make up")):
        with pytest.raises(AlignerProbeError, match=message):
            peft.check_base(type(config)(**(config.to_dict() | change)), high)
    done = export_adapter(folder, "peft", tmp_path / "out")
    assert "not held against a base" in done.notes[-2]


@given(n_heads=HEADS, method=st.sampled_from(["aligner", "llama_adapter"]), **SHAPES)
@LAWS
def test_lit_llama_and_back_to_the_bit(tmp_path_factory, n_heads, method, **shape):
    made = checkpoint(method=method, n_heads=n_heads, **shape)
    path = lit_llama.write(made, tmp_path_factory.mktemp("lit") / "adapter.pth")
    assert_same(load_checkpoint(path), made, format_name="lit-llama")
    for name, tensor in torch.load(path, weights_only=True).items():
        if name.endswith("gating_factor"):
            assert tensor.shape == ((1,) if n_heads == 1 else (1, n_heads, 1, 1))


@given(**SHAPES)
@LAWS
def test_tanh_gates_become_what_they_pass_on(tmp_path_factory, **shape):
    made = checkpoint(method="llama_adapter", n_heads=3, gate_function="tanh", **shape)
    found = load_checkpoint(lit_llama.write(made, tmp_path_factory.mktemp("lit") / "adapter.pth"))
    assert found.gate_function == "linear"
    assert torch.equal(found.gates, torch.tanh(made.gates))
    assert torch.equal(found.prefix, made.prefix)


@pytest.mark.parametrize("gate_function", ["linear", "tanh"])
def test_an_adapter_through_lit_llama_does_the_same_to_the_bit(gate_function, tmp_path):
    model, ids = frozen("llama_gqa"), tokens()
    adapter = opened(Aligner(model, 5, 1, gate_function=gate_function))
    done = export_adapter(adapter, "lit-llama", tmp_path / "a.pth")
    assert any("tanh(gate)" in note for note in done.notes) == (gate_function == "tanh")
    returned = load_adapter(tmp_path / "a.pth", frozen("llama_gqa"))
    with adapter.attached(), returned.attached():
        assert torch.equal(model(ids), returned.model(ids))


def test_the_authors_files_come_out_as_they_went_in(authors, tmp_path):
    """Names, order, shapes, precision, numbers, and one storage for all copies of the token."""
    for name, source in authors.items():
        export_adapter(f"published:{name}", "native", tmp_path / name)
        path = export_adapter(tmp_path / name, "lit-llama", tmp_path / f"{name}.pth").path
        theirs, ours = (torch.load(file, map_location="cpu", weights_only=True) for file in (source.source, path))
        assert list(ours) == list(theirs)
        assert all(ours[key].dtype == theirs[key].dtype and torch.equal(ours[key], theirs[key]) for key in theirs)
        assert len({ours[key].data_ptr() for key in ours if key.endswith("embedding.weight") or "wte" in key}) == 1


def test_other_methods_have_no_such_form(tmp_path):
    model = frozen("llama_gqa")
    for to in ("lit-llama", "native", "peft"):
        with pytest.raises(AlignerProbeError, match="prompt_tuning has no prefix"):
            export_adapter(PromptTuning(model, 2), to, tmp_path / "out")
    with pytest.raises(AlignerProbeError, match="LoRA has no prefix"):
        export_adapter(LoRA(model), "lit-llama", tmp_path / "out")
    with pytest.raises(AlignerProbeError, match="no export is named 'onnx'"):
        export_adapter(LoRA(model), "onnx", tmp_path / "out")
