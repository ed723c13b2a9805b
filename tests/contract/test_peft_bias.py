"""Adapters that add a constant as biases of PEFT's LoRA: PEFT has the adapter's logits, alone and in a mixed batch."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import MODELS, base_folder, frozen, plain, tokens
from tiny_adapters import opened

import aligner_probe as ap
from aligner_probe.adapters import Aligner, LLaMAAdapter, LoRA, OutputBias
from aligner_probe.adapters.constant import constant_shifts
from aligner_probe.checkpoints.adapters import load_adapter, method_of, save_adapter
from aligner_probe.checkpoints.containers import read_tensors
from aligner_probe.checkpoints.exporting import export_adapter
from aligner_probe.checkpoints.format import StoredCheckpoint
from aligner_probe.checkpoints.native import read_config
from aligner_probe.checkpoints.registry import CHECKPOINT_FORMATS
from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.models import load_model

peft = pytest.importorskip("peft")

# PEFT says that a bias cannot be merged into a projection without one, and that GPT-2's projection is transposed.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def logits_of(adapter, ids):
    with torch.no_grad(), adapter.attached():
        return adapter.model(ids)


def assert_close(found, expected):
    assert (found - expected).detach().abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


def exported(adapter, path):
    return export_adapter(adapter, "peft-bias", path, check=False).path


#: A plain projection and one with a head size of its own, one with a bias, and GPT-2's transposed one.
QUICK = ("llama_gqa", "qwen3", "neox", "gpt2")


@pytest.mark.parametrize(
    "family", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_peft_computes_what_the_adapter_does(family, tmp_path):
    ids, model = tokens(), frozen(family)
    adapter = opened(Aligner(model, 1, 1))
    folder = exported(adapter, tmp_path / "peft")
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(plain(family), folder).eval()(ids).logits
    expected = logits_of(adapter, ids)
    assert_close(theirs, expected)
    assert (expected - model(ids)).abs().max() > 0.05
    # and back: the same vectors
    returned = load_adapter(folder, model)
    assert (method_of(folder), returned.method, returned.config.start_layer) == ("output_bias", "output_bias", 1)
    for layer, shift in constant_shifts(adapter).items():
        assert torch.equal(returned.shifts()[layer], shift.float().double())
    assert_close(logits_of(returned, ids), expected)


def test_peft_mixes_them_with_the_base_in_one_batch(tmp_path):
    """Each row of a padded batch has the logits of its own adapter, and decoding gives each row its own tokens."""
    model = frozen("llama_gqa")
    adapters = {
        "a": opened(Aligner(model, 1, 1), 3),
        "b": opened(Aligner(model, 1, 2, gate_function="tanh"), 4),
        "c": opened(OutputBias(model, start_layer=0), 5),
        "d": opened(LLaMAAdapter(model, 1, 1), 6),
    }
    theirs = plain("llama_gqa")
    for name, adapter in adapters.items():
        folder = exported(adapter, tmp_path / name)
        if isinstance(theirs, peft.PeftModel):
            theirs.load_adapter(folder, name)
        else:
            theirs = peft.PeftModel.from_pretrained(theirs, folder, adapter_name=name)
    theirs.eval()
    rows = ["c", "__base__", "a", "d", "b", "a", "__base__"]
    ids = tokens(len(rows), 9)
    lengths = [9, 5, 7, 9, 4, 3, 9]
    mask = torch.stack([(torch.arange(9) >= 9 - length).long() for length in lengths])
    with torch.no_grad():
        mixed = theirs(input_ids=ids, attention_mask=mask, adapter_names=rows).logits
        after = theirs.generate(
            input_ids=ids[[0, 1, 2]],
            adapter_names=rows[:3],
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=-1,
            pad_token_id=0,
        )
    for index, (name, length) in enumerate(zip(rows, lengths, strict=True)):
        own = ids[index : index + 1, 9 - length :]
        alone = model(own) if name == "__base__" else logits_of(adapters[name], own)
        assert_close(mixed[index, 9 - length :], alone[0])
    for index, name in enumerate(rows[:3]):
        went_on = ids[index : index + 1]
        for _ in range(6):
            logits = model(went_on) if name == "__base__" else logits_of(adapters[name], went_on)
            went_on = torch.cat([went_on, logits[:, -1:].argmax(-1)], dim=1)
        assert torch.equal(after[index], went_on[0])


def test_exactly_the_vectors_are_written(tmp_path):
    model = frozen("llama_gqa")
    adapter = opened(Aligner(model, 1, 2))
    folder = exported(adapter, tmp_path / "peft")
    stored, config = load_file(folder / "adapter_model.safetensors"), read_config(folder)
    assert config["lora_bias"] is True
    assert (config["layers_to_transform"], config["target_modules"]) == ([2, 3], ["self_attn.o_proj"])
    assert len(stored) == 6
    for layer, shift in constant_shifts(adapter).items():
        name = f"base_model.model.model.layers.{layer}.self_attn.o_proj.lora_"
        assert torch.equal(stored[f"{name}B.bias"], shift.float())
        assert not stored[f"{name}A.weight"].any()
        assert not stored[f"{name}B.weight"].any()
    kept = StoredCheckpoint(folder, read_tensors(folder / "adapter_model.safetensors"), config)
    assert [name for name, known in CHECKPOINT_FORMATS.items() if known.recognises(kept)] == ["PEFT LoRA bias"]


def test_from_folder_to_folder(tmp_path):
    base, ids = base_folder("llama_gqa", tmp_path), tokens()
    adapter = opened(Aligner(load_model(base), 1, 1))
    saved = save_adapter(adapter, tmp_path / "saved")
    with pytest.raises(AlignerProbeError, match="peft-bias needs the base that the adapter is for: --model M"):
        export_adapter(saved, "peft-bias", tmp_path / "peft")
    done = export_adapter(saved, "peft-bias", tmp_path / "peft", model=base)
    assert done.checks.max_logit_difference < 1e-5
    merged = export_adapter(done.path, "merged", tmp_path / "merged", model=base, check=False)
    assert_close(load_model(merged.path)(ids), logits_of(adapter, ids))
    with pytest.raises(AlignerProbeError, match=r"output_bias has no prefix .* peft-bias"):
        export_adapter(done.path, "native", tmp_path / "native", model=base)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda model: Aligner(model, 2, 1), "aligner with 2 tokens cannot be merged.*depends on the input"),
        (lambda model: LoRA(model), "lora cannot be merged or written as vectors"),
    ],
)
def test_what_depends_on_the_input_is_refused(make, says, tmp_path):
    with pytest.raises(AlignerProbeError, match=says):
        export_adapter(make(frozen("llama_gqa")), "peft-bias", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def theirs_in(folder, **options):
    """A LoRA with biases of its own that PEFT saved: the biases are random, and B A is zero as PEFT starts it."""
    config = {"task_type": "CAUSAL_LM", "target_modules": ["o_proj"], "r": 3, "lora_alpha": 5, "lora_bias": True}
    made = peft.get_peft_model(plain("llama_gqa"), peft.LoraConfig(**(config | options))).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("lora_B.default.bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=draw))
    made.save_pretrained(folder)
    return made


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"layers_to_transform": [1, 3]}])
def test_biases_that_peft_saved_are_read(options, tmp_path):
    theirs, ids = theirs_in(tmp_path / "peft", **options), tokens()
    adapter = load_adapter(tmp_path / "peft", frozen("llama_gqa"))
    assert isinstance(adapter, ap.OutputBias)
    with torch.no_grad():
        assert_close(logits_of(adapter, ids), theirs(ids).logits)
    assert adapter.loaded_from["source"] == str(tmp_path / "peft")


O_PROJ = "base_model.model.model.layers.2.self_attn.o_proj.lora_"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({f"{O_PROJ}A.weight": torch.ones(3, 48), f"{O_PROJ}B.weight": torch.ones(48, 3)}, "B A that is not zero"),
        ({f"{O_PROJ}B.bias": torch.full((48,), float("nan"))}, "NaN"),
        ({f"{O_PROJ}B.bias": torch.ones(47)}, r"biases \(47,\) in layer 2 .*expected \(48,\)"),
        ({f"{O_PROJ}B.bias": torch.ones(48, dtype=torch.float16)}, "expected .* in one precision"),
        ({f"{O_PROJ}B.bias": None}, "has only A.weight, B.weight"),
        ({O_PROJ.replace("o_proj", "q_proj") + "B.bias": torch.ones(48)}, "expected those of the attention output"),
        ({O_PROJ.replace(".2.", ".9.") + "B.bias": torch.ones(48)}, "expected those of the attention output"),
    ],
)
def test_more_than_a_constant_is_refused(change, says, tmp_path):
    theirs_in(tmp_path / "peft")
    file = tmp_path / "peft" / "adapter_model.safetensors"
    tensors = {name: tensor for name, tensor in (load_file(file) | change).items() if tensor is not None}
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_adapter(tmp_path / "peft", frozen("llama_gqa"))
    assert "\n" not in str(caught.value)


def test_other_options_of_a_lora_are_refused(tmp_path):
    theirs_in(tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_config.json"
    config = json.loads(path.read_text())
    for key, value, says in (
        ("use_dora", True, "is a DoRA"),
        ("r", 0, "has r 0"),
        ("init_lora_weights", "pissa", "pissa"),
    ):
        path.write_text(json.dumps(config | {key: value}))
        with pytest.raises(CheckpointError, match=says):
            load_adapter(tmp_path / "peft", frozen("llama_gqa"))
