"""Base models from folders: every number read, or a line that says what is missing; the tokenizer that lies there."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import bridge, plain

from aligner_probe import fingerprints
from aligner_probe.errors import AlignerProbeError
from aligner_probe.models import fingerprint, load_model


def weights_changed(folder, change):
    """A saved model whose file of weights is read, changed and written again."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def logged():
    """What transformers logs meanwhile; its logger hands nothing on to others."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.WARNING)
    yield lines
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("llama_gqa", "model.layers.2.self_attn.v_proj.weight"),
        ("llama_gqa", "lm_head.weight"),  # not tied to the embeddings here
        ("gpt2", "transformer.h.1.mlp.c_fc.bias"),
    ],
)
def test_a_base_with_a_missing_weight_is_refused(name, lost, tmp_path, logged):
    plain(name).save_pretrained(tmp_path)
    weights_changed(tmp_path, lambda tensors: tensors.pop(lost))
    with pytest.raises(AlignerProbeError, match=f"has no numbers for {lost}, .*random"):
        load_model(tmp_path)
    assert not any(lost in line for line in logged)


def test_what_transformers_found_is_logged_where_nothing_is_wrong(tmp_path, logged):
    plain("llama_gqa").save_pretrained(tmp_path)
    weights_changed(tmp_path, lambda tensors: tensors.update({"model.extra.weight": torch.zeros(2)}))
    load_model(tmp_path)
    assert any("model.extra.weight" in line for line in logged)


def test_a_base_with_weights_of_other_sizes_is_refused(tmp_path):
    plain("llama_gqa").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 60}))
    with pytest.raises(AlignerProbeError, match=r"layers\.0\.mlp\.down_proj\.weight \(48, 64\), \(48, 60\) by config"):
        load_model(tmp_path)


def test_tied_heads_and_left_over_buffers_are_no_fault(tmp_path):
    """As GPT-2 lies on the hub: no head, no `transformer.` before the names, and masks as weights."""
    plain("gpt2").save_pretrained(tmp_path)

    def as_published(tensors):
        assert "lm_head.weight" not in tensors
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
        tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)

    weights_changed(tmp_path, as_published)
    assert fingerprint(load_model(tmp_path)) == fingerprint(bridge("gpt2"))
    plain("llama_gqa").save_pretrained(tmp_path / "llama")
    inverse = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    weights_changed(tmp_path / "llama", lambda tensors: tensors.update(inverse))
    assert fingerprint(load_model(tmp_path / "llama")) == fingerprint(bridge("llama_gqa"))


def test_a_device_that_is_not_there_is_told_before_anything_is_loaded(tmp_path):
    absent = [f"cuda:{torch.cuda.device_count()}", "foo", *(() if torch.cuda.is_available() else ("cuda",))]
    for device in absent:
        with pytest.raises(AlignerProbeError, match=f"device '{device}' .*expected one of cpu"):
            load_model(tmp_path / "nowhere", device=device)


def test_a_tokenizer_of_vocabulary_and_merges_is_attached(tmp_path):
    plain("gpt2").save_pretrained(tmp_path)
    assert load_model(tmp_path).tokenizer is None
    ids = {name: i for i, name in enumerate(["<|endoftext|>", *"abc", "ab"])}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    assert load_model(tmp_path).tokenizer.tokenize("abcab") == ["ab", "c", "ab"]


@pytest.mark.parametrize("name", ["llama_gqa", "gpt2"])
def test_float16_is_the_same_base(name, tmp_path):
    plain(name).save_pretrained(tmp_path)
    half = load_model(tmp_path, dtype=torch.float16)
    assert fingerprint(half) == fingerprint(bridge(name))
    elsewhere = {key: tensor.clone() for key, tensor in half.original_model.state_dict().items()}
    half.original_model.load_state_dict(elsewhere, assign=True)
    assert fingerprint(half) == fingerprint(bridge(name))
    with torch.no_grad():
        half.blocks[2].attn.q.weight[0, 0] += 1
    assert fingerprint(half) != fingerprint(bridge(name))


@pytest.mark.parametrize("shape", [(4096, 4096), (11008, 4096), (3072, 8192), (256000, 2304)])
def test_a_fingerprint_sees_all_columns_of_a_large_matrix(shape):
    like = torch.empty(shape, device="meta")
    drawn = range(0, like.numel(), fingerprints._step(like))
    assert len(drawn) >= fingerprints.FINGERPRINT_NUMBERS - 1
    assert len({index % shape[1] for index in drawn}) >= min(shape[1], fingerprints.FINGERPRINT_NUMBERS) - 1
