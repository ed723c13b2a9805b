"""The one training loop: SFT and DPO, any adapter, one training or several that share their batches.

A step of several trainings is one forward and one backward pass over the rows of all. Each adapter works on its own
rows (`adapters/side_by_side.py`), and each training has its own examples, learning rate, clipping, validation and end.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from tqdm.auto import tqdm

from aligner_probe.adapters.side_by_side import SideBySide
from aligner_probe.errors import AlignerProbeError
from aligner_probe.training import passes
from aligner_probe.training.member import Member, as_at
from aligner_probe.training.objective import DPO, Objective, Objectives, scoring_batch
from aligner_probe.training.records import Records
from aligner_probe.training.run import Run


class Loop:
    """Trains members to their ends.

    Args:
        members: the trainings, their saved states taken up.
        objectives: what each of them minimises.
        records: where their metrics and states go.
        beside: their adapters side by side; None for one training alone.
        save_every: steps between two saved states.
        show_progress: whether there is a progress bar.
    """

    def __init__(
        self,
        members: Sequence[Member],
        objectives: Sequence[Objectives],
        records: Records,
        beside: SideBySide | None,
        *,
        save_every: int,
        show_progress: bool,
    ):
        self.members, self.records, self.beside = members, records, beside
        self.save_every, self.show_progress = save_every, show_progress
        self.train: dict[Member, Objective] = {}
        self.validation: dict[Member, Objective] = {}
        for member, its in zip(members, objectives, strict=True):
            self.train[member] = its.train
            if its.validation is not None:
                self.validation[member] = its.validation

        self.tokens_of_a_pass = passes.tokens_of_a_pass(objectives[0].train.forward.model)

    def run(self, lower_layers: str) -> list[Run | AlignerProbeError]:
        """Make all steps; the results in order, an error in place of one whose loss was no longer finite.

        `lower_layers` says whether layers below the adapters are computed once, for the results. The error of a
        training alone is raised.
        """
        adapter = self.beside or self.members[0].adapter
        with adapter.attached():
            self._set_references()
            for member in self.members:
                member.watch()
            begun = max(member.progress.step for member in self.members)
            if begun == 0:
                for member, loss in self._evaluate(list(self.validation)):
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
            self.records.save()
        if said := self._why_set_aside():
            lower_layers = f"{lower_layers}, but not used in all of the training: {said}"
        return [member.error or member.finished(self.records.of(member), lower_layers) for member in self.members]

    def _why_set_aside(self) -> str | None:
        """Why kept layers were not used in some forward pass; None where they always were."""
        objectives = [*self.train.values(), *self.validation.values()]
        return next((one.forward.set_aside for one in objectives if one.forward.set_aside), None)

    def _step(self, members: list[Member]) -> list[tuple[Member, dict[str, Any]]]:
        """Make one step of these members; the rows of metrics of those whose loss is finite."""
        began = time.perf_counter()
        batches = {member: member.next_batch() for member in members}
        sizes = {member: member.recipe.micro_batch_size for member in members}
        parts = passes.in_passes(batches, self.train, sizes, self.tokens_of_a_pass)
        weights = {member: self.train[member].weight(batch) for member, batch in batches.items()}
        totals = self._losses(parts, self.train, weights)
        step = members[0].progress.step + 1
        good = [member for member in members if self._good(member, totals[member], step)]
        if good and step > 1 and (step - 1) % self.save_every == 0:
            self.records.save()  # the state after the step before, whose parameters are now known to be good
        n_tokens = sum(self._n_tokens(member, batches[member]) for member in members)
        rows = {member: member.step(totals[member]) for member in good}
        for member, row in rows.items():
            row["n_terms"] = weights[member]
            row["tokens_per_second"] = n_tokens / (time.perf_counter() - began)
        for member, loss in self._evaluate([member for member in good if member.is_due]):
            rows[member]["validation_loss"] = loss
        for member in good:
            rows[member] |= member.lost_updates()
        return [(member, row) for member, row in rows.items() if member.error is None]

    def _n_tokens(self, member: Member, batch: Sequence[int]) -> int:
        """How many tokens these examples have, without padding."""
        train = self.train[member]
        return int(train.forward.sequences.lengths[torch.as_tensor(train.rows(batch))].sum())

    def _losses(
        self,
        parts: Mapping[Member, list[Sequence[int]]],
        objectives: Mapping[Member, Objective],
        weights: Mapping[Member, int],
    ) -> dict[Member, float]:
        """Each member's summed loss over its parts, divided by its weight; adds gradients where these are enabled.

        The first parts of all members go through the model in one pass, then the second parts, and so on.
        """
        totals = dict.fromkeys(parts, 0.0)
        for index in range(max(map(len, parts.values()), default=0)):
            picked = {member: its[index] for member, its in parts.items() if index < len(its)}
            rows = {member: objectives[member].rows(indices) for member, indices in picked.items()}
            forward = objectives[next(iter(picked))].forward
            with self._on({member: len(its) for member, its in rows.items()}):
                predictions = forward([i for its in rows.values() for i in its]).split([*map(len, rows.values())])
                losses = {
                    member: objectives[member].loss(its, picked[member]) / weights[member]
                    for member, its in zip(picked, predictions, strict=True)
                }
                if torch.is_grad_enabled():
                    # Layers with checkpointed activations run again here, with the adapters still on their rows.
                    torch.autograd.backward(list(losses.values()))
            for member, loss in losses.items():
                totals[member] += float(loss.detach())
        return totals

    def _evaluate(self, members: list[Member]) -> Iterator[tuple[Member, float]]:
        """The validation losses of those of these members for whom they are finite."""
        everything = {member: range(len(self.validation[member])) for member in members}
        parts = {m: passes.parts_of(self.validation[m], its, scoring_batch(m.recipe)) for m, its in everything.items()}
        with torch.no_grad():
            totals = self._losses(parts, self.validation, dict.fromkeys(members, 1))
        for member, total in totals.items():
            loss = total / self.validation[member].weight(everything[member])
            if self._good(member, loss, member.progress.step):
                member.evaluated(loss)
                yield member, loss

    def _good(self, member: Member, loss: float, step: int) -> bool:
        """Whether a loss is finite. Raises the error of a training alone, whose saved state stays as it is."""
        if member.is_good(loss, step):
            return True
        if self.beside is None and member.error is not None:
            raise member.error
        return False

    def _on(self, rows: Mapping[Member, int]) -> AbstractContextManager:
        """Inside, a batch has this many rows of each member, in order."""
        return self.beside.on([rows.get(member, 0) for member in self.members]) if self.beside else nullcontext()

    def _only(self, member: Member) -> AbstractContextManager:
        """Inside, all rows of a batch belong to one member."""
        return self.beside.only(self.members.index(member)) if self.beside else nullcontext()

    def _set_references(self) -> None:
        """Compute what DPO compares with: the log-probabilities under the parameters that each training began from."""
        for member in self.members:
            both = (self.train[member], self.validation.get(member))
            preferences = [one for one in both if isinstance(one, DPO)]
            with self._only(member), as_at(member.trained, (member.adapter.start or {}) if preferences else {}):
                for one in preferences:
                    one.set_reference()

    def _record(self, member: Member, row: dict[str, Any]) -> None:
        self.records.add(member, row)
        with self._only(member):
            for callback in member.callbacks:
                callback.stepped(row)
