"""Gemma 3, text only: norms of each head's query and key; a rotary base of their own for layers with a window."""

from aligner_probe.families.family import Family

GEMMA3 = Family(
    architecture="Gemma3ForCausalLM",
    model_type="gemma3_text",
    fast_components="llama",
    merged_as="Gemma3ForCausalLM",
)
