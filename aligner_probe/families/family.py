"""`Family`: everything this project must know about one family of base models.

A family is one Hugging Face architecture, for instance `LlamaForCausalLM`. Every other module asks the entry of the
family instead of comparing architecture names. This module imports neither TransformerLens nor transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

#: Where the final query of an attention layer comes from; see `Family.query`.
Query = Literal["hook_rot_q", "hook_q", "rotate"]
#: The four projections of attention, by TransformerLens's names.
ATTENTION_PROJECTIONS = ("q", "k", "v", "o")
#: All projections of a layer. Those of the MLP have the names of PEFT and Hugging Face; an MLP without a gate has "up"
#: and "down".
Projection = Literal["q", "k", "v", "o", "gate", "up", "down"]
#: Hugging Face's names of the projections in Llama and in the many families that follow it.
LLAMA_MODULES: Mapping[Projection, str] = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture of base models: its names, its hook points, and what can be exported from it.

    The hook points of keys, values, head outputs and the attention output have the same TransformerLens names in every
    family (`hook_k`, `hook_v`, `hook_z`, `hook_out`). Only the query differs, so only the query has a field.

    Args:
        architecture: Class name in Hugging Face transformers, for instance "LlamaForCausalLM".
        model_type: Hugging Face's short name, as `model_type` in config.json has it, for instance "llama".
        query: Where the final query of a layer comes from. The final query is the one that is multiplied with the
            keys, after every norm and after rotary position embedding.
            "hook_rot_q": TransformerLens fires this hook point with the final query.
            "hook_q": the family has no rotary position embedding, so `hook_q` is the final query.
            "rotate": TransformerLens never fires `hook_rot_q` in this family. The query of `hook_q` is rotated here,
            with the layer's own `hook_cos` and `hook_sin`.
        layers: Name of the list of layers in the Hugging Face model, for instance "model.layers".
        modules: Name of each projection inside a layer of the Hugging Face model. A family that computes query, key
            and value in one fused projection names "o" only; its LoRA has no PEFT checkpoint.
        fast_components: Name of the fast TransformerLens components in `overlay.FAST_COMPONENTS` that compute exactly
            what this family computes; None leaves everything to TransformerLens.
        softmax_in_float32: Whether TransformerLens takes the softmax of attention in float32 whatever the precision of
            the base model. The memory estimate needs it.
        unused_modules: Parts of module names inside a TransformerLens bridge whose parameters stay there but are not
            used any more, because TransformerLens split a fused projection into new ones.
        merged_as: Architecture of the plain model that an adapter is merged into as a bias of the attention output
            projection: the family itself, or "LlamaForCausalLM" where the family has no such bias but is a Llama in
            all else. None where no exact merge exists.
        no_merge: Where `merged_as` is None: why, and what to do instead.
        merged_note: What somebody must know who serves the merged model with another tool than transformers; empty if
            nothing is known.
        adaption_prompt: Whether PEFT's AdaptionPrompt computes on this family what LLaMAAdapter computes.
        parallel_flag: Name of the configuration's flag that puts attention and MLP side by side; empty where they
            always follow each other.
    """

    architecture: str
    model_type: str
    query: Query = "hook_rot_q"
    layers: str = "model.layers"
    modules: Mapping[Projection, str] = field(default_factory=lambda: LLAMA_MODULES)
    fast_components: str | None = None
    softmax_in_float32: bool = True
    unused_modules: tuple[str, ...] = ()
    merged_as: str | None = None
    no_merge: str = ""
    merged_note: str = ""
    adaption_prompt: bool = False
    parallel_flag: str = ""

    @property
    def query_hooks(self) -> tuple[str, ...]:
        """Hook points of a layer's attention that `final_query` needs. All of them fire before `hook_z`."""
        return ("hook_q", "hook_cos", "hook_sin") if self.query == "rotate" else (self.query,)

    def final_query(self, seen: Mapping[str, Tensor]) -> Float[Tensor, "batch pos n_heads d_head"]:
        """The query that meets the keys, from the tensors that the hook points in `query_hooks` gave, by name."""
        if self.query != "rotate":
            return seen[self.query]
        return rotate(seen["hook_q"], seen["hook_cos"], seen["hook_sin"])

    @property
    def has_separate_projections(self) -> bool:
        """Whether query, key, value and output each have a projection of their own in the Hugging Face model."""
        return set(ATTENTION_PROJECTIONS) <= set(self.modules)

    def module(self, layer: int | str, projection: Projection) -> str:
        """Full name of a projection in the Hugging Face model ("model.layers.3.self_attn.o_proj")."""
        return f"{self.layers}.{layer}.{self.modules[projection]}"

    def is_parallel(self, config: Any) -> bool:
        """Whether attention and MLP work side by side in a model with this Hugging Face configuration."""
        return bool(self.parallel_flag) and bool(getattr(config, self.parallel_flag))


def no_output_bias_in_vllm(name: str, seen: str = "in 0.32") -> str:
    """The `merged_note` of a family whose attention output has no bias in vLLM's own model of it, and where seen."""
    return (
        f"vLLM's own {name} has no bias of the attention output and skips it without an error (seen {seen}): there "
        "this model answers as the base. Serve it with --model-impl transformers"
    )


def rotate(
    q: Float[Tensor, "batch pos n_heads d_head"],
    cos: Float[Tensor, "one_or_batch pos d_rotary"],
    sin: Float[Tensor, "one_or_batch pos d_rotary"],
) -> Float[Tensor, "batch pos n_heads d_head"]:
    """Rotary position embedding of queries, in Hugging Face's layout.

    Entry i of the first d_rotary entries of a head is paired with entry i + d_rotary / 2. The other entries of the head
    stay as they are.
    """
    turned, passed = q[..., : cos.shape[-1]], q[..., cos.shape[-1] :]
    low, high = turned.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    return torch.cat([turned * cos + torch.cat([-high, low], dim=-1) * sin, passed], dim=-1)
