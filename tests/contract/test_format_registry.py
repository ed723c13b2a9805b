"""The checkpoint formats are declared once; the page on adding one does what it says."""

import re
from pathlib import Path

import pytest
import torch
from builders import checkpoint, lit_adapter_state, lit_aligner_state, opengvlab_state, peft_folder, save_pth
from tiny import bridge
from tiny_adapters import opened

from aligner_probe.adapters.prefix import Aligner, LLaMAAdapter
from aligner_probe.checkpoints import load_checkpoint, save_checkpoint
from aligner_probe.checkpoints.adapters import load_adapter
from aligner_probe.checkpoints.containers import read_tensors
from aligner_probe.checkpoints.exporting import export_adapter, export_formats
from aligner_probe.checkpoints.format import CheckpointFormat, StoredCheckpoint
from aligner_probe.checkpoints.native import WEIGHTS, read_config
from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.checkpoints.registry import CHECKPOINT_FORMATS, register_format
from aligner_probe.commands import export as command
from aligner_probe.errors import AlignerProbeError, CheckpointError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "add_a_format.md"


@pytest.fixture
def formats():
    """The registered formats, which a test may change."""
    before = dict(CHECKPOINT_FORMATS)
    yield CHECKPOINT_FORMATS
    CHECKPOINT_FORMATS.clear()
    CHECKPOINT_FORMATS.update(before)


def stored_examples(tmp_path):
    """One stored checkpoint for each way of storing one, with the name of its format."""
    shared = checkpoint()
    own = checkpoint(method="llama_adapter", n_tokens=2)
    tied = checkpoint(method="llama_adapter", n_heads=1)
    yield "lit-llama .pth", save_pth(lit_aligner_state(shared), tmp_path / "a.pth")
    yield "lit-llama .pth", save_pth(lit_adapter_state(own), tmp_path / "b.pth")
    yield "OpenGVLab LLaMA-Adapter .pth", save_pth(opengvlab_state(own), tmp_path / "c.pth")
    yield "PEFT AdaptionPrompt", peft_folder(tied, tmp_path / "d")
    yield "aligner_probe folder", save_checkpoint(shared, tmp_path / "e")


def test_exactly_one_format_recognises_a_checkpoint(tmp_path):
    for name, path in stored_examples(tmp_path):
        config = read_config(path) if path.is_dir() else None
        stored = StoredCheckpoint(path, read_tensors(path / WEIGHTS if path.is_dir() else path), config)
        assert [known for known, declared in CHECKPOINT_FORMATS.items() if declared.recognises(stored)] == [name]
        assert load_checkpoint(path).format == name


def test_the_command_offers_every_export():
    assert set(command.EXPORT_FORMATS) == set(export_formats())


def test_what_is_exported_can_be_written():
    for declared in CHECKPOINT_FORMATS.values():
        assert bool(declared.export_name) == (declared.write is not None)


@pytest.mark.parametrize(
    ("name", "export_name"), [("lit-llama .pth", "mine"), ("my format", "lit-llama"), ("aligner_probe folder", "")]
)
def test_names_of_the_package_are_taken(formats, name, export_name):
    with pytest.raises(AlignerProbeError, match="is taken by"):
        register_format(
            CheckpointFormat(
                name=name, holds=PrefixCheckpoint, recognises=lambda stored: False, export_name=export_name
            )
        )
    assert list(formats) == list(CHECKPOINT_FORMATS)


def test_the_page_adds_a_format_that_round_trips(formats, tmp_path):
    """Every block of the page runs, twice over; then what is written is read back to the bit."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    declaration, use = blocks
    model = bridge("llama_gqa")
    adapter = opened(Aligner(model, 3, start_layer=1, gate_function="tanh"))
    for attempt in ("first", "second"):
        names: dict = {"adapter": adapter, "folder": tmp_path / attempt}
        (tmp_path / attempt).mkdir()
        for block in (declaration, use):
            exec(compile(block, str(PAGE), "exec"), names)
    again = names["again"]
    assert again.format == "shared-prefix .safetensors"
    assert torch.equal(again.prefix, adapter.prefix.detach())
    assert torch.equal(again.gates, torch.tanh(adapter.gates.detach()))
    assert any("each new gate is tanh(gate)" in note for note in names["saved"].notes)
    loaded = load_adapter(names["saved"].path, model)
    assert (loaded.method, loaded.config.start_layer) == ("aligner", 1)
    # what the format does not hold is refused with the way on, and nothing is written
    with pytest.raises(AlignerProbeError, match="export it to lit-llama"):
        export_adapter(LLaMAAdapter(model, 3, start_layer=1), "shared-prefix", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    torch.save({"shared.prefix": torch.ones(1, 2, 3)}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"part\.pth.*lacks one of shared\.prefix"):
        load_checkpoint(tmp_path / "part.pth")
    with pytest.raises(AlignerProbeError, match=r"no export is named 'onnx'.*shared-prefix"):
        export_adapter(adapter, "onnx", tmp_path / "onnx")
