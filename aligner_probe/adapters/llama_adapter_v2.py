"""LLaMA-Adapter V2 (arXiv 2304.15010): scales and biases of the linear layers, the norms, and LLaMA-Adapter's prefix.

    y = s (W x + b)    every linear layer of attention and MLP; s = 1 and b = 0 at the start (the paper's equation)
    y = s norm(x)      every norm of an adapted layer, of queries and keys as well, and the last norm; with a bias
                       where the norm has one
    prefix             as in LLaMA-Adapter, in the layers from `prefix_layer` on; its keys and values are given by the
                       projections with their scales and biases

There are several variants under this name. This is the one in the code of Aligner's authors (finetune/adapter_v2.py,
which is lit-llama's), except that theirs also adapts the unembedding: 4,279,744 parameters on LLaMA 7B, of which 64,000
belong to the unembedding. Their paper compares with the first version, `LLaMAAdapter`. Other variants:

- With `n_tokens=0` there is no prefix, as in the chat model of the method's authors. Their code multiplies the input of
  a linear layer instead of its output: y = W (s x) + b.
- Their multimodal model trains biases and norms beside a prefix, and has no scales.

A norm is trained as a factor of what it gives. This is the same as training its weight, as long as no entry of the
weight is zero. The bias of the attention output projection is such a constant shift as Aligner-1 adds.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter, HookFunction, suggested_start_layer
from aligner_probe.adapters.config import LayeredConfig, require
from aligner_probe.adapters.lora import HOOKS, targets_of
from aligner_probe.adapters.prefix import LLaMAAdapter
from aligner_probe.adapters.registry import register_adapter
from aligner_probe.arguments import a_model, accepts
from aligner_probe.hooks import mlp_width, project, score_scale

#: Norms of a layer, as far as a family has them, by TransformerLens's names inside a block; the last norm of the model.
NORMS = ("ln1", "attn.q_norm", "attn.k_norm", "ln1_post", "ln2", "ln2_post")
LAST_NORM = "ln_final"


@dataclass(frozen=True, kw_only=True)
class LLaMAAdapterV2Config(LayeredConfig):
    """Options of LLaMAAdapterV2."""

    n_tokens: int = field(default=10, metadata={"help": "prefix tokens of each layer with a prefix, 0 for no prefix"})
    prefix_layer: int | None = field(
        default=None,
        metadata={"help": "index of the first layer with a prefix, from 0 (default: 2, less on shallow models)"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.n_tokens >= 0, f"n_tokens {self.n_tokens}; expected 0 or more")
        require(
            self.prefix_layer is None or self.prefix_layer >= self.start_layer,
            f"prefix_layer {self.prefix_layer} below start_layer {self.start_layer}; expected it or a later one",
        )


class Affine(nn.Module):
    """s (y + b), with s = 1 and b = 0 at the start; without b where `has_bias` is off."""

    def __init__(self, width: int, has_bias: bool, device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(width, device=device, dtype=dtype)) if has_bias else None

    def forward(self, y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        # What is scaled are the last axes, one or (of a projection whose output is split into heads) two.
        size = y.shape[2:] if math.prod(y.shape[2:]) == len(self.scale) else y.shape[-1:]
        if self.bias is not None:
            y = y + self.bias.to(y.dtype).view(size)
        return y * self.scale.to(y.dtype).view(size)


class TunedPrefix(LLaMAAdapter):
    """LLaMA-Adapter's prefix on projections with scales and biases, which are `tuned` by their hook points."""

    _tuned: nn.ModuleDict

    def __init__(
        self, model: TransformerBridge, config: LLaMAAdapterV2Config, tuned: nn.ModuleDict, dtype: torch.dtype
    ):
        super().__init__(model, config.n_tokens, config.prefix_layer, config.seed, dtype=dtype)
        # Not as a part of this module, since the scales and biases are those of the whole adapter.
        object.__setattr__(self, "_tuned", tuned)

    def gated_values(self, layer: int) -> Float[Tensor, "n_tokens n_heads d_head"]:
        values = self._heads(layer, "v")
        return values * self.gate_of(layer).to(values.dtype)[:, None]

    def _keys_and_values(self, layer: int) -> tuple[Tensor, Tensor]:
        # Computed each time: what LLaMA-Adapter keeps between calls would not change with the scales and biases.
        values = self.gated_values(layer)
        keys = self._heads(layer, "k") if self.config.n_tokens > 1 else values[:0]
        return keys * score_scale(self.model, layer), values

    def _heads(self, layer: int, which: Literal["k", "v"]) -> Float[Tensor, "n_tokens n_heads d_head"]:
        heads = project(self.model, layer, which, self.prefix_of(layer))
        affine: Any = self._tuned[_key(f"blocks.{layer}.attn.hook_{which}")]
        sizes, copies = (self.shape.n_kv_heads, self.shape.d_head), self.shape.n_heads // self.shape.n_kv_heads
        scale, bias = (
            one.to(heads.dtype).view(sizes).repeat_interleave(copies, dim=0) for one in (affine.scale, affine.bias)
        )
        return scale * (heads + bias)


@register_adapter("llama_adapter_v2")
@accepts(model=a_model)
class LLaMAAdapterV2(Adapter):
    """Scales and biases of all linear layers, the norms, and LLaMA-Adapter's prefix (arXiv 2304.15010).

    Args:
        model: the base model.
        n_tokens: prefix tokens of each layer that has a prefix; 0 for none.
        start_layer: index of the first adapted layer; 0 adapts all layers. The last norm of the model is always
            adapted.
        seed: start seed, which draws the initial prefix.
        prefix_layer: index of the first layer with a prefix; None for the paper's 2, and on a base model of few layers
            for a quarter of them.
        dtype: data type of the parameters.

    Raises:
        AlignerProbeError: for options that do not fit.
    """

    label = "LLaMA-Adapter V2"
    #: The highest is the published 1e-3 at the width of LLaMA 7B, 4096.
    learning_rates = (0.003, 0.01, 0.03)
    #: finetune/adapter_v2.py of Aligner's authors.
    published_recipe: ClassVar = {
        "sft": {"lr": 1e-3, "micro_batch_size": 2, "epochs": 5.0, "warmup": 2.0, "mask_prompt": False}
    }
    published_notes: ClassVar = {
        "sft": "their LLaMA-Adapter V2 adapts the unembedding, too",
        "preference": "they trained no LLaMA-Adapter V2 by DPO, so the recipe is their Aligner's",
    }
    config: LLaMAAdapterV2Config

    def __init__(
        self,
        model: TransformerBridge,
        n_tokens: int = 10,
        start_layer: int = 0,
        seed: int = 0,
        *,
        prefix_layer: int | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        if prefix_layer is None and n_tokens > 0:
            prefix_layer = max(start_layer, suggested_start_layer(model))
        config = LLaMAAdapterV2Config(n_tokens=n_tokens, start_layer=start_layer, seed=seed, prefix_layer=prefix_layer)
        super().__init__(model, config)
        self.points = dict(self._points())
        self.tuned = nn.ModuleDict(
            {_key(name): Affine(width, has_bias, self.device, dtype) for name, (width, has_bias) in self.points.items()}
        )
        self.prefix = TunedPrefix(model, config, self.tuned, dtype) if n_tokens > 0 else None

    def _points(self) -> Iterator[tuple[str, tuple[int, bool]]]:
        """Names of hook points, each with how many values it has, and whether a bias is trained there."""
        blocks: Any = self.model.blocks
        widths = self._widths()
        for layer in self.layers:
            block = blocks[layer]
            parts = {*block.submodules, *(f"attn.{name}" for name in block.attn.submodules)}
            for name in NORMS:
                if name in parts:
                    yield f"blocks.{layer}.{name}.hook_out", _size(_component(block, name))
            for target in targets_of(self.model):
                _, point = HOOKS[target]
                yield f"blocks.{layer}.{point}", (widths[target], True)
        yield f"{LAST_NORM}.hook_out", _size(_component(self.model, LAST_NORM))

    def _widths(self) -> dict[str, int]:
        """By linear layer, under LoRA's names, how many values it gives for a token."""
        heads, kv_heads = (n * self.shape.d_head for n in (self.shape.n_heads, self.shape.n_kv_heads))
        stream, neurons = self.shape.d_model, mlp_width(self.model)
        return {"q": heads, "k": kv_heads, "v": kv_heads, "o": stream, "gate": neurons, "up": neurons, "down": stream}

    def activations_per_token(self) -> int:
        """What the linear layers and the norms of a layer give, of which the gradients of the scales are made."""
        widths = self._widths()
        # A norm of single heads has the weights of one head, and its output has the values of all heads.
        normed = {"q_norm": widths["q"], "k_norm": widths["k"]}
        of_prefix = 0 if self.prefix is None else self.prefix.activations_per_token()
        return of_prefix + sum(
            normed.get(name.split(".")[-2], width)
            for name, (width, _) in self.points.items()
            if name.startswith(f"blocks.{self.layers.start}.")
        )

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        of_prefix = {} if self.prefix is None else dict(self.prefix.hook_functions())
        for name in self.points:
            yield name, _through(self.tuned[_key(name)], of_prefix.pop(name, None))
        yield from of_prefix.items()


def _through(tuned: nn.Module, reader: HookFunction | None) -> HookFunction:
    """A function that scales and shifts; the prefix then reads the result, where the query ends at this hook point."""

    def pass_on(out: Float[Tensor, "batch pos ..."], hook: HookPoint) -> Float[Tensor, "batch pos ..."]:
        changed = tuned(out)
        if reader is not None:
            reader(changed, hook=hook)
        return changed

    return pass_on


def _key(name: str) -> str:
    """The name of a hook point with an underscore for every dot, which the name of a module cannot have."""
    return name.replace(".", "_")


def _component(parent: Any, name: str) -> Any:
    """The component of a dotted name inside a block or a model."""
    for part in name.split("."):
        parent = getattr(parent, part)
    return parent


def _size(norm: Any) -> tuple[int, bool]:
    """How many weights a norm has, and whether it has a bias."""
    module = norm.original_component
    return module.weight.numel(), getattr(module, "bias", None) is not None
