"""Which examples of a batch go through the model in which forward pass.

Examples of similar length go together, so that little of a pass is padding. A recipe's `micro_batch_size` says how many
go together. Without it, a batch goes through the model whole on a GPU. On a CPU it goes in as many passes as take the
least time: each pass costs something, and so does padding.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import TypeVar

import torch
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.models import device_of, n_base_parameters
from aligner_probe.training.objective import Objective
from aligner_probe.training.sequences import of_like_length

Owner = TypeVar("Owner")

#: What one more pass takes on a CPU, in tokens: the weights are read from memory once more.
READING = 16
#: What calling the code of one more layer takes (about 1.6 ms), in tokens times parameters of the base model.
LAYER = 3.5e7
#: The largest number of passes that is tried.
MOST_PASSES = 16


def in_passes(
    batches: Mapping[Owner, Sequence[int]],
    objectives: Mapping[Owner, Objective],
    sizes: Mapping[Owner, int | None],
    tokens_of_a_pass: float | None,
) -> dict[Owner, list[Sequence[int]]]:
    """Split the batches of trainings that share their forward passes into parts.

    The first parts of all trainings go through the model together, then the second parts, and so on.

    Args:
        batches: for each training, the indices of the examples of its step.
        objectives: for each training, its loss, which has these examples.
        sizes: for each training, how many examples go through the model at once; None if the recipe leaves it open.
        tokens_of_a_pass: what a pass costs (`tokens_of_a_pass`); None to leave batches whole where `sizes` is open.
    """
    lengths = {owner: _lengths(objectives[owner], batch) for owner, batch in batches.items()}
    n_passes = 1
    if batches and tokens_of_a_pass is not None and all(size is None for size in sizes.values()):
        each = [[*one.values()] for one in lengths.values()]
        rows = [row for one in each for row in one]
        # A split can save no more than the padding, and costs a pass at least.
        if len(rows) * max(rows) - sum(rows) > tokens_of_a_pass:
            forward = next(iter(objectives.values())).forward
            n_shared = forward.n_shared([i for owner, its in batches.items() for i in objectives[owner].rows(its)])
            n_passes = fastest_number(each, tokens_of_a_pass, n_shared)
    return {
        owner: of_like_length(batch, sizes[owner] or math.ceil(len(batch) / n_passes), lengths[owner].__getitem__)
        for owner, batch in batches.items()
    }


def parts_of(objective: Objective, indices: Sequence[int], size: int) -> list[Sequence[int]]:
    """These examples in parts of `size`, of which the last one may be smaller.

    A part has examples of similar length; short ones come first. The loss of all parts together does not depend on
    which example is in which part.
    """
    return of_like_length(indices, size, _lengths(objective, indices).__getitem__)


def tokens_of_a_pass(model: TransformerBridge) -> float | None:
    """What a forward and backward pass costs in addition to its tokens, in tokens; None where batches stay whole."""
    if device_of(model).type != "cpu":
        return None
    return READING + model.cfg.n_layers * LAYER / n_base_parameters(model)


def fastest_number(lengths: Iterable[Sequence[int]], tokens_of_a_pass: float, n_shared: int = 0) -> int:
    """The number of passes in which the batches of several trainings take the least time.

    Args:
        lengths: for each training, the number of tokens of each example of its batch.
        tokens_of_a_pass: what a pass costs in addition to its tokens, in tokens.
        n_shared: how many first tokens of all rows are computed once in each pass.
    """
    batches = list(lengths)

    def tokens(n_passes: int) -> float:
        split = [of_like_length(sorted(one), math.ceil(len(one) / n_passes), int) for one in batches]
        passes = [[*chain(*parts)] for parts in zip_longest(*split, fillvalue=())]
        padded = sum(len(rows) * (max(rows) - n_shared) for rows in passes)
        return n_passes * (tokens_of_a_pass + n_shared) + padded

    fewest = min(map(len, batches))
    return min((n for n in (1, 2, 4, 8, MOST_PASSES) if n <= max(1, fewest)), key=tokens)


def _lengths(objective: Objective, indices: Sequence[int]) -> dict[int, int]:
    """For each example, its number of tokens with its prompt; of a preference with the longer answer."""
    rows = torch.as_tensor(objective.rows(indices))  # of preferences first all chosen answers, then all rejected ones
    longest = objective.forward.sequences.lengths[rows].reshape(-1, len(indices)).amax(0)
    return dict(zip(indices, longest.tolist(), strict=True))
