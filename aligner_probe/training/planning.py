"""How trainings are executed: decided before anything is written or computed, from what the caller asks for.

execution = Execution(out=Path("out/run"), cache="auto")
plan = plan_training(model, inputs, execution)
plan.memory, plan.lower.reason
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.errors import AlignerProbeError, one_of
from aligner_probe.models import embedding_rows
from aligner_probe.tasks.encoding import Tokens
from aligner_probe.tasks.tokenizing import pad_id
from aligner_probe.training import below
from aligner_probe.training.inputs import Inputs
from aligner_probe.training.lower_layers import BUDGET_BYTES, Cache, CachePlan, LowerLayers, plan_cache
from aligner_probe.training.memory import MemoryEstimate, capacity
from aligner_probe.training.objective import Forward, Objective, Objectives, distinct, sequences_of, shared
from aligner_probe.training.sequences import Sequences

#: Steps between two saved states.
SAVE_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Options of `fit` and `fit_together` that say how a training is executed, not what is trained.

    Args:
        out: the folder for metrics and saved states; None keeps nothing on disk.
        resume: go on with the training in `out`, where there is one.
        save_every: steps between two saved states.
        cache: whether the output of the layers below the adapter is kept for all examples.
        cache_budget: the most bytes that may be kept.
        cache_folder: a folder in which kept layers stay for other trainings; None keeps them in a temporary file.
        checkpoint_activations: compute layers again in the backward pass instead of keeping their activations.
        show_progress: show progress bars, and print advice at the end.

    Raises AlignerProbeError for values outside their range.
    """

    out: Path | None = None
    resume: bool = False
    save_every: int = SAVE_EVERY
    cache: Cache | str = "auto"
    cache_budget: int = BUDGET_BYTES
    cache_folder: str | Path | None = None
    checkpoint_activations: bool = False
    show_progress: bool = True

    def __post_init__(self) -> None:
        if self.save_every < 1 or not self.cache_budget >= 0:
            raise AlignerProbeError(
                f"save_every {self.save_every} steps and cache_budget {self.cache_budget} bytes; expected 1 or more, "
                "and 0 or more"
            )
        one_of(self.cache, ("auto", True, False), "cache")

    @property
    def scratch(self) -> Path | None:
        """Where a new file of kept layers would lie; None where `cache_folder` may have that file already."""
        return None if self.cache_folder else self.out or Path(tempfile.gettempdir())


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """Trainings that share their batches, and how they are executed.

    `memory` is what the largest step takes, `lower` says whether layers below `start_layer` are computed once.
    """

    model: TransformerBridge
    inputs: Sequence[Inputs]
    execution: Execution
    lower: CachePlan
    memory: MemoryEstimate
    start_layer: int

    @property
    def recorded(self) -> dict[str, Any]:
        """What each training records of its execution, since it may change the last bits of a step."""
        recorded: dict[str, Any] = {
            "lower_layers": self.lower.kept,
            "checkpoint_activations": self.execution.checkpoint_activations,
        }
        return recorded if len(self.inputs) == 1 else recorded | {"runs_in_a_batch": len(self.inputs)}

    def objectives(self) -> list[Objectives]:
        """What each training minimises; kept layers are computed here."""
        recipes = [one.recipe for one in self.inputs]
        train = shared([one.task for one in self.inputs], recipes, self._forward)
        validation = shared([one.validation for one in self.inputs], recipes, self._forward)
        return [Objectives(_there(one), other) for one, other in zip(train, validation, strict=True)]

    def _forward(self, rows: list[Tokens]) -> Forward:
        sequences = Sequences(rows, pad_id(self.model.tokenizer, embedding_rows(self.model)))
        # A callback may have changed the lower layers since the plan was made.
        changed = below.obstacle(self.model, self.start_layer) if self.lower.kept else None
        lower = None
        if self.lower.kept and changed is None:
            lower = LowerLayers(
                self.model,
                sequences,
                self.start_layer,
                self.execution.cache_folder,
                scratch=self.execution.out,
                show_progress=self.execution.show_progress,
            )
        checkpoint_from = self.start_layer if self.execution.checkpoint_activations else None
        return Forward(self.model, sequences, lower, checkpoint_from, set_aside=changed)


def plan_training(
    model: TransformerBridge, inputs: Sequence[Inputs], execution: Execution, cache: Cache | str
) -> TrainingPlan:
    """Plan trainings on one base model that share their batches.

    `cache` takes the place of the execution's, which may be open ("auto"). Raises AlignerProbeError where lower layers
    cannot be kept though `cache` is True, and where the memory surely does not suffice.
    """
    lowest = min((one.adapter for one in inputs), key=lambda adapter: adapter.layers.start)
    encoded = [*distinct(one.task for one in inputs).values(), *distinct(one.validation for one in inputs).values()]
    lengths = [len(row) for one in encoded for row in sequences_of(one)]
    passes = max(one.passes for one in inputs)
    lower = plan_cache(lowest, sum(lengths), passes, cache, execution.cache_budget, execution.scratch)
    memory, *others = (one.memory(max(lengths), execution.checkpoint_activations) for one in inputs)
    for other in others:
        memory += other
    memory.check(*capacity(model))
    return TrainingPlan(model, inputs, execution, lower, memory, lowest.layers.start)


def _there(objective: Objective | None) -> Objective:
    assert objective is not None, "every training has a task"
    return objective
