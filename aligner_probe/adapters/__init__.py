"""Adapters on TransformerLens hook points: a file for each method, and one contract that all meet (`adapter.py`).

An import below registers a method of the package; `registry.py` says how.
"""

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.adapters.full import FullFineTune
from aligner_probe.adapters.houlsby import Houlsby
from aligner_probe.adapters.llama_adapter_v2 import LLaMAAdapterV2
from aligner_probe.adapters.lora import LoRA
from aligner_probe.adapters.output_bias import OutputBias
from aligner_probe.adapters.prefix import Aligner, LLaMAAdapter
from aligner_probe.adapters.prefix_tuning import PrefixTuning
from aligner_probe.adapters.prompt_tuning import PromptTuning
from aligner_probe.adapters.registry import METHODS, register_adapter

__all__ = [
    "METHODS",
    "Adapter",
    "Aligner",
    "FullFineTune",
    "Houlsby",
    "LLaMAAdapter",
    "LLaMAAdapterV2",
    "LoRA",
    "OutputBias",
    "PrefixTuning",
    "PromptTuning",
    "register_adapter",
]
