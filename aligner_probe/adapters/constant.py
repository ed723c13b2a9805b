"""Adapters that add one and the same vector at every position: what that vector is, layer by layer.

With one prefix token the softmax is over one key and equals 1, so Aligner-1 and LLaMA-Adapter-1 shift a layer's
attention output by b = W_O concat_h(f(beta_h) W_V^h p), whatever the input. OutputBias is such a shift by definition.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.adapters.output_bias import OutputBias
from aligner_probe.adapters.prefix import PrefixAdapter
from aligner_probe.errors import AlignerProbeError
from aligner_probe.hooks import project

PREFIXES = ("aligner", "llama_adapter")


def check_constant(method: str, n_tokens: int | None = None) -> None:
    """Raises AlignerProbeError unless a method adds a constant; says what it can be exported to instead."""
    if method == OutputBias.method or (method in PREFIXES and n_tokens == 1):
        return
    if method in PREFIXES:
        raise AlignerProbeError(
            f"{method} with {n_tokens} tokens cannot be merged or written as vectors: what it adds depends on the "
            "input, and only with one token it does not; export it to lit-llama, to native, or to peft where all heads "
            "of a layer share one gate"
        )
    instead = "export it to peft, which merges it into the weights (merge_and_unload)"
    raise AlignerProbeError(
        f"{method} cannot be merged or written as vectors: what it adds depends on the input; "
        + (instead if method == "lora" else "ap.save_adapter keeps it as it is")
    )


@torch.no_grad()
def constant_shifts(adapter: Adapter) -> dict[int, Float[Tensor, " d_model"]]:
    """What each adapted layer's attention output is shifted by, in float64 on the CPU.

    Raises AlignerProbeError for an adapter whose effect depends on the input.
    """
    check_constant(adapter.method, getattr(adapter.config, "n_tokens", None))
    if isinstance(adapter, OutputBias):
        return dict(zip(adapter.layers, adapter.biases().double().cpu(), strict=True))
    assert isinstance(adapter, PrefixAdapter)
    return {layer: _prefix_shift(adapter, layer).cpu() for layer in adapter.layers}


def _prefix_shift(adapter: PrefixAdapter, layer: int) -> Float[Tensor, " d_model"]:
    values = project(adapter.model, layer, "v", adapter.prefix_of(layer), torch.float64)[0]
    heads = values * adapter.gate_of(layer).double()[:, None]
    output = adapter.model.blocks[layer].attn.o.original_component
    # GPT-2's Conv1D keeps its weight the other way round.
    weight = output.weight.T if type(output).__name__ == "Conv1D" else output.weight
    return F.linear(heads.flatten(), weight.double())
