"""Llama, and every model that is published under its architecture."""

from aligner_probe.families.family import Family

LLAMA = Family(
    architecture="LlamaForCausalLM",
    model_type="llama",
    fast_components="llama",
    merged_as="LlamaForCausalLM",
    adaption_prompt=True,
)
