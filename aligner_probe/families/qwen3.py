"""Qwen3: a norm of each head's query and key before rotary position embedding."""

from aligner_probe.families.family import Family, no_output_bias_in_vllm

QWEN3 = Family(
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    fast_components="llama",
    merged_as="Qwen3ForCausalLM",
    merged_note=no_output_bias_in_vllm("Qwen3"),
)
