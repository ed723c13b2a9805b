"""The one training loop: SFT and DPO, every adapter, resumable to the bit on one machine's CPU.

run = fit(model, adapter, task, validation=held_out, recipe=recipe("corrected", lr=3e-3))
run.loss.plot()

Several runs on one base can share their batches: each step is one forward and backward pass over the rows of all, each
adapter at work on its own rows (adapters/side_by_side.py), and for the rest each run is as alone.

first, second = fit_together(model, [Training(adapter=a, task=task), Training(adapter=b, task=task)])
"""

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.adapters.side_by_side import SideBySide
from aligner_probe.arguments import a_model, accepts, keywords_of, several_of
from aligner_probe.checkpoints.given import one_adapter
from aligner_probe.errors import AlignerProbeError, one_of
from aligner_probe.models import embedding_rows, threads_for
from aligner_probe.tasks.encoding import Encoded, Tokens, pad_id
from aligner_probe.tasks.given import one_task
from aligner_probe.tasks.task import Task
from aligner_probe.threads import Threads, as_begun, using
from aligner_probe.training import below
from aligner_probe.training.callbacks import Callback, Start
from aligner_probe.training.lower_layers import BUDGET_BYTES, Cache, LowerLayers, plan
from aligner_probe.training.member import Member, Training, as_at, several_callbacks
from aligner_probe.training.memory import capacity
from aligner_probe.training.objective import DPO, Forward, chunks, objective, scoring_batch, sequences_of
from aligner_probe.training.recipe import Recipe, one_recipe
from aligner_probe.training.run import Run
from aligner_probe.training.sequences import Sequences
from aligner_probe.training.state import STATE, RunFolder, lower_layers_kept, threads_recorded

#: Whose row of metrics it is, in the folder of runs that share a batch.
RUN = "run"


@accepts(
    rest=lambda: keywords_of(fit_together),
    model=a_model,
    adapter=one_adapter,
    task=one_task,
    validation=one_task,
    recipe=one_recipe,
    callbacks=several_callbacks,
)
def fit(
    model: TransformerBridge,
    adapter: Adapter,
    task: Task,
    *,
    validation: Task | None = None,
    recipe: Recipe | None = None,
    callbacks: Sequence[Callback] = (),
    **carried_out: Any,
) -> Run:
    """Train an adapter on a task: cross-entropy of completions, or DPO for preferences.

    DPO's reference is the adapter as it comes in: train by SFT first. `carried_out` are the options of `fit_together`:
    out, resume, save_every, cache, cache_budget, cache_folder, checkpoint_activations, show_progress.

    Raises AlignerProbeError as `fit_together` does, and where the loss is no longer finite.
    """
    one = Training(adapter=adapter, task=task, validation=validation, recipe=recipe, callbacks=callbacks)
    [found] = fit_together(model, [one], **carried_out)
    if isinstance(found, AlignerProbeError):
        raise found
    return found


@accepts(
    model=a_model,
    trainings=several_of(Training, "a list of trainings: [ap.Training(adapter=adapter, task=task), ...]"),
)
def fit_together(
    model: TransformerBridge,
    trainings: Sequence[Training],
    *,
    out: str | Path | None = None,
    resume: bool = False,
    save_every: int = 50,
    cache: Cache | str = "auto",
    cache_budget: int = BUDGET_BYTES,
    cache_folder: str | Path | None = None,
    checkpoint_activations: bool = False,
    show_progress: bool = True,
) -> list[Run | AlignerProbeError]:
    """Train adapters on one base, their batches side by side in one; the runs in order.

    Each has its own examples, learning rate, clipping, validation and end, and the numbers it would have alone, but for
    rounding. One whose loss is no longer finite leaves the batch, its adapter with the last numbers that were good, and
    the error stands in place of its run.

    With `out`, metrics and state of all are kept there; `resume` goes on with what is there, to the same numbers.
    While it works, torch has the number of threads that fits the base's size, unless the user chose one
    (`aligner_probe.threads`); a run that goes on has the number that it began with. `show_progress` also prints
    `Run.advice` at the end.
    `cache`: keep the outcome of the layers below the adapters' first one for all examples, at most `cache_budget` bytes
    of it ("auto": where that is possible and pays), in a temporary file, or for other runs in `cache_folder`.
    Nothing is kept where a hook, dropout or a parametrization may make the lower layers differ between steps; what a
    callback changes in them during the training counts from then on (`Run.lower_layers` says so).
    `checkpoint_activations` computes layers again in the backward pass rather than keep what they need, but for layers
    in which a user has hooked something: these run once.

    Raises AlignerProbeError where an adapter is of another model or does not work row by row (prompt tuning and full
    fine-tuning are trained alone), the base has no tokenizer, options do not fit, the memory surely does not suffice,
    or the folder is taken.
    """
    if save_every < 1 or not cache_budget >= 0:
        raise AlignerProbeError(
            f"save_every {save_every} steps and cache_budget {cache_budget} bytes; expected 1 or more, and 0 or more"
        )
    one_of(cache, ("auto", True, False), "cache")
    out = None if out is None else Path(out)
    threads = threads_for(model)
    if out and resume and (out / STATE).exists():
        threads = as_begun(threads, threads_recorded(out))
    loop = _Loop(model, [Member(model, one) for one in trainings], save_every, show_progress, threads)
    begun = lower_layers_kept(out) if out and resume else None
    if begun is not None and cache == "auto":
        cache = begun  # by the disk as it was then
    # A file in `cache_folder` may be there already.
    scratch = None if cache_folder else out or Path(tempfile.gettempdir())
    with using(threads):
        return _carried_out(loop, out, resume, (cache, cache_budget, cache_folder, scratch, checkpoint_activations))


def _carried_out(loop: "_Loop", out: Path | None, resume: bool, how: tuple[Any, ...]) -> list[Run | AlignerProbeError]:
    """Plan the runs, hold their folder, train, and tell the callbacks how each ended."""
    loop.plan(*how)
    folder = RunFolder(out, loop.identity, resume=resume)
    with folder.locked():
        try:
            found = loop.run(folder)
        except BaseException as error:
            if loop.beside is None and error is loop.members[0].error:
                _tell_failed(loop.members[0], error)
                return [error]
            for member in loop.members:
                _tell_failed(member, error)
            raise
        for member, run in zip(loop.members, found, strict=True):
            if isinstance(run, AlignerProbeError):
                _tell_failed(member, run)
                continue
            for callback in member.callbacks:
                callback.ended(run)
            if loop.show_progress:
                tqdm.write(f"{member.adapter.method}: {run.advice}")
    return found


class _Loop:
    def __init__(
        self, model: TransformerBridge, members: list[Member], save_every: int, show_progress: bool, threads: Threads
    ):
        self.model, self.members, self.threads = model, members, threads
        self.save_every, self.show_progress = save_every, show_progress
        self.beside = SideBySide([member.adapter for member in members]) if len(members) != 1 else None
        self.attached = (self.beside or members[0].adapter).attached
        self.start_layer = min(member.adapter.layers.start for member in members)

    def plan(
        self, cache: Cache, budget: int, folder: str | Path | None, scratch: Path | None, checkpoint: bool
    ) -> None:
        """Settle how the runs are carried out, before anything is written or computed."""
        self.cache_folder, self.checkpoint = folder, checkpoint
        #: What all that is trained on, and all that is validated on, encodes to: once each, by its hash.
        self.encoded: dict[str, dict[str, Encoded]] = {"train": {}, "validation": {}}
        for member in self.members:
            for which, encoded in member.encoded.items():
                self.encoded[which].setdefault(member.hashes[which], encoded)
        lengths = [len(row) for known in self.encoded.values() for one in known.values() for row in sequences_of(one)]
        lowest = min(self.members, key=lambda member: member.adapter.layers.start)
        passes = max(member.passes for member in self.members)
        self.lower = plan(lowest.adapter, sum(lengths), passes, cache, budget, scratch)
        estimates = [member.memory(max(lengths), checkpoint) for member in self.members]
        self.memory = estimates[0]
        for other in estimates[1:]:
            self.memory += other
        self.memory.check(*capacity(self.model))
        execution = {"lower_layers": self.lower.kept, "checkpoint_activations": checkpoint}
        if self.beside:
            execution["runs_in_a_batch"] = len(self.members)
        for member in self.members:
            member.settle(self.lower, execution)
        identities = [member.identity for member in self.members]
        self.identity = {"runs": identities} if self.beside else identities[0]

    def run(self, folder: RunFolder) -> list[Run | AlignerProbeError]:
        self.folder = folder
        self._restore()
        for member in self.members:
            first = member.progress.step + 1
            start = Start(
                first, member.n_steps, self.memory, self.lower.reason, member.data[1].rule, member.provenance,
                member.schedule, self.threads,
            )  # fmt: skip
            for callback in member.callbacks:
                callback.started(start)
        self._prepare()
        with self.attached():
            self._set_references()
            for member in self.members:
                member.watch()
            begun = max(member.progress.step for member in self.members)
            if begun == 0:
                for member, loss in self._evaluate([m for m in self.members if m.validation is not None]):
                    self._record(member, {"step": 0, "validation_loss": loss})
            total = max(member.n_steps for member in self.members)
            with tqdm(total=total, initial=begun, desc="steps", disable=not self.show_progress) as bar:
                while left := [member for member in self.members if member.goes_on]:
                    rows = self._step(left)
                    for member, row in rows:
                        self._record(member, row)
                    for _, row in rows[:1]:
                        rate = f"{row['tokens_per_second']:.0f}"
                        bar.set_postfix(loss=f"{row['loss']:.4f}", tokens_per_s=rate, refresh=False)
                    bar.update()
            for member in self.members:
                if member.error is None and not all(torch.isfinite(p).all() for p in member.trained.values()):
                    self._good(member, math.nan, member.progress.step)
            self._save()
        self._say_what_was_set_aside()
        return [member.error or member.finished(self._metrics(member)) for member in self.members]

    def _say_what_was_set_aside(self) -> None:
        """Where kept layers were not used in all of the training, the runs say so, and why."""
        said = next((forward.set_aside for forward in self.forwards if forward.set_aside), None)
        if said is not None:
            for member in self.members:
                reason = f"{member.lower.reason}, but not used in all of the training: {said}"
                member.lower = replace(member.lower, reason=reason)

    def _prepare(self) -> None:
        """The forward passes over all that is trained on and all that is validated on, and each run's part of them."""
        self.forwards: list[Forward] = []
        for which, known in self.encoded.items():
            rows: list[Tokens] = []
            first = {}
            for name, encoded in known.items():
                first[name] = len(rows)
                rows += sequences_of(encoded)
            forward = self._forward(rows) if rows else None
            self.forwards += [forward] if forward else []
            for member in self.members:
                its = member.encoded.get(which)
                made = its and objective(its, member.recipe, forward, first[member.hashes[which]])
                setattr(member, which, made)

    def _forward(self, rows: Sequence[Tokens]) -> Forward:
        sequences = Sequences(rows, pad_id(self.model.tokenizer, embedding_rows(self.model)))
        lower = None
        # What a callback has changed since it was planned is no part of the base.
        changed = below.obstacle(self.model, self.start_layer) if self.lower.kept else None
        if self.lower.kept and changed is None:
            lower = LowerLayers(
                self.model,
                sequences,
                self.start_layer,
                self.cache_folder,
                scratch=self.folder.folder,
                show_progress=self.show_progress,
            )
        forward = Forward(self.model, sequences, lower, self.start_layer if self.checkpoint else None)
        forward.set_aside = changed
        return forward

    def _step(self, members: list[Member]) -> list[tuple[Member, dict[str, Any]]]:
        """One step of all these; rows of metrics of those whose loss is a number."""
        began = time.perf_counter()
        batches = {member: member.next_batch() for member in members}
        weights = {member: member.train.weight(batch) for member, batch in batches.items()}
        totals = self._losses(
            {m: list(chunks(batch, m.recipe.micro_batch_size or len(batch))) for m, batch in batches.items()},
            "train",
            weights,
        )
        step = members[0].progress.step + 1
        good = [member for member in members if self._good(member, totals[member], step)]
        if good and step > 1 and (step - 1) % self.save_every == 0:
            self._save()  # of the step before: only now are its numbers known to be good
        n_tokens = sum(
            int(m.train.forward.sequences.lengths[torch.as_tensor(m.train.rows(batches[m]))].sum()) for m in members
        )
        rows = {}
        for member in good:
            rows[member] = member.step(totals[member], 0.0)
        for row in rows.values():
            row["tokens_per_second"] = n_tokens / (time.perf_counter() - began)
        for member, loss in self._evaluate([member for member in good if member.is_due]):
            rows[member]["validation_loss"] = loss
        for member in good:
            rows[member] |= member.lost_updates()
        return [(member, row) for member, row in rows.items() if member.error is None]

    def _losses(
        self, parts: dict[Member, list[Sequence[int]]], which: str, weights: dict[Member, int]
    ) -> dict[Member, float]:
        """Each one's loss over its parts, the first of all in one pass, then the second; with gradients, if any."""
        totals = dict.fromkeys(parts, 0.0)
        for place in range(max(map(len, parts.values()), default=0)):
            picked = {member: its[place] for member, its in parts.items() if place < len(its)}
            objectives = {member: getattr(member, which) for member in picked}
            rows = {member: objectives[member].rows(indices) for member, indices in picked.items()}
            with self._on({member: len(its) for member, its in rows.items()}):
                logits, labels = next(iter(objectives.values())).forward([i for its in rows.values() for i in its])
                sizes = [len(its) for its in rows.values()]
                blocks = (logits.split(sizes), labels.split(sizes)) if self.beside else ([logits], [labels])
                each = zip(picked, *blocks, strict=True)
                losses = {m: objectives[m].loss(its, wanted, picked[m]) / weights[m] for m, its, wanted in each}
                if torch.is_grad_enabled():
                    # In here, as blocks may run again.
                    torch.autograd.backward(list(losses.values()))
            for member, loss in losses.items():
                totals[member] += float(loss.detach())
        return totals

    def _evaluate(self, members: list[Member]) -> Iterator[tuple[Member, float]]:
        """Validation losses of those for whom they are numbers."""
        everything = {member: range(len(member.validation)) for member in members}
        parts = {m: list(chunks(rows, scoring_batch(m.recipe))) for m, rows in everything.items()}
        with torch.no_grad():
            found = self._losses(parts, "validation", dict.fromkeys(members, 1))
        for member, total in found.items():
            loss = total / member.validation.weight(everything[member])
            if self._good(member, loss, member.progress.step):
                member.evaluated(loss)
                yield member, loss

    def _good(self, member: Member, loss: float, step: int) -> bool:
        """Whether a loss is a number. A run alone ends here with the error, its saved state as it was."""
        if member.is_good(loss, step):
            return True
        if self.beside is None:
            raise member.error
        return False

    def _on(self, rows: dict[Member, int]) -> AbstractContextManager:
        """Inside, a batch is so many rows of each of these."""
        return self.beside.on([rows.get(member, 0) for member in self.members]) if self.beside else nullcontext()

    def _only(self, member: Member) -> AbstractContextManager:
        """Inside, one run's adapter is what is attached."""
        return self.beside.only(self.members.index(member)) if self.beside else nullcontext()

    def _set_references(self) -> None:
        for member in self.members:
            objectives = [o for o in (member.train, member.validation) if isinstance(o, DPO)]
            with self._only(member), as_at(member.trained, member.adapter.start if objectives else {}):
                for each in objectives:
                    each.set_reference()

    def _record(self, member: Member, row: dict[str, Any]) -> None:
        self.folder.record(row | {RUN: self.members.index(member)} if self.beside else row)
        with self._only(member):
            for callback in member.callbacks:
                callback.stepped(row)

    def _metrics(self, member: Member) -> list[dict[str, Any]]:
        if self.beside is None:
            return self.folder.metrics
        mine = self.members.index(member)
        return [{k: v for k, v in row.items() if k != RUN} for row in self.folder.metrics if row.get(RUN) == mine]

    def _restore(self) -> None:
        """Take up the saved state of all, which are at one step."""
        loaded = self.folder.loaded
        with self.folder.restoring():
            states = [None] * len(self.members) if loaded is None else loaded["runs"] if self.beside else [loaded]
            for member, state in zip(self.members, states, strict=True):
                member.restore(state)

    def _save(self) -> None:
        if self.folder.folder is None:
            return
        states = [member.state() for member in self.members]
        step = max(member.progress.step for member in self.members)
        saved = {"step": step, "threads": self.threads.n}
        self.folder.save(saved | ({"runs": states} if self.beside else states[0]))


def _tell_failed(member: Member, error: BaseException) -> None:
    if member.progress.step:
        member.ended({"steps": member.progress.step, "unfinished": True})
    for callback in member.callbacks:
        callback.failed(error)
