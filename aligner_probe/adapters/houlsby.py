"""Houlsby adapters (arXiv 1902.00751): a small network with a bottleneck after attention and after the MLP of a layer.

    x + W2 gelu(W1 x + b1) + b2

Here x is what the attention output projection gives, or the MLP, before any norm that follows it and before it is added
to the residual stream. W1 and W2 start near zero, so the adapted model starts as the base model up to about a
millionth.

The gelu is the exact one; the authors' code takes its tanh approximation, which differs by less than .0005. The authors
also train the norms and the head; here, as in all adapters but full fine-tuning, the base model stays as it is.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter, HookFunction
from aligner_probe.adapters.config import LayeredConfig, require
from aligner_probe.adapters.registry import register_adapter
from aligner_probe.arguments import a_model, accepts

#: By part of a layer: the hook point inside a block of what the part gives. A block calls them in this order.
HOOKS = {"attn": "attn.hook_out", "mlp": "mlp.hook_out"}
#: The authors draw the weights anew where they are more standard deviations than this from zero.
CUT = 2.0


@dataclass(frozen=True, kw_only=True)
class HoulsbyConfig(LayeredConfig):
    """Options of Houlsby."""

    bottleneck: int = field(default=64, metadata={"help": "neurons of each added network"})
    initial_scale: float | int = field(
        default=1e-3, metadata={"help": "standard deviation of the initial weights of each added network"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.bottleneck >= 1, f"bottleneck {self.bottleneck}; expected 1 or more")
        # At zero, neither matrix has a gradient, and b2 alone is trained.
        require(
            0 < self.initial_scale < math.inf, f"initial_scale {self.initial_scale}; expected more than 0, and finite"
        )


class Bottleneck(nn.Module):
    """x + W2 gelu(W1 x + b1) + b2, with W1 (`down`) and W2 (`up`) drawn near zero and no biases at the start."""

    def __init__(
        self,
        d_model: int,
        bottleneck: int,
        scale: float | int,
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
    ):
        super().__init__()

        def drawn(*size: int) -> nn.Parameter:
            limit = CUT * scale
            start = nn.init.trunc_normal_(torch.empty(size), 0.0, scale, -limit, limit, generator=generator)
            return nn.Parameter(start.to(device, dtype))

        self.down, self.up = drawn(bottleneck, d_model), drawn(d_model, bottleneck)
        self.down_bias = nn.Parameter(torch.zeros(bottleneck, device=device, dtype=dtype))
        self.up_bias = nn.Parameter(torch.zeros(d_model, device=device, dtype=dtype))

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        down, down_bias, up, up_bias = (p.to(x.dtype) for p in (self.down, self.down_bias, self.up, self.up_bias))
        return x + F.linear(F.gelu(F.linear(x, down, down_bias)), up, up_bias)


@register_adapter("houlsby")
@accepts(model=a_model)
class Houlsby(Adapter):
    """A network with a bottleneck after attention and after the MLP of each layer (arXiv 1902.00751).

    2 x adapted layers x (2 x bottleneck x d_model + bottleneck + d_model) parameters.

    Args:
        model: the base model.
        bottleneck: neurons of each added network.
        start_layer: index of the first adapted layer; 0 adapts all layers.
        seed: start seed, which draws the initial weights.
        initial_scale: their standard deviation; they are drawn from a normal distribution that is cut off at two
            standard deviations.
        dtype: data type of the parameters.

    Raises:
        AlignerProbeError: for options that do not fit.
    """

    label = "Houlsby adapter"
    #: The middle one is the published 3e-4 at the width of BERT large, 1024, brought to width 128; the authors tried
    #: ten times less and ten times more.
    learning_rates = (0.0008, 0.0024, 0.008)
    config: HoulsbyConfig

    def __init__(
        self,
        model: TransformerBridge,
        bottleneck: int = 64,
        start_layer: int = 0,
        seed: int = 0,
        *,
        initial_scale: float | int = 1e-3,
        dtype: torch.dtype = torch.float32,
    ):
        config = HoulsbyConfig(bottleneck=bottleneck, start_layer=start_layer, seed=seed, initial_scale=initial_scale)
        super().__init__(model, config)
        generator = self.generator()
        self.networks = nn.ModuleDict(
            {
                f"{layer}_{part}": Bottleneck(
                    self.shape.d_model, bottleneck, initial_scale, generator, self.device, dtype
                )
                for layer in self.layers
                for part in HOOKS
            }
        )

    def activations_per_token(self) -> int:
        """For each of the two networks its input, and its neurons before and after gelu."""
        return len(HOOKS) * (self.shape.d_model + 2 * self.config.bottleneck)

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        for layer in self.layers:
            for part, point in HOOKS.items():
                yield f"blocks.{layer}.{point}", self._through(self.networks[f"{layer}_{part}"])

    def _through(self, network: nn.Module) -> HookFunction:
        def pass_on(out: Float[Tensor, "batch pos d_model"], hook: HookPoint) -> Float[Tensor, "batch pos d_model"]:
            return network(out)

        return pass_on
