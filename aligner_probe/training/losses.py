"""The training losses: next-token cross-entropy (SFT), and DPO (arXiv 2305.18290; eq. 10 of arXiv 2312.05503)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from aligner_probe.tasks.encoding import IGNORED


def sft_loss(logits: Float[Tensor, "batch pos d_vocab"], labels: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """The cross-entropy of the labelled tokens, summed, in nats. It is computed in float32."""
    targets = labels[:, 1:]
    return F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def sequence_log_probability(
    logits: Float[Tensor, "batch pos d_vocab"], labels: Int[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    """The log-probability of each row's labelled tokens, summed over the row, in nats. It is computed in float32."""
    targets = labels[:, 1:]
    there = targets != IGNORED
    each = logits[:, :-1].float().log_softmax(-1).gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(there, each, torch.zeros_like(each)).sum(-1)


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
