"""Gemma 2: attention scores are capped and scaled by the configuration; every second layer has a sliding window."""

from aligner_probe.families.family import Family

GEMMA2 = Family(
    architecture="Gemma2ForCausalLM",
    model_type="gemma2",
    fast_components="llama",
    merged_as="Gemma2ForCausalLM",
)
