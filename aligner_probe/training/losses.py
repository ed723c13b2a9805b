"""The training losses: next-token cross-entropy (SFT), and DPO (arXiv 2305.18290; eq. 10 of arXiv 2312.05503)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Predictions:
    """The logits of the positions of a batch that predict a label, one row of the batch after another.

    Attributes:
        logits: The logits at these positions.
        labels: The token that each position has to predict.
        counts: How many labels each row of the batch has.
    """

    logits: Float[Tensor, "n_labels d_vocab"]
    labels: Int[Tensor, " n_labels"]
    counts: tuple[int, ...]

    def split(self, n_rows: Sequence[int]) -> list["Predictions"]:
        """The predictions of the first `n_rows[0]` rows of the batch, those of the next `n_rows[1]` rows, and so on."""
        if len(n_rows) == 1:
            return [self]
        counts, parts = iter(self.counts), []
        for n in n_rows:
            parts.append(tuple(islice(counts, n)))
        sizes = [sum(part) for part in parts]
        return [
            Predictions(*each) for each in zip(self.logits.split(sizes), self.labels.split(sizes), parts, strict=True)
        ]


def sft_loss(predictions: Predictions) -> Float[Tensor, ""]:
    """The cross-entropy of the labelled tokens, summed, in nats. It is computed in float32."""
    return F.cross_entropy(predictions.logits.float(), predictions.labels, reduction="sum")


def sequence_log_probability(predictions: Predictions) -> Float[Tensor, " batch"]:
    """The log-probability of each row's labelled tokens, summed over the row, in nats. It is computed in float32."""
    each = -F.cross_entropy(predictions.logits.float(), predictions.labels, reduction="none")
    return torch.stack([row.sum() for row in each.split(predictions.counts)])


def dpo_loss(
    chosen: Float[Tensor, " batch"],
    rejected: Float[Tensor, " batch"],
    reference_chosen: Float[Tensor, " batch"],
    reference_rejected: Float[Tensor, " batch"],
    beta: float,
) -> Float[Tensor, ""]:
    """-log sigmoid(beta ((chosen - reference of chosen) - (rejected - reference of rejected))), summed over pairs."""
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    return -F.logsigmoid(beta * margin).sum()
