"""One in-memory form for every prefix adapter, whatever file it came from."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from aligner_probe.html import Shown, text_of

GateFunction = Literal["linear", "tanh"]

#: Storage precisions a checkpoint may have; they are kept as found, never cast.
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
#: No language model is nearly as deep; a greater index is damage.
MAX_LAYER = 10_000
METHOD_NAMES = {"aligner": "Aligner", "llama_adapter": "LLaMA-Adapter"}


@dataclass(frozen=True, eq=False)
class PrefixCheckpoint(Shown):
    """The trained parameters of an Aligner or a LLaMA-Adapter (arXiv 2312.05503, section 3; arXiv 2303.16199).

    Layer l >= start_layer adds f(gates[l, head]) * softmax(q k^T / sqrt(d_head)) v to each head's output. Here k and v
    are the layer's own projections of the prefix, and f is the gate function.

    Attributes:
        method: "aligner" or "llama_adapter".
        prefix: Shape (prefix_layers, n_tokens, d_model). Aligner has one prefix for all layers (prefix_layers = 1);
            LLaMA-Adapter has one per adapted layer.
        gates: Shape (adapted layers, heads), or (adapted layers, 1) with one gate per layer.
        start_layer: Index of the first adapted layer.
        gate_function: "linear" or "tanh".
        format: The checkpoint format.
        source: The file or folder.
        sha256: The hash of the file that holds the tensors.
        initial_prefix: The prefix before training, if the file has it.
        initial_gates: The gates before training, if the file has them.
        metadata: What is known of the run: `data_set`, `base_model`, `stage`, and `run`, a name that distinguishes
            runs.
    """

    method: str
    prefix: Float[Tensor, "prefix_layers n_tokens d_model"]
    gates: Float[Tensor, "n_layers n_gates"]
    start_layer: int
    gate_function: GateFunction
    format: str
    source: str
    sha256: str
    initial_prefix: Float[Tensor, "prefix_layers n_tokens d_model"] | None = None
    initial_gates: Float[Tensor, "n_layers n_gates"] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        return {
            "checkpoint": self.label,
            "prefix (layers, tokens, d_model)": str(tuple(self.prefix.shape)),
            "gates (layers, a layer)": str(tuple(self.gates.shape)),
            "adapted layers": f"{self.layers.start} to {self.layers.stop - 1}",
            "gate function": self.gate_function,
            "precision": dtype_name(self.dtype),
            "format": self.format,
            "source": self.source,
        }

    @property
    def n_tokens(self) -> int:
        """Prefix tokens (a layer)."""
        return self.prefix.shape[1]

    @property
    def d_model(self) -> int:
        return self.prefix.shape[2]

    @property
    def n_layers(self) -> int:
        """Adapted layers."""
        return self.gates.shape[0]

    @property
    def gates_per_layer(self) -> int:
        """One a query head, or 1 where a whole layer shares one."""
        return self.gates.shape[1]

    @property
    def layers(self) -> range:
        """Indices of the adapted layers in the base model, from zero."""
        return range(self.start_layer, self.start_layer + self.n_layers)

    @property
    def dtype(self) -> torch.dtype:
        """Storage precision of the prefix."""
        return self.prefix.dtype

    @property
    def n_parameters(self) -> int:
        """Trained numbers, by count."""
        return self.prefix.numel() + self.gates.numel()

    @property
    def tokens(self) -> Float[Tensor, "n_all_tokens d_model"]:
        """Every token of every layer, in storage order."""
        return self.prefix.reshape(-1, self.d_model)

    @property
    def effective_gates(self) -> Float[Tensor, "n_layers n_gates"]:
        """What multiplies each head's prefix attention, float64: the gates after their function."""
        gates = self.gates.double()
        return torch.tanh(gates) if self.gate_function == "tanh" else gates

    def linear(self) -> "PrefixCheckpoint":
        """The same adapter with linear gates: a tanh gate becomes what it passes on, in its own precision.

        That is what the adapter multiplies by, to the bit; only its training would go on otherwise, so a stored start
        is dropped.
        """
        if self.gate_function == "linear":
            return self
        gates = torch.tanh(self.gates)
        return replace(self, gates=gates, gate_function="linear", initial_prefix=None, initial_gates=None)

    @property
    def method_label(self) -> str:
        """For instance "Aligner-1" or "LLaMA-Adapter-10"."""
        return f"{METHOD_NAMES[self.method]}-{self.n_tokens}"

    @property
    def data_set(self) -> str:
        """What it was trained on, as far as known."""
        return self.metadata.get("data_set", "unknown data")

    @property
    def base_model(self) -> str:
        """The model it was trained on, as far as known; else its sizes, which is what must match."""
        last = self.start_layer + self.n_layers
        return self.metadata.get("base_model", f"a model of {last} layers, d_model {self.d_model}")

    @property
    def label(self) -> str:
        """For legends: method, data set and base model."""
        run = self.metadata.get("run")
        return f"{self.method_label} · {self.data_set} · {self.base_model}" + (f" · {run}" if run else "")

    def __repr__(self) -> str:
        return (
            f"PrefixCheckpoint({text_of(self.label)!r}, prefix={tuple(self.prefix.shape)}, "
            f"gates={tuple(self.gates.shape)}, layers={self.layers.start}..{self.layers.stop - 1}, "
            f"gate_function={self.gate_function!r}, dtype={self.dtype}, format={self.format!r})"
        )


def dtype_name(dtype: torch.dtype) -> str:
    """ "bfloat16" for torch.bfloat16, and so on."""
    return str(dtype).removeprefix("torch.")


class UnfitTensors(Exception):
    """The tensors of a recognised format do not make an adapter; the caller adds the path."""


@dataclass(frozen=True)
class PrefixParts:
    """A PrefixCheckpoint before it knows its file; shapes as there."""

    method: str
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
