"""Checkpoints for tests: of every format on disk, and of simulated runs whose history is known."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from aligner_probe.checkpoints import PrefixCheckpoint


def checkpoint(
    *,
    method: str = "aligner",
    n_tokens: int = 1,
    d_model: int = 64,
    n_layers: int = 6,
    n_heads: int = 8,
    start_layer: int = 2,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    **fields: Any,
) -> PrefixCheckpoint:
    """A checkpoint of random numbers; any field can be given instead."""
    generator = torch.Generator().manual_seed(seed)
    prefix_layers = 1 if method == "aligner" else n_layers
    values: dict[str, Any] = {
        "method": method,
        "prefix": torch.randn(prefix_layers, n_tokens, d_model, generator=generator).to(dtype),
        "gates": (0.1 * torch.randn(n_layers, n_heads, generator=generator)).to(dtype),
        "start_layer": start_layer,
        "gate_function": "linear",
        "format": "test",
        "source": f"made/{method}-{n_tokens}-{seed}",
        "sha256": f"{seed:064x}",
    }
    return PrefixCheckpoint(**(values | fields))


def run(
    *,
    start: Tensor | None = None,
    gates_start: Tensor | None = None,
    start_seed: int = 1337,
    order_seed: int = 0,
    lr: float = 4e-3,
    steps: int = 300,
    dtype: torch.dtype = torch.bfloat16,
    train_tokens: bool = True,
    keep_start: bool = False,
    shape: tuple[int, int, int] = (1, 1, 4096),
    n_layers: int = 30,
    n_heads: int = 32,
    **fields: Any,
) -> PrefixCheckpoint:
    """A training run with steps of Adam's size (at most about lr a step), rounded to `dtype` after every step.

    Each number drifts to a target of its own, drawn from `order_seed`, so that runs of other data part; gates begin at
    zero unless told.
    """
    begin = torch.Generator().manual_seed(start_seed)
    drawn = torch.randn(shape, generator=begin).to(dtype)
    prefix = start.clone().to(dtype) if start is not None else drawn
    gates = gates_start.clone().to(dtype) if gates_start is not None else torch.zeros(n_layers, n_heads, dtype=dtype)
    before = (prefix.clone(), gates.clone())
    data = torch.Generator().manual_seed(order_seed)
    pulls = [torch.randn(tensor.shape, generator=data) for tensor in (prefix, gates)]
    for step in range(steps):
        size = lr * min(1.0, (step + 1) / 20)
        for index, tensor in enumerate((prefix, gates)):
            noise = torch.randn(tensor.shape, generator=data)
            update = size * torch.tanh(0.4 * pulls[index] + 0.6 * noise).float()
            if index == 1 or train_tokens:
                tensor.copy_((tensor.float() + update).to(dtype))
    if keep_start:
        fields |= {"initial_prefix": before[0], "initial_gates": before[1]}
    return checkpoint(prefix=prefix, gates=gates, dtype=dtype, seed=10_000 * start_seed + order_seed, **fields)


def lit_aligner_state(c: PrefixCheckpoint) -> dict[str, Tensor]:
    return {"global_value_embedding.weight": c.prefix[0].clone()} | {
        f"transformer.h.{layer}.attn.gating_factor": gate.reshape(1, -1, 1, 1).clone()
        for layer, gate in zip(c.layers, c.gates, strict=True)
    }


def lit_adapter_state(c: PrefixCheckpoint, gate_shape: tuple[int, ...] = (1, -1, 1, 1)) -> dict[str, Tensor]:
    state = {}
    for layer, prefix, gate in zip(c.layers, c.prefix, c.gates, strict=True):
        state[f"transformer.h.{layer}.attn.adapter_wte.weight"] = prefix.clone()
        state[f"transformer.h.{layer}.attn.gating_factor"] = gate.reshape(gate_shape).clone()
    return state


def opengvlab_state(c: PrefixCheckpoint) -> dict[str, Tensor]:
    state = {"adapter_query.weight": c.tokens.clone()}
    for layer in range(c.layers.stop):
        gate = c.gates[layer - c.start_layer] if layer >= c.start_layer else torch.zeros_like(c.gates[0])
        state[f"layers.{layer}.attention.gate"] = gate.reshape(1, -1, 1, 1).clone()
    return state


def peft_folder(c: PrefixCheckpoint, folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True)
    state = {}
    for layer, prefix, gate in zip(c.layers, c.prefix, c.gates, strict=True):
        key = f"base_model.model.model.layers.{layer}.self_attn"
        state[f"{key}.adaption_gate"] = gate.clone()
        state[f"{key}.adaption_prompt"] = prefix[None].clone()
    save_file(state, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "ADAPTION_PROMPT",
                "base_model_name_or_path": "some/base",
                "adapter_len": c.n_tokens,
                "adapter_layers": c.n_layers,
            }
            | config
        )
    )
    return folder


def complete_set(**shape: Any) -> list[PrefixCheckpoint]:
    """One checkpoint of each kind the paper's figures compare, on both data sets."""
    made = []
    for index, data_set in enumerate(("Alpaca", "MetaMath")):
        about: dict[str, Any] = {"metadata": {"data_set": data_set, "base_model": "a base"}, **shape}
        made += [checkpoint(n_tokens=n_tokens, seed=10 * n_tokens + index, **about) for n_tokens in (1, 10, 100)]
        made.append(checkpoint(method="llama_adapter", n_tokens=10, seed=5 + index, **about))
    return made


def save_pth(state: object, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path
