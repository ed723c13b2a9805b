"""SFT and DPO behind one face: examples in, summed loss and weight out."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.models import device_of
from aligner_probe.tasks.encoding import IGNORED, Encoded, Tokens
from aligner_probe.training.blocks import checkpointing, entering_at
from aligner_probe.training.losses import dpo_loss, sequence_log_probability, sft_loss
from aligner_probe.training.lower_layers import LowerLayers
from aligner_probe.training.recipe import Recipe
from aligner_probe.training.sequences import Sequences

#: Examples a batch where nothing is trained, at most; and how many times as many as are trained at once. Their logits
#: alone could otherwise take more memory than a training step does.
SCORING_BATCH, SCORING_TIMES = 32, 2


class Forward:
    """Logits and labels of sequences by number, padded on the right, from where a label is first predicted.

    What comes before that in all rows, mostly prompts, is not unembedded. Blocks below `lower.layer` do not run where
    `lower` is given, unless something has changed them since they were computed (`LowerLayers.outdated`): then all
    blocks run, and `set_aside` says why. With `checkpoint_from`, blocks from there on keep only their input for the
    backward pass.
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
        #: Why the kept layers were not used in some forward pass; None as long as they always were.
        self.set_aside: str | None = None

    def __call__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        batch = self.sequences.batch(indices)
        labels = from_first(batch["labels"]).to(self.device)
        with ExitStack() as ways:
            if self.lower is not None and self._is_current(self.lower):
                ways.enter_context(entering_at(self.model, self.lower.layer, self.lower.residual(indices)))
            if self.checkpoint_from is not None and torch.is_grad_enabled():
                ways.enter_context(checkpointing(self.model, self.checkpoint_from))
            logits = self.model(
                batch["input_ids"].to(self.device),
                attention_mask=batch["attention_mask"].to(self.device),
                use_cache=False,
                logits_to_keep=labels.shape[1],
            )
        return logits, labels

    def _is_current(self, lower: LowerLayers) -> bool:
        outdated = lower.outdated()
        self.set_aside = self.set_aside or outdated
        return outdated is None


@runtime_checkable
class Objective(Protocol):
    """What the loop needs to know of a kind of training: examples in, summed loss and weight out.

    The examples' sequences are some of those of a forward pass, which may have other runs' beside them.
    """

    def __len__(self) -> int: ...

    def rows(self, indices: Sequence[int]) -> list[int]:
        """The sequences of these examples, by their numbers in the forward pass."""
        ...

    def weight(self, indices: Sequence[int]) -> int:
        """What the summed loss of these examples is divided by."""
        ...

    def loss(
        self,
        logits: Float[Tensor, "rows pos d_vocab"],
        labels: Int[Tensor, "rows pos"],
        indices: Sequence[int],
    ) -> Float[Tensor, ""]:
        """Summed loss of these examples, from what the forward pass gives for their rows."""
        ...


class SFT:
    """Cross-entropy of the labelled tokens; weighted by their number. Example 0 is the sequence `first`."""

    def __init__(self, forward: Forward, n: int, first: int = 0):
        self.forward, self.n, self.first = forward, n, first

    def __len__(self) -> int:
        return self.n

    def rows(self, indices: Sequence[int]) -> list[int]:
        return [self.first + i for i in indices]

    def weight(self, indices: Sequence[int]) -> int:
        return int(self.forward.sequences.labelled[torch.as_tensor(self.rows(indices))].sum())

    def loss(self, logits: Tensor, labels: Tensor, indices: Sequence[int]) -> Tensor:
        return sft_loss(logits, labels)


class DPO:
    """DPO's loss; the reference is the adapter as it is when `set_reference` is called, computed once.

    From the sequence `first` on there are all chosen answers and then all rejected ones.
    """

    def __init__(self, forward: Forward, n: int, first: int, beta: float, scoring_batch: int):
        self.forward, self.n, self.first = forward, n, first
        self.beta, self.scoring_batch = beta, scoring_batch
        self._reference: Tensor | None = None

    def __len__(self) -> int:
        return self.n

    def rows(self, indices: Sequence[int]) -> list[int]:
        return [*(self.first + i for i in indices), *(self.first + self.n + i for i in indices)]

    def weight(self, indices: Sequence[int]) -> int:
        return len(indices)

    def set_reference(self) -> None:
        """Log-probabilities of all answers under the model as it is now."""
        with torch.no_grad():
            rows = range(self.first, self.first + 2 * self.n)
            scores = [sequence_log_probability(*self.forward(part)) for part in chunks(rows, 2 * self.scoring_batch)]
            self._reference = torch.cat(scores)

    def loss(self, logits: Tensor, labels: Tensor, indices: Sequence[int]) -> Tensor:
        """Both answers went through the model in one forward pass."""
        scores = sequence_log_probability(logits, labels)
        reference = self._reference[torch.as_tensor(self.rows(indices)) - self.first]
        n = len(indices)
        return dpo_loss(scores[:n], scores[n:], reference[:n], reference[n:], self.beta)


def from_first(labels: Int[Tensor, "rows pos"]) -> Int[Tensor, "rows kept"]:
    """Labels from the position on that predicts the first of any row."""
    labelled = (labels != IGNORED).any(0).nonzero()
    return labels[:, max(0, int(labelled[0]) - 1) :] if len(labelled) else labels


def sequences_of(encoded: Encoded) -> list[Tokens]:
    """Everything that passes through the model for encoded examples: of preferences, chosen and then rejected."""
    return [*encoded.sequences, *(encoded.rejected or ())]


def objective(encoded: Encoded, recipe: Recipe, forward: Forward, first: int = 0) -> Objective:
    """What is minimised on encoded examples, from the sequence `first` of a forward pass: DPO or SFT."""
    if encoded.kind == "sft":
        return SFT(forward, len(encoded), first)
    return DPO(forward, len(encoded), first, recipe.beta, scoring_batch(recipe))


def scoring_batch(recipe: Recipe) -> int:
    """Examples a batch where nothing is trained."""
    return min(SCORING_BATCH, SCORING_TIMES * recipe.rows_at_once)


def chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))
