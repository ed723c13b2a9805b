"""Weights & Biases as an optional callback; nothing of it is imported until one is made."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aligner_probe.errors import AlignerProbeError
from aligner_probe.training.callbacks import Callback, Start
from aligner_probe.training.run import Run


class WeightsAndBiases(Callback):
    """WeightsAndBiases("project", name=None): metrics by step, with the run's provenance as its configuration.

    `options` go to `wandb.init`. Raises AlignerProbeError where wandb is not installed or nobody is logged in; and
    where a run cannot be begun.
    """

    def __init__(self, project: str, **options: Any):
        try:
            import wandb
        except ImportError as error:
            raise AlignerProbeError(
                "Weights & Biases is not installed; `pip install wandb`, or leave out --wandb"
            ) from error
        self._wandb, self._options = wandb, {"project": project, **options}
        self._run: Any = None
        if options.get("mode", os.environ.get("WANDB_MODE", "online")) == "online":
            with _in_one_line():
                wandb.login()

    def started(self, start: Start) -> None:
        with _in_one_line():
            self._run = self._wandb.init(config=start.provenance, **self._options)

    def stepped(self, row: dict[str, Any]) -> None:
        self._run.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])

    def ended(self, run: Run) -> None:
        self._run.summary.update(run.provenance["result"])
        self._run.finish()

    def failed(self, error: BaseException) -> None:
        if self._run is not None:
            self._run.finish(exit_code=1)


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # wandb's own, and those of the network below it
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise AlignerProbeError(
            f"Weights & Biases does not start ({said}); log in (`wandb login`), set WANDB_MODE=offline, or leave out "
            "--wandb"
        ) from error
