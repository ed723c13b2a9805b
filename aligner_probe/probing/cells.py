"""The cells of a probe: ask the base model (`asking.py`), tune a learning rate, or train a run and ask it."""

import json
import math
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from aligner_probe.arms.catalogue import ARMS, new_arm_adapter
from aligner_probe.checkpoints.adapters import save_adapter
from aligner_probe.errors import AlignerProbeError, AlignerProbeWarning
from aligner_probe.files import read_json, write_text
from aligner_probe.jobs.folder import RUNS, WORK
from aligner_probe.probing.asking import asked_without_training
from aligner_probe.probing.batches import SharedTraining
from aligner_probe.probing.bench import ProbeBench, few, first, shuffled
from aligner_probe.probing.description_length import bits
from aligner_probe.probing.plan import ProbeCell, tune_id
from aligner_probe.study import cell_folder, read_result
from aligner_probe.tasks.chat_template import UNTEMPLATED
from aligner_probe.tasks.task import Task
from aligner_probe.training import Recipe, Run, Training, fit_together, recipe
from aligner_probe.training.callbacks import Callback

ADAPTER = "adapter"
#: What a run gains after this share of its steps is its "late gain".
LATE = 0.6
#: The folder of what the layers below an adapter give, which all cells use.
LOWER_LAYERS = "lower_layers"


def carry_out(bench: ProbeBench, job: ProbeCell | SharedTraining, *, out: Path) -> None:
    """Make one cell, or the unfinished cells of a shared training: the folders OUT/runs/ID.

    Raises AlignerProbeError where a folder exists already, or as `fit_together` and `score_task` do.
    """
    with warnings.catch_warnings():
        # The probe has said it before its first cell.
        warnings.filterwarnings("ignore", message=UNTEMPLATED, category=AlignerProbeWarning)
        _carry_out(bench, job, out)


def _carry_out(bench: ProbeBench, job: ProbeCell | SharedTraining, out: Path) -> None:
    cells, left = (job.cells, job.left) if isinstance(job, SharedTraining) else ((job,), (job,))
    work = out / WORK / cells[0].id
    if cells[0].kind == "train":
        _train(bench, cells, left, out, work)
    else:
        [cell] = cells
        with cell_folder(out, cell.id, asdict(cell), bench.model) as (_, results):
            results |= asked_without_training(bench) if cell.kind == "prompts" else _tuned(bench, cell, out)
    shutil.rmtree(work, ignore_errors=True)


def recipe_for(bench: ProbeBench, cell: ProbeCell, lr: float, steps: int | None = None) -> Recipe:
    """The recipe of a run at a learning rate, by default with the most steps that its arm may take."""
    budget = bench.budget
    steps = steps or budget.steps_of(cell.trained_arm)
    n = len(material(bench, cell)[0])
    return recipe(
        "corrected",
        lr=lr,
        batch_size=min(budget.batch_size, n),
        steps=steps,
        evaluate_every=min(budget.evaluate_every, steps),
        patience=budget.patience,
        min_improvement=budget.min_improvement,
        seed=cell.seeds[1],
        append_eos=not bench.ending,
    )


def material(bench: ProbeBench, cell: ProbeCell) -> tuple[Task, Task]:
    """The training and the validation part of a cell's arm, without what ends an answer.

    For an arm on shuffled answers, the answers of both parts are shuffled. An arm on few examples has a part of the
    training examples, and all of validation.
    """
    arm, (train, validation) = ARMS[cell.trained_arm], (bench.parts.train, bench.parts.validation)
    memory, (_, order_seed) = bench.parts.kind == "memory", cell.seeds
    if arm.shuffled:
        train, validation = shuffled(train, memory, order_seed), shuffled(validation, memory, order_seed)
    if arm.examples is not None:
        train = few(train, arm.examples, memory, order_seed)
    return train, validation


def trained_on(bench: ProbeBench, cell: ProbeCell) -> tuple[Task, Task]:
    """The training and the validation part of a cell's arm, with what ends an answer."""
    train, validation = material(bench, cell)
    return bench.as_trained(train), bench.as_trained(validation)


def _tuned(bench: ProbeBench, cell: ProbeCell, out: Path) -> dict[str, Any]:
    """Choose a learning rate by successive halving: try all for a few steps, then the better half for more steps.

    Where all diverge the lowest is chosen, and the runs that take it report that they failed.
    """
    left, losses = list(ARMS[cell.trained_arm].rates_on(bench.model.cfg.d_model)), []
    kept = out / WORK / LOWER_LAYERS
    for n, steps in bench.budget.tried(len(left)):
        left = left[:n]
        batches = [left[start : start + cell.together] for start in range(0, len(left), cell.together)]
        tried = [loss for rates in batches for loss in _losses(bench, cell, rates, steps, kept)]
        loss_of = dict(zip(left, tried, strict=True))
        losses += [{"rate": rate, "steps": steps, "validation_loss": loss} for rate, loss in loss_of.items()]
        left = sorted(left, key=lambda rate: loss_of[rate])
    lowest = min(one["rate"] for one in losses)
    return {"lr": left[0] if math.isfinite(loss_of[left[0]]) else lowest, "trials": losses}


def _losses(bench: ProbeBench, cell: ProbeCell, rates: Sequence[float], steps: int, kept: Path) -> list[float]:
    """The best validation loss of each learning rate, infinite where training diverges; all are trained together."""
    train, validation = trained_on(bench, cell)
    trainings = [
        Training(
            adapter=new_arm_adapter(cell.trained_arm, bench.model, cell.seeds[0]),
            task=train,
            validation=validation,
            recipe=recipe_for(bench, cell, rate, steps),
        )
        for rate in rates
    ]
    runs = fit_together(bench.model, trainings, cache_folder=kept, show_progress=False)
    best = [None if isinstance(run, AlignerProbeError) else run.best_validation_loss for run in runs]
    return [math.inf if loss is None else loss for loss in best]


class _Follow(Callback):
    """Measures the strict score on validation at step `at`, where the last part of a training begins.

    The score is kept in `file`, so that a run that is interrupted after that step still has it when it goes on.
    """

    def __init__(self, bench: ProbeBench, validation: Task, at: int, file: Path):
        self.bench, self.validation, self.at, self.file = bench, validation, at, file

    @property
    def score(self) -> float | None:
        return read_json(self.file) if self.file.is_file() else None

    def stepped(self, row: dict[str, Any]) -> None:
        if row["step"] == self.at:
            write_text(self.file, json.dumps(float(np.mean(self.bench.asked(self.validation)[0]["strict"]))))


def _train(bench: ProbeBench, cells: Sequence[ProbeCell], left: Sequence[ProbeCell], out: Path, work: Path) -> None:
    """Train `cells` together, and ask those in `left`, whose folders do not exist yet.

    The result of a run whose loss became infinite or not a number says so ("failed"); it has no adapter.
    """
    for cell in left:
        if (out / RUNS / cell.id).exists():
            raise AlignerProbeError(f"{out / RUNS / cell.id} exists already; remove it first")
    began = time.perf_counter()
    follows = [_follow(bench, cell, work) for cell in cells]
    trainings = [_training(bench, cell, out, follow) for cell, follow in zip(cells, follows, strict=True)]
    runs = fit_together(
        bench.model, trainings, out=work, resume=True, cache_folder=out / WORK / LOWER_LAYERS, show_progress=False
    )
    seconds = (time.perf_counter() - began) / len(cells)
    for cell, run, follow in zip(cells, runs, follows, strict=True):
        if cell in left:
            with cell_folder(out, cell.id, asdict(cell), bench.model, seconds_before=seconds) as (folder, results):
                if isinstance(run, Run):
                    results |= _asked(bench, cell, run, follow)
                    save_adapter(run.adapter, folder / ADAPTER, run=(run.adapter.provenance or {}) | {"probe": cell.id})
                else:
                    results["failed"] = str(run)


def _follow(bench: ProbeBench, cell: ProbeCell, work: Path) -> _Follow:
    asked = first(material(bench, cell)[1], bench.budget.n_validation)
    return _Follow(bench, asked, round(LATE * bench.budget.steps_of(cell.trained_arm)), work / f"{cell.id}.late.json")


def _training(bench: ProbeBench, cell: ProbeCell, out: Path, follow: _Follow) -> Training:
    tuned = read_result(out, tune_id(cell.trained_arm)) if bench.budget.tuned else None
    lr = tuned["lr"] if tuned else ARMS[cell.trained_arm].stored_rate_on(bench.model.cfg.d_model)
    train, validation = trained_on(bench, cell)
    return Training(
        adapter=new_arm_adapter(cell.trained_arm, bench.model, cell.seeds[0]),
        task=train,
        validation=validation,
        recipe=recipe_for(bench, cell, lr),
        callbacks=[follow],
    )


def _asked(bench: ProbeBench, cell: ProbeCell, run: Run, follow: _Follow) -> dict[str, Any]:
    adapter, budget = run.adapter, bench.budget
    train, _ = material(bench, cell)
    with adapter.attached():
        scores, said = bench.asked(bench.parts.test)
        scores["likelihood"] = bench.likelihoods(bench.parts.test)
        last = float(np.mean(bench.asked(follow.validation)[0]["strict"]))
        # Where a training prompt fills the context there is no room to ask it.
        seen = bench.askable(first(train, budget.n_train_asked), adapter.n_positions)
        on_train = None if seen is None else float(np.mean(bench.asked(seen)[0]["strict"]))
        kept = bench.kept()
    # What stopped before its last part began gained nothing there.
    gained = 0.0 if follow.score is None else last - follow.score
    losses = run.validation_loss
    return {
        "scores": scores,
        "completions": said,
        "bits": bits(bench, run, scores["likelihood"]),
        "validation": last,
        "late_gain": gained,
        "train": on_train,
        "off_domain": kept,
        "lr": run.recipe.lr,
        "n_parameters": adapter.n_parameters,
        "options": adapter.config.to_dict(),
        "steps": int(run.metrics["step"].iloc[-1]),
        "best_step": run.best_step,
        "validation_loss": [
            (int(step), float(loss)) for step, loss in zip(losses.index.array, losses.array, strict=True)
        ],
    }
