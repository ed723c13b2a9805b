"""A model's blocks run in other ways for the length of a `with`: left out, or computed again in the backward pass."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from transformer_lens.model_bridge import TransformerBridge


@contextmanager
def entering_at(
    model: TransformerBridge, layer: int, residual: Float[Tensor, "batch pos d_model"]
) -> Iterator[TransformerBridge]:
    """Inside, blocks below `layer` do not run: block `layer` gets `residual`, whatever the ids.

    All else of the model's call is as ever, masks and positions among it, so each family's own code makes them.
    TransformerLens's `start_at_layer` would run the lower blocks and drop what they give.
    """

    def hand_over(*args: Any, **kwargs: Any) -> Tensor:
        return residual

    with ExitStack() as stack:
        for block in list(model.blocks)[:layer]:
            stack.enter_context(_forward_of(block, hand_over))
        yield model


@contextmanager
def checkpointing(model: TransformerBridge, from_layer: int) -> Iterator[TransformerBridge]:
    """Inside, blocks from `from_layer` on keep their input only and run again, hooks and all, in the backward pass."""

    def again(forward: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            # Nothing is random in a frozen base. To its end: hooks that hand on to later ones must all have fired.
            with set_checkpoint_early_stop(False):
                return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        return run

    with ExitStack() as stack:
        for block in list(model.blocks)[from_layer:]:
            stack.enter_context(_forward_of(block, again(block.forward)))
        yield model


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
