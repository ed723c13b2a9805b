"""Read an argument that stands for a checkpoint: a loaded one, its path or name, an adapter, or a list of these."""

from pathlib import Path
from typing import Any

from aligner_probe.adapters import Adapter
from aligner_probe.adapters.prefix import PrefixAdapter
from aligner_probe.arguments import is_several, refuse, several
from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.checkpoints.reading import load_checkpoint

EXPECTED = "a checkpoint: ap.load_checkpoint(PATH), a path, or an Aligner or LLaMAAdapter"


def one_checkpoint(value: Any, where: str) -> PrefixCheckpoint:
    """The checkpoint that a value stands for. Raises ArgumentError for any other value."""
    if isinstance(value, PrefixCheckpoint):
        return value
    if isinstance(value, str | Path):
        return load_checkpoint(value)
    value = trained(value)
    if isinstance(value, PrefixAdapter):
        return from_adapter(value)
    if is_several(value) and len(items := several(value)) == 1:
        return one_checkpoint(items[0], where)
    if isinstance(value, Adapter):
        raise refuse(value, where, f"{EXPECTED}; {value.method} has no prefix tokens with gates")
    raise refuse(value, where, EXPECTED)


def many_checkpoints(value: Any, where: str) -> list[PrefixCheckpoint]:
    """The checkpoints that a value or a list stands for. Raises ArgumentError for any other value."""
    return [one_checkpoint(one, where) for one in (several(value) if is_several(value) else [value])]


def one_adapter(value: Any, where: str) -> Adapter:
    """The adapter itself, or the adapter of a training's `Run`. Raises ArgumentError for any other value."""
    value = trained(value)
    if isinstance(value, Adapter):
        return value
    if isinstance(value, PrefixCheckpoint):
        raise refuse(value, where, "an adapter on a model: ap.load_adapter(PATH, model); ap.save_checkpoint saves this")
    raise refuse(value, where, "an adapter: ap.Aligner(model, ...), or ap.load_adapter(PATH, model)")


def trained(value: Any) -> Any:
    """The adapter of a training's `Run`; any other value unchanged."""
    held = getattr(value, "adapter", None)
    return held if isinstance(held, Adapter) else value


def from_adapter(adapter: PrefixAdapter) -> PrefixCheckpoint:
    """The trained parameters of a prefix adapter as a checkpoint in memory."""
    return PrefixCheckpoint(
        method=adapter.method,
        prefix=adapter.prefix.detach().cpu(),
        gates=adapter.gates.detach().cpu(),
        start_layer=adapter.config.start_layer,
        gate_function=adapter.config.gate_function,
        format="in memory",
        source="in memory",
        sha256="",
        metadata={"base_model": adapter.model.cfg.model_name},
    )
