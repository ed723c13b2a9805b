"""A model's blocks run in other ways for the length of a `with`: left out, or computed again in the backward pass."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.training.below import has_users_hooks


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


def entrance_of(model: TransformerBridge, layer: int, *args: Any, **kwargs: Any) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream that block `layer` is given in `model(*args, **kwargs)`, of which no more is computed.

    It is taken where block `layer - 1` ends, so hooks of block `layer`, `hook_resid_pre` among them, have not run yet.
    TransformerLens's `stop_at_layer` runs that one.
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
    """Carries the residual stream out of a model that is stopped in the middle."""

    def __init__(self, residual: Tensor):
        super().__init__()
        self.residual = residual


@contextmanager
def checkpointing(model: TransformerBridge, from_layer: int) -> Iterator[TransformerBridge]:
    """Inside, blocks from `from_layer` on keep their input only and run again, hooks and all, in the backward pass.

    Dropout is drawn as in the first run. A block in which a user has hooked something runs once and keeps its
    activations: a hook that counts, or draws random numbers of its own, would otherwise be applied a second time.
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
