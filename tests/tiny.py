"""Tiny random base models of every family, with norms that are not all ones so that a wrong basis shows."""

import copy
import functools
import hashlib
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
THREE = SIZES | GROUPED | {"num_hidden_layers": 3}
SLIDING, FULL = "sliding_attention", "full_attention"
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
    # Three layers each: one of every kind, and the last one not alone of its kind.
    "gemma3": (
        "Gemma3",
        THREE | {"head_dim": 12, "query_pre_attn_scalar": 20, "layer_types": [SLIDING, FULL, SLIDING]},
    ),
    "smollm3": ("SmolLM3", THREE | {"pad_token_id": 0, "no_rope_layers": [1, 0, 1]}),
    "olmo2": ("Olmo2", THREE | {"pad_token_id": 0}),
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
    "gemma3_window": ("Gemma3", MODELS["gemma3"][1] | {"sliding_window": 4}),
}


@functools.cache
def _made(name: str):
    family, sizes = (MODELS | WINDOWED)[name]
    module = importlib.import_module("transformers")
    head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    model_class = getattr(module, f"{family}{head}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(model_class.config_class(**sizes)).eval()
        for parameter_name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, std=0.15)
            if "norm" in parameter_name or "ln_" in parameter_name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def plain(name: str, dtype: torch.dtype = torch.float32):
    """A fresh Hugging Face model; the same numbers each time."""
    return copy.deepcopy(_made(name)).to(dtype)


def bridge(name: str, dtype: torch.dtype = torch.float32, fast: bool = True):
    """The same as a frozen bridge; `fast=False` leaves all of it to TransformerLens."""
    from aligner_probe.models import load_model

    return load_model(plain(name, dtype), fast=fast)


#: The bridges of `frozen` by name, each with its state when it was made; and those that the present test has asked for.
_frozen: dict[tuple[str, bool], tuple] = {}
_asked_for: set[tuple[str, bool]] = set()


def frozen(name: str, fast: bool = True):
    """One frozen bridge for all tests of this process, for tests that leave it as it was.

    After each test, a fixture of conftest.py calls `check_frozen`.
    """
    key = name, fast
    if key not in _frozen:
        made = bridge(name, fast=fast)
        with torch.no_grad():
            made(tokens())  # the first pass may leave hooks of TransformerLens in place
        _frozen[key] = (made, state_of(made))
    _asked_for.add(key)
    return _frozen[key][0]


def state_of(model) -> dict:
    """All that a test could leave behind in a bridge: parameters, gradients, modes, hooks, methods and a tokenizer."""
    numbers = hashlib.sha256()
    for tensor in (*model.parameters(), *model.buffers()):
        numbers.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    modules = list(dict.fromkeys([*model.modules(), *model.original_model.modules()]))
    return {
        "parameters": numbers.hexdigest(),
        "gradients": [name for name, p in model.named_parameters() if p.grad is not None],
        "trained parameters": [name for name, p in model.named_parameters() if p.requires_grad],
        "modules in training mode": sum(module.training for module in modules),
        "PyTorch hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._backward_pre_hooks))
            for m in modules
        ],
        "hooks": [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks],
        "replaced methods": [index for index, m in enumerate(modules) if "forward" in vars(m)],
        "configuration": dict(vars(model.original_model.config)),
        "tokenizer": model.tokenizer,
    }


def check_frozen() -> None:
    """Raise AssertionError if a bridge that the present test asked for is not as it was made, and make it anew then."""
    changed = []
    for key in _asked_for:
        model, before = _frozen[key]
        after = state_of(model)
        if different := [what for what in before if after[what] != before[what]]:
            changed.append(f"{key[0]}: {', '.join(different)}")
            del _frozen[key]
    _asked_for.clear()
    assert not changed, f"a test left a shared base changed: {'; '.join(changed)}"


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
