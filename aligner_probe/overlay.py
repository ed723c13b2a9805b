"""Fast attention and norms for the TransformerLens bridge: the same hook points, the kernels of plain Hugging Face.

TransformerLens always computes attention step by step (scores, softmax in float32, pattern), computes each RMS norm
twice, and adds a bias of zeros to the logits. The components of this module fire the same hook points, but compute head
outputs with `F.scaled_dot_product_attention`, compute each norm once and add no zeros. They compute scores and pattern
only while a hook is registered there or while the pattern is asked for, as `run_with_cache` does. As long as no hook
edits scores or pattern, the head outputs are the same to the bit with hooks and without.

    build_bridge_from_module(model, architecture, ..., post_adapter_hook=partial(overlay, components="llama"))

A layer or a call that the fast forward pass does not reproduce (`_is_plain`, `_needs_original`) uses TransformerLens's
own forward pass. Measured on transformer-lens 4.3.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import (
    BlockBridge,
    EmbeddingBridge,
    GatedMLPBridge,
    LinearBridge,
    PositionEmbeddingsAttentionBridge,
    RMSNormalizationBridge,
    UnembeddingBridge,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

from aligner_probe.lean import (
    Lean,
    LeanBlock,
    LeanEmbedding,
    LeanLinear,
    LeanMLP,
    LeanRMSNorm,
    LeanUnembedding,
    fire,
    hooked,
    switched,
)

#: What an attention layer of Hugging Face may have that `FastAttention` does not reproduce.
_EXTRAS = ("attn_logit_softcapping", "sinks", "key_multiplier", "q_norm", "k_norm", "q_layernorm", "k_layernorm")
#: The same, as flags of a bridge's configuration.
_FIXED_FLAGS = ("gated_q_proj", "rotary_interleaved_cos_sin", "rotary_adjacent_pairs")


def overlay(adapter: ArchitectureAdapter, components: str | None) -> None:
    """Turn TransformerLens's components into fast ones, before a bridge is built from them.

    Args:
        adapter: TransformerLens's description of the architecture; its components are changed in place.
        components: Which fast components take their place: a key of `FAST_COMPONENTS`, as a family names it. None
            changes nothing.
    """
    if components is None or not adapter.component_mapping:
        return
    fast = FAST_COMPONENTS[components]
    remaining = list(adapter.component_mapping.values())
    for component in remaining:
        remaining.extend(component.submodules.values())
        # Exact types only: a subclass exists because it computes something else.
        component.__class__ = fast.get(type(component), type(component))


class FastAttention(Lean, PositionEmbeddingsAttentionBridge):
    """Attention by `F.scaled_dot_product_attention`, with every hook point of TransformerLens's own.

    Fires `hook_in`, `hook_q/k/v`, `hook_cos/sin`, `hook_rot_q/k`, `hook_z` and `hook_out`; `hook_attn_scores` and
    `hook_pattern` where something is hooked to one of the two or `output_attentions` is set.
    """

    # TransformerLens's own classes disagree on the name of this parameter.
    def set_original_component(self, component: torch.nn.Module) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().set_original_component(component)
        self._plain = self._is_plain(component)

    def _is_plain(self, attention: Any) -> bool:
        """Whether the layer is what `forward` reproduces; judged once, when the bridge is built."""
        config = getattr(attention, "config", None)
        rope = getattr(config, "rope_parameters", None) or {}
        return (
            set(self.submodules) == set("qkvo")
            and all(getattr(attention, name, None) is None for name in _EXTRAS)
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
            or rotary[0].shape[-1] != attention.head_dim
            or switched(self.config)
            or (self.training and getattr(attention, "attention_dropout", 0.0) > 0)
        )

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Float[Tensor, "batch pos d_model"], Tensor | None]:
        """The layer's output, and the pattern where it was written out."""
        if args and "hidden_states" not in kwargs:
            args, kwargs = args[1:], {"hidden_states": args[0], **kwargs}
        if args or self._needs_original(kwargs):
            return super().forward(*args, **kwargs)
        attention: Any = self.original_component
        modules: Any = self._modules
        d_head = attention.head_dim
        x = fire(modules["hook_in"], kwargs.pop("hidden_states"))
        # Through the linear bridges, so that hook_q, hook_k and hook_v fire.
        q, k, v = (modules[name](x).unflatten(-1, (-1, d_head)).transpose(1, 2) for name in "qkv")
        cos, sin = kwargs.pop("position_embeddings")
        q, k = apply_rotary_pos_emb(q, k, fire(modules["hook_cos"], cos), fire(modules["hook_sin"], sin))
        q, k = fire(modules["hook_rot_q"], q), fire(modules["hook_rot_k"], k)
        mask = kwargs.pop("attention_mask", None)
        if kwargs.get("past_key_values") is not None:
            k, v = self._update_kv_cache(k, v, **kwargs)
        wanted = kwargs.get("output_attentions", getattr(attention.config, "output_attentions", False))
        if wanted or hooked(modules["hook_attn_scores"], modules["hook_pattern"]):
            z, pattern = self._watched(q, k, v, mask)
        else:
            z, pattern = self._attend(q, k, v, mask), None
        return fire(modules["hook_out"], modules["o"](z.flatten(2))), pattern

    def _attend(
        self,
        q: Float[Tensor, "batch n_heads pos d_head"],
        k: Float[Tensor, "batch n_kv_heads keys d_head"],
        v: Float[Tensor, "batch n_kv_heads keys d_head"],
        mask: Tensor | None,
    ) -> Float[Tensor, "batch pos n_heads d_head"]:
        """Head outputs as plain Hugging Face computes them, with the mask as TransformerLens reads it."""
        attention: Any = self.original_component
        pos, keys = q.shape[2], k.shape[2]
        # No mask means causal: the kernel's own flag where the queries are all positions, nothing to hide from a
        # single last query, and a mask for a chunk of queries behind a cache.
        if mask is not None or 1 < pos < keys:
            mask = self._additive(mask, q, keys)
        return sdpa_attention_forward(attention, q, k, v, mask, scaling=attention.scaling, is_causal=True)[0]

    def _additive(self, mask: Tensor | None, q: Tensor, keys: int) -> Tensor:
        """The mask as TransformerLens would add it to scores; one tensor for all layers, which backward keeps."""
        pos = q.shape[2]
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
        self,
        q: Float[Tensor, "batch n_heads pos d_head"],
        k: Float[Tensor, "batch n_kv_heads keys d_head"],
        v: Float[Tensor, "batch n_kv_heads keys d_head"],
        mask: Tensor | None,
    ) -> tuple[Float[Tensor, "batch pos n_heads d_head"], Float[Tensor, "batch n_heads pos keys"]]:
        """Head outputs and pattern with attention written out, as TransformerLens does it, for hooks to see and edit.

        Where no hook edited anything, gradients still take this way (a hooked score has one), but the values are the
        kernel's: looking must not change what is looked at.
        """
        attention: Any = self.original_component
        k_all, v_all = (repeat_kv(t, attention.num_key_value_groups) for t in (k, v))
        scores = q @ k_all.transpose(-2, -1) * attention.scaling
        scores = self._apply_reconstruct_attention_mask(scores, mask, k.shape[2], q.shape[2])
        hooked_scores, same_scores = _through(self.hook_attn_scores, scores)
        pattern = self._masked_softmax(hooked_scores, dtype=torch.float32).to(q.dtype)
        hooked_pattern, same_pattern = _through(self.hook_pattern, pattern)
        z = (hooked_pattern @ v_all).transpose(1, 2).contiguous()
        if same_scores and same_pattern:
            with torch.no_grad():
                value = self._attend(q, k, v, mask)
            z = _ValueOf.apply(z, value)
        return z, hooked_pattern


#: Fast components by the TransformerLens component that each one replaces. The keys are the names that
#: `Family.fast_components` may have. "llama": rotary position embedding over the whole head, one softmax, and nothing
#: between query and key.
FAST_COMPONENTS: dict[str, Mapping[type, type]] = {
    "llama": {
        BlockBridge: LeanBlock,
        EmbeddingBridge: LeanEmbedding,
        GatedMLPBridge: LeanMLP,
        LinearBridge: LeanLinear,
        PositionEmbeddingsAttentionBridge: FastAttention,
        RMSNormalizationBridge: LeanRMSNorm,
        UnembeddingBridge: LeanUnembedding,
    },
}
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
