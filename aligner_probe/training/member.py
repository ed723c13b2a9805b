"""A training while it is executed: its adapter's parameters, its optimiser, how far it is, and its best parameters.

Several trainings can share their batches (`fit_together`). Each is then one `Member`, and what a member does is the
same as if it were alone.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from aligner_probe.errors import AlignerProbeError
from aligner_probe.training.inputs import Inputs
from aligner_probe.training.monitor import LostUpdateMonitor
from aligner_probe.training.run import Progress, Run, metrics_frame

#: The monitor of lost updates keeps copies, which cost too much above this many trained parameters (full fine-tuning).
MAX_MONITORED = 50_000_000


class Member:
    """One of the trainings that share a batch.

    Args:
        inputs: its adapter, its encoded examples and its settled recipe.
        provenance: what a saved adapter will record about this training (`provenance.py`).
    """

    def __init__(self, inputs: Inputs, provenance: dict[str, Any]):
        self.inputs, self.provenance = inputs, provenance
        self.adapter, self.recipe, self.callbacks = inputs.adapter, inputs.recipe, inputs.callbacks
        self.order, self.n_steps = inputs.order, inputs.n_steps
        self.trained = {name: p for name, p in self.adapter.named_parameters() if p.requires_grad}
        assert self.recipe.lr is not None, "the recipe is settled"
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=self.recipe.lr, betas=self.recipe.betas, weight_decay=self.recipe.weight_decay
        )
        self.progress = Progress()
        #: The parameters with the lowest validation loss so far; None where it was not taken yet.
        self.best: dict[str, Tensor] | None = None
        self.monitor: LostUpdateMonitor | None = None
        #: The monitor's state in a training that is resumed, for `watch`.
        self._monitored: dict[str, Tensor] | None = None
        #: Why the training ended early, where its loss was no longer finite.
        self.error: AlignerProbeError | None = None

    @property
    def goes_on(self) -> bool:
        """Whether there is another step to make."""
        return self.error is None and self.progress.step < self.n_steps and not self.progress.stopped

    def identity(self, execution: dict[str, Any]) -> dict[str, Any]:
        """Everything that must be the same when the training is resumed; `execution` may change its last bits."""
        known = self.provenance
        return {
            "method": known["method"],
            "adapter": known["options"],
            "recipe": known["recipe"],
            "task": known["task"]["tokens_sha256"],
            "validation": known["validation"] and known["validation"]["tokens_sha256"],
            "chat_template": known["tokenizer"]["chat_template"],
            "base": known["base"]["fingerprint"],
            "dtype": known["base"]["dtype"],
            "execution": execution,
            "beside": known["beside"] or None,
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Take up a saved state, or begin anew where there is none.

        The adapter's `start` then has the parameters that the training began from, frozen ones among them.
        """
        if state is None:
            self.adapter.start = copied(dict(self.adapter.named_parameters()))
            return
        self._go_on_from(json.loads(state.get("began_from", "null")))
        load(self.trained, state["numbers"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = _shaped_as(self.trained, state["best"]) if state["best"] else None
        self.progress = Progress(**state["progress"])
        self.error = AlignerProbeError(state["error"]) if state.get("error") else None
        self.adapter.start = _shaped_as(dict(self.adapter.named_parameters()), state["start"])
        self._monitored = state.get("monitor")

    def _go_on_from(self, began: dict[str, Any] | None) -> None:
        """Record what the resumed training had begun from.

        Raises AlignerProbeError where the adapter that is given now was loaded from another file. An adapter that was
        trained since it was drawn or loaded is accepted, since this very training may have done that.
        """
        given = self.provenance["began_from"]
        if given is None or given["file"]:
            then, now = ((one and one["file"]) or {"source": "numbers that were drawn"} for one in (began, given))
            if then.get("sha256") != now.get("sha256"):
                raise AlignerProbeError(
                    f"the run that is to be resumed began from {then['source']}, not from {now['source']}; resume with "
                    "the same adapter (--adapter), or name another folder"
                )
        self.provenance["began_from"] = began

    def ended(self, result: dict[str, Any]) -> None:
        """Note on the adapter that this training made its parameters; `result` goes into its provenance."""
        self.adapter.provenance = self.provenance | {"result": result}
        self.adapter.loaded_from = None

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, as tensors, numbers and texts."""
        state = {
            "progress": vars(self.progress),
            "numbers": copied(self.trained),
            "best": self.best or {},
            "start": self.adapter.start,
            "optimizer": self.optimizer.state_dict(),
            "began_from": json.dumps(self.provenance["began_from"]),
        }
        if self.monitor:
            state["monitor"] = self.monitor.state()
        return state if self.error is None else state | {"error": str(self.error)}

    def watch(self) -> None:
        """Begin to count lost updates, unless there are more than `MAX_MONITORED` trained parameters."""
        monitored = sum(p.numel() for p in self.trained.values()) <= MAX_MONITORED
        self.monitor = LostUpdateMonitor(self.optimizer) if monitored else None
        if self.monitor and self._monitored:
            self.monitor.restore(self._monitored)

    def next_batch(self) -> list[int]:
        """The indices of the next step's examples. Also sets that step's learning rate and clears the gradients."""
        rate = self.recipe.lr_at(self.progress.step + 1, self.inputs.n_examples)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        return self.order(self.progress.step + 1)

    def step(self, loss: float) -> dict[str, Any]:
        """Make one step of the optimiser with the present gradients; returns the first columns of its metrics."""
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.trained.values(), self.recipe.clip)
        if self.monitor:
            self.monitor.before()
        self.optimizer.step()
        if self.monitor:
            self.monitor.after()
        self.progress.step += 1
        return {"step": self.progress.step, "loss": loss, "lr": self.optimizer.param_groups[0]["lr"]}

    @property
    def at_epochs_end(self) -> bool:
        """Whether the last step was the last one of an epoch."""
        return self.progress.step % self.order.per_epoch == 0

    @property
    def is_due(self) -> bool:
        """Whether the validation loss is to be taken after this step."""
        every, step = self.recipe.evaluate_every, self.progress.step
        due = step % every == 0 if every else self.at_epochs_end
        return self.inputs.validation is not None and (due or step == self.n_steps)

    def evaluated(self, loss: float) -> None:
        """Take note of a validation loss: keep the best parameters; stop where none was better for too long."""
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
            self.best = copied(self.trained)
        if loss < self.progress.to_beat - self.recipe.min_improvement:
            self.progress.to_beat, self.progress.waited = loss, 0
        else:
            self.progress.waited += 1
            patience = self.recipe.patience
            tired = patience is not None and self.progress.waited >= patience
            self.progress.stopped = tired and self.progress.step < self.n_steps

    def lost_updates(self) -> dict[str, Any]:
        """The columns of the lost-update monitor, at the end of an epoch and of the training; else none.

        `monitored_epochs` says how much of an epoch the shares are over.
        """
        if not self.monitor or (self.goes_on and not self.at_epochs_end):
            return {}
        epochs = self.monitor.n_steps / self.order.per_epoch
        lost = self.monitor.epoch()
        return {
            "monitored_epochs": epochs,
            "lost_updates": lost.updates,
            "numbers_that_never_moved": lost.numbers,
            "lost_second_moments": lost.second_moments,
        }

    def is_good(self, loss: float, step: int) -> bool:
        """Whether a loss is finite. Where it is not, `error` is set, and the adapter gets its last good parameters."""
        if math.isfinite(loss):
            return True
        if self.monitor:
            load(self.trained, dict(zip(self.trained, self.monitor.last_numbers(), strict=True)))
        self.error = AlignerProbeError(
            f"the loss is {loss} at step {step}, so training stops; the adapter holds the numbers before the step that "
            f"led there. Lower the learning rate ({self.recipe.lr:g}), or set clip ({self.recipe.clip})"
        )
        return False

    def finished(self, metrics: list[dict[str, Any]], lower_layers: str) -> Run:
        """The training's result, with the best parameters in the adapter.

        `metrics` are all its rows, `lower_layers` says whether the layers below the adapter were computed once.
        """
        best_step, best_loss = self.progress.step, None
        if self.best is not None:
            load(self.trained, self.best)
            best_step, best_loss = self.progress.best_step, self.progress.best_loss
        result = {"steps": self.progress.step, "stopped_early": self.progress.stopped}
        self.ended(result | {"best_step": best_step, "best_validation_loss": best_loss})
        return Run(
            self.adapter,
            self.recipe,
            metrics_frame(metrics),
            self.inputs.task.encoded.rule,
            lower_layers,
            best_step,
            best_loss,
            self.progress.stopped,
            self.adapter.provenance or {},
        )


def copied(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of the parameters as they are now."""
    return {name: p.detach().clone() for name, p in parameters.items()}


def _shaped_as(parameters: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Saved values in the shapes of the parameters. Raises KeyError or RuntimeError where one is missing or unfit."""
    return {name: numbers[name].reshape(parameter.shape) for name, parameter in parameters.items()}


def load(parameters: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> None:
    """Write values into the parameters of the same names."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(numbers[name])


@contextmanager
def as_at(parameters: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block the parameters have other values, where any are given; afterwards the present ones again."""
    present = copied(parameters)
    if numbers:
        load(parameters, numbers)
    try:
        yield
    finally:
        load(parameters, present)
