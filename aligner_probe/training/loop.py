"""The one training loop: SFT and DPO, every adapter, resumable to the bit on one machine's CPU.

run = fit(model, adapter, task, validation=held_out, recipe=recipe("corrected", lr=3e-3))
run.loss.plot()
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks.encoding import Encoded, encode
from aligner_probe.tasks.task import Task
from aligner_probe.training.callbacks import Callback, Start
from aligner_probe.training.lower_layers import BUDGET_BYTES, Cache, LowerLayers, plan
from aligner_probe.training.memory import capacity, estimate_memory
from aligner_probe.training.monitor import LostUpdateMonitor
from aligner_probe.training.objective import DPO, Forward, Objective, chunks, objective, scoring_batch
from aligner_probe.training.order import Order
from aligner_probe.training.provenance import provenance
from aligner_probe.training.recipe import Recipe
from aligner_probe.training.recipe import recipe as named_recipe
from aligner_probe.training.run import Progress, Run, metrics_frame
from aligner_probe.training.sequences import Sequences
from aligner_probe.training.state import RunFolder

#: Above this many trained numbers (full fine-tuning) the lost-update monitor's copies cost too much.
MAX_MONITORED = 50_000_000


def fit(
    model: TransformerBridge,
    adapter: Adapter,
    task: Task,
    *,
    validation: Task | None = None,
    recipe: Recipe | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    save_every: int = 50,
    cache: Cache = "auto",
    cache_budget: int = BUDGET_BYTES,
    cache_folder: str | Path | None = None,
    checkpoint_activations: bool = False,
    callbacks: Sequence[Callback] = (),
    show_progress: bool = True,
) -> Run:
    """Train an adapter on a task: cross-entropy of completions, or DPO for preferences.

    DPO's reference is the adapter as it comes in: train by SFT first. With `out`, metrics and state are kept there;
    `resume` goes on with what is there, to the same numbers. `cache`: keep the outcome of the layers below the
    adapter's first one for all examples, at most `cache_budget` bytes of it ("auto": where that is possible and pays),
    in a temporary file, or for other runs in `cache_folder`. `checkpoint_activations` computes layers again in the
    backward pass rather than keep what they need.

    Raises AlignerProbeError where the adapter is of another model, the base has no tokenizer, options do not fit, the
    memory surely does not suffice, the loss is no longer finite (the adapter then holds the last numbers that were
    good), or the folder is taken.
    """
    if adapter.model is not model:
        raise AlignerProbeError("this adapter was made for another model object; make it, or load it, for this one")
    recipe = recipe or named_recipe("corrected", task.kind)
    trainer = _Trainer(model, adapter, task, validation, recipe, save_every, show_progress)
    trainer.plan(cache, cache_budget, cache_folder, checkpoint_activations)
    folder = RunFolder(None if out is None else Path(out), trainer.identity, resume=resume)
    with folder.locked():
        try:
            run = trainer.run(folder, callbacks)
        except BaseException as error:
            for callback in callbacks:
                callback.failed(error)
            raise
        for callback in callbacks:
            callback.ended(run)
    return run


class _Trainer:
    def __init__(
        self,
        model: TransformerBridge,
        adapter: Adapter,
        task: Task,
        validation: Task | None,
        recipe: Recipe,
        save_every: int,
        show_progress: bool,
    ):
        self.model, self.adapter, self.recipe = model, adapter, recipe
        self.save_every, self.show_progress = save_every, show_progress
        self.data = (task, self._encode(task))
        self.validation_data = None if validation is None else (validation, self._encode(validation))
        if recipe.precision == "bf16-true":
            adapter.to(torch.bfloat16)
        self.trained = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self.n_examples = len(self.data[1])
        self.order = Order(recipe, self.n_examples)
        self.n_steps = recipe.total_steps(self.n_examples)
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None

    def _encode(self, task: Task) -> Encoded:
        if self.model.tokenizer is None:
            raise AlignerProbeError("this base has no tokenizer, so there are no tokens to train on; load it with one")
        recipe = self.recipe
        room = self.model.cfg.n_ctx - self.adapter.n_positions
        longest = recipe.max_length or room
        if longest > room:
            taken = f", {self.adapter.n_positions} of them the adapter's own" * bool(self.adapter.n_positions)
            raise AlignerProbeError(
                f"max_length {longest} on a base whose context is {self.model.cfg.n_ctx} tokens{taken}; expected at "
                f"most {room}"
            )
        return encode(
            task,
            self.model.tokenizer,
            max_length=longest,
            mask_prompt=recipe.mask_prompt,
            overlong=recipe.overlong,
            append_eos=recipe.append_eos,
        )

    def plan(self, cache: Cache, budget: int, folder: str | Path | None, checkpoint: bool) -> None:
        """Settle how the run is carried out, before anything is written or computed."""
        encoded = [data[1] for data in (self.data, self.validation_data) if data is not None]
        lengths = [len(row) for part in encoded for row in [*part.sequences, *(part.rejected or ())]]
        passes = self.n_steps * self.recipe.batch_size / self.n_examples
        self.lower = plan(self.adapter, sum(lengths), passes, cache, budget)
        self.cache_folder, self.checkpoint = folder, checkpoint
        preference = self.data[0].kind == "preference"
        self.memory = estimate_memory(
            self.adapter, self.recipe, max(lengths), preference=preference, checkpoint=checkpoint
        )
        self.memory.check(*capacity(self.model))
        execution = {"lower_layers": self.lower.kept, "checkpoint_activations": checkpoint}
        self.provenance = provenance(self.adapter, self.recipe, self.data, self.validation_data, execution)
        known = self.provenance
        self.identity = {
            "method": known["method"],
            "adapter": known["options"],
            "recipe": known["recipe"],
            "task": known["task"]["tokens_sha256"],
            "validation": known["validation"] and known["validation"]["tokens_sha256"],
            "base": known["base"]["fingerprint"],
            "dtype": known["base"]["dtype"],
            "execution": execution,  # to the last bits, a step may depend on it
        }

    def run(self, folder: RunFolder, callbacks: Sequence[Callback]) -> Run:
        start = self._restore(folder)
        self.adapter.start = start

        def record(row: dict[str, Any]) -> None:
            folder.record(row)
            for callback in callbacks:
                callback.stepped(row)

        announced = Start(
            self.progress.step + 1, self.n_steps, self.memory, self.lower.reason, self.data[1].rule, self.provenance
        )
        for callback in callbacks:
            callback.started(announced)
        self.train = self._objective(self.data[1], folder)
        self.validation = self.validation_data and self._objective(self.validation_data[1], folder)
        with self.adapter.attached():
            self._set_references(start)
            monitored = sum(p.numel() for p in self.trained.values()) <= MAX_MONITORED
            self.monitor = LostUpdateMonitor(self.optimizer) if monitored else None
            if self.progress.step == 0 and self.validation is not None:
                record({"step": 0, "validation_loss": self._evaluate()})
            bar = tqdm(total=self.n_steps, initial=self.progress.step, desc="steps", disable=not self.show_progress)
            with bar:
                while self.progress.step < self.n_steps and not self.progress.stopped:
                    row = self._step(partial(self._save, folder, start))
                    record(row)
                    bar.set_postfix(
                        loss=f"{row['loss']:.4f}", tokens_per_s=f"{row['tokens_per_second']:.0f}", refresh=False
                    )
                    bar.update()
            if not all(torch.isfinite(p).all() for p in self.trained.values()):
                self._check(math.nan, self.progress.step)
            self._save(folder, start)
        if self.best is not None:
            _load(self.trained, self.best)
        return self._finished(folder)

    def _objective(self, encoded: Encoded, folder: RunFolder) -> Objective:
        def forward(sequences: Sequences) -> Forward:
            start = self.adapter.layers.start
            lower = None
            if self.lower.kept:
                lower = LowerLayers(
                    self.model,
                    sequences,
                    start,
                    self.cache_folder,
                    scratch=folder.folder,
                    show_progress=self.show_progress,
                )
            return Forward(self.model, sequences, lower, start if self.checkpoint else None)

        return objective(encoded, self.model.tokenizer.pad_token_id or 0, self.recipe, forward)

    def _finished(self, folder: RunFolder) -> Run:
        best = self.best is not None
        loss = self.progress.best_loss if best else None
        result = {"steps": self.progress.step, "stopped_early": self.progress.stopped}
        result |= {"best_step": self.progress.best_step if best else self.progress.step, "best_validation_loss": loss}
        self.adapter.provenance = self.provenance | {"result": result}
        return Run(
            self.adapter,
            self.recipe,
            metrics_frame(folder.metrics),
            self.data[1].rule,
            self.lower.reason,
            result["best_step"],
            loss,
            self.progress.stopped,
            self.adapter.provenance,
        )

    def _step(self, save: Callable[[], None]) -> dict[str, Any]:
        began = time.perf_counter()
        step = self.progress.step + 1
        batch = self.order(step)
        rate = self.recipe.lr_at(step, self.n_examples)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        weight = self.train.weight(batch)
        total = 0.0
        for part in chunks(batch, self.recipe.micro_batch_size or len(batch)):
            loss = self.train.loss(part) / weight
            loss.backward()
            total += float(loss.detach())
        self._check(total, step)
        if step > 1 and (step - 1) % self.save_every == 0:
            save()  # of the step before: only now are its numbers known to be good
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.trained.values(), self.recipe.clip)
        if self.monitor:
            self.monitor.before()
        self.optimizer.step()
        if self.monitor:
            self.monitor.after()
        self.progress.step = step
        seconds = time.perf_counter() - began
        row = {"step": step, "loss": total, "lr": rate, "tokens_per_second": self.train.n_tokens(batch) / seconds}
        epoch_ends = step % self.order.per_epoch == 0
        every = self.recipe.evaluate_every
        if self.validation is not None and (step % every == 0 if every else epoch_ends or step == self.n_steps):
            row["validation_loss"] = self._evaluate()
        if self.monitor and epoch_ends:
            lost = self.monitor.epoch()
            row |= {
                "lost_updates": lost.updates,
                "numbers_that_never_moved": lost.numbers,
                "lost_second_moments": lost.second_moments,
            }
        return row

    def _evaluate(self) -> float:
        """Validation loss; remembers the best numbers and how long there was no better one."""
        rows = range(len(self.validation))
        with torch.no_grad():
            total = sum(float(self.validation.loss(part)) for part in chunks(rows, scoring_batch(self.recipe)))
        loss = total / self.validation.weight(rows)
        self._check(loss, self.progress.step)
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step, self.progress.waited = loss, self.progress.step, 0
            self.best = _copied(self.trained)
        else:
            self.progress.waited += 1
            patience = self.recipe.patience
            self.progress.stopped = patience is not None and self.progress.waited >= patience
        return loss

    def _check(self, loss: float, step: int) -> None:
        """Raise AlignerProbeError for a loss that is no number, with the last good numbers back in the adapter."""
        if math.isfinite(loss):
            return
        if self.monitor:
            _load(self.trained, dict(zip(self.trained, self.monitor.last_numbers(), strict=True)))
        raise AlignerProbeError(
            f"the loss is {loss} at step {step}, so training stops; the adapter holds the numbers before the step that "
            f"led there. Lower the learning rate ({self.recipe.lr:g}), or set clip ({self.recipe.clip})"
        )

    def _set_references(self, start: dict[str, Tensor]) -> None:
        objectives = [o for o in (self.train, self.validation) if isinstance(o, DPO)]
        if objectives:
            with _as_at(self.trained, start):
                for each in objectives:
                    each.set_reference()

    def _restore(self, folder: RunFolder) -> dict[str, Tensor]:
        """Take up a saved state; returns the numbers the run began from, all of them, frozen ones too."""
        if folder.loaded is None:
            return _copied(dict(self.adapter.named_parameters()))
        state = folder.loaded
        _load(self.trained, state["numbers"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = state["best"] or None
        self.progress = Progress(**state["progress"])
        return state["start"]

    def _save(self, folder: RunFolder, start: dict[str, Tensor]) -> None:
        if folder.folder is None:
            return
        folder.save(
            {
                "step": self.progress.step,
                "progress": vars(self.progress),
                "numbers": _copied(self.trained),
                "best": self.best or {},
                "start": start,
                "optimizer": self.optimizer.state_dict(),
            }
        )


def _copied(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items()}


def _load(parameters: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(numbers[name])


@contextmanager
def _as_at(parameters: dict[str, Tensor], numbers: dict[str, Tensor]) -> Iterator[None]:
    """Other numbers inside the block; the present ones come back."""
    present = _copied(parameters)
    _load(parameters, numbers)
    try:
        yield
    finally:
        _load(parameters, present)
