"""What is the same on every base model: the experiments, and a cell, which is one run or the base model untrained.

A cell names its experiment, method, recipe, arm, precision, seed and learning rates. `plan.py` has the cells of the
micro-world, `real_plan.py` those of other base models.
"""

from dataclasses import dataclass
from typing import Any, Literal

from aligner_probe.adapters.registry import adapter_class
from aligner_probe.arms.catalogue import Arm

Experiment = Literal["instructions", "math", "safety"]
Variant = Literal["main", "gates", "tokens", "other-seed", "float32", "tenth-rate"]
EXPERIMENTS: tuple[Experiment, ...] = ("instructions", "math", "safety")
BASE = "base"
#: Arms in which a part of Aligner-1 is frozen; each is named by the part that is trained.
FREEZING = ("gates", "tokens")
#: The first adapted layer of the methods whose default is the paper's, on the micro-world as on LLaMA-2.
START_LAYER = 2
#: The learning rate of the authors' SFT.
PUBLISHED_RATE = 9e-3


@dataclass(frozen=True)
class ReproductionCell:
    """One cell of the reproduction: one run, or the questions to the untrained base model.

    Args:
        id: the name of its folder.
        experiment: what is trained and asked.
        method: one of `arms.catalogue.REPRODUCED_ARMS`, or `BASE` for the untrained base model.
        recipe: how it is trained; None for the base model.
        arm: "main", or what the run does differently (`results.FinishedRun` describes the arms).
        precision: of the adapter and the optimiser; None for the base model.
        seed: both the start seed and the order seed; None for the base model.
        lr: the learning rate of each stage that is trained ("sft", "dpo").
    """

    id: str
    experiment: Experiment
    method: str
    recipe: Literal["corrected", "as-published"] | None
    arm: Variant
    precision: Literal["float32", "bf16-true"] | None
    seed: int | None
    lr: dict[str, float]

    @property
    def after(self) -> tuple[str, ...]:
        """The ids of the cells that come first: none."""
        return ()

    @property
    def trained_seed(self) -> int:
        """The seed of a run. Raises ValueError for the cell of the base model, which has none."""
        if self.seed is None:
            raise ValueError(f"cell {self.id!r} trains nothing")
        return self.seed

    @property
    def is_base(self) -> bool:
        """Whether the base model is asked and nothing is trained."""
        return self.method == BASE


def cell_of(
    experiment: Experiment, method: str, recipe: Any, arm: Variant, precision: Any, seed: int, lr: Any
) -> ReproductionCell:
    """A cell that trains, with the id that follows from what it is."""
    parts = [experiment, method, recipe, *([arm] if arm != "main" else []), f"seed{seed}"]
    return ReproductionCell("_".join(parts), experiment, method, recipe, arm, precision, seed, lr)


def options_of(arm: Arm) -> dict[str, Any]:
    """The keyword arguments of an arm's adapter, without the seed."""
    start = {"start_layer": START_LAYER} if adapter_class(arm.method).starts_above else {}
    return dict(arm.options) | start
