"""GPT-NeoX (Pythia): attention and MLP side by side, rotary position embedding on a part of each head, and one fused
projection for query, key and value."""

from aligner_probe.families.family import Family

GPT_NEOX = Family(
    architecture="GPTNeoXForCausalLM",
    model_type="gpt_neox",
    query="rotate",
    layers="gpt_neox.layers",
    modules={"o": "attention.dense"},
    softmax_in_float32=False,
    unused_modules=(".qkv",),
    merged_as="GPTNeoXForCausalLM",
    parallel_flag="use_parallel_residual",
)
