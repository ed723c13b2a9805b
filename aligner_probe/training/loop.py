"""The one training loop: SFT and DPO, every adapter, resumable to the bit on one machine's CPU.

    run = fit(model, adapter, task, validation=held_out, recipe=recipe("corrected", lr=3e-3))
    run.loss.plot()

Order and batches follow from the recipe's seed and the step alone, so a resumed run makes the same steps.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.errors import AlignerProbeError
from aligner_probe.models import fingerprint
from aligner_probe.tasks.encoding import Encoded, encode
from aligner_probe.tasks.task import Task
from aligner_probe.training.monitor import LostUpdateMonitor
from aligner_probe.training.objective import DPO, SCORING_BATCH, SFT, Objective, chunks
from aligner_probe.training.recipe import Recipe
from aligner_probe.training.recipe import recipe as named_recipe
from aligner_probe.training.state import RunFolder

#: Above this many trained numbers (full fine-tuning) the lost-update monitor's copies cost too much.
MAX_MONITORED = 50_000_000


@dataclass(frozen=True, eq=False)
class Run:
    """What a training left behind; the adapter holds the best numbers where there was a validation part, else the last.

    `metrics` has one row a step: loss (before the step), lr, tokens_per_second; validation_loss where it was taken, and
    at the end of an epoch the shares of the lost-update monitor. `rule` says how examples were encoded.
    """

    adapter: Adapter
    recipe: Recipe
    metrics: pd.DataFrame
    rule: str
    best_step: int
    best_validation_loss: float | None
    stopped_early: bool

    @property
    def loss(self) -> pd.Series:
        """Training loss by step."""
        return self.metrics.set_index("step")["loss"]

    @property
    def validation_loss(self) -> pd.Series:
        """Validation loss by step, where taken; step 0 is before training."""
        return self.metrics.set_index("step")["validation_loss"].dropna()


@dataclass
class Progress:
    """Where a run is; what `state.pt` keeps beside the numbers."""

    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    waited: int = 0
    stopped: bool = False


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
    show_progress: bool = True,
) -> Run:
    """Train an adapter on a task: cross-entropy of completions, or DPO for preferences.

    DPO's reference is the adapter as it comes in: train by SFT first. With `out`, metrics and state are kept there;
    `resume` goes on with what is there, to the same numbers. Raises AlignerProbeError where the adapter is of another
    model, the base has no tokenizer, options do not fit, the loss is no longer finite (the adapter then holds the last
    numbers that were good), or the folder is taken.
    """
    if adapter.model is not model:
        raise AlignerProbeError("this adapter was made for another model object; make it, or load it, for this one")
    recipe = recipe or named_recipe("corrected", task.kind)
    trainer = _Trainer(model, adapter, task, validation, recipe, save_every, show_progress)
    folder = RunFolder(None if out is None else Path(out), trainer.identity, resume=resume)
    with folder.locked():
        return trainer.run(folder)


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
        encoded = self._encode(task)
        self.rule = encoded.rule
        self.train = self._objective(encoded)
        self.validation = None if validation is None else self._objective(self._encode(validation))
        if recipe.precision == "bf16-true":
            adapter.to(torch.bfloat16)
        self.trained = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self.n_steps = recipe.total_steps(len(self.train))
        self.per_epoch = recipe.steps_per_epoch(len(self.train))
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None
        self.identity = {
            "method": adapter.method,
            "adapter": adapter.config.to_dict(),
            "recipe": recipe.to_dict(),
            "task": task.sha256,
            "validation": None if validation is None else validation.sha256,
            "base": fingerprint(model),
        }

    def _encode(self, task: Task) -> Encoded:
        if self.model.tokenizer is None:
            raise AlignerProbeError("this base has no tokenizer, so there are no tokens to train on; load it with one")
        recipe = self.recipe
        longest = recipe.max_length or self.model.cfg.n_ctx
        if longest > self.model.cfg.n_ctx:
            raise AlignerProbeError(f"max_length {longest} on a base whose context is {self.model.cfg.n_ctx} tokens")
        return encode(
            task,
            self.model.tokenizer,
            max_length=longest,
            mask_prompt=recipe.mask_prompt,
            overlong=recipe.overlong,
            append_eos=recipe.append_eos,
        )

    def _objective(self, encoded: Encoded) -> Objective:
        pad = self.model.tokenizer.pad_token_id or 0
        if encoded.kind == "sft":
            return SFT(self.model, encoded, pad)
        return DPO(self.model, encoded, pad, self.recipe.beta)

    def run(self, folder: RunFolder) -> Run:
        start = self._restore(folder)
        self.adapter.start = start
        with self.adapter.attached():
            self._set_references(start)
            monitored = sum(p.numel() for p in self.trained.values()) <= MAX_MONITORED
            self.monitor = LostUpdateMonitor(self.optimizer) if monitored else None
            if self.progress.step == 0 and self.validation is not None:
                folder.record({"step": 0, "validation_loss": self._evaluate()})
            bar = tqdm(total=self.n_steps, initial=self.progress.step, desc="steps", disable=not self.show_progress)
            with bar:
                while self.progress.step < self.n_steps and not self.progress.stopped:
                    row = self._step()
                    folder.record(row)
                    bar.update()
                    bar.set_postfix(loss=f"{row['loss']:.4f}", tokens_per_s=f"{row['tokens_per_second']:.0f}")
                    last = self.progress.step == self.n_steps or self.progress.stopped
                    if self.progress.step % self.save_every == 0 or last:
                        folder.save(self._state(start))
        if self.best is not None:
            _load(self.trained, self.best)
        return Run(
            self.adapter,
            self.recipe,
            pd.DataFrame(folder.metrics, columns=_columns(folder.metrics)),
            self.rule,
            self.progress.best_step if self.best is not None else self.progress.step,
            self.progress.best_loss if self.best is not None else None,
            self.progress.stopped,
        )

    def _step(self) -> dict[str, Any]:
        began = time.perf_counter()
        step = self.progress.step + 1
        batch = self._batch(step)
        rate = self.recipe.lr_at(step, len(self.train))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        weight = self.train.weight(batch)
        total = 0.0
        for part in chunks(batch, self.recipe.micro_batch_size or len(batch)):
            loss = self.train.loss(part) / weight
            loss.backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            self._refuse_loss(total, step)
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
        epoch_ends = step % self.per_epoch == 0
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

    def _batch(self, step: int) -> list[int]:
        """Indices of step 1, 2, ...: from the seed and the step alone."""
        n, size, seed = len(self.train), self.recipe.batch_size, self.recipe.seed
        if self.recipe.replacement:
            generator = torch.Generator().manual_seed(_mixed(seed, step))
            return torch.randint(n, (size,), generator=generator).tolist()
        epoch, place = divmod(step - 1, self.per_epoch)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(_mixed(seed, epoch))).tolist()
        return order[place * size : (place + 1) * size]

    def _evaluate(self) -> float:
        """Validation loss; remembers the best numbers and how long there was no better one."""
        with torch.no_grad():
            total = sum(
                float(self.validation.loss(part)) for part in chunks(range(len(self.validation)), SCORING_BATCH)
            )
        loss = total / self.validation.weight(range(len(self.validation)))
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step, self.progress.waited = loss, self.progress.step, 0
            self.best = _copied(self.trained)
        else:
            self.progress.waited += 1
            patience = self.recipe.patience
            self.progress.stopped = patience is not None and self.progress.waited >= patience
        return loss

    def _refuse_loss(self, loss: float, step: int) -> None:
        if self.monitor and step > 1:
            _load(self.trained, dict(zip(self.trained, self.monitor.last_numbers, strict=True)))
        raise AlignerProbeError(
            f"the loss is {loss} at step {step}, so training stops; the adapter holds the numbers before the step that "
            f"led there. Lower the learning rate ({self.recipe.lr:g}), or set clip ({self.recipe.clip})"
        )

    def _set_references(self, start: dict[str, Tensor]) -> None:
        objectives = [o for o in (self.train, self.validation) if isinstance(o, DPO)]
        if objectives:
            with _as_at(self.trained, start):
                for objective in objectives:
                    objective.set_reference()

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

    def _state(self, start: dict[str, Tensor]) -> dict[str, Any]:
        return {
            "step": self.progress.step,
            "progress": vars(self.progress),
            "numbers": _copied(self.trained),
            "best": self.best or {},
            "start": start,
            "optimizer": self.optimizer.state_dict(),
        }


def _mixed(seed: int, place: int) -> int:
    """One seed a place, far from those of other seeds."""
    return (seed * 1_000_003 + place * 7_919 + 12_345) % 2**63


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


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    first = ["step", "loss", "lr", "tokens_per_second", "validation_loss"]
    return [*first, *sorted({key for row in rows for key in row} - set(first))]
