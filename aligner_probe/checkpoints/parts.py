"""What an importer finds in a file, and the checks that all formats share."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from aligner_probe.checkpoints.prefix import DTYPES, GateFunction, Method, dtype_name

#: No language model is nearly as deep; a greater index is damage.
MAX_LAYER = 10_000


class UnfitTensors(Exception):
    """The tensors of a recognised format do not make an adapter; the caller adds the path."""


@dataclass(frozen=True)
class PrefixParts:
    """A PrefixCheckpoint before it knows its file; shapes as there."""

    method: Method
    prefix: Tensor
    gates: Tensor
    start_layer: int
    gate_function: GateFunction
    initial_prefix: Tensor | None = None
    initial_gates: Tensor | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def stack_gates(by_layer: dict[int, Tensor]) -> tuple[Tensor, range]:
    """Gates of adjoining layers as (n_layers, n_gates), from any shape with at most one axis longer than 1.

    Takes lit-llama's (1, H, 1, 1), litgpt's (1, 1, H, 1) and the scalars of PEFT and old lit-llama files.
    """
    if not by_layer:
        raise UnfitTensors("holds prefix tokens but no gates; expected one gate tensor for each adapted layer")
    for layer, gate in by_layer.items():
        if sum(size > 1 for size in gate.shape) > 1 or gate.numel() == 0:
            raise UnfitTensors(
                f"the gate of layer {layer} has shape {tuple(gate.shape)}; expected one number a head, "
                "(1, n_heads, 1, 1) or (1, 1, n_heads, 1), or one for the layer, (1,)"
            )
    return stack({layer: gate.reshape(-1) for layer, gate in by_layer.items()}, "gates"), layer_range(by_layer)


def stack_prefixes(by_layer: dict[int, Tensor]) -> Tensor:
    """Prefixes of adjoining layers, each (n_tokens, d_model), as (n_layers, n_tokens, d_model)."""
    for layer, prefix in by_layer.items():
        if prefix.dim() != 2:
            raise UnfitTensors(
                f"the prefix of layer {layer} has shape {tuple(prefix.shape)}; expected (n_tokens, d_model)"
            )
    return stack(by_layer, "prefix")


def stack(by_layer: dict[int, Tensor], what: str) -> Tensor:
    """Stack equal shapes in the order of the layers; never cast."""
    for kind, found in (
        ("shapes", {tuple(tensor.shape) for tensor in by_layer.values()}),
        ("precisions", {dtype_name(tensor.dtype) for tensor in by_layer.values()}),
    ):
        if len(found) > 1:
            raise UnfitTensors(
                f"{what} of different {kind} in one file: {', '.join(map(str, sorted(found)))}; expected one for all "
                "layers (files of two models mixed?)"
            )
    return torch.stack([by_layer[layer] for layer in sorted(by_layer)])


def layer_range(by_layer: dict[int, Tensor]) -> range:
    """The adapted layers, which must adjoin."""
    layers = range(min(by_layer), max(by_layer) + 1)
    if layers.stop > MAX_LAYER:
        raise UnfitTensors(f"names layer {layers.stop - 1}; expected a layer of a language model, under {MAX_LAYER}")
    missing = [layer for layer in layers if layer not in by_layer]
    if missing:
        named = f"{missing[:5]}{' and others' * (len(missing) > 5)}"
        raise UnfitTensors(
            f"adapts layers {layers.start} to {layers.stop - 1} but has nothing for {named}; expected adjoining ones"
        )
    return layers


def check(parts: PrefixParts) -> None:
    """Shapes that fit together, a floating precision, no NaN or infinite number.

    Raises UnfitTensors otherwise.
    """
    shared = parts.method == "aligner"
    if parts.prefix.dim() != 3 or parts.gates.dim() != 2 or not parts.prefix.numel() or not parts.gates.numel():
        raise UnfitTensors(
            f"prefix {tuple(parts.prefix.shape)} and gates {tuple(parts.gates.shape)}; expected non-empty "
            "(layers or 1, n_tokens, d_model) and (n_layers, n_heads or 1)"
        )
    if parts.prefix.shape[0] != (1 if shared else parts.gates.shape[0]):
        raise UnfitTensors(
            f"{parts.prefix.shape[0]} prefixes for {parts.gates.shape[0]} gated layers; expected "
            + ("one shared by all (Aligner)" if shared else "one for each (LLaMA-Adapter)")
        )
    if parts.start_layer < 0:
        raise UnfitTensors(f"start layer {parts.start_layer}; expected 0 or more")
    named = {
        "prefix": parts.prefix,
        "gates": parts.gates,
        "initial prefix": parts.initial_prefix,
        "initial gates": parts.initial_gates,
    }
    for name, tensor in named.items():
        if tensor is None:
            continue
        if tensor.dtype not in DTYPES:
            raise UnfitTensors(
                f"{name} stored as {dtype_name(tensor.dtype)}; expected {', '.join(map(dtype_name, DTYPES))}"
            )
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise UnfitTensors(
                f"{bad:,} of {tensor.numel():,} numbers in the {name} are NaN or infinite; the training diverged, "
                "take an earlier checkpoint"
            )
    for final, initial in ((parts.prefix, parts.initial_prefix), (parts.gates, parts.initial_gates)):
        if initial is not None and initial.shape != final.shape:
            raise UnfitTensors(
                f"initial tensor {tuple(initial.shape)} beside a final one of {tuple(final.shape)}; expected the same"
            )
