"""One run of those that share a batch: its adapter, data and optimiser, where it is, and what it has found."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.arguments import accepts, several_of
from aligner_probe.checkpoints.given import one_adapter
from aligner_probe.errors import AlignerProbeError
from aligner_probe.models import embedding_rows
from aligner_probe.tasks.encoding import Encoded, encode
from aligner_probe.tasks.given import one_task
from aligner_probe.tasks.task import Task
from aligner_probe.tokenizers import own_tokenizer
from aligner_probe.training.callbacks import Callback
from aligner_probe.training.lower_layers import Plan
from aligner_probe.training.memory import MemoryEstimate, estimate_memory
from aligner_probe.training.monitor import LostUpdateMonitor
from aligner_probe.training.objective import Objective
from aligner_probe.training.order import Order
from aligner_probe.training.provenance import provenance, tokens_hash
from aligner_probe.training.rates import default_rate
from aligner_probe.training.recipe import FEWEST_TOKENS, Recipe, one_recipe
from aligner_probe.training.recipe import recipe as named_recipe
from aligner_probe.training.run import Progress, Run, metrics_frame

#: Above this many trained numbers (full fine-tuning) the lost-update monitor's copies cost too much.
MAX_MONITORED = 50_000_000


several_callbacks = several_of(Callback, "a list of callbacks, each of a class derived from Callback")


@accepts(adapter=one_adapter, task=one_task, validation=one_task, recipe=one_recipe, callbacks=several_callbacks)
@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """What one run trains: the arguments of `fit` that are its own."""

    adapter: Adapter
    task: Task
    validation: Task | None = None
    recipe: Recipe | None = None
    callbacks: Sequence[Callback] = ()


class Member:
    """A run among those of a batch; every number of it is what it would be alone."""

    train: Objective
    validation: Objective | None

    def __init__(self, model: TransformerBridge, training: Training):
        if training.adapter.model is not model:
            raise AlignerProbeError("this adapter was made for another model object; make it, or load it, for this one")
        self.model, self.adapter, self.callbacks = model, training.adapter, training.callbacks
        self.recipe = training.recipe or named_recipe("corrected", training.task.kind)
        self.data = (training.task, self._encode(training.task))
        held_out = training.validation
        self.validation_data = None if held_out is None else (held_out, self._encode(held_out))
        self.n_examples = len(self.data[1])
        #: With the learning rate and the length that it leaves open, now that method and number of examples are known.
        self.recipe = recipe = self.recipe.settled(self.n_examples, default_rate(self.adapter, training.task.kind))
        if recipe.precision == "bf16-true":
            self.adapter.to(torch.bfloat16)
        elif not self.adapter.keeps_base_dtype:
            self.adapter.to(torch.promote_types(torch.float32, next(self.adapter.parameters()).dtype))
        #: What it trains on and, where it has that, what it is validated on; and their hashes.
        both = {"train": self.data, "validation": self.validation_data}
        self.encoded = {which: data[1] for which, data in both.items() if data is not None}
        self.hashes = {which: tokens_hash(encoded) for which, encoded in self.encoded.items()}
        self.trained = {name: p for name, p in self.adapter.named_parameters() if p.requires_grad}
        for name, p in self.adapter.named_parameters():
            if not torch.isfinite(p).all():
                raise AlignerProbeError(
                    f"{name} of this {self.adapter.method} has numbers that are not finite before training; expected "
                    "finite ones: make the adapter with other options, or load another"
                )
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self.order = Order(recipe, self.n_examples)
        self.n_steps = recipe.total_steps(self.n_examples)
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None
        self.monitor: LostUpdateMonitor | None = None
        self._monitored: dict[str, Tensor] | None = None
        self.error: AlignerProbeError | None = None

    def _encode(self, task: Task) -> Encoded:
        tokenizer = own_tokenizer(self.model)
        if tokenizer is None:
            raise AlignerProbeError("this base has no tokenizer, so there are no tokens to train on; load it with one")
        recipe = self.recipe
        room = self.model.cfg.n_ctx - self.adapter.n_positions
        if self.adapter.n_positions and room < FEWEST_TOKENS:
            raise AlignerProbeError(
                f"{self.adapter.n_positions} tokens of {self.adapter.method} in a context of {self.model.cfg.n_ctx} "
                f"leave no room for a prompt and a completion; expected at most {self.model.cfg.n_ctx - FEWEST_TOKENS} "
                "(n_tokens=, --n-tokens)"
            )
        longest = recipe.max_length or room
        if longest > room:
            taken = f", {self.adapter.n_positions} of them the adapter's own" * bool(self.adapter.n_positions)
            raise AlignerProbeError(
                f"max_length {longest} on a base whose context is {self.model.cfg.n_ctx} tokens{taken}; expected at "
                f"most {room}"
            )
        return encode(
            task,
            tokenizer,
            max_length=longest,
            mask_prompt=recipe.mask_prompt,
            overlong=recipe.overlong,
            append_eos=recipe.append_eos,
            d_vocab=embedding_rows(self.model),
        )

    @property
    def schedule(self) -> str:
        """Learning rate, length and validation in a sentence."""
        return self.recipe.described(self.n_examples, validated=self.validation_data is not None)

    @property
    def passes(self) -> float:
        """How often an example is trained on."""
        return self.n_steps * self.recipe.batch_size / self.n_examples

    @property
    def goes_on(self) -> bool:
        return self.error is None and self.progress.step < self.n_steps and not self.progress.stopped

    def memory(self, pos: int, checkpoint: bool) -> MemoryEstimate:
        """What its own rows take, `pos` tokens long, beside the base."""
        preference = self.data[0].kind == "preference"
        return estimate_memory(self.adapter, self.recipe, pos, preference=preference, checkpoint=checkpoint)

    def settle(self, lower: Plan, execution: dict[str, Any]) -> None:
        """Note how the run is carried out; from here on it has a provenance and an identity."""
        self.lower = lower
        known = self.provenance = provenance(self.adapter, self.recipe, self.data, self.validation_data, execution)
        self.identity = {
            "method": known["method"],
            "adapter": known["options"],
            "recipe": known["recipe"],
            "task": known["task"]["tokens_sha256"],
            "validation": known["validation"] and known["validation"]["tokens_sha256"],
            "base": known["base"]["fingerprint"],
            "dtype": known["base"]["dtype"],
            "execution": execution,  # to the last bits, a step may depend on it
            "beside": known["beside"] or None,
        }

    def restore(self, state: dict[str, Any] | None) -> dict[str, Tensor]:
        """Take up a saved state; returns the numbers the run began from, all of them, frozen ones too."""
        if state is None:
            self.adapter.start = copied(dict(self.adapter.named_parameters()))
        else:
            self._go_on_from(json.loads(state.get("began_from", "null")))
            load(self.trained, state["numbers"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best = _shaped_as(self.trained, state["best"]) if state["best"] else None
            self.progress = Progress(**state["progress"])
            self.error = AlignerProbeError(state["error"]) if state.get("error") else None
            self.adapter.start = _shaped_as(dict(self.adapter.named_parameters()), state["start"])
            self._monitored = state.get("monitor")
        return self.adapter.start

    def _go_on_from(self, began: dict[str, Any] | None) -> None:
        """Keep where the run began. Raises AlignerProbeError where the adapter is from another file than then.

        One that has been trained since it was drawn or loaded may have been so by this very run.
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
        """From here on the adapter's numbers are those that this run made."""
        self.adapter.provenance = self.provenance | {"result": result}
        self.adapter.loaded_from = None

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
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
        """Begin to count lost updates, where the trained numbers are not too many."""
        monitored = sum(p.numel() for p in self.trained.values()) <= MAX_MONITORED
        self.monitor = LostUpdateMonitor(self.optimizer) if monitored else None
        if self.monitor and self._monitored:
            self.monitor.restore(self._monitored)

    def next_batch(self) -> list[int]:
        """The examples of the next step, with its learning rate set and no gradients yet."""
        rate = self.recipe.lr_at(self.progress.step + 1, self.n_examples)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        return self.order(self.progress.step + 1)

    def step(self, loss: float, tokens_per_second: float) -> dict[str, Any]:
        """One step of the optimiser by the gradients that are there; returns the row of metrics."""
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.trained.values(), self.recipe.clip)
        if self.monitor:
            self.monitor.before()
        self.optimizer.step()
        if self.monitor:
            self.monitor.after()
        self.progress.step += 1
        rate = self.optimizer.param_groups[0]["lr"]
        return {"step": self.progress.step, "loss": loss, "lr": rate, "tokens_per_second": tokens_per_second}

    @property
    def at_epochs_end(self) -> bool:
        return self.progress.step % self.order.per_epoch == 0

    @property
    def is_due(self) -> bool:
        """Whether the validation loss is to be taken now."""
        every, step = self.recipe.evaluate_every, self.progress.step
        due = step % every == 0 if every else self.at_epochs_end
        return self.validation is not None and (due or step == self.n_steps)

    def evaluated(self, loss: float) -> None:
        """Remember the best numbers and how long there was no better validation loss."""
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
        """The monitor's shares, at the end of an epoch and of the run; `monitored_epochs` tells part of an epoch."""
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
        """Whether a loss is a number; where not, `error` says so and the last good numbers are back in the adapter."""
        if math.isfinite(loss):
            return True
        if self.monitor:
            load(self.trained, dict(zip(self.trained, self.monitor.last_numbers(), strict=True)))
        self.error = AlignerProbeError(
            f"the loss is {loss} at step {step}, so training stops; the adapter holds the numbers before the step that "
            f"led there. Lower the learning rate ({self.recipe.lr:g}), or set clip ({self.recipe.clip})"
        )
        return False

    def finished(self, metrics: list[dict[str, Any]]) -> Run:
        """The run as it ended, with the best numbers in the adapter."""
        best = self.best is not None
        if best:
            load(self.trained, self.best)
        loss = self.progress.best_loss if best else None
        result = {"steps": self.progress.step, "stopped_early": self.progress.stopped}
        result |= {"best_step": self.progress.best_step if best else self.progress.step, "best_validation_loss": loss}
        self.ended(result)
        return Run(
            self.adapter,
            self.recipe,
            metrics_frame(metrics),
            self.data[1].rule,
            self.lower.reason,
            result["best_step"],
            loss,
            self.progress.stopped,
            self.adapter.provenance,
        )


def copied(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """The numbers as they are now."""
    return {name: p.detach().clone() for name, p in parameters.items()}


def _shaped_as(parameters: dict[str, Tensor], numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Saved numbers of parameters, by name; an error where one is missing or has another size."""
    return {name: numbers[name].reshape(parameter.shape) for name, parameter in parameters.items()}


def load(parameters: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    """Put numbers into parameters of the same names."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(numbers[name])


@contextmanager
def as_at(parameters: dict[str, Tensor], numbers: dict[str, Tensor]) -> Iterator[None]:
    """Other numbers inside the block, where there are any; the present ones come back."""
    present = copied(parameters)
    if numbers:
        load(parameters, numbers)
    try:
        yield
    finally:
        load(parameters, present)
