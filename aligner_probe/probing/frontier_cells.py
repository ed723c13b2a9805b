"""The cells of a frontier: train an arm at several learning rates, and read form and knowledge after several lengths.

A reading asks items of the task (the form) and items of another domain (the knowledge) at some step of a training,
which then goes on. So one training gives a reading for each length.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aligner_probe.arms.catalogue import ARMS, new_arm_adapter
from aligner_probe.arms.names import PROMPT
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.guessing import sft_examples
from aligner_probe.files import read_json, write_text
from aligner_probe.jobs.folder import WORK
from aligner_probe.probing.asking import ways_to_ask
from aligner_probe.probing.batches import evenly, most_together
from aligner_probe.probing.bench import ZERO_SHOT, ProbeBench, first
from aligner_probe.probing.cells import LOWER_LAYERS
from aligner_probe.probing.frontier_plan import FrontierCell
from aligner_probe.probing.prompts import Prompting, fitting
from aligner_probe.study import cell_folder
from aligner_probe.tasks.task import Task
from aligner_probe.training import Run, Training, fit_together, recipe
from aligner_probe.training.callbacks import Callback
from aligner_probe.training.rates import at_width

#: What a reading has: a score for each item, by name.
Read = dict[str, list[float]]


@dataclass(frozen=True)
class FrontierBench(ProbeBench):
    """The bench of a probe, and the most items of the task that each run is asked."""

    n_form: int = 100

    @property
    def form_kind(self) -> str:
        """The kind of score that is the form: "format" where form and content can be told apart, else "strict"."""
        return "format" if self.has_formats else "strict"

    @property
    def form_items(self) -> Task:
        """The items of the task that each run is asked."""
        return first(self.parts.test, self.n_form)

    def read(self, prompting: Prompting = ZERO_SHOT) -> Read:
        """Ask the task and the other domain with the attached adapters: "form", "kept" and "plain", one value an item.

        Raises AlignerProbeError where there are no off-domain items.
        """
        kept = self.kept(prompting)
        if not kept:
            raise AlignerProbeError(
                "there are no questions of another domain, so no knowledge to keep; give some: --off-domain FILE"
            )
        scores, _ = self.asked(self.form_items, prompting)
        return {"form": scores[self.form_kind], "kept": kept["content"], "plain": kept["format"]}


def carry_out(bench: FrontierBench, cell: FrontierCell, *, out: Path) -> None:
    """Make one cell: the folder OUT/runs/ID.

    Raises AlignerProbeError where the folder exists already, or as `fit_together` and `score_task` do.
    """
    work = out / WORK / cell.id
    with cell_folder(out, cell.id, asdict(cell), bench.model) as (_, results):
        results |= _asked(bench, cell) if cell.arm == PROMPT else _trained(bench, cell, out, work)
    shutil.rmtree(work, ignore_errors=True)


def training_of(bench: ProbeBench, cell: FrontierCell, rate: float, callbacks: Sequence[Callback] = ()) -> Training:
    """A training of the cell's arm at a learning rate for the base model's width, to the longest of its lengths.

    There is no validation: a run is read as it is at a step, not at its best one.
    """
    train = bench.as_trained(bench.parts.train)
    how = recipe(
        "corrected",
        lr=rate,
        batch_size=min(bench.budget.batch_size, len(train)),
        steps=max(cell.lengths),
        evaluate_every=0,
        patience=None,
        seed=cell.seed,
        append_eos=not bench.ending,
    )
    adapter = new_arm_adapter(cell.arm, bench.model, cell.seed)
    return Training(adapter=adapter, task=train, recipe=how, callbacks=callbacks)


class _Reader(Callback):
    """Reads a training at some of its steps. The readings are kept in `file`, so that they survive an interruption."""

    def __init__(self, bench: FrontierBench, lengths: Sequence[int], file: Path):
        self.bench, self.lengths, self.file, self.seconds = bench, lengths, file, 0.0

    @property
    def readings(self) -> dict[str, Read]:
        """The readings by step, as JSON has them."""
        return read_json(self.file) if self.file.is_file() else {}

    def stepped(self, row: dict[str, Any]) -> None:
        if row["step"] in self.lengths:
            began = time.perf_counter()
            write_text(self.file, json.dumps(self.readings | {str(row["step"]): self.bench.read()}))
            self.seconds += time.perf_counter() - began


def _trained(bench: FrontierBench, cell: FrontierCell, out: Path, work: Path) -> dict[str, Any]:
    """Train the cell's arm at all its rates, together where it stacks; every run's readings by step."""
    rates = at_width(cell.rates, bench.model.cfg.d_model)
    readers = [_Reader(bench, cell.lengths, work / f"read_{index}.json") for index in range(len(rates))]
    together = evenly(len(rates), most_together(bench)) if ARMS[cell.arm].stacks else 1
    runs: list[Run | AlignerProbeError] = []
    for start in range(0, len(rates), together):
        some = slice(start, start + together)
        trainings = [
            training_of(bench, cell, rate, [reader]) for rate, reader in zip(rates[some], readers[some], strict=True)
        ]
        runs += fit_together(
            bench.model,
            trainings,
            out=work / f"batch_{start}",
            resume=True,
            cache_folder=out / WORK / LOWER_LAYERS,
            show_progress=False,
        )
    n_parameters = next((run.adapter.n_parameters for run in runs if isinstance(run, Run)), None)
    return {
        "form_kind": bench.form_kind,
        "n_parameters": n_parameters,
        "together": together,
        "runs": [
            {"lr": rate, "readings": reader.readings, "failed": None if isinstance(run, Run) else str(run)}
            for rate, reader, run in zip(rates, readers, runs, strict=True)
        ],
        "seconds_reading": round(sum(reader.seconds for reader in readers), 2),
    }


def _asked(bench: FrontierBench, cell: FrontierCell) -> dict[str, Any]:
    """Read the base model as it is, and in every way to ask of the cell that fits into its context.

    Off-domain items are asked in the same way: after examples of the task, or with its instruction.
    """
    if bench.off_domain is None:
        bench.read()  # raises
    tried, refused = ways_to_ask(bench)
    tried = [one for one in tried if not cell.ways or one.name in cell.ways]
    parts = (bench.form_items, first(bench.off_domain or bench.form_items, bench.budget.n_off_domain))
    items = [example for part in parts for example in sft_examples(part)]
    fit = fitting(tried, items, bench.model.tokenizer, min(bench.room(part) for part in parts))
    return {
        "form_kind": bench.form_kind,
        "base": bench.read(),
        "ways": {one.name: bench.read(one) for one in fit.kept if one != ZERO_SHOT},
        "left_out": [*refused, *fit.left_out],
    }
