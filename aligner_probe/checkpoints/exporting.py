"""Exact exports: an adapter in the format that another tool reads, or an error that says why there is none.

| to | what is written | of which adapters | base needed |
|---|---|---|---|
| merged | a plain Hugging Face model | those that add a constant: one token, OutputBias | yes |
| steering | one vector a layer | the same | yes |
| peft-bias | a PEFT folder: biases of LoRA, with A = B = 0 | the same | yes |
| peft | a PEFT folder: LoRA, or AdaptionPrompt | LoRA; prefixes with one gate a layer | no |
| lit-llama | a `.pth` with the authors' names | Aligner, LLaMA-Adapter | no |
| native | this project's folder | Aligner, LLaMA-Adapter; LoRA | LoRA: yes |

Every export but `merged` is a checkpoint format (`registry.py`), which says what it accepts and how it is written. Here
the adapter is brought into the in-memory class that the format holds. What another tool reads is loaded in that tool
and checked there (`checking.py`) before it appears at its place.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aligner_probe.adapters import Adapter, LoRA
from aligner_probe.adapters.adapter import attached_to
from aligner_probe.adapters.constant import constant_shifts
from aligner_probe.arguments import accepts, is_several, several
from aligner_probe.checkpoints import checking, lora, merged
from aligner_probe.checkpoints.adapters import save_adapter
from aligner_probe.checkpoints.export_request import (
    MERGED,
    ExportRequest,
    check_quantization,
    check_sizes,
    known_base,
    loaded,
    loaded_others,
    lora_checkpoint,
    on_base,
    plain_base,
    prefix_checkpoint,
)
from aligner_probe.checkpoints.format import CheckpointFormat, KnownBase
from aligner_probe.checkpoints.given import one_adapter
from aligner_probe.checkpoints.peft_lora import LoRACheckpoint
from aligner_probe.checkpoints.prefix import GateFunction, PrefixCheckpoint, dtype_name
from aligner_probe.checkpoints.reading import config_of
from aligner_probe.checkpoints.registry import checked_names, export_names, format_for
from aligner_probe.checkpoints.steering import ConstantShifts
from aligner_probe.errors import AlignerProbeError, did_you_mean
from aligner_probe.families import family_of
from aligner_probe.files import whole
from aligner_probe.fingerprints import fingerprint
from aligner_probe.html import Shown
from aligner_probe.models import (
    architecture_of,
    config_of_base,
    load_plain,
    quantization_in,
    read_config,
    stored_dtype,
)

#: What `check=False` leaves out, for the notes.
UNCHECKED = "not checked (check=False, --no-check): nobody has seen that another tool applies this adapter"


@dataclass(frozen=True, repr=False)
class Export(Shown):
    """What was written where.

    `notes` say what somebody who uses the files must know; `checks` compares the adapter in the tool that reads them
    with the adapter here, and is None where that was not done.
    """

    to: str
    path: Path
    notes: tuple[str, ...]
    checks: checking.CheckReport | None = None

    def shown(self) -> dict[str, Any]:
        return {
            "to": self.to,
            "path": self.path,
            "notes": self.notes,
            "applied, logits differ from the base's by": self.checks and self.checks.base_difference,
            "right, from the nearest other adapter's by": self.checks and self.checks.nearest_difference,
            "equal, from this adapter's by": self.checks and self.checks.max_logit_difference,
        }


def _source(value: Any, where: str) -> str | Path | Adapter:
    return value if isinstance(value, str | Path) else one_adapter(value, where)


def _sources(value: Any, where: str) -> tuple[str | Path | Adapter, ...]:
    return tuple(_source(one, where) for one in (several(value) if is_several(value) else [value]))


@accepts(source=_source, others=_sources)
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
    check: bool = True,
    others: Sequence[str | Path | Adapter] = (),
) -> Export:
    """Write an adapter in the format of another tool, exactly, whole or not at all.

    Args:
        source: the adapter, or the path or "published:NAME" of anything that `load_adapter` reads.
        to: "merged" (a plain Hugging Face model), "steering" (a vector a layer), "peft", "peft-bias", "lit-llama" or
            "native".
        out: the new folder, or for lit-llama the new file; nothing may be there yet.
        model: the plain base model, a hub id or a folder. Needed for merged and, where `source` is no adapter in
            memory, for steering, for peft-bias and for a native LoRA. Exports to peft are checked on it.
        dtype: precision in which the base model is read; by default the one it is stored in.
        force: also where the adapter was trained on another base model.
        gate: as in `load_checkpoint`: the gate function of a file that does not record it.
        adapter_length: as in `load_checkpoint`: the tokens a layer of a file that does not record them.
        quantization: "nf4" or "int8" where the vectors of "steering" and "peft-bias", or the base that "native"
            records, are those of the quantised base model; as in `load_model`. A merge is made into plain weights only.
        check: load what was written in the tool that reads it (transformers, PEFT), and check three things there: the
            adapter is applied, it is the right one, and its logits are equal. It is done for merged, steering, peft and
            peft-bias, where the plain base model is known: by `model`, or by the name of the base of an adapter in
            memory, if that is below 2 GiB. The notes say where it was not done.
        others: other adapters for the same base, from which the written one must differ; adapters or paths.

    Returns:
        What was written where, with notes for the reader.

    Raises:
        AlignerProbeError: The adapter has no exact form in that format, or `model` has other sizes than the base model
            of the adapter; this is raised before any of its weights are read. One of the checks fails, and then nothing
            is written. A merge into a quantised base model is asked for.
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
    asked = ExportRequest(
        source, config, to, out, model, dtype, force, gate, adapter_length, quantization, check, tuple(others)
    )
    check_quantization(asked)
    if asked.others:
        _check_compares(asked)
    if to == MERGED:
        return _merged(asked)
    if (declared := format_for(to, ConstantShifts)) is not None:
        return _constant(asked, declared)
    if asked.is_lora:
        return _lora(asked)
    checkpoint = prefix_checkpoint(asked)
    declared = format_for(to, PrefixCheckpoint)
    if declared is None:
        raise AlignerProbeError(f"{to} holds no {checkpoint.method}; export it to native")
    base = known_base(asked) if declared.checks_base else KnownBase()
    return _written(declared, checkpoint, asked, base, _notes(checkpoint, declared))


def _check_compares(asked: ExportRequest) -> None:
    """Raise AlignerProbeError where the export is not checked, because only a check compares it with other adapters."""
    missing = ""
    if not asked.check:
        missing = "they are for the checks, which check=False leaves out"
    elif plain_base(asked) is None:
        missing = "--model M is missing"
    elif asked.to != MERGED and asked.to not in checked_names():
        missing = f"no other tool reads {asked.to}, so it is not checked there"
    if missing:
        raise AlignerProbeError(
            f"others (--other) cannot be compared: {missing}; expected the base model and a check, or no others"
        )


def export_formats() -> tuple[str, ...]:
    """Everything that `export_adapter` can write, by the name that its argument `to` takes."""
    return (MERGED, *export_names())


def _written(
    declared: CheckpointFormat[Any],
    held: Any,
    asked: ExportRequest,
    base: KnownBase,
    notes: tuple[str, ...],
    expected: checking.Expected | str = "",
) -> Export:
    """Ask the format whether it accepts the adapter, write it, and check it in its consumer.

    `expected` is what `_expected` gave, where the adapter was on its base model anyway.
    """
    if declared.accepts is not None:
        declared.accepts(held, base)
    if declared.write is None:
        raise AlignerProbeError(f"checkpoint format {declared.name!r} has an export name but no `write`; give it one")
    expected = expected or _expected(declared, asked)
    with whole(asked.out) as new:
        declared.write(held, new, base)
        report, said = _checked(declared, asked, new, expected)
    more = declared.notes(held, base) if declared.notes is not None else ()
    return Export(asked.to, asked.out, (*notes, *more, *said), report)


def _expected(
    declared: CheckpointFormat[Any], asked: ExportRequest, adapter: Adapter | None = None
) -> checking.Expected | str:
    """What an adapter does here, for the checks in the format's consumer; or why it is not checked there.

    `adapter` is the adapter on its base model, if it is there already.
    """
    consumer, place = declared.consumer, plain_base(asked)
    if consumer is None or not asked.check:
        return UNCHECKED
    left_out = f"not checked in {consumer.name}: "
    if place is None:
        return left_out + "name its base model for that (model=, --model)"
    if importlib.util.find_spec(consumer.package) is None:
        return left_out + f"it is not installed (pip install {consumer.package})"
    if asked.quantization is not None:
        return left_out + f"its base is in {asked.quantization}"
    if isinstance(asked.source, Adapter):
        adapter = asked.source
        if asked.model is not None:
            check_sizes(read_config(asked.model), adapter.model, asked.model)
    if adapter is None:
        try:
            adapter = loaded(asked, asked.dtype or stored_dtype(read_config(place)))
        except AlignerProbeError as error:
            raise AlignerProbeError(
                f"{error} (it is read for the checks alone, which check=False, --no-check, leaves out)"
            ) from error
    if (packing := quantization_in(adapter.model)) is not None:
        return left_out + f"its base is in {packing}"
    if attached_to(adapter.model):
        return left_out + "an adapter is attached to its base; export it outside of that `with` block"
    return checking.expect(adapter, loaded_others(asked, adapter.model))


def _checked(
    declared: CheckpointFormat[Any], asked: ExportRequest, written: Path, expected: checking.Expected | str
) -> tuple[checking.CheckReport | None, tuple[str, ...]]:
    """Check a written adapter in its consumer.

    Returns the report and its sentences. Where no check is possible, returns None and the reason, if there is one.
    """
    consumer, place = declared.consumer, plain_base(asked)
    if consumer is None:
        return None, ()
    if isinstance(expected, str) or place is None:
        return None, (str(expected),)
    try:
        plain: Any = load_plain(place, expected.dtype).eval()
    except AlignerProbeError as error:
        if asked.model is not None:
            raise
        return None, (f"not checked in {consumer.name}: {error}",)  # of the base in memory, only its name is known
    base = checking.observe(plain, expected.own.text_ids, greedy=False)
    there = checking.observe(consumer.load(written, plain), expected.own.text_ids)
    report = checking.check(expected, base, there, consumer=consumer.name)
    return report, report.notes()


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


def _lora(asked: ExportRequest) -> Export:
    """A LoRA in a format that holds one, or in the native format, which needs its base model."""
    if asked.to == "native":
        return _native_lora(asked)
    declared = format_for(asked.to, LoRACheckpoint)
    if declared is None:
        raise AlignerProbeError(f"LoRA has no prefix, so no form in {asked.to}; export it to peft or native")
    checkpoint = lora_checkpoint(asked)
    base = KnownBase(None if asked.model is None else str(asked.model))
    return _written(declared, checkpoint, asked, base, (repr(checkpoint),))


def _native_lora(asked: ExportRequest) -> Export:
    """Attach a LoRA to its base model and save it: the native format records the base model, PEFT's only names it."""
    if isinstance(asked.source, LoRA):
        if asked.model is not None:
            check_sizes(read_config(asked.model), asked.source.model, asked.model)
        return Export(asked.to, save_adapter(asked.source, asked.out), (_lora_note(asked.source),))
    if asked.model is None:
        raise AlignerProbeError(
            "a native LoRA records the base that it fits, which PEFT's does not: --model M, a hub id or a folder"
        )
    adapter = loaded(asked, asked.dtype or stored_dtype(read_config(asked.model)))
    path = save_adapter(adapter, asked.out)
    named = (adapter.loaded_from or {}).get("base_model")
    theirs = f", where PEFT's folder names {named}" if named and named != str(asked.model) else ""
    base_note = f"its sizes fit {asked.model}, which is recorded as its base{theirs}"
    return Export(asked.to, path, (_lora_note(adapter), base_note))


def _lora_note(adapter: Any) -> str:
    precision = dtype_name(next(adapter.parameters()).dtype)
    return f"lora of rank {adapter.config.r}: {adapter.n_parameters:,} parameters in {precision}"


def _shifts(asked: ExportRequest, adapter: Adapter) -> tuple[ConstantShifts, str]:
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


def _constant(asked: ExportRequest, declared: CheckpointFormat[Any]) -> Export:
    """An adapter that adds a constant, in a format that holds one vector for each layer."""
    adapter, _ = on_base(asked)
    shifts, note = _shifts(asked, adapter)
    name = lora.base_name(adapter.model) if asked.model is None else str(asked.model)
    base = KnownBase(name, config_of_base(adapter.model), architecture_of(adapter.model))
    expected = _expected(declared, asked, adapter)
    # Unless the caller holds it, the bridge is freed before the plain model is read.
    del adapter
    return _written(declared, shifts, asked, base, (note,), expected)


def _merged(asked: ExportRequest) -> Export:
    adapter, dtype = on_base(asked)
    shifts, note = _shifts(asked, adapter)
    text_ids = checking.text_ids(adapter.model.tokenizer)
    expected = checking.expect(adapter, loaded_others(asked, adapter.model)) if asked.check else None
    # Unless the caller holds it, the bridge is freed before the plain model is read.
    del adapter
    target, report = merged.write(
        asked.out, str(asked.model), shifts.vectors, expected, text_ids, dtype=dtype, origin=shifts.origin
    )
    family = family_of(target)
    notes = (
        f"{note}; written as a plain {target} in {dtype_name(dtype)}",
        *((family.merged_note,) if family.merged_note else ()),
        *(report.notes() if report is not None else (UNCHECKED,)),
    )
    return Export(asked.to, asked.out, notes, report)
