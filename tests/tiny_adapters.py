"""Tiny adapters of every method, and ways to move their parameters away from a neutral start."""

import torch

from aligner_probe.adapters import Aligner, FullFineTune, LLaMAAdapter, LoRA, OutputBias, PrefixTuning, PromptTuning

#: Every method with the variants that the contract distinguishes; each is called with a base model and a start seed.
VARIANTS = {
    "aligner-1": lambda model, seed: Aligner(model, 1, 1, seed),
    "aligner-5": lambda model, seed: Aligner(model, 5, 1, seed),
    "gates only": lambda model, seed: Aligner(model, 2, 1, seed, train="gates"),
    "tokens only": lambda model, seed: Aligner(model, 2, 1, seed, train="tokens", initial_gate=0.1),
    "llama_adapter": lambda model, seed: LLaMAAdapter(model, 3, 1, seed, gate_function="tanh"),
    "one gate a layer": lambda model, seed: LLaMAAdapter(model, 3, 1, seed, gate_per="layer"),
    "lora": lambda model, seed: LoRA(model, 4, seed=seed, targets=("q", "k", "v", "o")),
    "output bias": lambda model, seed: OutputBias(model, start_layer=1, seed=seed),
    "random subspace": lambda model, seed: OutputBias(model, 20, start_layer=1, seed=seed),
    "prefix tuning": lambda model, seed: PrefixTuning(model, 3, seed=seed),
    "prompt tuning": lambda model, seed: PromptTuning(model, 3, seed=seed),
    "full": lambda model, seed: FullFineTune(model, seed=seed),
}
#: One adapter of each method; each is called with a base model.
MAKERS = {
    "aligner": lambda model: Aligner(model, 3, 1, seed=1),
    "llama_adapter": lambda model: LLaMAAdapter(model, 2, 1, seed=1),
    "lora": lambda model: LoRA(model, 2, seed=1),
    "output_bias": lambda model: OutputBias(model, start_layer=1),
    "prefix_tuning": lambda model: PrefixTuning(model, 3, seed=1),
    "prompt_tuning": lambda model: PromptTuning(model, 3, seed=1),
    "full": lambda model: FullFineTune(model),
}


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
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return adapter


def moved(adapter):
    """The adapter so far from its start that it changes the tokens that the base generates."""
    return shaken(adapter, seed=3, size=0.3)


def loss_of(logits, ids):
    """The mean cross-entropy of each next token; logits (batch, pos, d_vocab), ids (batch, pos)."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
