"""Full fine-tuning, the upper reference: a copy of every parameter of the base model, used while it is attached."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter, HookFunction
from aligner_probe.adapters.config import AdapterConfig, require
from aligner_probe.adapters.registry import register_adapter
from aligner_probe.arguments import a_model, accepts
from aligner_probe.models import base_parameters, quantization_in


@register_adapter("full")
@accepts(model=a_model)
class FullFineTune(Adapter):
    """A trained copy of the whole base model. It does not stack.

    Tied weights stay tied: a tensor that the base model uses in several modules has one copy.

    Args:
        model: the base model.
        seed: recorded, and without an effect: nothing is drawn at random.
        dtype: data type of the copy; None for the base model's.

    Raises:
        AlignerProbeError: for a quantised base model.
    """

    label = "full fine-tuning"
    stacks = False
    keeps_base_dtype = True
    learning_rates = (0.0003, 0.001, 0.003)

    def __init__(self, model: TransformerBridge, seed: int = 0, *, dtype: torch.dtype | None = None):
        super().__init__(model, AdapterConfig(seed=seed))
        packing = quantization_in(model)
        require(
            packing is None,
            f"full fine-tuning of a base in {packing}: packed weights have no gradients; load it plain, without "
            "quantization (--quantization), or train an adapter such as LoRA on it",
        )
        self._assignments: list[tuple[nn.Module, str, str]] = []
        copies: dict[int, str] = {}
        self.copies = nn.ParameterDict()
        for module, name, parameter in base_parameters(model):
            if id(parameter) not in copies:
                copies[id(parameter)] = str(len(copies))
                copy = parameter.detach().to(dtype or parameter.dtype, copy=True)
                self.copies[copies[id(parameter)]] = nn.Parameter(copy)
            self._assignments.append((module, name, copies[id(parameter)]))

    def activations_per_token(self) -> int:
        """The input of every projection, since each has a gradient of its weights."""
        return 4 * self.shape.d_model + (self.model.cfg.d_mlp or 4 * self.shape.d_model)

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        yield from ()

    @contextmanager
    def _installed(self) -> Iterator[None]:
        originals = [(module, name, module._parameters[name]) for module, name, _ in self._assignments]
        for module, name, key in self._assignments:
            module._parameters[name] = self.copies[key]
        try:
            yield
        finally:
            for module, name, parameter in originals:
                module._parameters[name] = parameter
