"""Tiny adapters of every method, and ways to move their parameters away from a neutral start."""

import torch

from aligner_probe.adapters.registry import new_adapter

#: The rows of the contract: options of a method on the tiny base model (`tiny.SIZES`), and how many parameters are
#: trained; None for those of the base model itself. A method that is added has a row here.
ROWS = {
    "aligner-5": ("aligner", {"n_tokens": 5, "start_layer": 1}, 240 + 12),
    "aligner-1": ("aligner", {"n_tokens": 1, "start_layer": 1}, 48 + 12),
    "gates only": ("aligner", {"n_tokens": 2, "start_layer": 1, "train": "gates"}, 12),
    "tokens only": ("aligner", {"n_tokens": 2, "start_layer": 1, "train": "tokens", "initial_gate": 0.1}, 96),
    "llama_adapter": ("llama_adapter", {"n_tokens": 3, "start_layer": 1, "gate_function": "tanh"}, 3 * 3 * 48 + 12),
    "one gate a layer": ("llama_adapter", {"n_tokens": 3, "start_layer": 1, "gate_per": "layer"}, 3 * 3 * 48 + 3),
    "lora": ("lora", {"r": 4, "targets": ("q", "k", "v", "o")}, 4 * 4 * (2 * (48 + 48) + 2 * (48 + 24))),
    "lora all linear": (
        "lora",
        {"r": 4, "targets": "all-linear"},
        4 * 4 * (2 * (48 + 48) + 2 * (48 + 24) + 3 * (48 + 64)),
    ),
    "output bias": ("output_bias", {"start_layer": 1}, 3 * 48),
    "random subspace": ("output_bias", {"subspace": 20, "start_layer": 1}, 20),
    "prefix tuning": ("prefix_tuning", {"n_tokens": 3}, 2 * 4 * 3 * 24),
    "prefix tuning, reparametrised": (
        "prefix_tuning",
        {"n_tokens": 3, "reparametrise": 10},
        3 * 24 + 10 * (24 + 1) + 4 * 2 * 24 * (10 + 1),
    ),
    "prompt tuning": ("prompt_tuning", {"n_tokens": 3}, 3 * 48),
    "houlsby": ("houlsby", {"bottleneck": 5}, 2 * 4 * (2 * 5 * 48 + 5 + 48)),
    "llama-adapter v2": (
        "llama_adapter_v2",
        {"n_tokens": 3, "prefix_layer": 1},
        2 * 4 * (2 * 48 + 2 * 24 + 2 * 64 + 48) + 48 * (2 * 4 + 1) + 3 * 3 * 48 + 12,
    ),
    "llama-adapter v2, no prefix": (
        "llama_adapter_v2",
        {"n_tokens": 0, "start_layer": 1},
        2 * 3 * (2 * 48 + 2 * 24 + 2 * 64 + 48) + 48 * (2 * 3 + 1),
    ),
    "full": ("full", {}, None),
}
#: Rows that the contract takes on every family of base models: the first of each method, and LoRA on the MLP.
ON_EVERY_FAMILY = (*{method: name for name, (method, _, _) in reversed(ROWS.items())}.values(), "lora all linear")
#: Rows of which nothing is drawn at random, so that the start seed has no effect.
WITHOUT_DRAWS = ("output bias", "llama-adapter v2, no prefix", "full")
#: The adapters of the rows; each is called with a base model and a start seed.
VARIANTS = {
    name: lambda model, seed, method=method, options=options: new_adapter(method, model, options | {"seed": seed})
    for name, (method, options, _) in ROWS.items()
}
#: One adapter of each method, that of its first row; each is called with a base model.
MAKERS = {method: lambda model, name=name: VARIANTS[name](model, 1) for name, (method, _, _) in reversed(ROWS.items())}


def opened(adapter, seed=3, size=0.7):
    """The adapter with every parameter drawn at random, so that no mistake hides behind a gate of zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    return adapter


def shaken(adapter, seed=1, size=0.2):
    """The adapter with every trained parameter a little away from its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator).to(parameter.device))
    return adapter


def moved(adapter):
    """The adapter so far from its start that it changes the tokens that the base generates."""
    return shaken(adapter, seed=3, size=0.3)


def loss_of(logits, ids):
    """The mean cross-entropy of each next token; logits (batch, pos, d_vocab), ids (batch, pos)."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
