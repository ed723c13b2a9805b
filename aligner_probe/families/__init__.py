"""The families of base models that adapters can be put on: one module with one `Family` for each.

`docs/howto/add_a_family.md` shows how to add one.
"""

from aligner_probe.errors import AlignerProbeError
from aligner_probe.families.family import Family
from aligner_probe.families.gemma import GEMMA
from aligner_probe.families.gemma2 import GEMMA2
from aligner_probe.families.gemma3 import GEMMA3
from aligner_probe.families.gpt2 import GPT2
from aligner_probe.families.gpt_neox import GPT_NEOX
from aligner_probe.families.llama import LLAMA
from aligner_probe.families.mistral import MISTRAL
from aligner_probe.families.olmo2 import OLMO2
from aligner_probe.families.phi3 import PHI3
from aligner_probe.families.qwen2 import QWEN2
from aligner_probe.families.qwen3 import QWEN3
from aligner_probe.families.smollm3 import SMOLLM3

__all__ = ["FAMILIES", "Family", "family_of", "register_family"]

#: Every known family by its architecture, in the order in which messages list them.
FAMILIES: dict[str, Family] = {
    family.architecture: family
    for family in (
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        GEMMA,
        GEMMA2,
        GEMMA3,
        GPT2,
        GPT_NEOX,
        PHI3,
        SMOLLM3,
        OLMO2,
    )
}
#: Architectures that also read images, with the architecture of the language model inside.
WITH_IMAGES = {"Gemma3ForConditionalGeneration": GEMMA3.architecture}


def register_family(family: Family) -> Family:
    """Add a family for the rest of this process, so that `load_model` takes its architecture.

    Returns:
        The family. The same entry may be registered again, as happens when a notebook cell is run twice.

    Raises:
        AlignerProbeError: The architecture is known already, with another entry.
    """
    if FAMILIES.setdefault(family.architecture, family) != family:
        raise AlignerProbeError(
            f"architecture {family.architecture} is registered already with another entry; expected an architecture "
            f"that is not among {', '.join(FAMILIES)}"
        )
    return family


def family_of(architecture: str) -> Family:
    """The family of an architecture, by its Hugging Face class name.

    Raises:
        AlignerProbeError: The architecture is unknown. Nothing has been loaded or computed by then.
    """
    if architecture in WITH_IMAGES:
        raise AlignerProbeError(
            f"architecture {architecture} reads images as well; expected its language model alone, a "
            f"{WITH_IMAGES[architecture]}: docs/bases_and_files.md shows how to take it out"
        )
    if architecture not in FAMILIES:
        raise AlignerProbeError(
            f"architecture {architecture} is not supported: its hook points have not been established and tested; "
            f"expected one of {', '.join(FAMILIES)}. docs/howto/add_a_family.md shows how to add a family"
        )
    return FAMILIES[architecture]
