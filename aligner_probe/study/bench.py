"""What all cells of a study share. Its base model is loaded when a cell first asks for it, once in each process."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.models import load_model

#: The fields that decide which model is loaded.
_OF_THE_MODEL = frozenset({"base", "dtype", "device", "quantization", "loaded"})
AnyBench = TypeVar("AnyBench", bound="Bench")


@dataclass(frozen=True)
class Bench:
    """The base model of a study. A study derives a class from this one and adds what else its cells share.

    Args:
        base: a name or folder that `load_model` takes.
        dtype: the precision in which `model` is loaded.
        device: where the model is; None for the default of `load_model`.
        quantization: "nf4" or "int8" to quantise `model` while it is loaded; None for the model as it is stored.
        loaded: a model that is in memory already. It is used instead of `base` and cannot travel to other processes.
    """

    base: str | Path
    dtype: str = field(default="float32", kw_only=True)
    device: str | None = field(default=None, kw_only=True)
    quantization: str | None = field(default=None, kw_only=True)
    loaded: TransformerBridge | None = field(default=None, kw_only=True, repr=False)
    #: Models that this process has loaded, by dtype. A copy made by `dataclasses.replace` begins without them.
    _models: dict[str, TransformerBridge] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def model(self) -> TransformerBridge:
        """The base model in the bench's own precision."""
        return self.model_in(self.dtype)

    def model_in(self, dtype: str) -> TransformerBridge:
        """The base model in a precision ("float32", "bfloat16"); the second call gives the same object."""
        if self.loaded is not None and dtype == self.dtype:
            return self.loaded
        if dtype not in self._models:
            self._models[dtype] = self.load(dtype)
        return self._models[dtype]

    def load(self, dtype: str) -> TransformerBridge:
        """Load the base model; a study overrides this where its models need more."""
        return load_model(self.base, dtype=dtype, device=self.device, quantization=self.quantization)

    def with_model(self: AnyBench, model: TransformerBridge) -> AnyBench:
        """The same bench, after it was told a model that is its base model in its own precision, loaded already."""
        self._models[self.dtype] = model
        return self

    def changed(self: AnyBench, **changes: Any) -> AnyBench:
        """A copy with other fields, which keeps the loaded models unless the changes concern the model."""
        copy = replace(self, **changes)
        if _OF_THE_MODEL.isdisjoint(changes):
            copy._models.update(self._models)
        return copy
