"""Bases by a wrong name, and quantised ones: one line, before any weight is read and before the network is asked."""

import json

import pytest
import tiny
import torch
from in_process import called

import aligner_probe as ap
from aligner_probe import models
from aligner_probe.commands import probe
from aligner_probe.errors import AlignerProbeError


@pytest.fixture
def no_network(monkeypatch):
    """transformers is not asked for anything."""

    def asked(*_, **__):
        raise AssertionError("transformers was asked")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", asked)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases") / "stories"
    tiny.plain("llama_gqa").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["microworl", "microwolrd", "Microworld", "micro-world", "microworlds"])
def test_a_slip_of_the_pen_suggests_the_micro_world(name, no_network):
    with pytest.raises(AlignerProbeError, match="did you mean microworld"):
        ap.load_model(name)


def test_a_slip_of_the_pen_suggests_the_folder_beside(base, no_network, monkeypatch):
    with pytest.raises(AlignerProbeError, match=f"did you mean {base}"):
        ap.load_model(str(base.parent / "storys"))
    monkeypatch.chdir(base.parent)
    for name in ("storys", "./storys"):
        with pytest.raises(AlignerProbeError, match="did you mean stories"):
            ap.load_model(name)


@pytest.mark.parametrize("name", ["/no/such/place", "./nothing", "~/nothing/at/all", "a/b/c"])
def test_a_path_to_nothing_is_told_without_the_network(name, no_network):
    with pytest.raises(AlignerProbeError, match="there is no such folder"):
        ap.load_model(name)


def test_a_file_is_no_base(base, no_network):
    with pytest.raises(AlignerProbeError, match="it is a file"):
        ap.load_model(base / "config.json")


@pytest.mark.parametrize("name", ["gpt2", "distilgpt2", "EleutherAI/pythia-14m", "owner/microworld"])
def test_names_that_the_hub_may_have_are_asked_for(name, monkeypatch):
    asked = []

    def ask(place, **_):
        asked.append(place)
        raise OSError("no network here")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", ask)
    with pytest.raises(AlignerProbeError, match="no network here"):
        ap.load_model(name)
    assert asked == [name]


def test_the_command_suggests_the_nearest(tmp_path, capsys):
    words = ["run", "--task", "panel:style_pirate", "--out", tmp_path / "x", "--model", "microworl"]
    done = called(capsys, probe.main, *words)
    assert done.returncode == 2
    assert "did you mean microworld?" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_config_with_a_mark_is_one_line(base, tmp_path):
    folder = copied(base, tmp_path)
    file = folder / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    with pytest.raises(AlignerProbeError, match="byte order mark"):
        ap.load_model(folder)


def copied(base, tmp_path, **changes):
    """A copy of the base with keys of its config.json changed."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(content))
    return folder


METHODS = ("fp8", "mxfp4", "gptq", "awq", "compressed-tensors", "bitsandbytes", "torchao", "hqq", "modelopt", "of_2099")
QUANTISED = {method: {"quantization_config": {"quant_method": method}} for method in METHODS} | {
    "nothing said of it": {"quantization_config": {}},
    "4 bits": {"quantization_config": {"load_in_4bit": True}},
    "MLX": {"quantization": {"group_size": 64, "bits": 4}},
    "older compressed-tensors": {"compression_config": {"quant_method": "compressed-tensors"}},
    "float8": {"dtype": "float8_e4m3fn"},
    "float8, older key": {"dtype": None, "torch_dtype": "float8_e5m2"},
    "int8": {"dtype": "int8"},
}


@pytest.mark.parametrize("what", QUANTISED)
def test_a_quantised_base_is_refused_before_its_weights_are_read(base, tmp_path, what, monkeypatch):
    """fp8, mxfp4 and every method that transformers does not know were ignored: the weights were read as plain ones."""
    monkeypatch.setattr(models, "load_plain", None)
    folder = copied(base, tmp_path, **QUANTISED[what])
    named = what if what in METHODS else "4 bits|unnamed|compressed|float8|int8"
    with pytest.raises(AlignerProbeError, match=named) as caught:
        ap.load_model(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("changes", [{}, {"quantization_config": None}, {"dtype": None}])
def test_a_plain_base_is_loaded(base, tmp_path, changes):
    tokens = tiny.tokens()
    found = ap.load_model(copied(base, tmp_path, **changes))
    torch.testing.assert_close(found(tokens), ap.load_model(tiny.plain("llama_gqa"))(tokens))


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"])
def test_older_tools_write_a_file_beside(base, tmp_path, name):
    folder = copied(base, tmp_path)
    (folder / name).write_text("{}")
    with pytest.raises(AlignerProbeError, match=name):
        ap.load_model(folder)


def _stored(base, tmp_path, change):
    from safetensors.torch import load_file, save_file

    folder = copied(base, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_weights_stored_in_eight_bits_are_refused_though_the_config_is_silent(base, tmp_path, dtype):
    name = "model.layers.0.mlp.up_proj.weight"
    folder = _stored(base, tmp_path, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    with pytest.raises(AlignerProbeError, match=f"{name} as (F8|I8)"):
        ap.load_model(folder)


def test_left_over_scales_are_refused(base, tmp_path):
    name = "model.layers.0.mlp.up_proj.weight_scale_inv"
    folder = _stored(base, tmp_path, lambda tensors: tensors.update({name: torch.ones(1, 1)}))
    with pytest.raises(AlignerProbeError, match=name):
        ap.load_model(folder)


def test_a_quantised_model_object_is_refused():
    four_bits = tiny.plain("llama_gqa")
    # As bitsandbytes makes them: float weights outside, packed ones inside.
    linear = type("Linear4bit", (torch.nn.Linear,), {"__module__": "bitsandbytes.nn.modules"})
    four_bits.model.layers[0].mlp.up_proj = linear(48, 64, bias=False)
    with pytest.raises(AlignerProbeError, match=r"model\.layers\.0\.mlp\.up_proj is a bitsandbytes"):
        ap.load_model(four_bits)
    eight_bits = tiny.plain("llama_gqa")
    eight_bits.model.layers[0].mlp.up_proj.weight.data = torch.zeros(64, 48).to(torch.float8_e4m3fn)
    with pytest.raises(AlignerProbeError, match="float8_e4m3fn"):
        ap.load_model(eight_bits)
    said = tiny.plain("llama_gqa")
    said.config.quantization_config = {"quant_method": "fp8"}
    with pytest.raises(AlignerProbeError, match="fp8"):
        ap.load_model(said)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, "float8_e4m3fn", "half-ish"])
def test_a_dtype_that_is_none_is_one_line(base, dtype):
    with pytest.raises(AlignerProbeError, match=r"expected torch\.float32"):
        ap.load_model(base, dtype=dtype)


def test_a_dtype_may_be_named(base):
    assert models.dtype_of(ap.load_model(base, dtype="bfloat16")) == torch.bfloat16
