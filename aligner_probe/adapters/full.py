"""Full fine-tuning, the upper reference: a copy of every base number, swapped in while attached."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter, AdapterConfig, HookFunction
from aligner_probe.arguments import a_model, accepts
from aligner_probe.models import base_parameters


@accepts(model=a_model)
class FullFineTune(Adapter):
    """FullFineTune(model): trains a copy of the whole base. It does not stack.

    Tied weights stay tied: one copy serves every place of one tensor.
    """

    method = "full"
    stacks = False

    def __init__(self, model: TransformerBridge, seed: int = 0, *, dtype: torch.dtype | None = None):
        super().__init__(model, AdapterConfig(seed=seed))
        self._places: list[tuple[nn.Module, str, str]] = []
        copies: dict[int, str] = {}
        self.copies = nn.ParameterDict()
        for module, name, parameter in base_parameters(model):
            if id(parameter) not in copies:
                copies[id(parameter)] = str(len(copies))
                copy = parameter.detach().to(dtype or parameter.dtype, copy=True)
                self.copies[copies[id(parameter)]] = nn.Parameter(copy)
            self._places.append((module, name, copies[id(parameter)]))

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        yield from ()

    @contextmanager
    def _installed(self) -> Iterator[None]:
        originals = [(module, name, module._parameters[name]) for module, name, _ in self._places]
        for module, name, key in self._places:
            module._parameters[name] = self.copies[key]
        try:
            yield
        finally:
            for module, name, parameter in originals:
                module._parameters[name] = parameter
