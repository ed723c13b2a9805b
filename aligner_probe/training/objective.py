"""SFT and DPO behind one face: examples in, summed loss and weight out."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.tasks.encoding import Encoded, Tokens, collate
from aligner_probe.training.losses import Batch, dpo_loss, logits_of, sequence_log_probability, sft_loss

#: Sequences a batch where nothing is trained.
SCORING_BATCH = 32


@runtime_checkable
class Objective(Protocol):
    """What the loop needs to know of a kind of training."""

    def __len__(self) -> int: ...

    def weight(self, indices: Sequence[int]) -> int:
        """What the summed loss of these examples is divided by."""
        ...

    def n_tokens(self, indices: Sequence[int]) -> int:
        """Tokens that pass through the model for these examples."""
        ...

    def loss(self, indices: Sequence[int]) -> Tensor:
        """Summed loss of these examples."""
        ...


class SFT:
    """Cross-entropy of the labelled tokens; weighted by their number."""

    def __init__(self, model: TransformerBridge, encoded: Encoded, pad_id: int):
        self.model, self.encoded, self.pad_id = model, encoded, pad_id
        self._labelled = [int((tokens.labels[1:] >= 0).sum()) for tokens in encoded.sequences]

    def __len__(self) -> int:
        return len(self.encoded)

    def weight(self, indices: Sequence[int]) -> int:
        return sum(self._labelled[i] for i in indices)

    def n_tokens(self, indices: Sequence[int]) -> int:
        return sum(len(self.encoded.sequences[i]) for i in indices)

    def loss(self, indices: Sequence[int]) -> Tensor:
        batch = to_device(self.model, collate([self.encoded.sequences[i] for i in indices], self.pad_id))
        return sft_loss(logits_of(self.model, batch), batch["labels"])[0]


class DPO:
    """DPO's loss; the reference is the adapter as it is when `set_reference` is called, computed once."""

    def __init__(self, model: TransformerBridge, encoded: Encoded, pad_id: int, beta: float):
        self.model, self.encoded, self.pad_id, self.beta = model, encoded, pad_id, beta
        self._reference: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.encoded)

    def weight(self, indices: Sequence[int]) -> int:
        return len(indices)

    def n_tokens(self, indices: Sequence[int]) -> int:
        return sum(len(self.encoded.chosen[i]) + len(self.encoded.rejected[i]) for i in indices)

    def set_reference(self) -> None:
        """Log-probabilities of all answers under the model as it is now."""
        with torch.no_grad():
            self._reference = (self._scores(self.encoded.chosen), self._scores(self.encoded.rejected))

    def loss(self, indices: Sequence[int]) -> Tensor:
        chosen, rejected = self._pairs(indices)
        device = chosen.device
        reference = (scores[list(indices)].to(device) for scores in self._reference)
        return dpo_loss(chosen, rejected, *reference, self.beta)

    def _pairs(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Both answers in one forward pass."""
        rows = [self.encoded.chosen[i] for i in indices] + [self.encoded.rejected[i] for i in indices]
        scores = self._score_batch(rows)
        return scores[: len(indices)], scores[len(indices) :]

    def _scores(self, rows: Sequence[Tokens]) -> Tensor:
        return torch.cat([self._score_batch(part).cpu() for part in chunks(rows, SCORING_BATCH)])

    def _score_batch(self, rows: Sequence[Tokens]) -> Tensor:
        batch = to_device(self.model, collate(rows, self.pad_id))
        return sequence_log_probability(logits_of(self.model, batch), batch["labels"])


def chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def to_device(model: TransformerBridge, batch: Batch) -> Batch:
    device = next(model.original_model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}
