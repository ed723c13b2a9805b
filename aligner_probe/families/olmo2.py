"""OLMo 2: norms after attention and MLP instead of before; norms of all queries and all keys of a position."""

from aligner_probe.families.family import Family

OLMO2 = Family(
    architecture="Olmo2ForCausalLM",
    model_type="olmo2",
    fast_components="llama",
    merged_as="Olmo2ForCausalLM",
)
