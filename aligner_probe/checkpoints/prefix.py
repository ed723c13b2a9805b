"""`PrefixCheckpoint`: the trained parameters of a prefix adapter in memory, whatever file they came from.

Also `PrefixParts`, which is what a checkpoint format reads from a file, and the checks that all formats share.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from aligner_probe.html import Shown, text_of

GateFunction = Literal["linear", "tanh"]

#: The precisions that a checkpoint can have. A checkpoint keeps the precision of its file.
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
#: No language model has so many layers; a greater layer index means that the file is damaged.
MAX_LAYER = 10_000
METHOD_NAMES = {"aligner": "Aligner", "llama_adapter": "LLaMA-Adapter"}


@dataclass(frozen=True, eq=False)
class PrefixCheckpoint(Shown):
    """The trained parameters of an Aligner or a LLaMA-Adapter (arXiv 2312.05503 section 3; 2303.16199).

    Layer l >= start_layer adds f(gates[l, head]) * softmax(q k^T / sqrt(d_head)) v to each head's output, where k and v
    are the layer's own projections of the prefix and f is the gate function. Aligner shares one prefix among all
    layers (`prefix_layers` = 1); LLaMA-Adapter has one prefix for each layer.

    `method` is "aligner" or "llama_adapter", `gate_function` "linear" or "tanh". `source` is the path that it was read
    from, `format` the checkpoint format of that file. `initial_prefix` and `initial_gates` are the parameters before
    training, where the file has them. `sha256` is that of the file with the tensors. `metadata` is what is known of the
    training: `data_set`, `base_model`, `stage`, and `run`, a name that tells several trainings of one kind apart.
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
        """Number of prefix tokens in each layer."""
        return self.prefix.shape[1]

    @property
    def d_model(self) -> int:
        return self.prefix.shape[2]

    @property
    def n_layers(self) -> int:
        """Number of adapted layers."""
        return self.gates.shape[0]

    @property
    def gates_per_layer(self) -> int:
        """Number of gates in each layer: one for each query head, or 1 for the whole layer."""
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
        """Number of trained parameters."""
        return self.prefix.numel() + self.gates.numel()

    @property
    def tokens(self) -> Float[Tensor, "n_all_tokens d_model"]:
        """All prefix tokens: those of the first adapted layer, then those of the next."""
        return self.prefix.reshape(-1, self.d_model)

    @property
    def effective_gates(self) -> Float[Tensor, "n_layers n_gates"]:
        """The factors of each head's prefix attention: the gates after their function, in float64."""
        gates = self.gates.double()
        return torch.tanh(gates) if self.gate_function == "tanh" else gates

    def linear(self) -> "PrefixCheckpoint":
        """The same adapter with linear gates: a tanh gate becomes the value of its tanh, in the same precision.

        The adapter computes the same to the bit. Only further training would differ, so the initial values are left
        out.
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
        """The data set of the training, as far as it is known."""
        return self.metadata.get("data_set", "unknown data")

    @property
    def base_model(self) -> str:
        """The base model, as far as it is known; otherwise the sizes that a base model must have."""
        last = self.start_layer + self.n_layers
        return self.metadata.get("base_model", f"a model of {last} layers, d_model {self.d_model}")

    @property
    def label(self) -> str:
        """The label in legends: method, data set and base model."""
        run = self.metadata.get("run")
        return f"{self.method_label} · {self.data_set} · {self.base_model}" + (f" · {run}" if run else "")

    def __repr__(self) -> str:
        return (
            f"PrefixCheckpoint({text_of(self.label)!r}, prefix={tuple(self.prefix.shape)}, "
            f"gates={tuple(self.gates.shape)}, layers={self.layers.start}..{self.layers.stop - 1}, "
            f"gate_function={self.gate_function!r}, dtype={self.dtype}, format={self.format!r})"
        )


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a precision, for instance "bfloat16" for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


class UnfitTensors(Exception):
    """Tensors of a recognised format that do not make an adapter. Whoever catches it adds the path to the message."""


@dataclass(frozen=True)
class PrefixParts:
    """What a checkpoint format reads from tensors: a PrefixCheckpoint without its file, with the same shapes."""

    method: str
    prefix: Tensor
    gates: Tensor
    start_layer: int
    gate_function: GateFunction
    initial_prefix: Tensor | None = None
    initial_gates: Tensor | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def stack_gates(by_layer: dict[int, Tensor]) -> tuple[Tensor, range]:
    """Stack the gates of adjoining layers into one tensor (n_layers, n_gates).

    The gates of a layer can have any shape with at most one axis longer than 1: lit-llama's (1, H, 1, 1), litgpt's
    (1, 1, H, 1), and the scalars of PEFT and of old lit-llama files.
    """
    if not by_layer:
        raise UnfitTensors("holds prefix tokens but no gates; expected one gate tensor for each adapted layer")
    for layer, gate in by_layer.items():
        if sum(size > 1 for size in gate.shape) > 1 or gate.numel() == 0:
            raise UnfitTensors(
                f"the gate of layer {layer} has shape {tuple(gate.shape)}; expected one value a head, "
                "(1, n_heads, 1, 1) or (1, 1, n_heads, 1), or one for the layer, (1,)"
            )
    return stack({layer: gate.reshape(-1) for layer, gate in by_layer.items()}, "gates"), layer_range(by_layer)


def stack_prefixes(by_layer: dict[int, Tensor]) -> Tensor:
    """Stack the prefixes of adjoining layers, each (n_tokens, d_model), into (n_layers, n_tokens, d_model)."""
    for layer, prefix in by_layer.items():
        if prefix.dim() != 2:
            raise UnfitTensors(
                f"the prefix of layer {layer} has shape {tuple(prefix.shape)}; expected (n_tokens, d_model)"
            )
    return stack(by_layer, "prefix")


def stack(by_layer: dict[int, Tensor], what: str) -> Tensor:
    """Stack tensors in the order of their layers. All must have the same shape and the same precision."""
    for kind, values in (
        ("shapes", {tuple(tensor.shape) for tensor in by_layer.values()}),
        ("precisions", {dtype_name(tensor.dtype) for tensor in by_layer.values()}),
    ):
        if len(values) > 1:
            raise UnfitTensors(
                f"{what} of different {kind} in one file: {', '.join(map(str, sorted(values)))}; expected one for all "
                "layers (files of two models mixed?)"
            )
    return torch.stack([by_layer[layer] for layer in sorted(by_layer)])


def layer_range(by_layer: dict[int, Tensor]) -> range:
    """The adapted layers. Raises UnfitTensors if there are gaps between them."""
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
    """Raises UnfitTensors unless shapes fit together, precisions are floats, and no value is NaN or infinite."""
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
                f"{bad:,} of {tensor.numel():,} values in the {name} are NaN or infinite; the training diverged, "
                "take an earlier checkpoint"
            )
    for final, initial in ((parts.prefix, parts.initial_prefix), (parts.gates, parts.initial_gates)):
        if initial is not None and initial.shape != final.shape:
            raise UnfitTensors(
                f"initial tensor {tuple(initial.shape)} beside a final one of {tuple(final.shape)}; expected the same"
            )
