"""What a training reports to callbacks: `fit(..., callbacks=[...])`.

class Print(Callback):
    def stepped(self, row):
        print(row["step"], row["loss"])
"""

from dataclasses import dataclass
from typing import Any

from aligner_probe.threads import Threads
from aligner_probe.training.memory import MemoryEstimate
from aligner_probe.training.run import Run


@dataclass(frozen=True)
class Start:
    """What is known before the first step. `first_step` is above 1 if a run was resumed.

    `lower_layers` says whether the layers below the adapter are computed once, and why; `rule` says how examples were
    encoded; `provenance` is what a saved adapter will record; `schedule` gives the learning rate, the number of steps
    and the steps of validation; `threads` says how many CPU threads the run uses, and why.
    """

    first_step: int
    n_steps: int
    memory: MemoryEstimate
    lower_layers: str
    rule: str
    provenance: dict[str, Any]
    schedule: str
    threads: Threads


class Callback:
    """Every method does nothing until it is overridden. An error in one ends the training."""

    def started(self, start: Start) -> None:
        """Before the first step, and before anything is computed."""

    def stepped(self, row: dict[str, Any]) -> None:
        """After each row of `Run.metrics`; step 0 is the validation loss before training."""

    def ended(self, run: Run) -> None:
        """Called at the end, when the adapter holds its best parameters."""

    def failed(self, error: BaseException) -> None:
        """Called instead of `ended` if the training stops with an error or is interrupted."""
