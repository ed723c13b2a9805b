"""The result of a training (`Run`), and how far a training is (`Progress`)."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.html import Shown
from aligner_probe.training.recipe import FEWEST_STEPS, Recipe


@dataclass(frozen=True, eq=False, repr=False)
class Run(Shown):
    """The result of a training.

    Attributes:
        adapter: the trained adapter. It holds the parameters with the lowest validation loss, or the last ones where
            there was no validation part.
        recipe: how it was trained, with every option settled.
        metrics: one row for each step: `step`, `loss` (before the step), `lr`, `tokens_per_second`, `n_terms` (the
            labelled tokens, or for DPO the preferences, whose mean the loss is); `validation_loss` where it was taken
            (step 0 is before training). At the end of an epoch and of the training also the shares of lost updates
            (`training.monitor.LostUpdates`) and over how much of an epoch they are (`monitored_epochs`).
        rule: how the examples were encoded, in words.
        lower_layers: whether the layers below the adapter were computed once, and why, in words.
        best_step: the step whose parameters the adapter holds.
        best_validation_loss: the validation loss of that step; None without a validation part.
        stopped_early: whether training ended before its last step because the validation loss did not improve.
        provenance: what `save_adapter` records about the training.
    """

    adapter: Adapter
    recipe: Recipe
    metrics: pd.DataFrame
    rule: str
    lower_layers: str
    best_step: int
    best_validation_loss: float | None
    stopped_early: bool
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        rate, method = self.recipe.lr, self.adapter.method
        return f"Run({method}, learning rate {rate:g}, {self.n_steps} steps of {self.recipe.batch_size}: {self.advice})"

    @property
    def n_steps(self) -> int:
        """Optimiser steps that were made."""
        return self.provenance["result"]["steps"]

    @property
    def still_falling(self) -> bool | None:
        """Whether the validation loss was lowest after the last step, so more steps may lower it further.

        None if there was no validation.
        """
        return None if self.best_validation_loss is None else 0 < self.best_step == self.n_steps

    @property
    def advice(self) -> str:
        """Whether the run was long enough, judged by its validation loss, and what to change if it was not."""
        steps, size = max(2 * self.n_steps, FEWEST_STEPS), self.recipe.batch_size
        if self.best_validation_loss is None:
            return "without validation data it is not known whether more steps would help; give fit a validation= task"
        if self.still_falling:
            return (
                f"the validation loss is best at the last step ({self.n_steps}) and still falling: train longer, for "
                f"instance --steps {steps} --batch-size {size} (recipe(steps={steps}, batch_size={size}))"
            )
        if self.best_step == 0:
            return (
                "no step made the validation loss better than it was before training, so nothing was learned; lower "
                f"the learning rate ({self.recipe.lr:g}): --lr, recipe(lr=)"
            )
        return f"the validation loss is best at step {self.best_step} of {self.n_steps} and no longer falling"

    def shown(self) -> dict[str, Any]:
        return {
            "method": self.adapter.method,
            "trained parameters": self.adapter.n_parameters,
            "steps": self.n_steps,
            "batch size": self.recipe.batch_size,
            "learning rate": self.recipe.lr,
            "last training loss": _last(self.loss),
            "validation loss before": _first(self.validation_loss),
            "best validation loss": self.best_validation_loss,
            "best step": self.best_step,
            "stopped early": self.stopped_early,
            "advice": self.advice,
        }

    @property
    def loss(self) -> pd.Series:
        """Training loss by step."""
        return pd.Series(self.metrics.set_index("step")["loss"])

    @property
    def validation_loss(self) -> pd.Series:
        """Validation loss by step, where taken; step 0 is before training."""
        return pd.Series(self.metrics.set_index("step")["validation_loss"]).dropna()


def _first(losses: pd.Series) -> float | None:
    return None if losses.empty else float(losses.iloc[0])


def _last(losses: pd.Series) -> float | None:
    losses = losses.dropna()
    return None if losses.empty else float(losses.iloc[-1])


@dataclass
class Progress:
    """How far a training is; a part of `state.pt`.

    `to_beat` is the last validation loss that was better by more than the recipe's `min_improvement`; `waited` counts
    the evaluations since then.
    """

    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    to_beat: float = math.inf
    waited: int = 0
    stopped: bool = False


def metrics_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows of metrics as a table; the columns that every training has come first."""
    first = ["step", "loss", "lr", "tokens_per_second", "validation_loss"]
    return pd.DataFrame(rows, columns=[*first, *sorted({key for row in rows for key in row} - set(first))])
