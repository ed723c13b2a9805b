"""Sizes of a base model's layers and projections of its attention, read from its TransformerLens bridge.

Also a check that what a `Family` says of its hook points is true of a model.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from aligner_probe.errors import AlignerProbeError
from aligner_probe.families import family_of
from aligner_probe.models import dtype_of
from aligner_probe.packed import has_packed_weight, unpacked

#: Number of positions that `check_family` runs.
CHECKED_POSITIONS = 4
#: Largest difference between two attention probabilities that rounding explains.
PATTERN_TOLERANCE = 1e-2


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of a model's attention layers.

    `n_kv_heads` is the number of key and value heads. It is smaller than `n_heads` where several query heads share one.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int

    @classmethod
    def of(cls, model: TransformerBridge) -> "AttentionShape":
        """The sizes of a TransformerLens model."""
        n_heads = model.cfg.n_heads
        n_kv_heads = getattr(model.cfg, "n_key_value_heads", None) or n_heads
        return cls(model.cfg.n_layers, n_heads, n_kv_heads, model.cfg.d_head, model.cfg.d_model)


def mlp_width(model: TransformerBridge) -> int:
    """How many neurons the MLP of a layer has, d_mlp."""
    return model.cfg.d_mlp or 4 * model.cfg.d_model


def project(
    model: TransformerBridge,
    layer: int,
    which: Literal["k", "v"],
    tokens: Float[Tensor, "n_tokens d_model"],
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "n_tokens n_heads d_head"]:
    """Keys or values of prefix tokens: the tokens through the layer's own key or value projection.

    A bias of the projection is added where there is one. No norm and no rotary position embedding is applied (eq. 5 of
    arXiv 2312.05503). Where query heads share a key or value head, that head is repeated for each of them. The weights
    are used directly, because calling the projection would fire its hook points with a tensor of another shape. Packed
    weights of a quantised base are used by the Hugging Face projection inside, which has no hook points.

    Args:
        model: The base model.
        layer: Index of the layer, from zero.
        which: "k" for keys, "v" for values.
        tokens: The prefix tokens.
        dtype: Precision to compute in; None is that of the weights, or of the residual stream on a quantised base.
    """
    shape = AttentionShape.of(model)
    linear: Any = getattr(model.blocks[layer].attn, which)
    if has_packed_weight(linear.original_component):
        heads = _through_packed(linear.original_component, tokens, dtype, dtype_of(model))
        return _for_each_head(heads, shape)
    weight, bias = linear.weight, getattr(linear.original_component, "bias", None)
    if dtype is not None:
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    return _for_each_head(F.linear(tokens.to(weight.dtype), weight, bias), shape)


def _for_each_head(
    projected: Float[Tensor, "n_tokens d_heads"], shape: AttentionShape
) -> Float[Tensor, "n_tokens n_heads d_head"]:
    heads = projected.unflatten(1, (shape.n_kv_heads, shape.d_head))
    return heads.repeat_interleave(shape.n_heads // shape.n_kv_heads, dim=1)


def _through_packed(
    projection: Any, tokens: Float[Tensor, "n_tokens d_model"], dtype: torch.dtype | None, residual: torch.dtype
) -> Float[Tensor, "n_tokens d_heads"]:
    """Tokens through a projection with packed weights, in `dtype`; None is the `residual` stream's precision.

    The projection itself computes in its own precision; for any other, its weights are unpacked here.
    """
    if dtype is None:
        return projection.forward(tokens.to(residual))  # and not called: torch's own hooks expect a batch
    weight, bias = unpacked(projection).to(dtype), projection.bias
    return F.linear(tokens.to(dtype), weight, None if bias is None else bias.to(dtype))


def score_scale(model: TransformerBridge, layer: int) -> float:
    """The factor that a layer multiplies query-key products by.

    It is 1 / sqrt(d_head), unless the layer has a `scaling` of its own, as in Gemma 2.
    """
    scaling = getattr(model.blocks[layer].attn.original_component, "scaling", None)
    return AttentionShape.of(model).d_head ** -0.5 if scaling is None else float(scaling)


@torch.no_grad()
def check_family(model: TransformerBridge) -> None:
    """Compare what the model's `Family` says with what the model does; for whoever adds a family.

    Attention is computed again from the family's final query and from the keys that Hugging Face puts into the
    key-value cache. It must give the attention pattern of the model in every layer. The projections that the family
    names must exist.

    Args:
        model: A TransformerLens model of the family. Random weights and any size will do.

    Raises:
        AlignerProbeError: The family's entry is wrong for this model; the message names the field.
    """
    architecture = type(model.original_model).__name__
    family = family_of(architecture)
    for projection in family.modules:
        name = family.module(0, projection)
        try:
            model.original_model.get_submodule(name)
        except AttributeError as error:
            raise AlignerProbeError(
                f"{architecture} has no module {name}; expected the name of its {projection!r} projection in the "
                "fields `layers` and `modules` of its family"
            ) from error
    names = (*family.query_hooks, "hook_pattern")
    seen: list[dict[str, Tensor]] = [{} for _ in model.blocks]
    hooks = [
        (f"blocks.{layer}.attn.{name}", _keeper(of_layer, name))
        for layer, of_layer in enumerate(seen)
        for name in names
    ]
    ids = torch.arange(1, 1 + CHECKED_POSITIONS, device=model.W_E.device)[None]
    cache: Any = DynamicCache()  # all keys, also where a window would let go of some
    with model.hooks(fwd_hooks=hooks):
        model(ids, past_key_values=cache, use_cache=True)
    for layer, of_layer in enumerate(seen):
        silent = [name for name in names if name not in of_layer]
        if silent:
            raise AlignerProbeError(
                f"{architecture} never fires {silent[0]} in layer {layer}; expected another `query` of its family: "
                "'hook_rot_q', 'hook_q' or 'rotate'"
            )
        pattern = _pattern(model, layer, family.final_query(of_layer), cache.layers[layer].keys)
        difference = float((pattern - of_layer["hook_pattern"].float()).abs().max())
        if not difference <= PATTERN_TOLERANCE:
            raise AlignerProbeError(
                f"the final query of {architecture} by query={family.query!r} gives attention probabilities that "
                f"differ by {difference:.3g} from the model's in layer {layer}; expected another `query` of its "
                "family: 'hook_rot_q', 'hook_q' or 'rotate'"
            )


def _keeper(seen: dict[str, Tensor], name: str) -> Any:
    def keep(tensor: Tensor, hook: HookPoint) -> None:
        seen[name] = tensor

    return keep


def _pattern(
    model: TransformerBridge,
    layer: int,
    query: Float[Tensor, "batch pos n_heads d_head"],
    keys: Float[Tensor, "batch n_kv_heads pos d_head"],
) -> Float[Tensor, "batch n_heads pos pos"]:
    """Causal attention probabilities of a layer, in float32, from its final query and its keys."""
    heads_per_key = query.shape[2] // keys.shape[1]
    all_keys = keys.float().repeat_interleave(heads_per_key, dim=1)
    scores = query.float().transpose(1, 2) @ all_keys.transpose(-1, -2) * score_scale(model, layer)
    cap = getattr(model.blocks[layer].attn.original_component, "attn_logit_softcapping", None)
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1)
