"""Fast components for the TransformerLens bridge: the same hook points, the kernels of plain Hugging Face.

TransformerLens writes attention out, computes each RMS norm twice, and adds a bias of zeros to the logits. The fast
components fire the same hook points, but compute head outputs with a kernel (`aligner_probe.attention`), compute each
norm once and add no zeros (`aligner_probe.lean`).

    build_bridge_from_module(model, architecture, ..., post_adapter_hook=partial(overlay, components="llama"))

Measured on transformer-lens 4.3.
"""

from collections.abc import Mapping

from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import (
    BlockBridge,
    EmbeddingBridge,
    GatedMLPBridge,
    JointGateUpMLPBridge,
    JointQKVPositionEmbeddingsAttentionBridge,
    LinearBridge,
    PositionEmbeddingsAttentionBridge,
    RMSNormalizationBridge,
    UnembeddingBridge,
)
from transformer_lens.model_bridge.supported_architectures.smollm3 import _SmolLM3AttentionBridge

from aligner_probe.attention import FastAttention, FastJointAttention, FastNoPEAttention
from aligner_probe.lean import (
    LeanBlock,
    LeanEmbedding,
    LeanJointMLP,
    LeanLinear,
    LeanMLP,
    LeanRMSNorm,
    LeanUnembedding,
)

#: Fast components by the TransformerLens component that each one replaces. The keys are the names that
#: `Family.fast_components` may have. "llama": rotary position embedding, one softmax of scores that may be capped, and
#: RMS norms. Queries, keys and values may come from one fused projection.
FAST_COMPONENTS: dict[str, Mapping[type, type]] = {
    "llama": {
        BlockBridge: LeanBlock,
        EmbeddingBridge: LeanEmbedding,
        GatedMLPBridge: LeanMLP,
        JointGateUpMLPBridge: LeanJointMLP,
        JointQKVPositionEmbeddingsAttentionBridge: FastJointAttention,
        LinearBridge: LeanLinear,
        PositionEmbeddingsAttentionBridge: FastAttention,
        RMSNormalizationBridge: LeanRMSNorm,
        UnembeddingBridge: LeanUnembedding,
        _SmolLM3AttentionBridge: FastNoPEAttention,
    },
}


def overlay(adapter: ArchitectureAdapter, components: str | None) -> None:
    """Turn TransformerLens's components into fast ones, before a bridge is built from them.

    Args:
        adapter: TransformerLens's description of the architecture; its components are changed in place.
        components: Which fast components take their place: a key of `FAST_COMPONENTS`, as a family names it. None
            changes nothing.
    """
    if components is None or not adapter.component_mapping:
        return
    # For some families TransformerLens would switch the model to eager attention, whose masks are written out for every
    # batch. A kernel needs none where nothing is padded.
    adapter.cfg.attn_implementation = None
    fast = FAST_COMPONENTS[components]
    remaining = list(adapter.component_mapping.values())
    for component in remaining:
        remaining.extend(component.submodules.values())
        # Exact types only: a subclass exists because it computes something else.
        component.__class__ = fast.get(type(component), type(component))
