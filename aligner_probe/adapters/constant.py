"""Adapters that add one and the same vector at every position: what that vector is, layer by layer.

With one prefix token the softmax is over one key and equals 1, so Aligner-1 and LLaMA-Adapter-1 shift a layer's
attention output by b = W_O concat_h(f(beta_h) W_V^h p), whatever the input. OutputBias is such a shift by definition.
Each class says for itself whether it adds a constant (`Adapter.depends_on_input`), and which (`Adapter.shifts`).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.adapters.registry import adapter_class
from aligner_probe.errors import AlignerProbeError


def check_constant(method: str, n_tokens: int | None = None) -> None:
    """Raise AlignerProbeError unless a method with so many prefix tokens adds a constant.

    The message says what the adapter can be exported to instead.
    """
    _check(adapter_class(method), {} if n_tokens is None else {"n_tokens": n_tokens})


@torch.no_grad()
def constant_shifts(adapter: Adapter) -> dict[int, Float[Tensor, " d_model"]]:
    """By layer, the vector by which each adapted layer's attention output is shifted, in float64 on the CPU.

    Raises AlignerProbeError for an adapter whose effect depends on the input.
    """
    _check(type(adapter), adapter.config.to_dict())
    return adapter.shifts()


def _check(cls: type[Adapter], options: dict) -> None:
    reason = cls.depends_on_input(options)
    if reason:
        raise AlignerProbeError(reason)
