"""Run parts of a model in another way inside a `with` block: leave blocks out, compute them again in the backward pass,
or unembed some positions only.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.training.below import has_users_hooks


@contextmanager
def entering_at(
    model: TransformerBridge, layer: int, residual: Float[Tensor, "batch pos d_model"]
) -> Iterator[TransformerBridge]:
    """Inside, blocks below `layer` do not run, and block `layer` gets `residual` as its input, whatever the token ids.

    The rest of the model's call is unchanged, for instance masks and positions, so the code of each family makes them.
    TransformerLens' `start_at_layer` would run the lower blocks and discard their output.
    """

    def hand_over(*args: Any, **kwargs: Any) -> Tensor:
        return residual

    with ExitStack() as stack:
        for block in list(model.blocks)[:layer]:
            stack.enter_context(_forward_of(block, hand_over))
        yield model


def entrance_of(model: TransformerBridge, layer: int, *args: Any, **kwargs: Any) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream that enters block `layer` in `model(*args, **kwargs)`. Nothing behind it is computed.

    It is read where block `layer - 1` ends, so hooks of block `layer`, such as `hook_resid_pre`, have not run yet.
    TransformerLens' `stop_at_layer` runs that hook.
    """
    block = model.blocks[layer - 1]
    forward = block.forward

    def to_its_end(*args: Any, **kwargs: Any) -> Any:
        found = forward(*args, **kwargs)
        raise _Entrance(found if isinstance(found, Tensor) else found[0])

    with _forward_of(block, to_its_end):
        try:
            model(*args, **kwargs)
        except _Entrance as reached:
            return reached.residual
    raise AssertionError(f"block {layer - 1} of this base did not run")


class _Entrance(Exception):
    """An exception that carries the residual stream out of a model that is stopped in the middle."""

    def __init__(self, residual: Tensor):
        super().__init__()
        self.residual = residual


@contextmanager
def checkpointing(model: TransformerBridge, from_layer: int) -> Iterator[TransformerBridge]:
    """Inside, blocks from `from_layer` on keep only their input, and run again, with their hooks, in the backward pass.

    Dropout is drawn as in the first run. A block with a user's hook runs once and keeps its activations, because a hook
    that counts, or that draws random values, would otherwise be applied a second time.
    """

    def again(forward: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            # To its end: hooks that hand on to later ones must all have fired.
            with set_checkpoint_early_stop(False):
                return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True, **kwargs)

        return run

    with ExitStack() as stack:
        for block in list(model.blocks)[from_layer:]:
            if has_users_hooks(block):
                continue
            stack.enter_context(_forward_of(block, again(block.forward)))
        yield model


@contextmanager
def unembedding(
    model: TransformerBridge, rows: Int64[Tensor, " n"], from_end: Int64[Tensor, " n"]
) -> Iterator[TransformerBridge]:
    """Inside, only the given positions are unembedded, so the model's logits have the shape (n, 1, d_vocab).

    Position i is that of row `rows[i]` of the batch and of column `from_end[i]`, a negative index. Few rows of a wide
    vocabulary take most of a step's memory. Also, PyTorch multiplies states that are cut out of a longer sequence
    with the vocabulary once for each row of the batch.
    """
    unembed: Any = model.unembed
    forward = unembed.forward

    def of_these(states: Float[Tensor, "batch pos d_model"], **kwargs: Any) -> Float[Tensor, "n 1 d_vocab"]:
        return forward(states[rows, from_end].unsqueeze(1), **kwargs)

    with _forward_of(unembed, of_these):
        yield model


def is_unhooked(component: nn.Module) -> bool:
    """Whether nothing is hooked to a component of a bridge, to its hook points or to the module inside."""
    return not any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in component.modules()
    )


@contextmanager
def _forward_of(block: Any, forward: Any) -> Iterator[None]:
    # Past the bridge's own __setattr__, which would hand it to the Hugging Face layer inside.
    before = block.__dict__.get("forward")
    block.__dict__["forward"] = forward
    try:
        yield
    finally:
        del block.__dict__["forward"]
        if before is not None:
            block.__dict__["forward"] = before
