"""What is minimised: the losses of SFT and of DPO, on forward passes that several trainings may share.

forward = Forward(model, sequences)
train = SFT(forward, n)                                # an Objective
predictions = forward(train.rows(batch))               # one pass over the rows of these examples
loss = train.loss(predictions, batch) / train.weight(batch)
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.models import device_of
from aligner_probe.tasks.encoding import IGNORED, Encoded, Tokens
from aligner_probe.training.blocks import checkpointing, entering_at, is_unhooked, unembedding
from aligner_probe.training.common_start import start_for_all, tokens_in_common
from aligner_probe.training.losses import Predictions, dpo_loss, sequence_log_probability, sft_loss
from aligner_probe.training.lower_layers import LowerLayers
from aligner_probe.training.provenance import EncodedTask
from aligner_probe.training.recipe import Recipe
from aligner_probe.training.sequences import Batch, Sequences, of_like_length

#: The most examples in a batch of validation, and how many times as many as in a micro-batch of training. Without
#: these limits the logits alone could take more memory than a training step.
SCORING_BATCH, SCORING_TIMES = 32, 2
#: Why kept layers are not used where the rows of a batch have a long common start.
SAVES_MORE = "the tokens with which all rows begin are computed once instead, which saves more"


class Forward:
    """Forward passes over given sequences: `forward(indices)` gives the logits of the positions that predict a label.

    The other positions (most of the prompts) are not unembedded, unless something is hooked to the unembedding: then
    it sees all positions from the first one that predicts a label in any row.

    Args:
        model: the base model; the adapters that are attached at the time of a call take part.
        sequences: everything that may be asked for, by index.
        lower: the kept output of the layers below `lower.layer`, which then do not run. Once something has changed
            those layers (`LowerLayers.outdated`), all layers run, and `set_aside` says why.
        checkpoint_from: layers from this one on keep only their input for the backward pass, and run again there.
        set_aside: why kept layers are not used, where that is known from the start.
    """

    def __init__(
        self,
        model: TransformerBridge,
        sequences: Sequences,
        lower: LowerLayers | None = None,
        checkpoint_from: int | None = None,
        set_aside: str | None = None,
    ):
        self.model, self.sequences, self.lower, self.checkpoint_from = model, sequences, lower, checkpoint_from
        self.device = device_of(model)
        #: Why kept layers were not used in some forward pass; None as long as they always were.
        self.set_aside = set_aside

    def __call__(self, indices: Sequence[int]) -> Predictions:
        batch = self.sequences.batch(indices)
        targets = batch["labels"][:, 1:]
        is_label = targets != IGNORED
        rows, positions = is_label.nonzero(as_tuple=True)
        # Counted from the end, since a model may give the states of its last positions only.
        from_end = positions - batch["labels"].shape[1]
        rows, from_end = rows.to(self.device), from_end.to(self.device)
        n_kept = -int(from_end.min()) if len(from_end) else 1
        alone = is_unhooked(self.model.unembed)
        checkpoint_from = self.checkpoint_from if torch.is_grad_enabled() else None
        lower = self._kept_layers()
        ids, options = batch["input_ids"].to(self.device), {"use_cache": False}
        shared = self._n_shared(batch, lower) if alone and checkpoint_from is None else 0
        if shared:
            if lower is not None:
                self.set_aside = self.set_aside or SAVES_MORE
            lower, options = None, {"past_key_values": start_for_all(self.model, ids[0, :shared], len(ids))}
        with ExitStack() as ways:
            if lower is not None:
                ways.enter_context(entering_at(self.model, lower.layer, lower.residual(indices)))
            if checkpoint_from is not None:
                ways.enter_context(checkpointing(self.model, checkpoint_from))
            if alone:
                ways.enter_context(unembedding(self.model, rows, from_end))
            logits = self.model(
                ids[:, shared:],
                attention_mask=batch["attention_mask"].to(self.device),
                logits_to_keep=n_kept,
                **options,
            )
        logits = logits.squeeze(1) if alone else logits[rows, from_end]
        return Predictions(logits, targets[is_label].to(self.device), tuple(is_label.sum(1).tolist()))

    def n_shared(self, indices: Sequence[int]) -> int:
        """How many first tokens of these rows a training pass computes once for all of them."""
        if self.checkpoint_from is not None or not is_unhooked(self.model.unembed):
            return 0
        return self._n_shared(self.sequences.batch(indices), self._kept_layers())

    def _n_shared(self, batch: Batch, lower: LowerLayers | None) -> int:
        """How many first tokens of these rows are computed once for all, where this saves more than kept layers do."""
        ids, lengths, labels = batch["input_ids"], batch["attention_mask"].sum(1), batch["labels"]
        # A label is predicted from the position before it, which has to be among the rest.
        unlabelled = (labels == IGNORED).all(0).long().cumprod(0).sum()
        n = tokens_in_common(self.model, ids, lengths, at_most=int(unlabelled) - 1)
        kept = 0.0 if lower is None else lower.layer / self.model.cfg.n_layers
        return n if n * (len(ids) - 1) > kept * ids.numel() else 0

    def _kept_layers(self) -> LowerLayers | None:
        """The kept layers, if there are some and nothing has changed them."""
        outdated = None if self.lower is None else self.lower.outdated()
        self.set_aside = self.set_aside or outdated
        return self.lower if outdated is None else None


@runtime_checkable
class Objective(Protocol):
    """What the training loop needs to know about a loss.

    Its examples are a part of the sequences of `forward`, which may have those of other trainings as well.
    """

    forward: Forward

    def __len__(self) -> int: ...

    def rows(self, indices: Sequence[int]) -> list[int]:
        """The indices of these examples' sequences in `forward`."""
        ...

    def weight(self, indices: Sequence[int]) -> int:
        """What the summed loss of these examples is divided by: their labelled tokens (SFT), or their number (DPO)."""
        ...

    def loss(self, predictions: Predictions, indices: Sequence[int]) -> Float[Tensor, ""]:
        """The summed loss of these examples; `predictions` is what `forward(self.rows(indices))` gives."""
        ...


class SFT:
    """Cross-entropy of the labelled tokens of `n` examples; example 0 is the sequence `first` of the forward pass."""

    def __init__(self, forward: Forward, n: int, first: int = 0):
        self.forward, self.n, self.first = forward, n, first

    def __len__(self) -> int:
        return self.n

    def rows(self, indices: Sequence[int]) -> list[int]:
        return [self.first + i for i in indices]

    def weight(self, indices: Sequence[int]) -> int:
        return int(self.forward.sequences.labelled[torch.as_tensor(self.rows(indices))].sum())

    def loss(self, predictions: Predictions, indices: Sequence[int]) -> Tensor:
        return sft_loss(predictions)


class DPO:
    """DPO's loss of `n` preferences.

    From the sequence `first` on, the forward pass has all chosen answers and then all rejected ones. The reference
    model is the model at the time when `set_reference` is called.
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
        """Compute and keep the log-probabilities of all answers under the model as it is now."""
        with torch.no_grad():
            rows, lengths = range(self.first, self.first + 2 * self.n), self.forward.sequences.lengths
            parts = of_like_length(rows, 2 * self.scoring_batch, lambda row: int(lengths[row]))
            scores = torch.cat([sequence_log_probability(self.forward(part)) for part in parts])
            self._reference = torch.empty_like(scores)
            self._reference[torch.as_tensor([row - self.first for part in parts for row in part])] = scores

    def loss(self, predictions: Predictions, indices: Sequence[int]) -> Tensor:
        """The rows are those of the chosen answers, then those of the rejected ones."""
        assert self._reference is not None, "set_reference comes before the first loss"
        scores = sequence_log_probability(predictions)
        reference = self._reference[torch.as_tensor(self.rows(indices)) - self.first]
        n = len(indices)
        return dpo_loss(scores[:n], scores[n:], reference[:n], reference[n:], self.beta)


def sequences_of(encoded: Encoded) -> list[Tokens]:
    """The sequences of encoded examples; of preferences first all chosen answers, then all rejected ones."""
    return [*encoded.sequences, *(encoded.rejected or ())]


def objective(encoded: Encoded, recipe: Recipe, forward: Forward, first: int = 0) -> Objective:
    """The objective for encoded examples, which begin at the sequence `first` of a forward pass: SFT or DPO."""
    if encoded.kind == "sft":
        return SFT(forward, len(encoded), first)
    return DPO(forward, len(encoded), first, recipe.beta, scoring_batch(recipe))


@dataclass(frozen=True, eq=False)
class Objectives:
    """What one training minimises, and the same loss on its validation examples, where it has any."""

    train: Objective
    validation: Objective | None = None


def distinct(tasks: Iterable[EncodedTask | None]) -> dict[str, Encoded]:
    """The encoded tasks by the hash of their tokens, each once, since trainings may share their examples."""
    by_hash: dict[str, Encoded] = {}
    for task in tasks:
        if task is not None:
            by_hash.setdefault(task.tokens_sha256, task.encoded)
    return by_hash


def shared(
    tasks: Sequence[EncodedTask | None], recipes: Sequence[Recipe], make: Callable[[list[Tokens]], Forward]
) -> list[Objective | None]:
    """An objective for each task (None for None), all on one forward pass over the distinct ones among them.

    `make` makes the forward pass from its sequences; it is not called where there are none.
    """
    rows: list[Tokens] = []
    first: dict[str, int] = {}
    for name, encoded in distinct(tasks).items():
        first[name] = len(rows)
        rows += sequences_of(encoded)
    if not rows:
        return [None for _ in tasks]
    forward = make(rows)
    return [
        None if task is None else objective(task.encoded, recipe, forward, first[task.tokens_sha256])
        for task, recipe in zip(tasks, recipes, strict=True)
    ]


def scoring_batch(recipe: Recipe) -> int:
    """How many examples are in a batch where nothing is trained."""
    return min(SCORING_BATCH, SCORING_TIMES * recipe.rows_at_once)
