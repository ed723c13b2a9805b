"""TransformerLens components with a lower cost per call. Each fires the same hook points with the same tensors.

For one token, a small model spends most of its time between the kernels. In each layer and for each token, a component
of the bridge enters a context manager of Accelerate and the call machinery of `nn.Module`, inspects the signature of
the module that it wraps, and calls a module for every hook point, even where no hook is registered. The components here
first look whether any of that is needed, and leave out what is not. A call that they do not cover goes to
TransformerLens's own forward pass.
"""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.generalized_components import (
    BlockBridge,
    EmbeddingBridge,
    GatedMLPBridge,
    JointGateUpMLPBridge,
    LinearBridge,
    RMSNormalizationBridge,
    UnembeddingBridge,
)
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

#: Flags of a bridge's configuration that a user can set; each copies the input or output of attention for each head.
_SWITCHES = ("use_split_qkv_input", "use_attn_in", "use_attn_result")


def hooked(*points: HookPoint) -> bool:
    """Whether a hook is registered at one of the hook points, for the forward or the backward pass."""
    return any(_observed(point) for point in points)


def fire(point: HookPoint, tensor: Tensor) -> Tensor:
    """Pass a tensor through a hook point; the hook point is not called where no hook is registered."""
    return point(tensor) if _observed(point) else tensor


def run(module: nn.Module, tensor: Tensor, **kwargs: Any) -> Any:
    """The output of a module. Where no hook is registered, its `forward` is called directly."""
    if _observed(module) or _has_any_global_hook() or module._compiled_call_impl is not None:
        return module(tensor, **kwargs)
    return module.forward(tensor, **kwargs)


def _observed(module: nn.Module) -> Any:
    return module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks


def switched(config: Any) -> bool:
    """Whether a bridge's configuration asks for one copy per head of the input or output of attention."""
    return any(getattr(config, name, False) for name in _SWITCHES)


class Lean(GeneralizedComponent):
    """A component whose `forward` is called directly, unless it has hooks, is compiled or is offloaded."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if (
            _observed(self)
            or _has_any_global_hook()
            or self._compiled_call_impl is not None
            or "_hf_hook" in self._modules["_original_component"].__dict__
        ):
            return super().__call__(*args, **kwargs)
        return self.forward(*args, **kwargs)

    def _around(self, tensor: Tensor, **kwargs: Any) -> Any:
        """Fire `hook_in`, run the wrapped module, and fire `hook_out`."""
        modules: Any = self._modules
        return fire(
            modules["hook_out"], run(modules["_original_component"], fire(modules["hook_in"], tensor), **kwargs)
        )


class LeanLinear(Lean, LinearBridge):
    """A linear projection of an attention layer or of a gated MLP."""

    def forward(self, input: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        return self._around(input)


class LeanMLP(Lean, GatedMLPBridge):
    """A gated MLP. Its projections are components of their own and fire their own hook points."""

    def forward(self, hidden_states: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        if self.__dict__.get("_use_processed_weights"):
            return super().forward(hidden_states)
        return self._around(hidden_states)


class LeanJointMLP(Lean, JointGateUpMLPBridge):
    """A gated MLP whose fused projection TransformerLens splits into two. The call is shorter, the rest its own."""


class LeanEmbedding(Lean, EmbeddingBridge):
    """The embedding of a model that does not scale its embeddings."""

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **kwargs: Any) -> Tensor:
        plain = type(self._modules["_original_component"]) is nn.Embedding and self._output_contribution_scale == 1.0
        if kwargs or not plain:
            return super().forward(input_ids, position_ids, **kwargs)
        return self._around(input_ids)


class LeanRMSNorm(Lean, RMSNormalizationBridge):
    """Hugging Face's RMS norm, computed once as long as `hook_scale` and `hook_normalized` have no hooks."""

    def forward(self, hidden_states: Float[Tensor, "*batch width"], **kwargs: Any) -> Tensor:
        modules: Any = self._modules
        watched = hooked(modules["hook_scale"], modules["hook_normalized"])
        if watched or kwargs or not self.use_native_layernorm_autograd:
            return super().forward(hidden_states, **kwargs)
        return self._around(hidden_states)


class LeanUnembedding(Lean, UnembeddingBridge):
    """The unembedding without the bias of zeros that TransformerLens adds where the model has no bias."""

    def set_original_component(self, original_component: nn.Module) -> None:
        super().set_original_component(original_component)
        bias = original_component._buffers.get("bias")
        # Kept outside the registry of nn.Module. The version tells whether the bias was written into since.
        self.__dict__["_zeros"] = None if bias is None or bias.any() else (bias, bias._version)

    def forward(self, hidden_states: Float[Tensor, "batch pos d_model"], **kwargs: Any) -> Tensor:
        linear: Any = self.original_component
        bias, version = self._zeros or (None, 0)
        plain = type(linear) is nn.Linear and not linear._forward_hooks and "_hf_hook" not in linear.__dict__
        if kwargs or not plain or bias is None or linear.bias is not bias or bias._version != version:
            return super().forward(hidden_states, **kwargs)
        # Contiguous: states that were cut out of longer sequences would be multiplied row by row of the batch, and the
        # whole vocabulary would be read for each row.
        states = fire(self.hook_in, hidden_states).contiguous()
        return fire(self.hook_out, F.linear(states, linear.weight))


class LeanBlock(Lean, BlockBridge):
    """A block: `hook_in`, Hugging Face's layer with the components of the bridge, `hook_out`."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        mine: Any = self.__dict__
        modules: Any = self._modules
        if (
            len(args) != 1
            or "position_embeddings" not in kwargs  # called alone: answers in a tuple
            or mine.get("_start_at_layer_idx") is not None
            or switched(modules["attn"].config)
            or self._read_use_hook_mlp_in()
        ):
            return super().forward(*args, **kwargs)
        if self._capture_hooks_wired:  # by the line above, which has done with them
            self._teardown_capture_hooks()
        if mine.get("_stop_at_layer_idx") is not None:
            self._check_stop_at_layer(*args)
        found = run(modules["_original_component"], fire(modules["hook_in"], args[0]), **kwargs)
        return fire(modules["hook_out"], found) if isinstance(found, Tensor) else self._apply_output_hook(found)
