"""Which parts of a base model compute the input of a layer, and whether a user has changed one of them.

The output of the lower layers can be computed once only if it is the same in every forward pass. A hook, a
parametrization or a replaced `forward` may change it from one pass to the next, and so may dropout in training mode.
Also, a hook must run once in every pass, and it does not run if its module does not run. So modules are put into three
groups:

- Blocks from the layer on, the final norm and the unembedding run in every pass, whatever is kept.
- Modules that contain blocks (the whole model, and Hugging Face's model inside) run in every pass too, but their input
  reaches the lower layers. A hook after them is harmless; a hook before them is not.
- All other modules feed the lower layers: embeddings, rotary angles and the lower blocks themselves.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

#: Modules of the libraries whose own hooks only look: transformers' `output_hidden_states`, TransformerLens's captures.
_LIBRARIES = ("transformers.utils.output_capturing", "transformer_lens.model_bridge")
#: Modules of the adapters that change the call of the whole model, or count its calls.
_ADAPTERS = "aligner_probe.adapters"


def obstacle(model: TransformerBridge, layer: int) -> str | None:
    """Why the output of the layers below `layer` may differ between forward passes, in words; None if it does not
    differ.

    Hooks at the entrance of the layer itself (`hook_resid_pre`) are no obstacle, because they run in every pass.
    """
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "a hook is registered for all modules, and it would not run in the layers that are left out"
    for name, module in _below(model, layer):
        if _is_as_made(module):
            continue
        found = _changed(module) or _hooked(module, model.blocks[layer])
        if found is not None:
            return found.format((isinstance(module, HookPoint) and module.name) or name or type(module).__name__)
    return None


def weights(model: TransformerBridge, layer: int) -> list[tuple[int, int]]:
    """Which tensors the layers below `layer` compute with, and how often each was written into."""
    tensors = (p for _, module in _below(model, layer) for p in module._parameters.values() if p is not None)
    return [(id(p), 0 if p.is_inference() else p._version) for p in tensors]


def has_users_hooks(block: nn.Module) -> bool:
    """Whether something other than an attached adapter is hooked inside a block."""
    return any(_n_hooks(module) > _n_of_adapters(module) for module in block.modules())


def is_left_alone(model: TransformerBridge) -> bool:
    """Whether no module of a base model has a hook but those of attached adapters, and none draws dropout."""
    return all(
        _n_hooks(module, (*_LIBRARIES, _ADAPTERS)) <= _n_of_adapters(module)
        and (not module.training or isinstance(module, HookPoint))
        for _, module in _modules_but(model, ())
        if not _is_as_made(module)
    )


def _below(model: TransformerBridge, layer: int) -> Iterator[tuple[str, nn.Module]]:
    """All modules of a base model by name, without those that run above the entrance of `layer`."""
    return _modules_but(
        model, [*list(model.blocks)[layer:], getattr(model, "ln_final", None), getattr(model, "unembed", None)]
    )


def _modules_but(model: TransformerBridge, left_out: Sequence[Any]) -> Iterator[tuple[str, nn.Module]]:
    """All modules of a base model by name, each once, without some and what is inside of them."""
    seen = {id(module) for module in left_out}
    left: list[tuple[str, nn.Module]] = [("", model.original_model), ("", model)]
    while left:
        name, module = left.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield name, module
        left += [(f"{name}.{key}".lstrip("."), part) for key, part in module._modules.items() if part is not None]


def _is_as_made(module: nn.Module) -> bool:
    """Whether nobody has changed a module. This is asked of every module in every step, so it is one expression."""
    own = module.__dict__
    return not (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or own["training"]
        or "forward" in own
        or "parametrizations" in own["_modules"]
    )


def _changed(module: nn.Module) -> str | None:
    """What makes a module compute something else than its class and its weights say, apart from its hooks."""
    own = module.__dict__
    if "forward" in own and "_hf_hook" not in own:  # Accelerate's, which only moves weights to where they are used
        return "the forward method of {} is not that of its class, so it may differ between steps"
    if "parametrizations" in module._modules:
        return "a weight of {} is parametrized, so it may differ between steps"
    if module.training and not isinstance(module, HookPoint):
        return "{} is in training mode, in which dropout is drawn anew in every step (model.eval() switches it off)"
    return None


def _hooked(module: nn.Module, upper: nn.Module) -> str | None:
    """A sentence that says that something is hooked to a module on which the output of the lower layers depends."""
    if not _n_hooks(module):
        return None
    # What comes after the whole model runs in every pass, and only then unless it asks to run after an error too.
    only_after = not _foreign(module._forward_pre_hooks) and not module._forward_hooks_always_called
    if only_after and any(part is upper for part in module.modules()):
        return None
    return "something is hooked to {}, which would not fire in every step"


def _n_hooks(module: nn.Module, own: tuple[str, ...] = _LIBRARIES) -> int:
    """Hooks of a module that are none of the libraries' own."""
    kinds = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return sum(len(hooks) if isinstance(module, HookPoint) else _foreign(hooks, own) for hooks in kinds if hooks)


def _foreign(hooks: dict[int, Any], own: tuple[str, ...] = _LIBRARIES) -> int:
    return sum(not str(getattr(hook, "__module__", "")).startswith(own) for hook in hooks.values())


def _n_of_adapters(module: nn.Module) -> int:
    """Hooks of a module that an attached adapter put there."""
    return sum(getattr(handle.user_hook, "of_adapter", False) for handle in getattr(module, "fwd_hooks", ()))
