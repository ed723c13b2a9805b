"""The front door for editors and type checkers: the names that `__init__.py` imports when they are first used."""

from aligner_probe.adapters.adapter import Adapter as Adapter
from aligner_probe.adapters.config import AdapterConfig as AdapterConfig
from aligner_probe.adapters.config import LayeredConfig as LayeredConfig
from aligner_probe.adapters.full import FullFineTune as FullFineTune
from aligner_probe.adapters.houlsby import Houlsby as Houlsby
from aligner_probe.adapters.llama_adapter_v2 import LLaMAAdapterV2 as LLaMAAdapterV2
from aligner_probe.adapters.lora import LoRA as LoRA
from aligner_probe.adapters.output_bias import OutputBias as OutputBias
from aligner_probe.adapters.pool import AdapterPool as AdapterPool
from aligner_probe.adapters.prefix import Aligner as Aligner
from aligner_probe.adapters.prefix import LLaMAAdapter as LLaMAAdapter
from aligner_probe.adapters.prefix_tuning import PrefixTuning as PrefixTuning
from aligner_probe.adapters.prompt_tuning import PromptTuning as PromptTuning
from aligner_probe.adapters.registry import register_adapter as register_adapter
from aligner_probe.analysis.centre import centre_test as centre_test
from aligner_probe.analysis.embeddings import embed_tokens as embed_tokens
from aligner_probe.analysis.equality import compare_numbers as compare_numbers
from aligner_probe.analysis.forensics import compare_checkpoints as compare_checkpoints
from aligner_probe.analysis.gates import gate_statistics as gate_statistics
from aligner_probe.arms.catalogue import Arm as Arm
from aligner_probe.arms.catalogue import register_arm as register_arm
from aligner_probe.checkpoints.adapters import load_adapter as load_adapter
from aligner_probe.checkpoints.adapters import save_adapter as save_adapter
from aligner_probe.checkpoints.exporting import export_adapter as export_adapter
from aligner_probe.checkpoints.native import save_checkpoint as save_checkpoint
from aligner_probe.checkpoints.peft_lora import load_lora as load_lora
from aligner_probe.checkpoints.pools import open_pool as open_pool
from aligner_probe.checkpoints.pools import save_pool as save_pool
from aligner_probe.checkpoints.prefix import PrefixCheckpoint as PrefixCheckpoint
from aligner_probe.checkpoints.published import download_published as download_published
from aligner_probe.checkpoints.published import list_published as list_published
from aligner_probe.checkpoints.reading import load_checkpoint as load_checkpoint
from aligner_probe.checkpoints.reading import scan_checkpoints as scan_checkpoints
from aligner_probe.errors import AlignerProbeError as AlignerProbeError
from aligner_probe.errors import AlignerProbeWarning as AlignerProbeWarning
from aligner_probe.evaluation.generation import generate as generate
from aligner_probe.evaluation.guessing import guess_scorer as guess_scorer
from aligner_probe.evaluation.scoring import score_task as score_task
from aligner_probe.figures.collection import Collection as Collection
from aligner_probe.figures.gallery import draw as draw
from aligner_probe.models import load_model as load_model
from aligner_probe.probing.probe import probe_task as probe_task
from aligner_probe.probing.result import ProbeResult as ProbeResult
from aligner_probe.sizes import parameter_table as parameter_table
from aligner_probe.tasks.chat import Conversation as Conversation
from aligner_probe.tasks.chat import Message as Message
from aligner_probe.tasks.given_template import set_chat_template as set_chat_template
from aligner_probe.tasks.loading import load_task as load_task
from aligner_probe.tasks.panel import list_tasks as list_tasks
from aligner_probe.tasks.task import Example as Example
from aligner_probe.tasks.task import Task as Task
from aligner_probe.threads import set_threads as set_threads
from aligner_probe.training.fit import fit as fit
from aligner_probe.training.fit import fit_together as fit_together
from aligner_probe.training.inputs import Training as Training
from aligner_probe.training.opening import open_gate as open_gate
from aligner_probe.training.recipe import Recipe as Recipe
from aligner_probe.training.recipe import recipe as recipe
from aligner_probe.training.run import Run as Run

__version__: str

__all__ = [
    "Adapter",
    "AdapterConfig",
    "AdapterPool",
    "Aligner",
    "AlignerProbeError",
    "AlignerProbeWarning",
    "Arm",
    "Collection",
    "Conversation",
    "Example",
    "FullFineTune",
    "Houlsby",
    "LLaMAAdapter",
    "LLaMAAdapterV2",
    "LayeredConfig",
    "LoRA",
    "Message",
    "OutputBias",
    "PrefixCheckpoint",
    "PrefixTuning",
    "ProbeResult",
    "PromptTuning",
    "Recipe",
    "Run",
    "Task",
    "Training",
    "centre_test",
    "compare_checkpoints",
    "compare_numbers",
    "download_published",
    "draw",
    "embed_tokens",
    "export_adapter",
    "fit",
    "fit_together",
    "gate_statistics",
    "generate",
    "guess_scorer",
    "list_published",
    "list_tasks",
    "load_adapter",
    "load_checkpoint",
    "load_lora",
    "load_model",
    "load_task",
    "open_gate",
    "open_pool",
    "parameter_table",
    "probe_task",
    "recipe",
    "register_adapter",
    "register_arm",
    "save_adapter",
    "save_checkpoint",
    "save_pool",
    "scan_checkpoints",
    "score_task",
    "set_chat_template",
    "set_threads",
]
