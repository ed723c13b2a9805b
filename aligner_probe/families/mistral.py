"""Mistral: Llama with an optional sliding window, and without a bias in the attention output projection."""

from aligner_probe.families.family import Family

MISTRAL = Family(
    architecture="MistralForCausalLM",
    model_type="mistral",
    fast_components="llama",
    merged_as="LlamaForCausalLM",
    adaption_prompt=True,
)
