"""One cell of the reproduction: train an adapter, ask it, score its answers, and write the folder OUT/runs/ID.

Until the cell is finished its state is in OUT/work/ID. A run that was interrupted goes on from there, to the same
results.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters import Adapter, Aligner
from aligner_probe.adapters.adapter import suggested_start_layer
from aligner_probe.arms.catalogue import ARMS, Arm
from aligner_probe.checkpoints.adapters import save_adapter
from aligner_probe.jobs.folder import RUNS, WORK
from aligner_probe.reproduction.cells import ReproductionCell
from aligner_probe.reproduction.items import Item, scores
from aligner_probe.reproduction.results import ADAPTER, QUESTIONS
from aligner_probe.reproduction.source import Material, Measured, Source
from aligner_probe.study import Bench, cell_folder
from aligner_probe.tasks import Task
from aligner_probe.training import Run, fit
from aligner_probe.training.callbacks import Callback
from aligner_probe.training.opening import open_gate

BASE_LABEL = "Base, untrained"


@dataclass(frozen=True)
class ReproductionBench(Bench):
    """What all cells share: the base model, and the source of all that is trained and asked."""

    source: Source

    @cached_property
    def materials(self) -> dict[str, Material]:
        """What each experiment trains on and asks."""
        return self.source.materials()

    @cached_property
    def questions(self) -> tuple[Item, ...]:
        """The mixed questions that models are asked."""
        return self.source.questions()

    def load(self, dtype: str) -> TransformerBridge:
        """Load the base model under the last part of its name alone.

        The name is published with the adapters. The rest of a path says something about this machine only, and the
        fingerprint tells base models apart.
        """
        model = super().load(dtype)
        model.cfg.model_name = Path(self.base).name
        return model

    def model_for(self, cell: ReproductionCell) -> TransformerBridge:
        """The base model in the precision that a cell needs: in pure bfloat16 the base model has it, too."""
        return self.model_in("bfloat16" if cell.precision == "bf16-true" else self.dtype)


def carry_out(
    bench: ReproductionBench, cell: ReproductionCell, *, out: Path, callbacks: Sequence[Callback] = ()
) -> Path:
    """Make one cell, and return its folder OUT/runs/ID, which appears when the cell is finished.

    Raises AlignerProbeError where the folder exists already, or as `fit` does.
    """
    material = bench.materials[cell.experiment]
    model = bench.model if cell.is_base else bench.model_for(cell)
    work = out / WORK / cell.id
    with cell_folder(out, cell.id, _about(cell), model) as (folder, results):
        if cell.is_base:
            results |= _untrained(cell, model, bench, material)
        else:
            results |= _trained(cell, model, bench, material, work, folder, callbacks)
    shutil.rmtree(work, ignore_errors=True)
    return out / RUNS / cell.id


def new_adapter(cell: ReproductionCell, model: TransformerBridge, task: Task) -> Adapter:
    """The adapter of a run before training; for the arm that trains tokens only, with gates opened for `task`."""
    changes: dict[str, Any] = {}
    if cell.arm == "gates":
        changes = {"train": "gates"}
    if cell.arm == "tokens":
        options = dict(ARMS[cell.method].options) | {"start_layer": suggested_start_layer(model), "seed": cell.seed}
        opened = open_gate(model, task, Aligner, **options)
        changes = {"train": "tokens", "initial_gate": opened.initial_gate}
    return ARMS[cell.method].new_adapter(model, cell.trained_seed, **changes)


def _trained(
    cell: ReproductionCell,
    model: TransformerBridge,
    bench: ReproductionBench,
    material: Material,
    work: Path,
    folder: Path,
    callbacks: Sequence[Callback],
) -> dict[str, Any]:
    """Train all stages of a cell, ask the model, and save the adapter into `folder`."""
    adapter = new_adapter(cell, model, material.stages[0].train)
    began, fits, before = time.perf_counter(), {}, {}
    for stage in material.stages:
        if stage.name == "dpo":
            with adapter.attached():
                before["after_sft"] = _Asking(model, bench.source).measured(material, "test")
        fits[stage.name] = fit(
            model,
            adapter,
            stage.train,
            validation=stage.validation,
            recipe=bench.source.recipe_of(cell, stage),
            out=work / stage.name,
            resume=True,
            callbacks=callbacks,
            show_progress=False,
        )
    seconds = time.perf_counter() - began
    with adapter.attached():
        asked = _asked(cell, model, bench, material, before)
    save_adapter(adapter, folder / ADAPTER, run=(adapter.provenance or {}) | {"reproduction": cell.id})
    arm = ARMS[cell.method]
    return {
        "label": _label(cell, arm),
        "n_tokens": arm.n_tokens,
        "n_parameters": adapter.n_parameters,
        "seeds": {"start": cell.seed, "order": cell.seed},
        "steps": {name: int(done.metrics["step"].iloc[-1]) for name, done in fits.items()},
        "lr": {name: float(done.metrics["lr"].max()) for name, done in fits.items()},
        "validation_loss": {name: _losses(done) for name, done in fits.items()},
        "seconds": round(seconds, 2),
        **asked,
    }


def _untrained(
    cell: ReproductionCell, model: TransformerBridge, bench: ReproductionBench, material: Material
) -> dict[str, Any]:
    """Ask the base model."""
    return {
        "label": BASE_LABEL,
        "n_tokens": None,
        "n_parameters": 0,
        "seeds": {},
        "steps": {},
        "lr": {},
        "validation_loss": {},
        "seconds": 0.0,
        **_asked(cell, model, bench, material, {}),
    }


def _asked(
    cell: ReproductionCell,
    model: TransformerBridge,
    bench: ReproductionBench,
    material: Material,
    before: Mapping[str, Measured],
) -> dict[str, Any]:
    """Scores and values of all sets, those `before` DPO among them, and the answers to the mixed questions."""
    asking, measured = _Asking(model, bench.source), dict(before)
    responses = asking.answers(bench.questions) if bench.source.asks_questions(cell.experiment) else []
    measured |= {name: asking.measured(material, name) for name in material.items}
    if responses:
        measured[QUESTIONS] = bench.source.measured_answers(model, responses)
    result: dict[str, Any] = {"scores": {name: dict(one.scores) for name, one in measured.items() if one.scores}}
    if values := {name: dict(one.values) for name, one in measured.items() if one.values}:
        result["values"] = values
    if bench.source.keeps_answers:
        asked = [name for name in material.items if name not in material.measures]
        result["answers"] = {name: asking.answers(material.items[name]) for name in asked}
    return result | {"responses": responses}


class _Asking:
    """Asks a model as it is now, each prompt once."""

    def __init__(self, model: TransformerBridge, source: Source) -> None:
        self.model, self.source = model, source
        self.known: dict[str, str] = {}

    def answers(self, items: Sequence[Item]) -> list[str]:
        """The answers to items."""
        missing = list({item.prompt: item for item in items if item.prompt not in self.known}.values())
        if missing:
            said = self.source.answers(self.model, missing)
            self.known |= {item.prompt: answer for item, answer in zip(missing, said, strict=True)}
        return [self.known[item.prompt] for item in items]

    def measured(self, material: Material, name: str) -> Measured:
        """One set of items, measured by what is likely, or by answers."""
        if name in material.measures:
            return material.measures[name].of(self.model)
        items = material.items[name]
        by_kind = scores(items, self.answers(items))
        return Measured({kind: "".join(str(int(value)) for value in values) for kind, values in by_kind.items()})


def _about(cell: ReproductionCell) -> dict[str, Any]:
    """What result.json says of the cell itself."""
    return {name: getattr(cell, name) for name in ("id", "experiment", "method", "recipe", "arm", "precision")}


def _losses(done: Run) -> list[tuple[int, float]]:
    losses = done.validation_loss
    return [(int(step), round(float(loss), 6)) for step, loss in zip(losses.index.array, losses.array, strict=True)]


def _label(cell: ReproductionCell, arm: Arm) -> str:
    of_arm = {
        "gates": "gates only",
        "tokens": "tokens only",
        "other-seed": "other seed",
        "float32": "float32",
        "tenth-rate": "a tenth of the rate",
    }
    return f"{arm.label}, {of_arm[cell.arm]}" if cell.arm in of_arm else arm.label
