"""SmolLM3: Llama, some of whose layers have no rotary position embedding."""

from aligner_probe.families.family import Family

SMOLLM3 = Family(
    architecture="SmolLM3ForCausalLM",
    model_type="smollm3",
    fast_components="llama",
    merged_as="SmolLM3ForCausalLM",
)
