"""Which examples of a batch go through the model in which forward pass.

Examples of like length go together, so that little of a pass is padding. A recipe's `micro_batch_size` says how many go
together. Without it, a batch goes through the model whole on a GPU. On a CPU it goes in as many passes as take the
least time: each pass costs something, and so does padding.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.models import device_of, n_base_parameters
from aligner_probe.training.objective import Objective
from aligner_probe.training.sequences import of_like_length

Owner = TypeVar("Owner")

#: What one more pass takes on a CPU, in tokens: the weights are read from memory once more.
READING = 16
#: What calling the code of one more layer takes, in tokens of a base model with one parameter (about 1.6 ms).
LAYER = 3.5e7
#: The largest number of passes that is tried.
MOST_PASSES = 16


def in_passes(
    batches: Mapping[Owner, Sequence[int]],
    objectives: Mapping[Owner, Objective],
    sizes: Mapping[Owner, int | None],
) -> dict[Owner, list[Sequence[int]]]:
    """The batches of trainings that go through the model together, in parts: first the first parts of all, and so on.

    Args:
        batches: by training, the indices of the examples of its step.
        objectives: by training, what has these examples.
        sizes: by training, how many examples go through the model at once; None where the recipe does not say it.
    """
    n_passes = 1
    if batches and all(size is None for size in sizes.values()):
        n_passes = _fastest_number(batches, objectives)
    return {
        owner: parts_of(objectives[owner], batch, sizes[owner] or math.ceil(len(batch) / n_passes))
        for owner, batch in batches.items()
    }


def parts_of(objective: Objective, indices: Sequence[int], size: int) -> list[Sequence[int]]:
    """These examples in parts of `size`, of which the last one may be smaller.

    A part has examples of like length; short ones come first. The loss of all parts together does not depend on which
    example is in which part.
    """
    return of_like_length(indices, size, lambda index: _length(objective, index))


def tokens_of_a_pass(model: TransformerBridge) -> float | None:
    """What a forward and backward pass costs beside its tokens, in tokens; None where batches are not split."""
    if device_of(model).type != "cpu":
        return None
    return READING + model.cfg.n_layers * LAYER / n_base_parameters(model)


def fastest_number(lengths: Iterable[Sequence[int]], tokens_of_a_pass: float, n_shared: int = 0) -> int:
    """In how many passes the batches of several trainings take the least time.

    Args:
        lengths: for each training, the tokens of the rows of its batch.
        tokens_of_a_pass: what a pass costs beside its tokens, in tokens.
        n_shared: how many first tokens of all rows are computed once in each pass.
    """
    batches = [sorted(one) for one in lengths]

    def tokens(n_passes: int) -> float:
        total = 0.0
        for index in range(n_passes):
            rows = [length for one in batches for length in _part(one, index, n_passes)]
            total += tokens_of_a_pass + n_shared + len(rows) * (max(rows, default=n_shared) - n_shared)
        return total

    fewest = min(map(len, batches))
    return min((n for n in (1, 2, 4, 8, MOST_PASSES) if n <= max(1, fewest)), key=tokens)


def _fastest_number(batches: Mapping[Owner, Sequence[int]], objectives: Mapping[Owner, Objective]) -> int:
    forward = next(iter(objectives.values())).forward
    a_pass = tokens_of_a_pass(forward.model)
    if a_pass is None:
        return 1
    lengths = [[_length(objectives[owner], index) for index in batch] for owner, batch in batches.items()]
    rows = [row for owner, batch in batches.items() for row in objectives[owner].rows(batch)]
    return fastest_number(lengths, a_pass, forward.n_shared(rows))


def _length(objective: Objective, index: int) -> int:
    """The tokens of an example, with those of its prompt; of a preference those with its longer answer."""
    lengths = objective.forward.sequences.lengths
    return int(lengths[torch.as_tensor(objective.rows([index]))].max())


def _part(rows: Sequence[int], index: int, n_passes: int) -> Sequence[int]:
    size = math.ceil(len(rows) / n_passes)
    return rows[index * size : (index + 1) * size]
