"""One in-memory form for every prefix adapter, whatever file it came from."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from aligner_probe.html import Shown, text_of

Method = Literal["aligner", "llama_adapter"]
GateFunction = Literal["linear", "tanh"]

#: Storage precisions a checkpoint may have; they are kept as found, never cast.
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
METHOD_NAMES = {"aligner": "Aligner", "llama_adapter": "LLaMA-Adapter"}


@dataclass(frozen=True, eq=False)
class PrefixCheckpoint(Shown):
    """The trained numbers of an Aligner or a LLaMA-Adapter (arXiv 2312.05503 section 3; 2303.16199).

    Layer l >= start_layer adds f(gates[l, head]) * softmax(q k^T / sqrt(d_head)) v to each head's output, where k and v
    are the layer's own projections of the prefix and f is the gate function. Aligner shares one prefix among all
    layers (`prefix_layers` = 1); LLaMA-Adapter has one a layer.

    `initial_prefix` and `initial_gates` are the numbers before training, where the file tells. `sha256` is that of
    the file that holds the tensors. `metadata` holds what is known of the run (`data_set`, `base_model`, `stage`, and
    `run`, a name that tells runs of one kind apart).
    """

    method: Method
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
