"""Phi-3: fused projections of attention and MLP, and rotary position embedding that changes with the context."""

from aligner_probe.families.family import Family

PHI3 = Family(
    architecture="Phi3ForCausalLM",
    model_type="phi3",
    fast_components="llama",
    query="rotate",
    modules={"o": "self_attn.o_proj"},
    softmax_in_float32=False,
    unused_modules=(".qkv", ".gate_up_proj"),
    no_merge=(
        "its attention has no biases, and its fused projections and long rotary are no other architecture's; export to "
        "steering instead"
    ),
)
