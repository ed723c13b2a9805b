"""Exact exports: an adapter in the format that another tool reads, or an error that says why there is none.

| to | what is written | of which adapters | base needed |
|---|---|---|---|
| merged | a plain Hugging Face model | those that add a constant: one token, OutputBias | yes |
| steering | one vector a layer | the same | yes |
| peft | a PEFT folder: LoRA, or AdaptionPrompt | LoRA; prefixes with one gate a layer | no |
| lit-llama | a `.pth` with the authors' names | Aligner, LLaMA-Adapter | no |
| native | this project's folder | Aligner, LLaMA-Adapter; LoRA | LoRA: yes |
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters import Adapter, LoRA, OutputBias
from aligner_probe.adapters.constant import check_constant, constant_shifts
from aligner_probe.adapters.prefix import PrefixAdapter
from aligner_probe.arguments import accepts
from aligner_probe.checkpoints import lit_llama, lora, merged, native, peft, peft_lora, steering
from aligner_probe.checkpoints.adapters import config_of, load_adapter, save_adapter
from aligner_probe.checkpoints.given import from_adapter, one_adapter
from aligner_probe.checkpoints.prefix import METHOD_NAMES, GateFunction, PrefixCheckpoint, dtype_name
from aligner_probe.checkpoints.reading import load_checkpoint
from aligner_probe.errors import AlignerProbeError, did_you_mean
from aligner_probe.families import family_of
from aligner_probe.html import Shown
from aligner_probe.models import architecture_of, fingerprint, load_model, place_of, read_config, stored_dtype
from aligner_probe.tasks.encoding import prompt_ids

FORMATS = ("merged", "steering", "peft", "lit-llama", "native")
NEEDS_BASE = ("merged", "steering")
#: What a base's config.json says that its adapters depend on.
SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "vocab_size"),
)
#: Tokens that the merged model is held against its adapter on are drawn with this seed.
SEED = 0


@dataclass(frozen=True, repr=False)
class Export(Shown):
    """What was written where.

    `notes` say what somebody who uses the files must know; `merge` compares a merged model with its adapter, and is
    None for other formats.
    """

    to: str
    path: Path
    notes: tuple[str, ...]
    merge: merged.MergeReport | None = None

    def shown(self) -> dict[str, Any]:
        return {
            "to": self.to,
            "path": self.path,
            "notes": self.notes,
            "largest logit difference": self.merge and self.merge.max_logit_difference,
        }


def _source(value: Any, where: str) -> str | Path | Adapter:
    return value if isinstance(value, str | Path) else one_adapter(value, where)


@accepts(source=_source)
def export_adapter(
    source: str | Path | Adapter,
    to: str,
    out: str | Path,
    *,
    model: str | Path | None = None,
    dtype: torch.dtype | None = None,
    force: bool = False,
    gate: GateFunction | str | None = None,
    adapter_length: int | None = None,
) -> Export:
    """Write an adapter in the format of another tool, exactly, whole or not at all.

    Args:
        source: the adapter, or the path or "published:NAME" of anything that `load_adapter` reads.
        to: "merged" (a plain Hugging Face model), "steering" (a vector a layer), "peft", "lit-llama" or "native".
        out: the new folder, or for lit-llama the new file; nothing may be there yet.
        model: the plain base model, a hub id or a folder. Needed for merged and, where `source` is no adapter in
            memory, for steering and for a native LoRA.
        dtype: precision in which the base model is read; by default the one it is stored in.
        force: also where the adapter was trained on another base model.
        gate: as in `load_checkpoint`: the gate function of a file that does not record it.
        adapter_length: as in `load_checkpoint`: the tokens a layer of a file that does not record them.

    Returns:
        What was written where, with notes for the reader.

    Raises AlignerProbeError where the adapter has no exact form in that format, or where `model` has other sizes than
    the base model of the adapter, before any of its weights are read.
    """
    reading = {"gate": gate, "adapter_length": adapter_length}
    if to not in FORMATS:
        raise AlignerProbeError(
            f"no export is named {to!r}; {did_you_mean(to, FORMATS)}expected one of {', '.join(FORMATS)}"
        )
    out = Path(out)
    if out.exists():
        raise AlignerProbeError(f"{out} exists already; name another place, or remove it first")
    if to in NEEDS_BASE:
        return _constant(source, to, out, model, dtype, force, reading)
    if isinstance(source, LoRA) or (not isinstance(source, Adapter) and _lora_config(source)):
        if to == "native":
            return _native_lora(source, out, model, dtype, force)
        if to != "peft":
            raise AlignerProbeError(f"LoRA has no prefix, so no form in {to}; export it to peft or native")
        return _lora(source, out, model)
    checkpoint = _checkpoint(source, reading)
    notes = _notes(checkpoint, to)
    if to == "native":
        return Export(to, native.save_checkpoint(checkpoint, out), notes)
    if to == "lit-llama":
        return Export(to, lit_llama.write(checkpoint, out), notes)
    return _adaption_prompt(source, checkpoint, out, model, notes)


def _lora_config(source: str | Path) -> bool:
    config = config_of(source)
    return config.get("method") == LoRA.method or peft_lora.recognises(config)


def _checkpoint(source: str | Path | Adapter, reading: dict[str, Any]) -> PrefixCheckpoint:
    """The parameters of a prefix adapter. Raises AlignerProbeError for any other method."""
    method = source.method if isinstance(source, Adapter) else config_of(source).get("method")
    if isinstance(method, str) and method not in METHOD_NAMES:
        raise AlignerProbeError(
            f"{method} has no prefix that lit-llama, PEFT or the native format could hold; output_bias can be exported "
            "to merged and steering, lora to peft and native"
        )
    if not isinstance(source, Adapter):
        return load_checkpoint(source, **reading)
    assert isinstance(source, PrefixAdapter)
    return from_adapter(source)


def _notes(checkpoint: PrefixCheckpoint, to: str) -> tuple[str, ...]:
    notes = [f"{checkpoint.label}: {checkpoint.n_parameters:,} numbers in {dtype_name(checkpoint.dtype)}"]
    if to != "native" and checkpoint.gate_function == "tanh":
        notes.append(f"gates go through tanh, which {to} does not have: each new gate is tanh(gate)")
    if to == "lit-llama" and checkpoint.gates_per_layer == 1:
        notes.append("one gate a layer, which lit-llama repeats to all heads when it loads the file")
    if to == "peft" and checkpoint.method == "aligner":
        notes.append("PEFT shares no prompt among layers: each has a copy, and training there would part them")
    if to != "native" and checkpoint.initial_prefix is not None:
        notes.append("the numbers that training began from have no place there and are left out")
    return tuple(notes)


def _lora(source: str | Path | LoRA, out: Path, model: str | Path | None) -> Export:
    if isinstance(source, LoRA):
        checkpoint = lora.from_adapter(source)
    elif peft_lora.recognises(config := config_of(source)):
        checkpoint = peft_lora.load_lora(source)
    else:
        checkpoint = lora.from_folder(Path(source), config)
    path = peft_lora.write(checkpoint, out, base=None if model is None else str(model))
    return Export("peft", path, (repr(checkpoint),))


def _native_lora(
    source: str | Path | LoRA, out: Path, model: str | Path | None, dtype: torch.dtype | None, force: bool
) -> Export:
    """Attach a LoRA to its base model and save it: the native format records the base model, PEFT's only names it."""
    if isinstance(source, LoRA):
        if model is not None:
            _check_sizes(read_config(model), source.model, model)
        return Export("native", save_adapter(source, out), (_said_of(source),))
    if model is None:
        raise AlignerProbeError(
            "a native LoRA records the base that it fits, which PEFT's does not: --model M, a hub id or a folder"
        )
    base = load_model(model, dtype=dtype or stored_dtype(read_config(model)))
    adapter = load_adapter(source, base, force=force)
    path = save_adapter(adapter, out)
    named = (adapter.loaded_from or {}).get("base_model")
    theirs = f", where PEFT's folder names {named}" if named and named != str(model) else ""
    said = f"its sizes fit {model}, which is recorded as its base{theirs}"
    return Export("native", path, (_said_of(adapter), said))


def _said_of(adapter: LoRA) -> str:
    precision = dtype_name(next(adapter.parameters()).dtype)
    return f"lora of rank {adapter.config.r}: {adapter.n_parameters:,} numbers in {precision}"


def _adaption_prompt(
    source: str | Path | Adapter,
    checkpoint: PrefixCheckpoint,
    out: Path,
    model: str | Path | None,
    notes: tuple[str, ...],
) -> Export:
    base = None
    if model is not None:
        peft.check_base(read_config(model), checkpoint)
        base = place_of(model)
    elif isinstance(source, Adapter):
        peft.check_base(source.model.original_model.config, checkpoint)
        base = lora.base_name(source.model)
    else:
        notes = (
            *notes,
            f"not held against a base (--model): PEFT takes it to be a plain Llama or Mistral of "
            f"{checkpoint.layers.stop} layers",
        )
    return Export("peft", peft.write(checkpoint, out, base=base), notes)


def _check_constant(source: str | Path | Adapter, reading: dict[str, Any]) -> None:
    """Raise AlignerProbeError unless the adapter adds a constant. Its base model is not needed for that."""
    if isinstance(source, Adapter):
        check_constant(source.method, getattr(source.config, "n_tokens", None))
    elif config_of(source).get("method") == OutputBias.method:
        return
    elif _lora_config(source):
        check_constant(LoRA.method)
    else:
        checkpoint = _checkpoint(source, reading)
        check_constant(checkpoint.method, checkpoint.n_tokens)


def _constant(
    source: str | Path | Adapter,
    to: str,
    out: Path,
    model: str | Path | None,
    dtype: torch.dtype | None,
    force: bool,
    reading: dict[str, Any],
) -> Export:
    _check_constant(source, reading)
    in_memory = isinstance(source, Adapter)
    if model is None and (to == "merged" or not in_memory):
        raise AlignerProbeError(f"{to} needs the base that the adapter is for: --model M, a hub id or a folder")
    config = None if model is None else read_config(model)
    if in_memory and config is not None:
        _check_sizes(config, source.model, model)
    if to == "merged":
        merged.target_config(config)
    if in_memory:
        adapter = source
        dtype = dtype or next(adapter.model.original_model.parameters()).dtype
    else:
        dtype = dtype or stored_dtype(config)
        adapter = load_adapter(source, load_model(model, dtype=dtype), force=force, **reading)
    shifts = constant_shifts(adapter)
    norms = [float(shift.norm()) for shift in shifts.values()]
    said = (
        f"{adapter.method}: one vector for each of {len(shifts)} layers, of norm {min(norms):.3g} to {max(norms):.3g}"
    )
    origin = {
        "method": adapter.method,
        "source": "in memory" if in_memory else str(source),
        "source_sha256": None if in_memory else adapter.loaded_from["sha256"],
        "base_model": adapter.model.cfg.model_name,
        "base_fingerprint": fingerprint(adapter.model),
    }
    if to == "steering":
        return Export(to, _steering(adapter.model, shifts, out, origin), (said, steering.WHAT))
    with adapter.attached():
        # As this project tokenises a prompt. Here the tokenizer is not mended: what was trained on is looked at.
        tokenizer = adapter.model.tokenizer
        text_ids = None if tokenizer is None else prompt_ids(tokenizer, [merged.TEXT])[0]
        hooked = merged.observe(adapter.model.original_model, SEED, text_ids)
    # Where nobody else holds it, the bridge goes before the plain model comes.
    del adapter
    report = merged.write(out, str(model), shifts, hooked, dtype=dtype, origin=origin, seed=SEED)
    text = f", and {report.n_text_tokens} tokens of a text by AutoTokenizer" if report.n_text_tokens else ""
    notes = (
        f"{said}; written as a plain {report.architecture} in {report.dtype}",
        f"maximum logit difference, hooks against merged: {report.max_logit_difference:.3g} "
        f"(logits up to {report.max_logit:.3g}, {report.n_tokens} random tokens, seed {report.seed}{text})",
        f"greedy continuation: the first {report.same_greedy_tokens} of {report.greedy_tokens} tokens are the same",
    )
    return Export(to, out, notes, report)


def _steering(bridge: TransformerBridge, shifts: dict, out: Path, origin: dict[str, Any]) -> Path:
    config = bridge.original_model.config
    architecture = architecture_of(bridge)
    parallel = family_of(architecture).is_parallel(config)
    return steering.write(out, shifts, architecture=architecture, parallel=parallel, origin=origin)


def _check_sizes(config: Any, bridge: TransformerBridge, model: str | Path) -> None:
    """Raise AlignerProbeError where the sizes or the architecture of `model` are not those of an adapter's base model.

    That its weights are the same is checked later, by comparing logits.
    """
    own = bridge.original_model.config
    pairs = {name: (getattr(config, name, None), getattr(own, name, None)) for name in SIZES}
    pairs = {"architecture": ((config.architectures or [None])[0], architecture_of(bridge))} | pairs
    differ = [f"{name} {there} there and {here} here" for name, (there, here) in pairs.items() if there != here]
    if differ:
        raise AlignerProbeError(
            f"{model} is not the base that this adapter is on: {', '.join(differ)}; name the adapter's own base"
        )
