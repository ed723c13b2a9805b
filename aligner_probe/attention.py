"""Attention layers of the TransformerLens bridge with the kernels of plain Hugging Face, and the same hook points.

TransformerLens writes attention out: scores, a softmax in float32, the pattern. The components here compute head
outputs with `F.scaled_dot_product_attention`, or with `capped_attention` where scores are capped. They write scores and
pattern out only while a hook is registered there or while the pattern is asked for, as `run_with_cache` does. As long
as no hook edits scores or pattern, the head outputs are the same to the bit with hooks and without.

A layer or a call that the fast forward pass does not reproduce (`_is_plain`, `_needs_original`) uses TransformerLens's
own forward pass.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.generalized_components import (
    JointQKVPositionEmbeddingsAttentionBridge,
    PositionEmbeddingsAttentionBridge,
)
from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

# Private, but the mapping of components goes by exact types, and there is no other name for this one.
from transformer_lens.model_bridge.supported_architectures.smollm3 import _SmolLM3AttentionBridge
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

from aligner_probe.capped import capped_attention
from aligner_probe.lean import Lean, fire, hooked, switched

#: What an attention layer of Hugging Face may have that no fast attention reproduces.
_EXTRAS = ("sinks", "key_multiplier", "q_layernorm", "k_layernorm")
#: The same, as flags of a bridge's configuration.
_FIXED_FLAGS = ("gated_q_proj", "rotary_interleaved_cos_sin", "rotary_adjacent_pairs", "qk_norm_after_rope")
#: The components inside an attention layer: projections, with or without norms of queries and keys.
_PROJECTIONS = set("qkvo")
_NORMS = {"q_norm", "k_norm"}

Queries = Float[Tensor, "batch n_heads pos d_head"]
Keys = Float[Tensor, "batch n_kv_heads keys d_head"]


class _Fast(Lean, AttentionBridge):
    """What the fast attention layers share: a forward pass through a kernel.

    Fires `hook_in`, `hook_q/k/v`, `hook_cos/sin`, `hook_z` and `hook_out`; `hook_attn_scores` and `hook_pattern` where
    something is hooked to one of the two or `output_attentions` is set.
    """

    #: Precision of the softmax that TransformerLens writes out; None is that of the scores.
    written_out_in: torch.dtype | None = torch.float32

    def _judge(self, attention: torch.nn.Module) -> None:
        """Store whether the layer is what `forward` reproduces; called once, when the bridge is built."""
        self._plain = self._is_plain(attention)

    def _is_plain(self, attention: Any) -> bool:
        """Whether the layer is what `forward` reproduces."""
        config = getattr(attention, "config", None)
        rope = getattr(config, "rope_parameters", None) or {}
        return (
            all(getattr(attention, name, None) is None for name in _EXTRAS)
            and not any(getattr(self.config, name, False) for name in _FIXED_FLAGS)
            and getattr(config, "clip_qkv", None) is None
            and rope.get("llama_4_scaling_beta") is None
            and self.is_causal
            and not self.is_cross_attention
        )

    def _needs_original(self, kwargs: dict[str, Any]) -> bool:
        """Whether this call asks for something that `forward` does not reproduce."""
        attention: Any = self.original_component
        rotary = kwargs.get("position_embeddings")
        return (
            not self._plain
            or self.compatibility_mode
            or not isinstance(kwargs.get("hidden_states"), Tensor)
            or not isinstance(rotary, tuple)
            or len(rotary) != 2
            or not self._can_rotate(rotary[0].shape[-1], attention.head_dim)
            or switched(self.config)
            or (self.training and getattr(attention, "attention_dropout", 0.0) > 0)
        )

    def _can_rotate(self, width: int, d_head: int) -> bool:
        """Whether `_rotate` knows what to do with so many angles for heads of this size."""
        return width == d_head

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Float[Tensor, "batch pos d_model"], Tensor | None]:
        """The layer's output, and the pattern where it was written out."""
        if args and "hidden_states" not in kwargs:
            args, kwargs = args[1:], {"hidden_states": args[0], **kwargs}
        if args or self._needs_original(kwargs):
            return super().forward(*args, **kwargs)
        attention: Any = self.original_component
        modules: Any = self._modules
        x = fire(modules["hook_in"], kwargs.pop("hidden_states"))
        q, k, v = self._project(x, attention.head_dim)
        cos, sin = kwargs.pop("position_embeddings")
        q, k = self._rotate(q, k, cos, sin)
        mask = kwargs.pop("attention_mask", None)
        if kwargs.get("past_key_values") is not None:
            k, v = self._update_kv_cache(k, v, **kwargs)
        wanted = kwargs.get("output_attentions", getattr(attention.config, "output_attentions", False))
        if wanted or hooked(modules["hook_attn_scores"], modules["hook_pattern"]):
            z, pattern = self._watched(q, k, v, mask)
        else:
            z, pattern = self._attend(q, k, v, mask), None
        return self._ended(modules["o"](z.flatten(2))), pattern

    def _project(self, x: Float[Tensor, "batch pos d_model"], d_head: int) -> tuple[Queries, Keys, Keys]:
        """Queries, keys and values by head, through the linear bridges, so that hook_q, hook_k and hook_v fire."""
        modules: Any = self._modules
        q, k, v = (modules[name](x).unflatten(-1, (-1, d_head)).transpose(1, 2) for name in "qkv")
        return q, k, v

    def _rotate(self, q: Queries, k: Keys, cos: Tensor, sin: Tensor) -> tuple[Queries, Keys]:
        """Queries and keys with rotary position embedding, in their own precision; OLMo 2's angles are in float32."""
        modules: Any = self._modules
        turned = apply_rotary_pos_emb(q, k, fire(modules["hook_cos"], cos), fire(modules["hook_sin"], sin))
        return turned[0].to(q.dtype), turned[1].to(k.dtype)

    def _ended(self, output: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        modules: Any = self._modules
        return fire(modules["hook_out"], output)

    def _attend(self, q: Queries, k: Keys, v: Keys, mask: Tensor | None) -> Float[Tensor, "batch pos n_heads d_head"]:
        """Head outputs as plain Hugging Face computes them, with the mask as TransformerLens reads it."""
        attention: Any = self.original_component
        pos, keys = q.shape[2], k.shape[2]
        cap = getattr(attention, "attn_logit_softcapping", None)
        if cap is not None:
            return capped_attention(q, k, v, self._additive(mask, q, keys), attention.scaling, cap)
        # No mask means causal: the kernel's own flag where the queries are all positions, nothing to hide from a
        # single last query, and a mask for a chunk of queries behind a cache.
        if mask is not None or 1 < pos < keys:
            mask = self._additive(mask, q, keys)
        return sdpa_attention_forward(attention, q, k, v, mask, scaling=attention.scaling, is_causal=True)[0]

    def _additive(self, mask: Tensor | None, q: Tensor, keys: int) -> Tensor:
        """The mask as TransformerLens would add it to scores; one tensor for all layers, which backward keeps."""
        pos = q.shape[2]
        if mask is not None and mask.ndim == 4 and mask.shape[2:] == (pos, keys) and mask.dtype == q.dtype:
            return mask  # eager attention's: to be added as it stands
        none = torch.zeros(1, 1, pos, keys, dtype=q.dtype, device=q.device)
        if mask is None or mask.is_inference() or mask.requires_grad:  # not known to be as it was a layer ago
            return self._apply_reconstruct_attention_mask(none, mask, keys, pos)
        asked = (pos, keys, q.dtype, mask._version)
        made_for, made = _MASKS.get(mask) or (None, none)
        if made_for != asked:
            made = self._apply_reconstruct_attention_mask(none, mask, keys, pos)
            _MASKS[mask] = (asked, made)
        return made

    def _watched(
        self, q: Queries, k: Keys, v: Keys, mask: Tensor | None
    ) -> tuple[Float[Tensor, "batch pos n_heads d_head"], Float[Tensor, "batch n_heads pos keys"]]:
        """Head outputs and pattern with attention written out, as TransformerLens does it, for hooks to see and edit.

        If no hook edited anything, the values are those of the kernel, so that a hook that only looks changes no
        result. The gradients are those of the written-out attention, in which scores and pattern have gradients too.
        """
        attention: Any = self.original_component
        k_all, v_all = (repeat_kv(t, attention.num_key_value_groups) for t in (k, v))
        scores = q @ k_all.transpose(-2, -1) * attention.scaling
        cap = getattr(attention, "attn_logit_softcapping", None)
        if cap is not None:
            scores = torch.tanh(scores / cap) * cap
        scores = self._apply_reconstruct_attention_mask(scores, mask, k.shape[2], q.shape[2])
        hooked_scores, same_scores = _through(self.hook_attn_scores, scores)
        pattern = self._masked_softmax(hooked_scores, dtype=self.written_out_in).to(q.dtype)
        hooked_pattern, same_pattern = _through(self.hook_pattern, pattern)
        z = (hooked_pattern @ v_all).transpose(1, 2).contiguous()
        if same_scores and same_pattern:
            with torch.no_grad():
                value = self._attend(q, k, v, mask)
            z = _ValueOf.apply(z, value)
        return z, hooked_pattern


class FastAttention(_Fast, PositionEmbeddingsAttentionBridge):
    """Attention with one projection each for query, key, value and output.

    Queries and keys may have norms: of all heads together (OLMo 2) or of each head (Qwen3, Gemma 3). Then
    `hook_q_normed` and `hook_k_normed` fire too. `hook_rot_q` and `hook_rot_k` fire in every layer.
    """

    # TransformerLens's own classes disagree on the name of this parameter.
    def set_original_component(self, component: torch.nn.Module) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().set_original_component(component)
        self._judge(component)

    def _is_plain(self, attention: Any) -> bool:
        there = set(self.submodules)
        return (
            super()._is_plain(attention)
            and there in (_PROJECTIONS, _PROJECTIONS | _NORMS)
            and all((getattr(attention, name, None) is not None) == (name in there) for name in _NORMS)
            and not self._qk_norm_per_head
        )

    def _project(self, x: Float[Tensor, "batch pos d_model"], d_head: int) -> tuple[Queries, Keys, Keys]:
        modules: Any = self._modules
        q, k, v = (modules[name](x) for name in "qkv")
        phase = self._qk_norm_phase
        if phase == "pre_reshape":
            q, k = self._normed(q, k)
        q, k, v = (t.unflatten(-1, (-1, d_head)).transpose(1, 2) for t in (q, k, v))
        return (*self._normed(q, k), v) if phase == "post_reshape" else (q, k, v)

    def _normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        modules: Any = self._modules
        q = fire(modules["hook_q_normed"], modules["q_norm"](q))
        return q, fire(modules["hook_k_normed"], modules["k_norm"](k))

    def _rotate(self, q: Queries, k: Keys, cos: Tensor, sin: Tensor) -> tuple[Queries, Keys]:
        modules: Any = self._modules
        q, k = super()._rotate(q, k, cos, sin)
        return fire(modules["hook_rot_q"], q), fire(modules["hook_rot_k"], k)


class FastNoPEAttention(FastAttention, _SmolLM3AttentionBridge):
    """The same for SmolLM3, some of whose layers have no rotary position embedding (`use_rope` is 0).

    In such a layer `hook_cos` and `hook_sin` do not fire, and `hook_rot_q` and `hook_rot_k` get queries and keys as
    they were projected.
    """

    def _rotate(self, q: Queries, k: Keys, cos: Tensor, sin: Tensor) -> tuple[Queries, Keys]:
        attention: Any = self.original_component
        if attention.use_rope:
            return super()._rotate(q, k, cos, sin)
        modules: Any = self._modules
        return fire(modules["hook_rot_q"], q), fire(modules["hook_rot_k"], k)


class FastJointAttention(_Fast, JointQKVPositionEmbeddingsAttentionBridge):
    """Attention whose fused projection TransformerLens splits into three (Phi-3).

    As in TransformerLens's own, `hook_rot_q` and `hook_rot_k` never fire; `hook_hidden_states` fires before `hook_out`.
    """

    written_out_in = None

    def set_original_component(self, original_component: torch.nn.Module) -> None:
        super().set_original_component(original_component)
        self._judge(original_component)

    def _is_plain(self, attention: Any) -> bool:
        return super()._is_plain(attention) and set(self.submodules) == _PROJECTIONS | {"qkv"}

    def _can_rotate(self, width: int, d_head: int) -> bool:
        return width <= d_head  # the rest of a head passes unturned

    def _rotate(self, q: Queries, k: Keys, cos: Tensor, sin: Tensor) -> tuple[Queries, Keys]:
        modules: Any = self._modules
        return self._apply_rotary_pos_emb(q, k, fire(modules["hook_cos"], cos), fire(modules["hook_sin"], sin))

    def _ended(self, output: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        modules: Any = self._modules
        return super()._ended(fire(modules["hook_hidden_states"], output))


#: Additive masks by the mask that they were made from. That mask lives for one forward pass, and so do they.
_MASKS = WeakTensorKeyDictionary()


def _through(point: HookPoint, tensor: Tensor) -> tuple[Tensor, bool]:
    """A tensor through a hook point, and whether it came out unedited, neither replaced nor written into."""
    if tensor.is_inference():  # no versions are kept there: an edit in place would not be seen
        return point(tensor), False
    version = tensor._version
    seen = point(tensor)
    return seen, seen is tensor and tensor._version == version


class _ValueOf(torch.autograd.Function):
    """The value of one tensor with the gradient of another, equal but for rounding."""

    @staticmethod
    def forward(ctx: Any, graph: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        return grad_outputs[0], None
