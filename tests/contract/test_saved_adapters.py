"""Adapters saved and loaded: exact round trips, the right base, foreign files on any model that fits."""

import json

import pytest
import torch
from builders import checkpoint, lit_aligner_state, opengvlab_state, peft_folder, save_pth
from tiny import bridge, frozen, tokens
from tiny_adapters import VARIANTS, shaken

from aligner_probe.adapters import Aligner
from aligner_probe.checkpoints import load_checkpoint
from aligner_probe.checkpoints.adapters import computes_with, load_adapter, save_adapter
from aligner_probe.errors import AlignerProbeError, CheckpointError


def test_one_file_read_with_two_gate_functions_computes_two_things(tmp_path):
    made = checkpoint(method="llama_adapter", n_tokens=2, d_model=48, n_layers=3, n_heads=4, start_layer=1)
    path, model = save_pth(opengvlab_state(made), tmp_path / "v1.pth"), bridge("llama_gqa")
    tanh, linear, again = (load_adapter(path, model, gate=gate) for gate in ("tanh", "linear", "tanh"))
    assert computes_with(tanh)["sha256"] == computes_with(linear)["sha256"]
    assert computes_with(tanh) != computes_with(linear)
    assert computes_with(tanh) == computes_with(again)


@pytest.mark.parametrize("name", VARIANTS)
def test_round_trip_is_exact(name, tmp_path):
    model, ids = frozen("llama_gqa"), tokens()
    adapter = shaken(VARIANTS[name](model, 0))
    adapter.start = {n: torch.zeros_like(p) for n, p in adapter.named_parameters()}
    folder = save_adapter(adapter, tmp_path / "adapter", run={"recipe": "none"})
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "provenance.json",
    ]
    fresh = bridge("llama_gqa")
    loaded, folded = load_adapter(folder, fresh), adapter.folded()
    assert type(loaded) is type(adapter)
    assert loaded.config == folded.config
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), folded.parameters(), strict=True))
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in folded.parameters()]
    assert all(not tensor.any() for tensor in loaded.start.values())
    with adapter.attached(), loaded.attached():
        assert torch.equal(model(ids), fresh(ids))
    assert json.loads((folder / "provenance.json").read_text())["run"] == {"recipe": "none"}


def test_a_saved_prefix_adapter_is_a_checkpoint(tmp_path):
    adapter = shaken(Aligner(frozen("llama_gqa"), 3, 1))
    folder = save_adapter(adapter, tmp_path / "adapter")
    found = load_checkpoint(folder)
    assert (found.method, found.n_tokens, found.layers) == ("aligner", 3, range(1, 4))
    assert torch.equal(found.gates, adapter.gates)


def test_another_base_is_refused_unless_forced(tmp_path):
    folder = save_adapter(Aligner(frozen("llama_gqa"), 3, 1), tmp_path / "adapter")
    other = bridge("llama_gqa")
    with torch.no_grad():
        other.blocks[2].attn.q.weight[0, 0] += 1
    with pytest.raises(AlignerProbeError, match="another base"):
        load_adapter(folder, other)
    assert load_adapter(folder, other, force=True).model is other


def test_foreign_files_attach_to_any_model_that_fits(tmp_path):
    model, ids = frozen("llama_gqa"), tokens()
    made = checkpoint(n_tokens=2, d_model=48, n_layers=3, n_heads=4, start_layer=1, dtype=torch.float32)
    adapter = load_adapter(save_pth(lit_aligner_state(made), tmp_path / "a.pth"), model)
    base = model(ids)
    with adapter.attached():
        assert not torch.equal(model(ids), base)
    scalar = checkpoint(method="llama_adapter", n_tokens=2, d_model=48, n_layers=3, n_heads=1, start_layer=1)
    assert load_adapter(peft_folder(scalar, tmp_path / "peft"), model).config.gate_per == "layer"
    wide = checkpoint(d_model=50, n_layers=3, n_heads=4, start_layer=1)
    with pytest.raises(CheckpointError, match=r"does not fit this model: prefix \(1, 1, 50\), here \(1, 1, 48\)"):
        load_adapter(save_pth(lit_aligner_state(wide), tmp_path / "b.pth"), model)


def test_options_from_a_stranger_are_refused(tmp_path):
    model = frozen("llama_gqa")
    folder = save_adapter(Aligner(model, 1, 1), tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["options"]["surprise"] = 1
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises((CheckpointError, AlignerProbeError), match="surprise"):
        load_adapter(folder, model)
