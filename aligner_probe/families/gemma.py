"""Gemma: Llama with scaled embeddings and norms that multiply by one plus their weight."""

from aligner_probe.families.family import Family, no_output_bias_in_vllm

GEMMA = Family(
    architecture="GemmaForCausalLM",
    model_type="gemma",
    fast_components="llama",
    merged_as="GemmaForCausalLM",
    merged_note=no_output_bias_in_vllm("Gemma"),
)
