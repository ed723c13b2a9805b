"""Adapters on TransformerLens hook points: one file a method, one contract (`adapter.py`)."""

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.adapters.full import FullFineTune
from aligner_probe.adapters.lora import LoRA
from aligner_probe.adapters.output_bias import OutputBias
from aligner_probe.adapters.prefix import Aligner, LLaMAAdapter
from aligner_probe.adapters.prefix_tuning import PrefixTuning
from aligner_probe.adapters.prompt_tuning import PromptTuning

__all__ = [
    "Adapter",
    "Aligner",
    "FullFineTune",
    "LLaMAAdapter",
    "LoRA",
    "OutputBias",
    "PrefixTuning",
    "PromptTuning",
]
