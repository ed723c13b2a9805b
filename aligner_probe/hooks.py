"""Where each architecture family keeps what an adapter needs, in TransformerLens hook names.

An adapter adds to head outputs (`attn.hook_z`) what it computes from the query after rotary. Most families fire
`attn.hook_rot_q`; GPT-NeoX and Phi-3 have that hook point but never fire it, so there the query is rotated here, from
`attn.hook_q` and the layer's own `hook_cos` and `hook_sin`; GPT-2 has no rotary. Measured on transformer-lens 4.3.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.errors import AlignerProbeError

#: How the final query of a layer is come by.
Query = Literal["hook_rot_q", "hook_q", "rotate"]


@dataclass(frozen=True)
class Family:
    """An architecture whose hook points are known to be where an adapter needs them."""

    architecture: str
    query: Query

    @property
    def query_hooks(self) -> tuple[str, ...]:
        """Hook points of a layer's attention to be read before `hook_z`."""
        return ("hook_q", "hook_cos", "hook_sin") if self.query == "rotate" else (self.query,)

    def final_query(self, seen: dict[str, Tensor]) -> Float[Tensor, "batch pos n_heads d_head"]:
        """The query after rotary, from what the query hooks saw."""
        if self.query != "rotate":
            return seen[self.query]
        return rotate(seen["hook_q"], seen["hook_cos"], seen["hook_sin"])


FAMILIES = {
    architecture: Family(architecture, query)
    for architecture, query in {
        "LlamaForCausalLM": "hook_rot_q",
        "MistralForCausalLM": "hook_rot_q",
        "Qwen2ForCausalLM": "hook_rot_q",
        "Qwen3ForCausalLM": "hook_rot_q",
        "GemmaForCausalLM": "hook_rot_q",
        "Gemma2ForCausalLM": "hook_rot_q",
        "GPT2LMHeadModel": "hook_q",
        "GPTNeoXForCausalLM": "rotate",
        "Phi3ForCausalLM": "rotate",
    }.items()
}


def family_of(architecture: str) -> Family:
    """The family of an architecture by its Hugging Face class name.

    Raises AlignerProbeError for any other, before anything is loaded or computed.
    """
    if architecture not in FAMILIES:
        raise AlignerProbeError(
            f"architecture {architecture} is not supported: where its query after rotary and its head outputs are has "
            f"not been established and tested; expected one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[architecture]


def rotate(
    q: Float[Tensor, "batch pos n_heads d_head"],
    cos: Float[Tensor, "one_or_batch pos d_rotary"],
    sin: Float[Tensor, "one_or_batch pos d_rotary"],
) -> Float[Tensor, "batch pos n_heads d_head"]:
    """Rotary embedding by halves over the first d_rotary numbers of a head; the rest passes through."""
    turned, passed = q[..., : cos.shape[-1]], q[..., cos.shape[-1] :]
    low, high = turned.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    return torch.cat([turned * cos + torch.cat([-high, low], dim=-1) * sin, passed], dim=-1)


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of a model's attention layers."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int

    @classmethod
    def of(cls, model: TransformerBridge) -> "AttentionShape":
        n_heads = model.cfg.n_heads
        n_kv_heads = getattr(model.cfg, "n_key_value_heads", None) or n_heads
        return cls(model.cfg.n_layers, n_heads, n_kv_heads, model.cfg.d_head, model.cfg.d_model)


def project(
    model: TransformerBridge,
    layer: int,
    which: Literal["k", "v"],
    tokens: Float[Tensor, "n_tokens d_model"],
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "n_tokens n_heads d_head"]:
    """Tokens through a layer's own key or value projection (with its bias, where it has one), repeated to all heads.

    No norm, no rotary (eq. 5 of arXiv 2312.05503). Straight from the weights: calling the projection would fire its
    hooks with a tensor of another shape. `dtype` computes in another precision than the weights'.
    """
    shape = AttentionShape.of(model)
    linear = getattr(model.blocks[layer].attn, which)
    weight, bias = linear.weight, getattr(linear.original_component, "bias", None)
    if dtype is not None:
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    heads = F.linear(tokens.to(weight.dtype), weight, bias).unflatten(1, (shape.n_kv_heads, shape.d_head))
    return heads.repeat_interleave(shape.n_heads // shape.n_kv_heads, dim=1)


def score_scale(model: TransformerBridge, layer: int) -> float:
    """What a layer multiplies query-key products by: 1 / sqrt(d_head), but for Gemma 2's own choice."""
    scaling = getattr(model.blocks[layer].attn.original_component, "scaling", None)
    return AttentionShape.of(model).d_head ** -0.5 if scaling is None else float(scaling)
