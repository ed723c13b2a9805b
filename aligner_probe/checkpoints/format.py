"""`CheckpointFormat`: one layout of adapter files, declared once: how it is recognised, read, accepted and written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from aligner_probe.checkpoints.containers import StateDict
from aligner_probe.checkpoints.prefix import GateFunction, PrefixParts

#: The class that holds a format's adapters in memory: PrefixCheckpoint, LoRACheckpoint or ConstantShifts.
Held = TypeVar("Held")


@dataclass(frozen=True)
class StoredCheckpoint:
    """A file or folder that is to be read, with its tensors.

    Args:
        path: The file or folder that the user named.
        tensors: All its tensors by name, on the CPU, in the precision they are stored in.
        config: The content of a folder's adapter_config.json; None for a single file.
        gate_function: What the user says about the gates, for formats that do not record it; None if nothing.
        adapter_length: Prefix tokens per layer by the user's word, for formats that do not record it; None if nothing.
    """

    path: Path
    tensors: StateDict
    config: dict[str, Any] | None = None
    gate_function: GateFunction | None = None
    adapter_length: int | None = None


@dataclass(frozen=True)
class KnownBase:
    """What is known of the base model of an adapter that is to be written.

    Args:
        name: Hub id or folder; None for a model that was given as an object, or where no base is known.
        config: The Hugging Face configuration; None where it is not known.
        architecture: The Hugging Face class name; empty where it is not known.
    """

    name: str | None = None
    config: Any = None
    architecture: str = ""


@dataclass(frozen=True)
class Consumer:
    """A tool that reads a format, so that an export can be checked in it (`checking.py`).

    Args:
        name: What messages call it.
        package: The package that must be installed for it.
        load: From the written path and a plain Hugging Face base model, the model with the adapter, as a user of the
            tool gets it. It may change the base model in place.
    """

    name: str
    package: str
    load: Callable[[Path, Any], Any]


@dataclass(frozen=True, kw_only=True)
class CheckpointFormat(Generic[Held]):
    """One layout of adapter files.

    `load_checkpoint` asks every format with `read` whether it recognises a file, by content and never by file name.
    `export_adapter(adapter, to=export_name, ...)` writes with `write`.

    Args:
        name: What messages and `PrefixCheckpoint.format` call the format.
        holds: The class that holds such an adapter in memory: PrefixCheckpoint for Aligner and LLaMA-Adapter,
            LoRACheckpoint for LoRA, ConstantShifts for adapters that add one vector to each layer.
        recognises: Whether stored tensors have this format. It must be false for every other format.
        read: The adapter in stored tensors. It raises UnfitTensors where they do not make one; `load_checkpoint` adds
            the path to the message. None for a format that `load_checkpoint` does not read.
        export_name: The name by which an export is asked for (`export --to NAME`); empty if nothing is written.
        write: Write the adapter to a new path and return that path. The file or folder must appear whole or not at all
            (`aligner_probe.files.whole`).
        accepts: Raise AlignerProbeError if the format cannot hold this adapter exactly, with the way on. None accepts
            every adapter.
        notes: What a reader of the written file must know, one sentence each. None if there is nothing to say.
        checks_base: Whether `accepts` wants the configuration of the base model.
        gate_functions: The gate functions that the format can hold. Others are written as the values that they give.
        stores_start: Whether the format keeps the initial values of the parameters.
        consumer: The tool in which an export is checked where the base model is at hand. None if it is not checked.
    """

    name: str
    holds: type[Held]
    recognises: Callable[[StoredCheckpoint], bool]
    read: Callable[[StoredCheckpoint], PrefixParts] | None = None
    export_name: str = ""
    write: Callable[[Held, Path, KnownBase], Path] | None = None
    accepts: Callable[[Held, KnownBase], None] | None = None
    notes: Callable[[Held, KnownBase], list[str]] | None = None
    checks_base: bool = False
    gate_functions: tuple[GateFunction, ...] = ("linear",)
    stores_start: bool = False
    consumer: Consumer | None = None
