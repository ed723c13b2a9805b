"""GPT-2: positions are added to the embeddings; query, key and value come from one fused projection."""

from aligner_probe.families.family import Family

GPT2 = Family(
    architecture="GPT2LMHeadModel",
    model_type="gpt2",
    query="hook_q",
    layers="transformer.h",
    modules={"o": "attn.c_proj"},
    softmax_in_float32=False,
    unused_modules=(".qkv",),
    merged_as="GPT2LMHeadModel",
)
