"""Excess description length: the bits that a training takes from its examples to become what it is on new ones.

    EDL = bits of the first pass - labels of the first pass * bits a label on the test part

A label is a token that is trained on. The first pass has the loss of each batch of fresh examples before its update.
What the base model can do already is drawn out by few examples, so its EDL is small; what it has to be taught costs
many bits. Answers drawn at random cost as much at the end as at the start, so their EDL is near 0.

Source: Donoway et al., arXiv 2601.04728.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.guessing import sft_examples
from aligner_probe.probing.bench import ProbeBench
from aligner_probe.tasks.encoding import IGNORED, encode
from aligner_probe.tasks.task import Task
from aligner_probe.training import Run
from aligner_probe.training.order import Order

#: The column of metrics with the labels of a step. Rows that an older version wrote do not have it.
TERMS = "n_terms"


@dataclass(frozen=True)
class DescriptionLength:
    """The description length of a training.

    Args:
        n_examples: fresh examples, those of batches in which every example was seen for the first time.
        n_labels: their labelled tokens.
        first_pass: their loss before the update of their batch, in bits in all.
        test: the loss of the finished training on the test part, in bits a label.
    """

    n_examples: int
    n_labels: int
    first_pass: float
    test: float

    @property
    def excess(self) -> float:
        """The excess description length, in bits."""
        return self.first_pass - self.n_labels * self.test

    def to_dict(self) -> dict[str, Any]:
        """All values by name, for JSON; `an_example` is the excess of a fresh example on average."""
        return vars(self) | {"excess": self.excess, "an_example": self.excess / self.n_examples}


def description_length(
    losses: Float[np.ndarray, " steps"],
    n_labels: Int[np.ndarray, " steps"],
    n_examples: int,
    test: float,
) -> DescriptionLength:
    """The description length of the batches of a first pass.

    Args:
        losses: the mean loss of each batch before its update, in nats a label.
        n_labels: the labels of each batch.
        n_examples: the examples of all these batches.
        test: the mean loss on the test part after the training, in nats a label.

    Raises:
        AlignerProbeError: there is no batch.
    """
    if not len(losses):
        raise AlignerProbeError("no batches; expected the loss of one batch of fresh examples at least")
    in_all = float(np.dot(losses, n_labels)) / math.log(2)
    return DescriptionLength(n_examples, int(n_labels.sum()), in_all, test / math.log(2))


def fresh_batches(batches: Sequence[Sequence[int]]) -> list[int]:
    """The indices of the batches in which every example is seen for the first time.

    The loss of a batch is one number, so a batch with a single example that was seen before counts for nothing.
    """
    seen: set[int] = set()
    fresh = []
    for index, batch in enumerate(batches):
        its = set(batch)
        if len(its) == len(batch) and not its & seen:
            fresh.append(index)
        seen |= its
    return fresh


def bits(bench: ProbeBench, run: Run, likelihood: Sequence[float]) -> dict[str, Any] | None:
    """The description length of a run of a probe, for JSON.

    Args:
        bench: the task, whose test part gives the final loss.
        run: the training.
        likelihood: for each test item the mean log-probability of the expected answer in nats a token, with the trained
            adapter attached.

    Returns:
        The values of `DescriptionLength.to_dict`; None where no batch was fresh, and for a training that was begun by a
        version which did not count labels, and went on in this one.
    """
    made = [row for row in run.metrics.to_dict("records") if row["step"] > 0]
    if any(math.isnan(row.get(TERMS, math.nan)) for row in made):
        return None
    order = Order(run.recipe, run.provenance["task"]["n_examples"])
    batches = [order(row["step"]) for row in made]
    fresh = fresh_batches(batches)
    if not fresh:
        return None
    return description_length(
        np.array([made[index]["loss"] for index in fresh]),
        np.array([made[index][TERMS] for index in fresh], dtype=np.int64),
        sum(len(batches[index]) for index in fresh),
        _test_loss(bench, likelihood),
    ).to_dict()


def _test_loss(bench: ProbeBench, likelihood: Sequence[float]) -> float:
    """The loss on the test part, in nats for each token that a training would label there."""
    task = bench.as_trained(bench.parts.test)
    # What a chat template writes behind the last turn is labelled and not scored. It is certain, and costs no bits.
    scored, labelled = (_n_labels(bench, task, after_end=after_end) for after_end in (False, True))
    return float(-np.dot(likelihood, scored) / labelled.sum())


def _n_labels(bench: ProbeBench, task: Task, *, after_end: bool) -> Int[np.ndarray, " items"]:
    encoded = encode(
        Task(task.name, "sft", tuple(sft_examples(task))),
        bench.model.tokenizer,
        max_length=bench.model.cfg.n_ctx,
        overlong="refuse",
        append_eos=not bench.ending,
        after_end=after_end,
        find_lost=False,
    )
    return np.array([int((row.labels[1:] != IGNORED).sum()) for row in encoded.sequences])
