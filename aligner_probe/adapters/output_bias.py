"""Constant shifts of each layer's attention output: the upper bound of what one-token Aligner can do.

Aligner-1 adds one vector a layer, but only such vectors as one token and its gates make. Free, each layer has a vector
of its own: d_model numbers a layer. As a random subspace, the vectors of all layers together are s U z, with z of k
trained numbers, U a seeded Gaussian matrix with orthonormal columns, and s a scale tuned like a learning rate: what
any k numbers would do, without a token (arXiv 1804.08838).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter, HookFunction, LayeredConfig, default_start_layer, require
from aligner_probe.arguments import a_model, accepts

#: U is held in memory: a quarter of a billion numbers is a gigabyte.
MAX_SUBSPACE_NUMBERS = 2**28


@dataclass(frozen=True, kw_only=True)
class OutputBiasConfig(LayeredConfig):
    """`subspace` is k, None for free vectors; `scale` is s."""

    subspace: int | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.subspace is None or self.subspace >= 1, f"subspace {self.subspace}; expected 1 or more, or None")
        require(0 < self.scale < math.inf, f"scale {self.scale}; expected more than 0, and finite")


@accepts(model=a_model)
class OutputBias(Adapter):
    """OutputBias(model, subspace=None, scale=1.0, start_layer=2, seed=0).

    Raises AlignerProbeError for options that do not fit.
    """

    method = "output_bias"
    config: OutputBiasConfig

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
            subspace <= whole and subspace * whole <= MAX_SUBSPACE_NUMBERS,
            f"a subspace of {subspace:,} numbers among {whole:,} needs a basis of {subspace * whole:,}; expected at "
            f"most {MAX_SUBSPACE_NUMBERS:,}, and no more numbers than there are",
        )
        basis = torch.linalg.qr(torch.randn(whole, subspace, generator=self.generator(), dtype=torch.float64)).Q
        # Regenerated from the seed, so never saved.
        self.register_buffer("basis", basis.to(device, dtype), persistent=False)
        self.z = nn.Parameter(torch.zeros(subspace, device=device, dtype=dtype))

    def biases(self) -> Float[Tensor, "n_layers d_model"]:
        """What each adapted layer's attention output is shifted by."""
        if self.config.subspace is None:
            return self.bias
        return (self.config.scale * (self.basis @ self.z)).unflatten(0, (len(self.layers), self.shape.d_model))

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        for layer in self.layers:
            yield f"blocks.{layer}.attn.hook_out", self._adder(layer - self.config.start_layer)

    def _adder(self, index: int) -> HookFunction:
        def add(out: Float[Tensor, "batch pos d_model"], hook: HookPoint) -> Float[Tensor, "batch pos d_model"]:
            return out + self.biases()[index].to(out.dtype)

        return add
