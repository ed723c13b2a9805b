"""A constant vector added to each layer's attention output: the upper bound of what Aligner with one token can do.

Aligner with one token adds one vector to each layer, and all these vectors follow from one token and its gates. There
are two controls:

- With free vectors, each layer has a vector of its own, which has d_model trained parameters.
- With a random subspace, the vectors of all layers together are s U z. Here z has k trained parameters, U is a random
  matrix with orthonormal columns that the seed draws, and s is a scale. This shows what any k parameters can do without
  a token (arXiv 1804.08838).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter, HookFunction, OfRows, default_start_layer
from aligner_probe.adapters.config import LayeredConfig, require
from aligner_probe.adapters.registry import register_adapter
from aligner_probe.arguments import a_model, accepts

#: The most entries of U, which is kept in memory; these take a gigabyte.
MAX_BASIS_ENTRIES = 2**28


@dataclass(frozen=True, kw_only=True)
class OutputBiasConfig(LayeredConfig):
    """Options of OutputBias."""

    start_layer: int = field(
        default=0, metadata={"help": "index of the first adapted layer, from 0 (default: 2 on deep models)"}
    )
    subspace: int | None = field(
        default=None, metadata={"help": "train the coefficients of so many random directions instead of free vectors"}
    )
    scale: float = field(default=1.0, metadata={"help": "scale of the random directions"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.subspace is None or self.subspace >= 1, f"subspace {self.subspace}; expected 1 or more, or None")
        require(0 < self.scale < math.inf, f"scale {self.scale}; expected more than 0, and finite")


@register_adapter("output_bias")
@accepts(model=a_model)
class OutputBias(Adapter):
    """A trained vector of each layer, added to the layer's attention output.

    Args:
        model: the base model.
        subspace: None for free vectors; else how many random directions of all layers together have a trained
            coefficient.
        scale: scale of the random directions.
        start_layer: index of the first adapted layer; None for the paper's 2.
        seed: start seed, which draws the random directions.
        dtype: data type of the parameters.

    Raises:
        AlignerProbeError: for options that do not fit, and on a base model of few layers without `start_layer`.
    """

    label = "output bias"
    starts_above = True
    learning_rates = (0.01, 0.03, 0.1)
    #: With `subspace`, where the coefficients of a few random directions are trained.
    subspace_rates = (0.03, 0.1, 0.3)
    config: OutputBiasConfig
    basis: Tensor

    @classmethod
    def rates_for(cls, options: Mapping[str, Any]) -> tuple[float, float, float]:
        return cls.learning_rates if options.get("subspace") is None else cls.subspace_rates

    @classmethod
    def depends_on_input(cls, options: Mapping[str, Any]) -> str:
        return ""

    def __init__(
        self,
        model: TransformerBridge,
        subspace: int | None = None,
        scale: float = 1.0,
        start_layer: int | None = None,
        seed: int = 0,
        *,
        dtype: torch.dtype = torch.float32,
    ):
        start = default_start_layer(model) if start_layer is None else start_layer
        super().__init__(model, OutputBiasConfig(subspace=subspace, scale=scale, start_layer=start, seed=seed))
        device = next(model.original_model.parameters()).device
        n_layers, d_model = len(self.layers), self.shape.d_model
        if subspace is None:
            self.bias = nn.Parameter(torch.zeros(n_layers, d_model, device=device, dtype=dtype))
            return
        whole = n_layers * d_model
        require(
            subspace <= whole and subspace * whole <= MAX_BASIS_ENTRIES,
            f"a subspace of {subspace:,} parameters among {whole:,} needs a basis of {subspace * whole:,} entries; "
            f"expected at most {MAX_BASIS_ENTRIES:,}, and no more parameters than there are",
        )
        basis = torch.linalg.qr(torch.randn(whole, subspace, generator=self.generator(), dtype=torch.float64)).Q
        # It is drawn again from the seed, so it is not saved.
        self.register_buffer("basis", basis.to(device, dtype), persistent=False)
        self.z = nn.Parameter(torch.zeros(subspace, device=device, dtype=dtype))

    def biases(self) -> Float[Tensor, "n_layers d_model"]:
        """The vector that is added to each adapted layer's attention output."""
        if self.config.subspace is None:
            return self.bias
        return (self.config.scale * (self.basis @ self.z)).unflatten(0, (len(self.layers), self.shape.d_model))

    def shifts(self) -> dict[int, Float[Tensor, " d_model"]]:
        return dict(zip(self.layers, self.biases().detach().double().cpu(), strict=True))

    def activations_per_token(self) -> int:
        return 0

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        for layer in self.layers:
            yield f"blocks.{layer}.attn.hook_out", self._adder(layer - self.config.start_layer)

    @classmethod
    def not_pooled(cls, options: Mapping[str, Any]) -> str:
        if options.get("subspace") is None:
            return ""
        return f"{cls.method} in a random subspace has directions of its own for each seed, so it cannot be in a pool"

    def hook_functions_by_row(self, of_rows: OfRows) -> Iterator[tuple[str, HookFunction]]:
        for index, layer in enumerate(self.layers):
            yield f"blocks.{layer}.attn.hook_out", self._adder_by_row(index, of_rows)

    def _adder_by_row(self, index: int, of_rows: OfRows) -> HookFunction:
        def add(out: Float[Tensor, "batch pos d_model"], hook: HookPoint) -> Float[Tensor, "batch pos d_model"]:
            return out + of_rows().tensors["bias"][:, index, None].to(out.dtype)

        return add

    def _adder(self, index: int) -> HookFunction:
        def add(out: Float[Tensor, "batch pos d_model"], hook: HookPoint) -> Float[Tensor, "batch pos d_model"]:
            return out + self.biases()[index].to(out.dtype)

        return add
