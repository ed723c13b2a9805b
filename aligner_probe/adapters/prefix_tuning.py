"""Prefix tuning (arXiv 2101.00190): trained keys and values that each layer attends to beside those of the tokens.

Unlike Aligner's prefix, they share one softmax with the keys of the tokens. The trained keys get no rotary embedding,
and the user's positions start at 0. One softmax over both kinds of keys is the weighted mean of the attention to the
prefix and the attention to the tokens, so nothing has to be added to the key-value cache. The weight w of the prefix is
its share of the summed exponentials of the scores:

    w = sum exp(prefix scores) / (sum exp(prefix scores) + sum exp(own scores));   z = (1 - w) z + w prefix attention
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter, HookFunction
from aligner_probe.adapters.config import LayeredConfig, require
from aligner_probe.adapters.registry import register_adapter
from aligner_probe.arguments import a_model, accepts
from aligner_probe.hooks import score_scale


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig(LayeredConfig):
    """Options of PrefixTuning."""

    n_tokens: int = field(default=10, metadata={"help": "trained keys and values of each layer"})
    spread: float = field(default=0.02, metadata={"help": "standard deviation of the initial keys and values"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.n_tokens >= 1, f"n_tokens {self.n_tokens}; expected 1 or more")
        require(self.spread >= 0, f"spread {self.spread}; expected 0 or more")


@register_adapter("prefix_tuning")
@accepts(model=a_model)
class PrefixTuning(Adapter):
    """Trained keys and values that each layer attends to beside those of the tokens (arXiv 2101.00190).

    Args:
        model: the base model.
        n_tokens: trained keys and values of each layer (PEFT's num_virtual_tokens).
        start_layer: index of the first adapted layer; 0 adapts all layers.
        seed: start seed, which draws the initial keys and values.
        spread: standard deviation of the initial keys and values.
        dtype: data type of the parameters.

    Raises:
        AlignerProbeError: for options that do not fit.
    """

    label = "prefix tuning"
    reads_scores = True
    learning_rates = (0.015, 0.05, 0.15)
    config: PrefixTuningConfig

    def __init__(
        self,
        model: TransformerBridge,
        n_tokens: int = 10,
        start_layer: int = 0,
        seed: int = 0,
        *,
        spread: float = 0.02,
        dtype: torch.dtype = torch.float32,
    ):
        config = PrefixTuningConfig(n_tokens=n_tokens, start_layer=start_layer, seed=seed, spread=spread)
        super().__init__(model, config)
        device = next(model.original_model.parameters()).device
        size = (len(self.layers), n_tokens, self.shape.n_kv_heads, self.shape.d_head)
        generator = self.generator()
        self.keys, self.values = (
            nn.Parameter((spread * torch.randn(size, generator=generator)).to(device, dtype)) for _ in "kv"
        )
        self._seen: dict[int, dict[str, Tensor]] = {}

    def activations_per_token(self) -> int:
        """The query and the head outputs."""
        return 2 * self.shape.n_heads * self.shape.d_head

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        for layer in self.layers:
            attention = f"blocks.{layer}.attn"
            for name in self.family.query_hooks:
                yield f"{attention}.{name}", self._reader(layer, name)
            yield f"{attention}.hook_attn_scores", self._scores_reader(layer)
            yield f"{attention}.hook_z", self._mixer(layer)

    def _reader(self, layer: int, name: str) -> HookFunction:
        def read(tensor: Tensor, hook: HookPoint) -> None:
            self._seen.setdefault(layer, {})[name] = tensor

        return read

    def _scores_reader(self, layer: int) -> HookFunction:
        def read(scores: Float[Tensor, "batch n_heads pos keys"], hook: HookPoint) -> None:
            # A position whose keys are all masked (padding) has no finite score; its output is not used.
            lowest = torch.finfo(scores.dtype).min
            self._seen.setdefault(layer, {})["own"] = scores.clamp(min=lowest).float().logsumexp(-1)

        return read

    def _mixer(self, layer: int) -> HookFunction:
        index = layer - self.config.start_layer
        groups = self.shape.n_heads // self.shape.n_kv_heads

        def mix(
            z: Float[Tensor, "batch pos n_heads d_head"], hook: HookPoint
        ) -> Float[Tensor, "batch pos n_heads d_head"]:
            seen = self._seen.pop(layer)
            q = self.family.final_query(seen)
            k, v = (t[index].to(q.dtype).repeat_interleave(groups, dim=1) for t in (self.keys, self.values))
            scores = torch.einsum("bphd,nhd->bhpn", q, k) * score_scale(self.model, layer)
            blocks: Any = self.model.blocks
            cap = getattr(blocks[layer].attn.original_component, "attn_logit_softcapping", None)
            if cap is not None:  # Gemma 2 caps every score
                scores = cap * torch.tanh(scores / cap)
            scores = scores.float()
            weight = torch.sigmoid(scores.logsumexp(-1) - seen["own"]).to(z.dtype).transpose(1, 2).unsqueeze(-1)
            mixed = torch.einsum("bhpn,nhd->bphd", scores.softmax(-1).to(z.dtype), v)
            return z + weight * (mixed - z)

        return mix
