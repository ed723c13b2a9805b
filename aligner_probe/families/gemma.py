"""Gemma: Llama with scaled embeddings and norms that multiply by one plus their weight."""

from aligner_probe.families.family import Family

GEMMA = Family(
    architecture="GemmaForCausalLM",
    model_type="gemma",
    fast_components="llama",
    merged_as="GemmaForCausalLM",
)
