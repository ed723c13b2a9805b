"""Learning rates by method and by the width of the base model, which training and the probe read.

Each adapter's class declares its rates for a base model of width 128 (d_model), the micro-world's. They shrink in
proportion to the width: at the width of LLaMA-2 7B, 4096, the rates of Aligner are .001 to .009, the highest of which
is the published rate, and those of LoRA are .0001 to .0016. Narrower base models take the rates of width 128.

DPO takes a hundredth of these rates; the authors' DPO takes a ninetieth of their SFT's.
"""

from collections.abc import Sequence
from typing import Any

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.adapters.registry import adapter_class

#: The width (d_model) for which the rates are given.
WIDTH = 128
#: The learning rate of DPO, as a share of that of SFT.
DPO_SHARE = 1 / 100


def rates_of(method: str, **options: Any) -> tuple[float, float, float]:
    """A lower learning rate, the default and a higher one, for SFT on a base model of width `WIDTH`.

    Args:
        method: a registered method, whose class declares its rates.
        options: fields of its config, since rates may depend on them (`OutputBias` with `subspace`).

    Raises:
        AlignerProbeError: for a method that is not registered.
    """
    return adapter_class(method).rates_for(options)


def at_width(rates: Sequence[float], d_model: int) -> tuple[float, ...]:
    """Rates for a base model of width `d_model`, rounded to two digits, from those for width `WIDTH`."""
    return tuple(float(f"{rate * min(1.0, WIDTH / d_model):.2g}") for rate in rates)


def default_rate(adapter: Adapter, kind: str = "sft") -> float:
    """The learning rate of an adapter on its base model where none is given; `kind` is "sft" or "preference"."""
    _, rate, _ = adapter.rates_for(adapter.config.to_dict())
    [rate] = at_width([rate * (DPO_SHARE if kind == "preference" else 1)], adapter.shape.d_model)
    return rate
