"""The export command: what it prints, and that a mistake is one line, exit code 2, and nothing on the disk."""

import pytest
import torch
from tiny import base_folder, bridge, save_tokenizer
from tiny_adapters import opened

import aligner_probe as ap
from aligner_probe.adapters import Aligner, LoRA
from aligner_probe.checkpoints.adapters import save_adapter
from aligner_probe.commands import export, run
from aligner_probe.models import load_model


def test_the_command_prints_how_exact_it_is(tmp_path, capsys):
    base = base_folder("llama_gqa", tmp_path)
    adapter = save_adapter(opened(Aligner(load_model(base), 1, 1)), tmp_path / "adapter")
    arguments = [str(adapter), "--to", "merged", "--model", str(base), "--out", str(tmp_path / "out" / "merged")]
    assert run(export.main, arguments) == 0
    said = capsys.readouterr().out
    assert "checked in transformers as LlamaForCausalLM in float32" in said
    applied, right, equal = (
        float(said.split(f"\n{check}: logits differ from the ")[1].split(" by ")[1].split(",")[0].split()[0])
        for check in ("applied", "right", "equal")
    )
    assert equal < 1e-5 < 0.1 < min(applied, right)
    assert "the first 32 of 32 greedy tokens are the same" in said
    assert said.endswith(f"wrote {tmp_path / 'out' / 'merged'}\n")
    assert run(export.main, arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_another_adapter_is_named_and_the_checks_are_left_out(tmp_path, capsys):
    base = base_folder("llama_gqa", tmp_path)
    one, other = (
        str(save_adapter(opened(Aligner(load_model(base), 1, 1), seed), tmp_path / f"adapter{seed}")) for seed in (3, 4)
    )
    arguments = [one, "--to", "steering", "--model", str(base), "--out", str(tmp_path / "out")]
    assert run(export.main, [*arguments, "--other", one]) == 2
    error = capsys.readouterr().err
    [line] = [line for line in error.splitlines() if "error: " in line]
    assert f"check 'right' failed: in transformers with forward hooks the logits differ from those of {one} by" in line
    assert not (tmp_path / "out").exists()
    assert run(export.main, [*arguments, "--other", other, "--no-check"]) == 2
    assert "others (--other) cannot be compared" in capsys.readouterr().err
    assert run(export.main, [*arguments, "--other", other]) == 0
    assert "right: logits differ from the nearest other adapter's" in capsys.readouterr().out
    assert run(export.main, [*arguments[:-1], str(tmp_path / "unchecked"), "--no-check"]) == 0
    said = capsys.readouterr().out
    assert "not checked (check=False, --no-check)" in said
    assert "applied:" not in said


def test_from_format_to_format_without_a_base(tmp_path):
    folder = save_adapter(opened(Aligner(bridge("gpt2"), 3, 1, gate_per="layer")), tmp_path / "a")
    chain = [("lit-llama", "b.pth"), ("native", "c"), ("peft", "d"), ("lit-llama", "e.pth")]
    source = folder
    for to, name in chain:
        assert run(export.main, [str(source), "--to", to, "--out", str(tmp_path / name)]) == 0
        source = tmp_path / name
    first, last = ap.load_checkpoint(folder), ap.load_checkpoint(source)
    assert last.method == "llama_adapter"  # through PEFT, which shares no prompt
    assert torch.equal(last.prefix, first.prefix.expand(3, -1, -1))
    assert torch.equal(last.gates, first.gates)


def test_opengvlab_options_reach_the_reader(tmp_path):
    from builders import checkpoint, opengvlab_state, save_pth

    made = checkpoint(method="llama_adapter", n_tokens=2, gate_function="tanh")
    path = save_pth(opengvlab_state(made), tmp_path / "a.pth")
    for gate in ("tanh", "linear"):
        out = tmp_path / f"{gate}.pth"
        assert run(export.main, [str(path), "--to", "lit-llama", "--gate", gate, "--out", str(out)]) == 0
        expected = made.gates.tanh() if gate == "tanh" else made.gates
        assert torch.equal(ap.load_checkpoint(out).gates, expected)


def test_mistakes_are_one_line_and_leave_nothing(tmp_path, capsys):
    model = bridge("llama_gqa")
    ten = str(save_adapter(opened(Aligner(model, 10, 1)), tmp_path / "ten"))
    one = str(save_adapter(opened(Aligner(model, 1, 1)), tmp_path / "one"))
    lora = str(save_adapter(opened(LoRA(model)), tmp_path / "lora"))
    (tmp_path / "file").write_text("in the way")
    before = sorted(path.name for path in tmp_path.iterdir())
    out = str(tmp_path / "out")
    for arguments, says in (
        ([ten, "--to", "merged", "--model", "x", "--out", out], "aligner with 10 tokens cannot be merged"),
        ([ten, "--to", "peft", "--out", out], "have a gate of its own for each head"),
        ([one, "--to", "merged", "--out", out], "--model M, a hub id or a folder"),
        ([one, "--to", "merged", "--model", str(tmp_path / "nowhere"), "--out", out], "cannot load a model from"),
        ([one, "--to", "merged", "--model", one, "--out", out], "cannot load a model from"),
        ([lora, "--to", "lit-llama", "--out", out], "LoRA has no prefix"),
        ([lora, "--to", "merged", "--model", "x", "--out", out], "export it to peft"),
        ([str(tmp_path / "none"), "--to", "native", "--out", out], "does not exist"),
        ([one, "--to", "native", "--out", str(tmp_path / "file" / "out")], "cannot write to"),
        ([one, "--to", "lit-llama", "--out", str(tmp_path / "file")], "exists already"),
        (["published:none-1-7b", "--to", "native", "--out", out], "no published checkpoint is named"),
    ):
        assert run(export.main, arguments) == 2, says
        error = capsys.readouterr().err
        assert says in error, error
        assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("file", "says"), [("model.safetensors", "cannot load a model"), ("tokenizer.json", "cannot read the tokenizer")]
)
@pytest.mark.parametrize("to", ["merged", "steering"])
def test_a_damaged_base_is_one_line(to, file, says, tmp_path, capsys):
    base = base_folder("llama_gqa", tmp_path)
    save_tokenizer(base)
    adapter = save_adapter(opened(Aligner(load_model(base), 1, 1)), tmp_path / "adapter")
    (base / file).write_bytes((base / file).read_bytes()[:100])
    assert run(export.main, [str(adapter), "--to", to, "--model", str(base), "--out", str(tmp_path / "out")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert says in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [Aligner, LoRA])
def test_the_folder_of_a_run_names_the_adapter_in_it(kind, tmp_path, capsys):
    save_adapter(kind(bridge("llama_gqa"), 1, start_layer=1), tmp_path / "run" / "adapter")
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    for to in ("lit-llama", "peft", "steering"):
        arguments = [str(tmp_path / "run"), "--to", to, "--model", "x", "--out", str(tmp_path / "out")]
        assert run(export.main, arguments) == 2
        assert f"Name {tmp_path / 'run' / 'adapter'}, the checkpoint inside it" in capsys.readouterr().err
