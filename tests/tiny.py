"""Tiny random base models of every family, with norms that are not all ones so that a wrong basis shows."""

import copy
import functools
import importlib

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 61,
    "max_position_embeddings": 64,
}
GROUPED = {"num_key_value_heads": 2}
MODELS = {
    "llama": ("Llama", SIZES),
    "llama_gqa": ("Llama", SIZES | GROUPED),
    "mistral": ("Mistral", SIZES | GROUPED | {"sliding_window": None}),
    "qwen2": ("Qwen2", SIZES | GROUPED),
    "qwen3": ("Qwen3", SIZES | GROUPED | {"head_dim": 16}),
    "gemma": ("Gemma", SIZES | GROUPED | {"head_dim": 12}),
    "gemma2": ("Gemma2", SIZES | GROUPED | {"head_dim": 12, "query_pre_attn_scalar": 20}),
    "gpt2": ("GPT2", {"n_embd": 48, "n_layer": 4, "n_head": 4, "vocab_size": 61, "n_positions": 64}),
    "neox": ("GPTNeoX", SIZES | {"rotary_pct": 0.5}),
    "phi3": ("Phi3", SIZES | GROUPED | {"pad_token_id": 0}),
}
#: The same with a sliding window of four positions in all layers, or in some of them.
WINDOWED = {
    "mistral_window": ("Mistral", SIZES | GROUPED | {"sliding_window": 4}),
    "gemma2_window": ("Gemma2", MODELS["gemma2"][1] | {"sliding_window": 4}),
    "qwen2_window": (
        "Qwen2",
        SIZES | GROUPED | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    ),
    "phi3_window": ("Phi3", MODELS["phi3"][1] | {"sliding_window": 4}),
}


@functools.cache
def _made(name: str):
    family, sizes = (MODELS | WINDOWED)[name]
    module = importlib.import_module("transformers")
    head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    config = getattr(module, f"{family}Config")(**sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(module, f"{family}{head}")(config).eval()
        for parameter_name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, std=0.15)
            if "norm" in parameter_name or "ln_" in parameter_name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def plain(name: str, dtype: torch.dtype = torch.float32):
    """A fresh Hugging Face model; the same numbers each time."""
    return copy.deepcopy(_made(name)).to(dtype)


def bridge(name: str, dtype: torch.dtype = torch.float32):
    """The same as a frozen bridge."""
    from aligner_probe.models import load_model

    return load_model(plain(name, dtype))


def tokens(batch: int = 2, pos: int = 9, seed: int = 0):
    return torch.randint(1, 61, (batch, pos), generator=torch.Generator().manual_seed(seed))


def base_folder(name, tmp_path, change=None):
    """A tiny model saved as a Hugging Face folder, after `change` was called with it."""
    model = plain(name)
    if change:
        change(model)
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def save_tokenizer(folder):
    """Save a tokenizer of a tiny model's 61 ids beside it, one id a word."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(60)} | {"?": 60}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
