"""aligner_probe: what does a tiny adapter do to a language model: form, or knowledge?

    import aligner_probe as ap

    a, b = ap.load_checkpoint("published:alpaca-1-7b"), ap.load_checkpoint("published:metamath-1-7b")
    print(ap.compare_checkpoints(a, b).explanation)

Names are imported when they are first used, so that importing the package costs nothing.
"""

from aligner_probe.lazy import names_of

__version__ = "0.2.0"

_HOMES = {
    "Adapter": "adapters.adapter",
    "AdapterConfig": "adapters.config",
    "AdapterPool": "adapters.pool",
    "Aligner": "adapters.prefix",
    "AlignerProbeError": "errors",
    "AlignerProbeWarning": "errors",
    "Arm": "arms.catalogue",
    "Collection": "figures.collection",
    "Conversation": "tasks.chat",
    "Example": "tasks.task",
    "FullFineTune": "adapters.full",
    "Houlsby": "adapters.houlsby",
    "LLaMAAdapter": "adapters.prefix",
    "LLaMAAdapterV2": "adapters.llama_adapter_v2",
    "LayeredConfig": "adapters.config",
    "LoRA": "adapters.lora",
    "Message": "tasks.chat",
    "OutputBias": "adapters.output_bias",
    "PrefixCheckpoint": "checkpoints.prefix",
    "PrefixTuning": "adapters.prefix_tuning",
    "ProbeResult": "probing.result",
    "PromptTuning": "adapters.prompt_tuning",
    "Recipe": "training.recipe",
    "Run": "training.run",
    "Task": "tasks.task",
    "Training": "training.inputs",
    "centre_test": "analysis.centre",
    "compare_checkpoints": "analysis.forensics",
    "compare_numbers": "analysis.equality",
    "download_published": "checkpoints.published",
    "draw": "figures.gallery",
    "export_adapter": "checkpoints.exporting",
    "fit": "training.fit",
    "fit_together": "training.fit",
    "embed_tokens": "analysis.embeddings",
    "gate_statistics": "analysis.gates",
    "generate": "evaluation.generation",
    "guess_scorer": "evaluation.guessing",
    "list_published": "checkpoints.published",
    "list_tasks": "tasks.panel",
    "open_gate": "training.opening",
    "load_adapter": "checkpoints.adapters",
    "load_checkpoint": "checkpoints.reading",
    "load_lora": "checkpoints.peft_lora",
    "load_model": "models",
    "load_task": "tasks.loading",
    "open_pool": "checkpoints.pools",
    "parameter_table": "sizes",
    "probe_task": "probing.probe",
    "recipe": "training.recipe",
    "register_adapter": "adapters.registry",
    "register_arm": "arms.catalogue",
    "save_adapter": "checkpoints.adapters",
    "save_checkpoint": "checkpoints.native",
    "save_pool": "checkpoints.pools",
    "scan_checkpoints": "checkpoints.reading",
    "score_task": "evaluation.scoring",
    "set_chat_template": "tasks.given_template",
    "set_threads": "threads",
}

__all__ = sorted(_HOMES)
__getattr__ = names_of(__name__, {name: _HOMES[name] for name in __all__})


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
