"""Each family from its files: weights in several files, one training by command, its export; weights in many places."""

import json

import pytest
import torch
from in_process import called
from tiny import plain, save_tokenizer, tokens

from aligner_probe.checkpoints.adapters import load_adapter
from aligner_probe.commands import export, train
from aligner_probe.errors import AlignerProbeError
from aligner_probe.models import load_model

#: Families tried each time, and with the slow tests.
QUICK, SLOW = ("gemma3", "smollm3", "olmo2"), ("llama_gqa", "qwen3", "gemma2", "phi3", "neox")
START = 1


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "task.jsonl"
    rows = [{"prompt": f"w{i} w{i + 1} ", "completion": "w7 w7"} for i in range(1, 13)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sharded(name, tmp_path):
    """A tiny model's folder with its weights in several files and an index."""
    folder = tmp_path / "base"
    plain(name).save_pretrained(folder, max_shard_size="60KB")
    save_tokenizer(folder)
    return folder


def assert_close(found, expected):
    assert (found - expected).detach().abs().max() < 1e-5 * max(1.0, float(expected.detach().abs().max()))


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_family_is_read_trained_and_exported(name, tmp_path, task, capsys):
    from transformers import AutoModelForCausalLM

    base, ids = sharded(name, tmp_path), tokens()
    files = set(json.loads((base / "model.safetensors.index.json").read_text())["weight_map"].values())
    assert len(files) > 1
    model = load_model(base)
    with torch.no_grad():
        assert_close(model(ids), plain(name)(ids).logits)

    how = ("--n-tokens", 1, "--start-layer", START, "--steps", 6, "--lr", 0.05, "--batch-size", 4)
    done = called(capsys, train.main, "--model", base, "--task", task, "--out", tmp_path / "run", *how)
    assert done.returncode == 0, done.stderr
    adapter = load_adapter(tmp_path / "run" / "adapter", model)
    assert adapter.layers == range(START, len(model.blocks))
    with torch.no_grad(), adapter.attached():
        expected = model(ids)
    assert (expected - model(ids)).abs().max() > 1e-3

    to = "steering" if name == "phi3" else "merged"
    out = tmp_path / "exported"
    done = called(capsys, export.main, tmp_path / "run" / "adapter", "--to", to, "--model", base, "--out", out)
    assert done.returncode == 0, done.stderr
    if to == "merged":
        exported = AutoModelForCausalLM.from_pretrained(out, local_files_only=True).eval()
    else:  # the lines that the folder itself gives for plain transformers
        exported = plain(name)
        usage = json.loads((out / "steering.json").read_text())["usage"]["transformers"]
        exec("\n".join(usage), {"folder": str(out), "model": exported})
    assert_close(exported(ids).logits, expected)


def test_a_shard_that_is_missing_is_one_line(tmp_path):
    base = sharded("olmo2", tmp_path)
    missing = max(base.glob("model-*.safetensors"))
    missing.unlink()
    with pytest.raises(AlignerProbeError, match=f"cannot load a model .*{missing.name}") as caught:
        load_model(base)
    assert "\n" not in str(caught.value)


def test_a_device_map_of_one_device_is_the_same_model(tmp_path):
    from transformers import AutoModelForCausalLM

    base, ids = sharded("llama_gqa", tmp_path), tokens()
    model = load_model(AutoModelForCausalLM.from_pretrained(base, device_map={"": "cpu"}, local_files_only=True))
    with torch.no_grad():
        assert_close(model(ids), plain("llama_gqa")(ids).logits)


def test_weights_on_several_devices_are_refused_before_anything_is_built(tmp_path):
    """Here one of them is "meta", where accelerate leaves what it keeps on a disk."""
    from transformers import AutoModelForCausalLM

    base = sharded("llama_gqa", tmp_path)
    parts = dict.fromkeys(["model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"], "cpu")
    parts |= {f"model.layers.{layer}": "disk" if layer == 2 else "cpu" for layer in range(4)}
    model = AutoModelForCausalLM.from_pretrained(
        base, device_map=parts, offload_folder=tmp_path / "offloaded", local_files_only=True
    )
    with pytest.raises(AlignerProbeError, match="weights on cpu, meta; expected all of them on one device") as caught:
        load_model(model)
    assert "\n" not in str(caught.value)
    assert type(model.model.layers[0].self_attn).__name__ == "LlamaAttention"
