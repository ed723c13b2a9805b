"""Qwen2 and Qwen2.5: Llama with biases of query, key and value, and with none of the attention output projection."""

from aligner_probe.families.family import Family

QWEN2 = Family(
    architecture="Qwen2ForCausalLM",
    model_type="qwen2",
    fast_components="llama",
    merged_as="LlamaForCausalLM",
)
