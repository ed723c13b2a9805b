"""The options of an adapter, as a frozen dataclass: what every method's config is made of.

A method writes down its options once, as fields. `metadata` says what the command `train` shows and takes:

    @dataclass(frozen=True, kw_only=True)
    class LoRAConfig(LayeredConfig):
        r: int = field(default=8, metadata={"help": "rank of the added matrices"})

- "help": one line for `train --help`;
- "flag": the name of the option of `train`, where it differs from the field's name;
- "values": the words that this option takes, each with the value of the field that it stands for.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from aligner_probe.errors import AlignerProbeError


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The options that every method has: `seed`, the start seed, draws the initial values of the parameters."""

    seed: int = field(default=0, metadata={"help": "start seed: draws the initial values of the parameters"})

    def to_dict(self) -> dict[str, Any]:
        """The options as keyword arguments of the adapter's class."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class LayeredConfig(AdapterConfig):
    """The options of a method that adapts all layers from `start_layer` on, and the start seed, `seed`."""

    start_layer: int = field(default=0, metadata={"help": "index of the first adapted layer, counted from 0"})

    def __post_init__(self) -> None:
        require(self.start_layer >= 0, f"start_layer {self.start_layer}; expected 0 or more")


def require(condition: bool, message: str) -> None:
    """Raise AlignerProbeError with `message` unless `condition`."""
    if not condition:
        raise AlignerProbeError(message)
