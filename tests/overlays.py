"""Bases with the fast overlay and without, and what compares them."""

import pytest
import torch
from tiny import MODELS, frozen, plain
from transformer_lens.model_bridge.generalized_components import (
    JointQKVPositionEmbeddingsAttentionBridge,
    PositionEmbeddingsAttentionBridge,
)

from aligner_probe.adapters.lora import LoRA
from aligner_probe.adapters.prefix import Aligner, LLaMAAdapter
from aligner_probe.attention import FastAttention, FastJointAttention
from aligner_probe.models import load_model

FAST = [name for name in MODELS if name not in ("gpt2", "neox")]
SLOW = ["gpt2", "neox"]
#: The fast families, of which those that compute just what another one computes are tried with the slow tests.
REPEATS = ("llama", "mistral", "qwen2")
EACH = [pytest.param(name, marks=pytest.mark.slow) if name in REPEATS else name for name in FAST]
ADAPTERS = {
    "aligner-1": lambda model: Aligner(model, 1, 1),
    "aligner-5": lambda model: Aligner(model, 5, 1),
    "llama_adapter": lambda model: LLaMAAdapter(model, 3, 1),
    "lora": lambda model: LoRA(model, 4, targets=("q", "k", "v", "o")),
    "lora all linear": lambda model: LoRA(model, 4, targets="all-linear"),
}


def pair(family, dtype=torch.float32):
    """The same base with the overlay and without."""
    return load_model(plain(family, dtype)), load_model(plain(family, dtype), fast=False)


def shared_pair(family):
    """The same for tests that leave both as they were."""
    return frozen(family), frozen(family, fast=False)


def size(tensor):
    return tensor.detach().abs().max().clamp(min=1)


def assert_close(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert (found.double() - expected.double()).abs().max() < tolerance * size(expected)


def refuse_written_out(monkeypatch):
    """Make writing attention out an error, TransformerLens's way and ours."""

    def refuse(*args, **kwargs):
        raise AssertionError("attention was written out")

    monkeypatch.setattr(PositionEmbeddingsAttentionBridge, "forward", refuse)
    monkeypatch.setattr(JointQKVPositionEmbeddingsAttentionBridge, "forward", refuse)
    for fast in (FastAttention, FastJointAttention):
        monkeypatch.setattr(fast, "_watched", refuse)
