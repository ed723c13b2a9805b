"""The tokens with which all rows of a batch begin are computed once, for training and for generation.

    n = tokens_in_common(model, rows)                      # 0 where it is not possible, or does not pay
    cache = start_for_all(model, rows[0][:n], len(rows))   # keys and values, for every row
    model(the_rest, past_key_values=cache, ...)

A chat template writes the same system message before every question, and the prompts of a task with examples begin with
the same examples. In a causal model their states do not depend on what follows. So one row of them is enough, and its
keys and values, through which gradients flow, serve every row.
"""

from jaxtyping import Int
from torch import Tensor
from torch.nn.modules import module as torch_module
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from aligner_probe.adapters.adapter import attached_to
from aligner_probe.training.below import is_left_alone

#: Fewer tokens than this are not worth another forward pass, on any machine.
FEWEST_SAVED = 128
#: A forward pass takes about a millisecond a layer on a processor, however few its tokens are. In that time the layer
#: computes so many tokens times `d_model` squared.
WORTH_A_PASS = 5e6


def tokens_in_common(
    model: TransformerBridge, ids: Int[Tensor, "batch pos"], lengths: Int[Tensor, " batch"], *, at_most: int
) -> int:
    """How many first tokens of the rows should be computed once for all of them.

    It is 0 where that is not worth another forward pass, and where it could change a result: rows have adapters of
    their own, a layer has a sliding window (which counts padding, too), dropout is drawn, or a user's hook would see a
    row in two pieces.

    Args:
        model: the base model, with whatever adapters are attached.
        ids: token ids, padded on the right.
        lengths: the tokens of each row.
        at_most: the most tokens that may be taken from the rows; each row keeps at least one.
    """
    alike = (ids == ids[:1]).all(0).long().cumprod(0).sum()
    n = min(int(alike), int(lengths.min()) - 1, at_most)
    saved = n * (len(ids) - 1)
    pays = saved >= FEWEST_SAVED and saved * model.cfg.d_model**2 >= WORTH_A_PASS
    return n if pays and _can_be_shared(model) else 0


def start_for_all(model: TransformerBridge, ids: Int[Tensor, " pos"], n_rows: int) -> DynamicCache:
    """The keys and values of these tokens, once for each of `n_rows` rows. Gradients flow through them."""
    cache = new_cache(model)
    model(ids.unsqueeze(0), past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(n_rows)
    return cache


def new_cache(model: TransformerBridge) -> DynamicCache:
    """An empty cache of keys and values, with a sliding window in the layers that have one."""
    # torch's stubs know only tensors and modules as attributes of a module.
    return DynamicCache(config=getattr(model.original_model, "config", None))


def _can_be_shared(model: TransformerBridge) -> bool:
    return (
        all(adapter.n_rows is None for adapter in attached_to(model))
        and not any(new_cache(model).is_sliding)
        and not torch_module._global_forward_hooks
        and not torch_module._global_forward_pre_hooks
        and is_left_alone(model)
    )
