"""Exports are loaded in the tool that reads them; each check there fails for an export that is broken on purpose."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import base_folder, frozen, plain, save_tokenizer
from tiny_adapters import opened

from aligner_probe.adapters import Aligner, LLaMAAdapter, LoRA
from aligner_probe.checkpoints import exporting, merged
from aligner_probe.checkpoints.adapters import save_adapter
from aligner_probe.checkpoints.checking import CONTROL, shuffled
from aligner_probe.checkpoints.exporting import UNCHECKED, export_adapter
from aligner_probe.checkpoints.peft_lora import LoRACheckpoint
from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.checkpoints.registry import CHECKPOINT_FORMATS, format_for
from aligner_probe.checkpoints.steering import ConstantShifts
from aligner_probe.errors import AlignerProbeError
from aligner_probe.models import load_model

ADAPTERS = {
    "merged": lambda model, seed: opened(Aligner(model, 1, 1), seed),
    "steering": lambda model, seed: opened(Aligner(model, 1, 1), seed),
    "peft-bias": lambda model, seed: opened(Aligner(model, 1, 1), seed),
    "peft, LoRA": lambda model, seed: opened(LoRA(model, r=2), seed, size=0.3),
    "peft, AdaptionPrompt": lambda model, seed: opened(LLaMAAdapter(model, 2, 1, gate_per="layer"), seed),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base model's folder with a tokenizer, and the same model as a bridge."""
    folder = base_folder("llama_gqa", tmp_path_factory.mktemp("checked"))
    save_tokenizer(folder)
    return folder, load_model(folder)


def name_of(what):
    return what.split(",")[0]


@pytest.mark.parametrize("what", ADAPTERS)
def test_the_report_of_a_whole_export(what, base, tmp_path):
    pytest.importorskip("peft")
    folder, model = base
    adapter = ADAPTERS[what](model, 3)
    before = [parameter.clone() for parameter in adapter.parameters()]
    named = {"model": folder} if what == "merged" else {}
    done = export_adapter(adapter, name_of(what), tmp_path / "out", others=[ADAPTERS[what](model, 4)], **named)
    report = done.checks
    assert report.n_text_tokens > 5
    assert report.base_difference > 100 * report.tolerance
    assert report.nearest_difference > 100 * report.tolerance
    assert report.max_logit_difference < 1e-5 * report.max_logit
    assert report.same_greedy_tokens == report.greedy_tokens == 32
    assert [note.split(":")[0] for note in done.notes[-3:]] == ["applied", "right", "equal"]
    assert all(torch.equal(old, new) for old, new in zip(before, adapter.parameters(), strict=True))


def other_than(tensors, how, twin):
    """Tensors of an export that are broken in one of the ways that a check must see."""
    draw = torch.Generator().manual_seed(1)
    change = {
        "zeroed": torch.zeros_like,
        "rounded": lambda tensor: tensor.bfloat16().to(tensor.dtype),
        "shuffled": lambda tensor: tensor.flatten()[torch.randperm(tensor.numel(), generator=draw)].view_as(tensor),
    }
    return twin if how == "another's" else {name: change[how](tensor) for name, tensor in tensors.items()}


BREAKS = {
    "zeroed": r"check 'applied' failed: in \S+.* the logits differ from the base's by 0, where the adapter changes",
    "another's": r"check 'right' failed: .*differ from those of others\[0\], \w+ by .*from this adapter's by [1-9.]",
    "rounded": "check 'equal' failed: .*more than the 0.0001 of them that rounding in float32",
}


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("what", [what for what in ADAPTERS if what != "merged"])
def test_each_check_fails_for_its_fault(what, how, base, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    _, model = base
    adapter, other = (ADAPTERS[what](model, seed) for seed in (3, 4))
    twin = export_adapter(other, name_of(what), tmp_path / "twin", check=False).path
    declared = held_by(adapter, name_of(what))
    [weights] = [path.name for path in twin.iterdir() if path.suffix == ".safetensors"]

    def broken(held, path, base):
        declared.write(held, path, base)
        tensors = other_than(load_file(path / weights), how, load_file(twin / weights))
        save_file(tensors, path / weights, metadata={"format": "pt"})
        return path

    monkeypatch.setitem(CHECKPOINT_FORMATS, declared.name, dataclasses.replace(declared, write=broken))
    with pytest.raises(AlignerProbeError, match=BREAKS[how]) as caught:
        export_adapter(adapter, name_of(what), tmp_path / "out", others=[other])
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["twin"]


def held_by(adapter, to):
    """The format of an export, for adapters as they are held in memory."""
    held = {"aligner": ConstantShifts, "lora": LoRACheckpoint}
    declared = format_for(to, held.get(adapter.method, PrefixCheckpoint))
    assert declared is not None
    return declared


MERGE_BREAKS = {
    "zeroed": (lambda shifts, twin: {layer: 0 * shift for layer, shift in shifts.items()}, BREAKS["zeroed"]),
    "another's": (lambda shifts, twin: twin, BREAKS["another's"]),
    "rounded": (lambda shifts, twin: {k: v.bfloat16().double() for k, v in shifts.items()}, BREAKS["rounded"]),
    "one layer lost": (lambda shifts, twin: dict(list(shifts.items())[1:]), "check '(right|equal)' failed"),
}


@pytest.mark.parametrize("how", MERGE_BREAKS)
def test_each_check_fails_for_a_broken_merge(how, base, tmp_path, monkeypatch):
    folder, model = base
    adapter, other = (ADAPTERS["merged"](model, seed) for seed in (3, 4))
    whole, (change, says) = merged.merge, MERGE_BREAKS[how]
    monkeypatch.setattr(merged, "merge", lambda plain, shifts: whole(plain, change(shifts, other.shifts())))
    with pytest.raises(AlignerProbeError, match=says):
        export_adapter(adapter, "merged", tmp_path / "new" / "out", model=folder, others=[other])
    assert not list(tmp_path.iterdir())


def test_the_control_finds_values_in_another_order(base, tmp_path, monkeypatch):
    """Where no other adapter is named, the shuffled one takes its place."""
    folder, model = base
    adapter = ADAPTERS["merged"](model, 3)
    whole, control = merged.merge, shuffled(adapter)
    assert control.model is adapter.model
    assert torch.equal(control.prefix.flatten().sort().values, adapter.prefix.flatten().sort().values)
    assert not torch.equal(control.prefix, adapter.prefix)
    monkeypatch.setattr(merged, "merge", lambda plain, shifts: whole(plain, control.shifts()))
    with pytest.raises(AlignerProbeError, match=f"check 'right' failed: .* {CONTROL} by"):
        export_adapter(adapter, "merged", tmp_path / "out", model=folder)


def test_a_tensor_under_a_corrupted_name_is_found(base, tmp_path, monkeypatch):
    """vllm-project/vllm#34186: a LoRA that loads without an error and answers as the base model."""
    pytest.importorskip("peft")
    adapter = ADAPTERS["peft-bias"](base[1], 3)
    declared = format_for("peft-bias", ConstantShifts)

    def renamed(held, path, base):
        file = declared.write(held, path, base) / "adapter_model.safetensors"
        tensors = {name.replace("lora_B.bias", "lora_B.bais"): tensor for name, tensor in load_file(file).items()}
        save_file(tensors, file)

    monkeypatch.setitem(CHECKPOINT_FORMATS, declared.name, dataclasses.replace(declared, write=renamed))
    with pytest.raises(AlignerProbeError, match="check 'applied' failed: in PEFT"):
        export_adapter(adapter, "peft-bias", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_is_not_checked_says_so(base, tmp_path, monkeypatch):
    folder, model = base
    lora, one = opened(LoRA(model, r=2)), opened(Aligner(model, 1, 1))
    saved = save_adapter(lora, tmp_path / "saved")

    def says(text, source, to, **options):
        done = export_adapter(source, to, tmp_path / f"{len(list(tmp_path.iterdir()))}", **options)
        assert done.checks is None
        assert text in done.notes[-1]

    says(UNCHECKED, lora, "peft", check=False)
    says(UNCHECKED, one, "merged", check=False, model=folder)
    says("not checked in PEFT: name its base model", saved, "peft")
    says("not checked in PEFT: name its base model", opened(LoRA(frozen("llama_gqa"), r=2)), "peft")
    with one.attached():
        says("not checked in PEFT: an adapter is attached", lora, "peft")
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    says("not checked in PEFT: it is not installed (pip install peft)", lora, "peft")
    merge = json.loads((tmp_path / "2" / merged.PROVENANCE).read_text())["merge"]
    assert merge is None


def test_an_untrained_adapter_is_exported_with_a_remark(base, tmp_path):
    done = export_adapter(Aligner(base[1], 1, 1), "merged", tmp_path / "out", model=base[0])
    assert done.checks.effect == 0
    assert any("applied, right: not decided" in note for note in done.notes)


def test_others_need_the_checks(base, tmp_path):
    folder, model = base
    adapter = opened(LoRA(model, r=2))
    saved = save_adapter(adapter, tmp_path / "saved")
    for options, says in (({"check": False}, "which check=False leaves out"), ({}, "--model M is missing")):
        with pytest.raises(AlignerProbeError, match=says):
            export_adapter(saved, "peft", tmp_path / "out", others=[saved], **options)
    with pytest.raises(AlignerProbeError, match="no other tool reads native"):
        export_adapter(saved, "native", tmp_path / "out", model=folder, others=[saved])
    with pytest.raises(AlignerProbeError, match=r"check 'right' failed: .*saved by .*is that the same adapter"):
        export_adapter(saved, "peft", tmp_path / "out", model=folder, others=[saved])
    with pytest.raises(AlignerProbeError, match=r"export_adapter\(others=\)"):
        export_adapter(saved, "peft", tmp_path / "out", model=folder, others=[3])


def test_a_base_that_is_not_here_can_still_be_named(base, tmp_path):
    pytest.importorskip("peft")
    saved = save_adapter(opened(LoRA(base[1], r=2)), tmp_path / "saved")
    gone = tmp_path / "gone"
    gone.mkdir()
    with pytest.raises(AlignerProbeError, match=r"cannot load a model from .*which check=False, --no-check, leaves"):
        export_adapter(saved, "peft", tmp_path / "out", model=gone)
    done = export_adapter(saved, "peft", tmp_path / "out", model=gone, check=False)
    assert json.loads((done.path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(gone)


def test_a_base_in_memory_that_is_another_one_by_now(base, tmp_path):
    """The name of the base in memory is all that the check has, so another model under it is found out, or said."""
    pytest.importorskip("peft")
    folder = base_folder("llama_gqa", tmp_path)
    adapter = opened(LoRA(load_model(folder), r=2))
    changed = plain("llama_gqa")
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight.mul_(2)
    changed.save_pretrained(folder)
    with pytest.raises(AlignerProbeError, match="Is the plain model the adapter's base"):
        export_adapter(adapter, "peft", tmp_path / "out")
    (folder / "model.safetensors").unlink()
    assert "not checked in PEFT: cannot load a model" in export_adapter(adapter, "peft", tmp_path / "out").notes[-1]
