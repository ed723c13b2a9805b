"""OLMo 2: norms after attention and MLP instead of before; norms of all queries and all keys of a position."""

from aligner_probe.families.family import Family, no_output_bias_in_vllm

OLMO2 = Family(
    architecture="Olmo2ForCausalLM",
    model_type="olmo2",
    fast_components="llama",
    merged_as="Olmo2ForCausalLM",
    # vLLM 0.32 has no OLMo 2 of its own any more.
    merged_note=no_output_bias_in_vllm("OLMo 2", "in the source of versions before 0.32"),
)
