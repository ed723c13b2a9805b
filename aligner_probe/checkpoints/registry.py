"""The checkpoint formats, each declared in a module of its own.

`docs/howto/add_a_format.md` shows how to add one.
"""

from collections.abc import Iterator
from typing import Any

from aligner_probe.checkpoints import lit_llama, llama_adapter, native, peft, peft_bias, peft_lora, steering
from aligner_probe.checkpoints.format import CheckpointFormat
from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.errors import AlignerProbeError

#: Every checkpoint format by its name, in the order in which they are asked whether they recognise a file.
CHECKPOINT_FORMATS: dict[str, CheckpointFormat[Any]] = {
    declared.name: declared
    for declared in (
        native.FORMAT,
        lit_llama.FORMAT,
        llama_adapter.FORMAT,
        peft.FORMAT,
        peft_lora.FORMAT,
        peft_bias.FORMAT,
        steering.FORMAT,
    )
}
_OF_THE_PACKAGE = frozenset(CHECKPOINT_FORMATS)


def register_format(declared: CheckpointFormat[Any]) -> CheckpointFormat[Any]:
    """Add a checkpoint format for the rest of this process: `load_checkpoint` and `export_adapter` then know it.

    Returns:
        The format. A format of one's own can be registered again, as happens when a notebook cell is run twice.

    Raises:
        AlignerProbeError: The package has a format of this name, or one with this export name for the same adapters.
    """
    taken = [
        known.name
        for name in _OF_THE_PACKAGE
        for known in (CHECKPOINT_FORMATS[name],)
        if declared.name == known.name
        or (declared.export_name and (declared.export_name, declared.holds) == (known.export_name, known.holds))
    ]
    if taken:
        raise AlignerProbeError(
            f"checkpoint format {declared.name!r} with export name {declared.export_name!r} is taken by {taken[0]!r}; "
            "give it another name and export name"
        )
    CHECKPOINT_FORMATS[declared.name] = declared
    return declared


def readable_formats() -> Iterator[CheckpointFormat[PrefixCheckpoint]]:
    """The formats that `load_checkpoint` reads."""
    return (declared for declared in CHECKPOINT_FORMATS.values() if declared.read is not None)


def export_names() -> tuple[str, ...]:
    """The names of all exports to a checkpoint format. (A merged model is no checkpoint; `exporting.py` adds it.)"""
    return tuple(dict.fromkeys(each.export_name for each in CHECKPOINT_FORMATS.values() if each.export_name))


def checked_names() -> tuple[str, ...]:
    """The names of those exports that are loaded and checked in the tool that reads them."""
    formats = (each for each in CHECKPOINT_FORMATS.values() if each.export_name and each.consumer is not None)
    return tuple(dict.fromkeys(each.export_name for each in formats))


def format_for(export_name: str, holds: type) -> CheckpointFormat[Any] | None:
    """The format of an export name for adapters of one in-memory class; None where there is none."""
    return next(
        (
            declared
            for declared in CHECKPOINT_FORMATS.values()
            if declared.export_name == export_name and declared.holds is holds
        ),
        None,
    )
