"""Learning rates by method and by the width of the base: the one table that training and the probe read.

A rate is given for a base of width 128 (d_model), the micro-world's, and shrinks with the width: at LLaMA-2 7B's 4096
the rates of Aligner are .001 to .009, whose end is the published rate, and those of LoRA r=8 are .0001 to .0016.
Narrower bases take the rates of width 128.

DPO takes a hundredth of these rates; the authors' DPO has a ninetieth of their SFT's.
"""

from collections.abc import Sequence

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.adapters.output_bias import OutputBias

#: The width (d_model) for which the rates are given.
WIDTH = 128
#: By method: a lower rate, the default, and a higher one, all for a base of width `WIDTH`.
RATES: dict[str, tuple[float, float, float]] = {
    "aligner": (0.03, 0.1, 0.3),
    "llama_adapter": (0.03, 0.1, 0.3),
    "lora": (0.004, 0.015, 0.05),
    "output_bias": (0.01, 0.03, 0.1),
    "prompt_tuning": (0.015, 0.05, 0.15),
    "prefix_tuning": (0.015, 0.05, 0.15),
    "full": (0.0003, 0.001, 0.003),
}
#: Of output_bias with `subspace`: what is trained are the coefficients of a few random directions.
SUBSPACE_RATES = (0.03, 0.1, 0.3)
#: Of a user's own method, which is not in the table.
OTHER_RATES = (0.003, 0.01, 0.03)
#: The learning rate of DPO, as a share of that of SFT.
DPO_SHARE = 1 / 100


def rates_of(method: str, *, subspace: int | None = None) -> tuple[float, float, float]:
    """A lower rate, the default and a higher one of a method, for SFT on a base of width `WIDTH`.

    `subspace` is the option of `OutputBias`.
    """
    if method == OutputBias.method and subspace is not None:
        return SUBSPACE_RATES
    return RATES.get(method, OTHER_RATES)


def at_width(rates: Sequence[float], d_model: int) -> tuple[float, ...]:
    """Rates that are given for width `WIDTH`, at another width, with two digits."""
    return tuple(float(f"{rate * min(1.0, WIDTH / d_model):.2g}") for rate in rates)


def default_rate(adapter: Adapter, kind: str = "sft") -> float:
    """The learning rate of an adapter on its base where none is given; `kind` is the task's, "sft" or "preference"."""
    _, rate, _ = rates_of(adapter.method, subspace=getattr(adapter.config, "subspace", None))
    [rate] = at_width([rate * (DPO_SHARE if kind == "preference" else 1)], adapter.shape.d_model)
    return rate
