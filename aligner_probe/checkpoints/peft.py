"""PEFT's AdaptionPrompt, which is its name for LLaMA-Adapter: one scalar gate for each layer, without tanh.

`base_model.model.model.layers.{l}.self_attn.adaption_gate` (1,) and `.adaption_prompt` (1, n_tokens, d_model), in a
folder whose `adapter_config.json` says `"peft_type": "ADAPTION_PROMPT"` (peft.tuners.adaption_prompt).
"""

import json
import re
import warnings
from pathlib import Path
from typing import Any

from aligner_probe.checkpoints import naming, native
from aligner_probe.checkpoints.containers import StateDict
from aligner_probe.checkpoints.format import CheckpointFormat, Consumer, KnownBase
from aligner_probe.checkpoints.prefix import PrefixCheckpoint, PrefixParts, UnfitTensors, stack_gates, stack_prefixes
from aligner_probe.errors import AlignerProbeError
from aligner_probe.families import FAMILIES
from aligner_probe.files import whole

PART = re.compile(r"(?:^|\.)layers\.(\d+)\.self_attn\.adaption_(gate|prompt)$")
GPT2_PART = re.compile(r"(?:^|\.)h\.(\d+)\.attn\.adaption_(gate|prompt)$")


def recognises(tensors: StateDict) -> bool:
    """Whether a tensor has one of the names of PEFT's AdaptionPrompt, on Llama or on GPT-2."""
    return any(PART.search(name) or GPT2_PART.search(name) for name in tensors)


def read(tensors: StateDict, config: dict[str, Any] | None = None) -> PrefixParts:
    """The adapter in a folder's tensors.

    Raises UnfitTensors if the tensors and `config`, the content of adapter_config.json, contradict each other, and for
    folders of GPT-2.
    """
    if any(GPT2_PART.search(name) for name in tensors):
        raise UnfitTensors(
            "is PEFT's AdaptionPrompt for GPT-2, which adds the prefix after the output projection without passing it "
            "through: another method than LLaMA-Adapter, with no equal here"
        )
    gates, prompts = {}, {}
    for name, tensor in tensors.items():
        match = PART.search(name)
        if not match:
            raise UnfitTensors(
                f"holds {name!r} beside adaption prompts; expected adaption_gate and adaption_prompt only"
            )
        if match[2] == "gate":
            gates[int(match[1])] = tensor
        elif tensor.dim() == 3 and tensor.shape[0] == 1:
            prompts[int(match[1])] = tensor[0]
        else:
            raise UnfitTensors(
                f"the adaption_prompt of layer {match[1]} has shape {tuple(tensor.shape)}; "
                "expected (1, n_tokens, d_model)"
            )
    gate_rows, layers = stack_gates(gates)
    if set(prompts) != set(gates):
        raise UnfitTensors(f"holds prompts for layers {sorted(prompts)} but gates for layers {sorted(gates)}")
    prefix = stack_prefixes(prompts)
    config = config or {}
    for key, from_tensors in (("adapter_len", prefix.shape[1]), ("adapter_layers", len(layers))):
        if config.get(key, from_tensors) != from_tensors:
            raise UnfitTensors(
                f"adapter_config.json says {key} {config[key]}, but the tensors have {from_tensors}; "
                "one of the two files is from another run"
            )
    base = config.get("base_model_name_or_path")
    base = naming.base_label(base) if isinstance(base, str) else None
    return PrefixParts(
        "llama_adapter", prefix, gate_rows, layers.start, "linear", metadata={"base_model": base} if base else {}
    )


#: By peft_type: what a folder of another PEFT method holds, and what can be done with it here.
OTHERS = {
    "LORA": "low-rank additions to projections: ap.load_lora reads it, ap.load_adapter attaches it",
    "PREFIX_TUNING": "keys and values of a prefix for every layer: ap.load_adapter attaches it to its base",
    "PROMPT_TUNING": "embeddings before the user's tokens: ap.load_adapter attaches it to its base",
    "P_TUNING": "embeddings before the user's tokens: ap.load_adapter attaches it to its base",
    "MULTITASK_PROMPT_TUNING": "embeddings for several tasks, one of which is chosen: it has no equal here",
    "IA3": "factors on activations, with no equal here: merge it into its base in PEFT (merge_and_unload)",
    "ADALORA": "LoRA of ranks that training chose, with no equal here: merge it into its base in PEFT",
}


def what_it_is(config: dict[str, Any]) -> str:
    """For error messages: what a PEFT folder of another method than AdaptionPrompt holds."""
    kind = config["peft_type"]
    known = OTHERS.get(kind) if isinstance(kind, str) else None
    return known or "a method with no equal here: merge it into its base in PEFT, where that method can be merged"


def check_base(config: Any, checkpoint: PrefixCheckpoint) -> None:
    """Raises AlignerProbeError if PEFT would compute something else on a base model with this configuration."""
    kind, n_layers = config.model_type, config.num_hidden_layers
    possible = [family.model_type for family in FAMILIES.values() if family.adaption_prompt]
    if kind not in possible:
        raise AlignerProbeError(
            f"PEFT's AdaptionPrompt on {kind} is not this method; expected a base of {', '.join(possible)}"
        )
    if checkpoint.layers.stop != n_layers:
        raise AlignerProbeError(
            f"layers {checkpoint.layers.start} to {checkpoint.layers.stop - 1} of {n_layers} are adapted; PEFT counts "
            "adapted layers from the top, so the last must be among them. Export to lit-llama instead"
        )
    if getattr(config, "attention_bias", False):
        raise AlignerProbeError(
            "the base's attention output has a bias, which PEFT's AdaptionPrompt would add twice; export to lit-llama "
            "instead"
        )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim * config.num_attention_heads != config.hidden_size:
        raise AlignerProbeError(
            f"the base's {config.num_attention_heads} heads of {head_dim} do not make up its {config.hidden_size} "
            "wide stream, from which PEFT's AdaptionPrompt infers them wrongly; export to lit-llama instead"
        )


def check_gates(checkpoint: PrefixCheckpoint) -> None:
    """Raises AlignerProbeError where the heads of a layer have different gates; PEFT has one gate for the layer."""
    gates = checkpoint.linear().gates
    untied = int((gates != gates[:, :1]).any(dim=1).sum())
    if untied:
        raise AlignerProbeError(
            f"{untied} of {checkpoint.n_layers} layers have a gate of its own for each head, and PEFT's AdaptionPrompt "
            "has one a layer; train with gate_per='layer' for that, or export to lit-llama, or one token to peft-bias"
        )


def write(checkpoint: PrefixCheckpoint, folder: str | Path, *, base: str | None = None) -> Path:
    """Write a folder that `PeftModel.from_pretrained` and `read` can read.

    PEFT shares no prompt among layers, so an Aligner is written with the same prompt in every layer. A tanh gate
    becomes the value of its tanh. Raises AlignerProbeError if the heads of a layer have different gates, or if the
    folder cannot be written.
    """
    check_gates(checkpoint)
    linear = checkpoint.linear()
    prefixes = linear.prefix.expand(linear.n_layers, -1, -1)
    tensors: StateDict = {}
    for layer, prefix, gate in zip(linear.layers, prefixes, linear.gates, strict=True):
        attention = f"base_model.model.model.layers.{layer}.self_attn"
        tensors[f"{attention}.adaption_gate"] = gate[:1].clone()
        tensors[f"{attention}.adaption_prompt"] = prefix[None].clone()
    config = {
        "peft_type": "ADAPTION_PROMPT",
        "adapter_len": linear.n_tokens,
        "adapter_layers": linear.n_layers,
        "target_modules": "self_attn",
    }
    return write_folder(folder, tensors, config, base)


def write_folder(folder: str | Path, tensors: StateDict, config: dict[str, Any], base: str | None) -> Path:
    """Write the two files of a PEFT folder; the folder appears whole or not at all."""
    from safetensors.torch import save

    folder = Path(folder)
    common = {"base_model_name_or_path": base, "task_type": "CAUSAL_LM", "inference_mode": True}
    with whole(folder) as new:
        new.mkdir()
        stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        (new / native.WEIGHTS).write_bytes(save(stored, metadata={"format": "pt"}))
        text = json.dumps(config | common, indent=2, sort_keys=True) + "\n"
        (new / native.CONFIG).write_text(text, encoding="utf-8")
    return folder


def _load(folder: Path, base: Any) -> Any:
    """A base model with the adapter of a folder, by PEFT; the base model is changed in place."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on merging and training, which an export is not checked for
        return PeftModel.from_pretrained(base, folder).eval()


#: The tool in which every export to a PEFT folder is checked.
CONSUMER = Consumer("PEFT", "peft", _load)


def _accepts(checkpoint: PrefixCheckpoint, base: KnownBase) -> None:
    if base.config is not None:
        check_base(base.config, checkpoint)
    check_gates(checkpoint)


def _notes(checkpoint: PrefixCheckpoint, base: KnownBase) -> list[str]:
    notes = []
    if checkpoint.method == "aligner":
        notes.append("PEFT shares no prompt among layers: each has a copy, and training there would part them")
    if base.config is None:
        notes.append(
            f"not held against a base (--model): PEFT takes it to be a plain Llama or Mistral of "
            f"{checkpoint.layers.stop} layers"
        )
    return notes


FORMAT = CheckpointFormat(
    name="PEFT AdaptionPrompt",
    holds=PrefixCheckpoint,
    recognises=lambda stored: recognises(stored.tensors),
    read=lambda stored: read(stored.tensors, stored.config),
    export_name="peft",
    write=lambda checkpoint, path, base: write(checkpoint, path, base=base.name),
    accepts=_accepts,
    notes=_notes,
    checks_base=True,
    consumer=CONSUMER,
)
