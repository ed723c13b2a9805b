"""SFT and DPO behind one face: examples in, summed loss and weight out."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.models import device_of
from aligner_probe.tasks.encoding import Encoded
from aligner_probe.training.blocks import checkpointing, entering_at
from aligner_probe.training.losses import dpo_loss, sequence_log_probability, sft_loss
from aligner_probe.training.lower_layers import LowerLayers
from aligner_probe.training.recipe import Recipe
from aligner_probe.training.sequences import Sequences

#: Examples a batch where nothing is trained, at most; and how many times as many as are trained at once. Their logits
#: alone could otherwise take more memory than a training step does.
SCORING_BATCH, SCORING_TIMES = 32, 2


class Forward:
    """Logits and labels of sequences by number, padded on the right.

    Blocks below `lower.layer` do not run where `lower` is given. With `checkpoint_from`, blocks from there on keep
    only their input for the backward pass.
    """

    def __init__(
        self,
        model: TransformerBridge,
        sequences: Sequences,
        lower: LowerLayers | None = None,
        checkpoint_from: int | None = None,
    ):
        self.model, self.sequences, self.lower, self.checkpoint_from = model, sequences, lower, checkpoint_from
        self.device = device_of(model)

    def __call__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        batch = {name: tensor.to(self.device) for name, tensor in self.sequences.batch(indices).items()}
        with ExitStack() as ways:
            if self.lower is not None:
                ways.enter_context(entering_at(self.model, self.lower.layer, self.lower.residual(indices)))
            if self.checkpoint_from is not None and torch.is_grad_enabled():
                ways.enter_context(checkpointing(self.model, self.checkpoint_from))
            logits = self.model(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        return logits, batch["labels"]


#: Makes the forward pass of some sequences.
MakeForward = Callable[[Sequences], Forward]


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

    def __init__(self, forward: Forward):
        self.forward, self.sequences = forward, forward.sequences

    def __len__(self) -> int:
        return len(self.sequences)

    def weight(self, indices: Sequence[int]) -> int:
        return int(self.sequences.labelled[torch.as_tensor(indices)].sum())

    def n_tokens(self, indices: Sequence[int]) -> int:
        return int(self.sequences.lengths[torch.as_tensor(indices)].sum())

    def loss(self, indices: Sequence[int]) -> Tensor:
        return sft_loss(*self.forward(indices))


class DPO:
    """DPO's loss; the reference is the adapter as it is when `set_reference` is called, computed once.

    The forward pass's sequences are all chosen answers and then all rejected ones.
    """

    def __init__(self, forward: Forward, beta: float, scoring_batch: int):
        self.forward, self.beta, self.scoring_batch = forward, beta, scoring_batch
        self.n_pairs = len(forward.sequences) // 2
        self._reference: Tensor | None = None

    def __len__(self) -> int:
        return self.n_pairs

    def weight(self, indices: Sequence[int]) -> int:
        return len(indices)

    def n_tokens(self, indices: Sequence[int]) -> int:
        return int(self.forward.sequences.lengths[torch.as_tensor(self._rows(indices))].sum())

    def set_reference(self) -> None:
        """Log-probabilities of all answers under the model as it is now."""
        with torch.no_grad():
            rows = range(len(self.forward.sequences))
            self._reference = torch.cat([self._scores(part) for part in chunks(rows, 2 * self.scoring_batch)])

    def loss(self, indices: Sequence[int]) -> Tensor:
        """Both answers go through the model in one forward pass."""
        rows = self._rows(indices)
        scores, reference = self._scores(rows), self._reference[torch.as_tensor(rows)]
        n = len(indices)
        return dpo_loss(scores[:n], scores[n:], reference[:n], reference[n:], self.beta)

    def _rows(self, indices: Sequence[int]) -> list[int]:
        return [*indices, *(i + self.n_pairs for i in indices)]

    def _scores(self, rows: Sequence[int]) -> Tensor:
        return sequence_log_probability(*self.forward(rows))


def objective(encoded: Encoded, pad_id: int, recipe: Recipe, forward: MakeForward) -> Objective:
    """What is minimised on encoded examples: DPO for preferences, else SFT."""
    made = forward(Sequences([*encoded.sequences, *(encoded.rejected or ())], pad_id))
    return SFT(made) if encoded.kind == "sft" else DPO(made, recipe.beta, scoring_batch(recipe))


def scoring_batch(recipe: Recipe) -> int:
    """Examples a batch where nothing is trained."""
    return min(SCORING_BATCH, SCORING_TIMES * (recipe.micro_batch_size or recipe.batch_size))


def chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))
