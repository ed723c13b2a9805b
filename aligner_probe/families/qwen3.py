"""Qwen3: a norm of each head's query and key before rotary position embedding."""

from aligner_probe.families.family import Family

QWEN3 = Family(
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    fast_components="llama",
    merged_as="Qwen3ForCausalLM",
)
