"""The sequences of a task, packed end to end, and batches of them by index, padded on the right."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from aligner_probe.tasks.encoding import IGNORED, Tokens

Batch = dict[str, Tensor]


class Sequences:
    """Token ids and labels of all sequences in one row each. So a batch is one gather operation, without a loop over
    rows.
    """

    def __init__(self, rows: Sequence[Tokens], pad_id: int):
        self.pad_id = pad_id
        self.ids: Int64[Tensor, " packed"] = torch.cat([row.input_ids for row in rows])
        self.labels: Int64[Tensor, " packed"] = torch.cat([row.labels for row in rows])
        self.lengths: Int64[Tensor, " n"] = torch.tensor([len(row) for row in rows])
        self.offsets: Int64[Tensor, " n"] = self.lengths.cumsum(0) - self.lengths
        starts = torch.zeros_like(self.ids, dtype=torch.bool)
        starts[self.offsets] = True  # the first token of a sequence has nothing before it to be told from
        labelled = ((self.labels != IGNORED) & ~starts).long()
        sums = torch.cat([torch.zeros(1, dtype=torch.int64), labelled.cumsum(0)])
        self.labelled: Int64[Tensor, " n"] = sums[self.offsets + self.lengths] - sums[self.offsets]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        return int(self.lengths.max())

    def places(self, indices: Sequence[int]) -> tuple[Int64[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """The index in the packed rows of each position of a batch, and which positions are not padding."""
        picked = torch.as_tensor(indices)
        lengths = self.lengths[picked].unsqueeze(1)
        pos = torch.arange(int(lengths.max()))
        there = pos < lengths
        return torch.where(there, self.offsets[picked].unsqueeze(1) + pos, 0), there

    def batch(self, indices: Sequence[int]) -> Batch:
        """`input_ids`, `labels` (-100 on padding) and `attention_mask` of these sequences, as long as the longest."""
        places, there = self.places(indices)
        return {
            "input_ids": torch.where(there, self.ids[places], self.pad_id),
            "labels": torch.where(there, self.labels[places], IGNORED),
            "attention_mask": there.long(),
        }

    def gather(
        self, packed: Float[Tensor, "packed d_model"], indices: Sequence[int]
    ) -> Float[Tensor, "batch pos d_model"]:
        """A batch of values that are kept for every token, with zeros on padding."""
        places, there = self.places(indices)
        return packed[places].masked_fill_(~there.unsqueeze(-1), 0)


def of_like_length(items: Sequence[int], size: int, length: Callable[[int], int]) -> list[Sequence[int]]:
    """The items in parts of `size`, the shortest first; where one part has them all, in their own order."""
    if size >= len(items):
        return [items]
    order = sorted(items, key=length)
    return [order[i : i + size] for i in range(0, len(order), size)]
