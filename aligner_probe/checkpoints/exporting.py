"""Exact exports: an adapter in the format that another tool reads, or an error that says why there is none.

| to | what is written | of which adapters | base needed |
|---|---|---|---|
| merged | a plain Hugging Face model | those that add a constant: one token, OutputBias | yes |
| steering | one vector a layer | the same | yes |
| peft | a PEFT folder: LoRA, or AdaptionPrompt | LoRA; prefixes with one gate a layer | no |
| lit-llama | a `.pth` with the authors' names | Aligner, LLaMA-Adapter | no |
| native | this project's folder | Aligner, LLaMA-Adapter; LoRA | LoRA: yes |

Every export but `merged` is a checkpoint format (`registry.py`), which says what it accepts and how it is written. Here
the adapter is brought into the in-memory class that the format holds.
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
from aligner_probe.checkpoints import lora, merged, peft_lora
from aligner_probe.checkpoints.adapters import load_adapter, save_adapter
from aligner_probe.checkpoints.format import CheckpointFormat, KnownBase
from aligner_probe.checkpoints.given import from_adapter, one_adapter
from aligner_probe.checkpoints.peft_lora import LoRACheckpoint
from aligner_probe.checkpoints.prefix import METHOD_NAMES, GateFunction, PrefixCheckpoint, dtype_name
from aligner_probe.checkpoints.reading import config_of, load_checkpoint
from aligner_probe.checkpoints.registry import export_names, format_for
from aligner_probe.checkpoints.steering import ConstantShifts
from aligner_probe.errors import AlignerProbeError, did_you_mean
from aligner_probe.fingerprints import fingerprint
from aligner_probe.html import Shown
from aligner_probe.models import (
    architecture_of,
    config_of_base,
    dtype_of,
    load_model,
    place_of,
    quantization_in,
    read_config,
    stored_dtype,
)
from aligner_probe.tasks.tokenizing import prompt_ids

#: The export that is no checkpoint format: a model, which is read by Hugging Face and not as an adapter.
MERGED = "merged"
#: What a base's config.json says that its adapters depend on.
SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "vocab_size"),
)
#: The merged model is compared with its adapter on tokens that are drawn with this seed.
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
    quantization: str | None = None,
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
        quantization: "nf4" or "int8" where the vectors of "steering", or the base that "native" records, are those of
            the quantised base model; as in `load_model`. A merge is made into plain weights only.

    Returns:
        What was written where, with notes for the reader.

    Raises AlignerProbeError where the adapter has no exact form in that format, or where `model` has other sizes than
    the base model of the adapter, before any of its weights are read. A merge into a quantised base model is refused.
    """
    known = export_formats()
    if to not in known:
        raise AlignerProbeError(
            f"no export is named {to!r}; {did_you_mean(to, known)}expected one of {', '.join(known)}"
        )
    out = Path(out)
    if out.exists():
        raise AlignerProbeError(f"{out} exists already; name another path, or remove it first")
    config = {} if isinstance(source, Adapter) else config_of(source)
    asked = _Request(source, config, to, out, model, dtype, force, gate, adapter_length, quantization)
    _check_quantization(asked)
    if to == MERGED:
        return _merged(asked)
    if (declared := format_for(to, ConstantShifts)) is not None:
        return _steering(asked, declared)
    if asked.is_lora:
        return _lora(asked)
    checkpoint = _prefix_checkpoint(asked)
    declared = format_for(to, PrefixCheckpoint)
    if declared is None:
        raise AlignerProbeError(f"{to} holds no {checkpoint.method}; export it to native")
    base = _known_base(asked) if declared.checks_base else KnownBase()
    return _written(declared, checkpoint, asked, base, _notes(checkpoint, declared))


def export_formats() -> tuple[str, ...]:
    """Everything that `export_adapter` can write, by the name that its argument `to` takes."""
    return (MERGED, *export_names())


@dataclass(frozen=True)
class _Request:
    """The arguments of `export_adapter`; `config` is the source's adapter_config.json, empty where there is none."""

    source: str | Path | Adapter
    config: dict[str, Any]
    to: str
    out: Path
    model: str | Path | None
    dtype: torch.dtype | None
    force: bool
    gate: GateFunction | str | None
    adapter_length: int | None
    quantization: str | None

    @property
    def method(self) -> Any:
        """The method of the adapter, where the source tells without being read."""
        if isinstance(self.source, Adapter):
            return self.source.method
        return LoRA.method if self.is_peft_lora else self.config.get("method")

    @property
    def is_peft_lora(self) -> bool:
        """Whether the source is a LoRA folder of PEFT."""
        return self.config.get("peft_type") == "LORA"

    @property
    def is_lora(self) -> bool:
        """Whether the adapter is a LoRA, in memory or in a folder."""
        return self.method == LoRA.method


def _check_quantization(asked: _Request) -> None:
    """Raises AlignerProbeError for a merge into packed weights, and for a quantisation of a base that is not read."""
    in_memory = quantization_in(asked.source.model) if isinstance(asked.source, Adapter) else None
    packing = asked.quantization or in_memory
    if asked.to == MERGED and packing is not None:
        way_on = "save it (ap.save_adapter) and export that folder" if in_memory else "leave quantization out"
        raise AlignerProbeError(
            f"an adapter is not merged into a base in {packing}: {way_on} with the plain model it was made of "
            "(model=, --model); the merged model can be quantised afterwards"
        )
    if asked.quantization is not None and (asked.model is None or isinstance(asked.source, Adapter)):
        raise AlignerProbeError(
            f"quantization {asked.quantization!r} is for a base model that is read for the export; expected a saved "
            "adapter and its base model (model=, --model)"
        )


def _written(
    declared: CheckpointFormat[Any], held: Any, asked: _Request, base: KnownBase, notes: tuple[str, ...]
) -> Export:
    """Ask the format whether it accepts the adapter, and write it."""
    if declared.accepts is not None:
        declared.accepts(held, base)
    if declared.write is None:
        raise AlignerProbeError(f"checkpoint format {declared.name!r} has an export name but no `write`; give it one")
    path = declared.write(held, asked.out, base)
    return Export(asked.to, path, (*notes, *(declared.notes(held, base) if declared.notes is not None else ())))


def _prefix_checkpoint(asked: _Request) -> PrefixCheckpoint:
    """The parameters of a prefix adapter. Raises AlignerProbeError for any other method."""
    if isinstance(asked.method, str) and asked.method not in METHOD_NAMES:
        raise AlignerProbeError(
            f"{asked.method} has no prefix that lit-llama, PEFT or the native format could hold; output_bias can be "
            "exported to merged and steering, lora to peft and native"
        )
    if not isinstance(asked.source, Adapter):
        return load_checkpoint(asked.source, gate=asked.gate, adapter_length=asked.adapter_length)
    assert isinstance(asked.source, PrefixAdapter)
    return from_adapter(asked.source)


def _notes(checkpoint: PrefixCheckpoint, declared: CheckpointFormat[Any]) -> tuple[str, ...]:
    """What was written, and what of the checkpoint the format does not keep."""
    notes = [f"{checkpoint.label}: {checkpoint.n_parameters:,} parameters in {dtype_name(checkpoint.dtype)}"]
    function = checkpoint.gate_function
    if function not in declared.gate_functions:
        notes.append(
            f"gates go through {function}, which {declared.export_name} does not have: each new gate is "
            f"{function}(gate)"
        )
    if not declared.stores_start and checkpoint.initial_prefix is not None:
        notes.append("the parameters that training began from are left out, because the format does not store them")
    return tuple(notes)


def _known_base(asked: _Request) -> KnownBase:
    """What is known of the base model without loading it: from `model`, or from the adapter in memory."""
    if asked.model is not None:
        return KnownBase(place_of(asked.model), read_config(asked.model))
    if isinstance(asked.source, Adapter):
        bridge = asked.source.model
        return KnownBase(lora.base_name(bridge), config_of_base(bridge), architecture_of(bridge))
    return KnownBase()


def _lora(asked: _Request) -> Export:
    """A LoRA in a format that holds one, or in the native format, which needs its base model."""
    if asked.to == "native":
        return _native_lora(asked)
    declared = format_for(asked.to, LoRACheckpoint)
    if declared is None:
        raise AlignerProbeError(f"LoRA has no prefix, so no form in {asked.to}; export it to peft or native")
    checkpoint = _lora_checkpoint(asked)
    base = KnownBase(None if asked.model is None else str(asked.model))
    return _written(declared, checkpoint, asked, base, (repr(checkpoint),))


def _lora_checkpoint(asked: _Request) -> LoRACheckpoint:
    """The parameters of a LoRA in memory, in a PEFT folder, or in a folder of `save_adapter`."""
    if isinstance(asked.source, Adapter):
        assert isinstance(asked.source, LoRA)
        return lora.from_adapter(asked.source)
    if asked.is_peft_lora:
        return peft_lora.load_lora(asked.source)
    return lora.from_folder(Path(asked.source), asked.config)


def _native_lora(asked: _Request) -> Export:
    """Attach a LoRA to its base model and save it: the native format records the base model, PEFT's only names it."""
    if isinstance(asked.source, LoRA):
        if asked.model is not None:
            _check_sizes(read_config(asked.model), asked.source.model, asked.model)
        return Export(asked.to, save_adapter(asked.source, asked.out), (_lora_note(asked.source),))
    if asked.model is None:
        raise AlignerProbeError(
            "a native LoRA records the base that it fits, which PEFT's does not: --model M, a hub id or a folder"
        )
    adapter = _loaded(asked, asked.dtype or stored_dtype(read_config(asked.model)))
    path = save_adapter(adapter, asked.out)
    named = (adapter.loaded_from or {}).get("base_model")
    theirs = f", where PEFT's folder names {named}" if named and named != str(asked.model) else ""
    base_note = f"its sizes fit {asked.model}, which is recorded as its base{theirs}"
    return Export(asked.to, path, (_lora_note(adapter), base_note))


def _lora_note(adapter: Any) -> str:
    precision = dtype_name(next(adapter.parameters()).dtype)
    return f"lora of rank {adapter.config.r}: {adapter.n_parameters:,} parameters in {precision}"


def _loaded(asked: _Request, dtype: torch.dtype) -> Adapter:
    """The adapter of the request on its base model, which is read in this precision."""
    assert not isinstance(asked.source, Adapter)
    assert asked.model is not None
    return load_adapter(
        asked.source,
        load_model(asked.model, dtype=dtype, quantization=asked.quantization),
        force=asked.force,
        gate=asked.gate,
        adapter_length=asked.adapter_length,
    )


def _check_constant(asked: _Request) -> None:
    """Raise AlignerProbeError unless the adapter adds a constant. Its base model is not needed for that."""
    if isinstance(asked.source, Adapter):
        check_constant(asked.source.method, getattr(asked.source.config, "n_tokens", None))
    elif asked.is_lora:
        check_constant(LoRA.method)
    elif asked.method != OutputBias.method:
        checkpoint = _prefix_checkpoint(asked)
        check_constant(checkpoint.method, checkpoint.n_tokens)


def _on_base(asked: _Request) -> tuple[Adapter, torch.dtype]:
    """The adapter on its base model and the model's precision, where the adapter adds a constant.

    Raises AlignerProbeError, before any weights of the base model are read, where it does not add a constant, and where
    the base model is needed and not named, does not fit, or cannot take a merge.
    """
    _check_constant(asked)
    in_memory = isinstance(asked.source, Adapter)
    if asked.model is None and (asked.to == MERGED or not in_memory):
        raise AlignerProbeError(f"{asked.to} needs the base that the adapter is for: --model M, a hub id or a folder")
    config = None if asked.model is None else read_config(asked.model)
    if isinstance(asked.source, Adapter) and asked.model is not None:
        _check_sizes(config, asked.source.model, asked.model)
    if asked.to == MERGED:
        merged.target_config(config)
    if isinstance(asked.source, Adapter):
        return asked.source, asked.dtype or dtype_of(asked.source.model)
    dtype = asked.dtype or stored_dtype(config)
    return _loaded(asked, dtype), dtype


def _shifts(asked: _Request, adapter: Adapter) -> tuple[ConstantShifts, str]:
    """The constant that an adapter adds to each layer, and a note on it."""
    vectors = constant_shifts(adapter)
    norms = [float(vector.norm()) for vector in vectors.values()]
    note = (
        f"{adapter.method}: one vector for each of {len(vectors)} layers, of norm {min(norms):.3g} to {max(norms):.3g}"
    )
    in_memory = isinstance(asked.source, Adapter)
    origin = {
        "method": adapter.method,
        "source": "in memory" if in_memory else str(asked.source),
        "source_sha256": None if in_memory else (adapter.loaded_from or {})["sha256"],
        "base_model": adapter.model.cfg.model_name,
        "base_fingerprint": fingerprint(adapter.model),
    }
    return ConstantShifts(vectors, origin), note


def _steering(asked: _Request, declared: CheckpointFormat[Any]) -> Export:
    adapter, _ = _on_base(asked)
    shifts, note = _shifts(asked, adapter)
    base = KnownBase(adapter.model.cfg.model_name, config_of_base(adapter.model), architecture_of(adapter.model))
    return _written(declared, shifts, asked, base, (note,))


def _merged(asked: _Request) -> Export:
    adapter, dtype = _on_base(asked)
    shifts, note = _shifts(asked, adapter)
    with adapter.attached():
        # The ids that this project gives a prompt. The tokenizer stays as it was when the adapter was trained.
        tokenizer = adapter.model.tokenizer
        text_ids = None if tokenizer is None else prompt_ids(tokenizer, [merged.TEXT])[0]
        hooked = merged.observe(adapter.model.original_model, SEED, text_ids)
    # Unless the caller holds it, the bridge is freed before the plain model is read.
    del adapter
    report = merged.write(
        asked.out, str(asked.model), shifts.vectors, hooked, dtype=dtype, origin=shifts.origin, seed=SEED
    )
    text = f", and {report.n_text_tokens} tokens of a text by AutoTokenizer" if report.n_text_tokens else ""
    notes = (
        f"{note}; written as a plain {report.architecture} in {report.dtype}",
        f"maximum logit difference, hooks against merged: {report.max_logit_difference:.3g} "
        f"(logits up to {report.max_logit:.3g}, {report.n_tokens} random tokens, seed {report.seed}{text})",
        f"greedy continuation: the first {report.same_greedy_tokens} of {report.greedy_tokens} tokens are the same",
    )
    return Export(asked.to, asked.out, notes, report)


def _check_sizes(config: Any, bridge: TransformerBridge, model: str | Path) -> None:
    """Raise AlignerProbeError where the sizes or the architecture of `model` are not those of an adapter's base model.

    That its weights are the same is checked later, by comparing logits.
    """
    own = config_of_base(bridge)
    pairs = {name: (getattr(config, name, None), getattr(own, name, None)) for name in SIZES}
    pairs = {"architecture": ((config.architectures or [None])[0], architecture_of(bridge))} | pairs
    differ = [f"{name} {there} there and {here} here" for name, (there, here) in pairs.items() if there != here]
    if differ:
        raise AlignerProbeError(
            f"{model} is not the base that this adapter is on: {', '.join(differ)}; name the adapter's own base"
        )
