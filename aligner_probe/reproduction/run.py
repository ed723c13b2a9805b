"""One cell of the reproduction: train an adapter, ask it, score its answers, and write the folder OUT/runs/ID.

Until the cell is finished its state is in OUT/work/ID. A run that was interrupted goes on from there, to the same
results.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters import Adapter, Aligner
from aligner_probe.adapters.registry import new_adapter as new_adapter_of
from aligner_probe.arms.catalogue import ARMS, Arm
from aligner_probe.checkpoints.adapters import save_adapter
from aligner_probe.evaluation import generate
from aligner_probe.jobs.folder import RUNS, WORK
from aligner_probe.microworld.world import World
from aligner_probe.reproduction.items import Item, scores
from aligner_probe.reproduction.plan import Config, ReproductionCell, options_of
from aligner_probe.reproduction.results import ADAPTER
from aligner_probe.reproduction.tasks import Maker, Material, Stage
from aligner_probe.study import Bench, cell_folder
from aligner_probe.tasks import Task
from aligner_probe.training import Recipe, Run, fit, recipe
from aligner_probe.training.callbacks import Callback
from aligner_probe.training.opening import open_gate

BASE_LABEL = "Base, untrained"


@dataclass(frozen=True)
class ReproductionBench(Bench):
    """What all cells share: the base model, the seed of its world, and the sizes of everything.

    Args:
        world_seed: the seed of the world that the base model was trained on.
        config: the sizes and numbers of steps.
    """

    base: Path
    world_seed: int
    config: Config

    @cached_property
    def materials(self) -> dict[str, Material]:
        """What each experiment trains on and asks."""
        return self._maker.materials()

    @cached_property
    def questions(self) -> tuple[Item, ...]:
        """The mixed questions that every model is asked."""
        return self._maker.questions()

    def items_json(self) -> dict[str, Any]:
        """The content of items.json: all that is asked."""
        return self._maker.items_json()

    @cached_property
    def _maker(self) -> Maker:
        return Maker(World.from_seed(self.world_seed), self.config)

    def load(self, dtype: str) -> TransformerBridge:
        """Load the base model under its folder's name alone.

        The name is published with the adapters. The rest of the path says something about this machine only, and the
        fingerprint tells base models apart.
        """
        model = super().load(dtype)
        model.cfg.model_name = self.base.name
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
            results |= _untrained(model, bench, material)
        else:
            results |= _trained(cell, model, bench, material, work, folder, callbacks)
    shutil.rmtree(work, ignore_errors=True)
    return out / RUNS / cell.id


def new_adapter(cell: ReproductionCell, model: TransformerBridge, task: Task) -> Adapter:
    """The adapter of a run before training; for the arm that trains tokens only, with gates opened for `task`."""
    arm = ARMS[cell.method]
    options: dict[str, Any] = options_of(arm) | {"seed": cell.seed}
    if cell.arm == "gates":
        options |= {"train": "gates"}
    if cell.arm == "tokens":
        opened = open_gate(model, task, Aligner, **options)
        options |= {"train": "tokens", "initial_gate": opened.initial_gate}
    return new_adapter_of(arm.method, model, options)


def recipe_of(cell: ReproductionCell, stage: Stage, config: Config) -> Recipe:
    """The recipe of one stage of a run."""
    if cell.recipe == "as-published":
        return _as_published(cell, config)
    dpo = stage.name == "dpo"
    steps = config.dpo_steps if dpo else config.safety_steps if cell.experiment == "safety" else config.steps
    return recipe(
        "corrected",
        stage.train.kind,
        lr=cell.lr[stage.name],
        batch_size=config.batch_size,
        steps=whole_intervals(steps, config.evaluate_every),
        evaluate_every=config.evaluate_every,
        beta=config.dpo_beta,
        seed=cell.trained_seed,
    )


def whole_intervals(steps: int, evaluate_every: int) -> int:
    """The largest number of steps that is a multiple of `evaluate_every`, or `steps` where that is none.

    The stored runs went on for some steps more. There was no validation after those, so nothing of them was kept.
    """
    return steps - steps % evaluate_every or steps


def _as_published(cell: ReproductionCell, config: Config) -> Recipe:
    changes: dict[str, Any] = {"epochs": config.published_epochs, "warmup": config.published_warmup}
    if cell.method == "lora-8":
        # The authors' LoRA script counts its warm-up in steps. All else is as in the other arms, with which it is
        # compared.
        changes |= {"warmup": config.lora_published[1], "warmup_counts": "steps"}
    if cell.precision != "bf16-true":
        changes |= {"precision": cell.precision}
    return recipe("as-published", "sft", lr=cell.lr["sft"], seed=cell.trained_seed, **changes)


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
    began, fits, scored = time.perf_counter(), {}, {}
    for stage in material.stages:
        if stage.name == "dpo":
            with adapter.attached():
                scored["after_sft"] = ask(model, material.items["test"], bench.config)
        fits[stage.name] = fit(
            model,
            adapter,
            stage.train,
            validation=stage.validation,
            recipe=recipe_of(cell, stage, bench.config),
            out=work / stage.name,
            resume=True,
            callbacks=callbacks,
            show_progress=False,
        )
    seconds = time.perf_counter() - began
    with adapter.attached():
        scored |= {name: ask(model, items, bench.config) for name, items in material.items.items()}
        responses = answers(model, bench.questions, bench.config)
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
        "scores": scored,
        "responses": responses,
    }


def _untrained(model: TransformerBridge, bench: ReproductionBench, material: Material) -> dict[str, Any]:
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
        "scores": {name: ask(model, items, bench.config) for name, items in material.items.items()},
        "responses": answers(model, bench.questions, bench.config),
    }


def ask(model: TransformerBridge, items: Sequence[Item], config: Config) -> dict[str, str]:
    """Scores of a model's answers by kind of score, with the attached adapters: a text of one digit an item."""
    by_kind = scores(items, answers(model, items, config))
    return {kind: "".join(str(int(value)) for value in values) for kind, values in by_kind.items()}


def answers(model: TransformerBridge, items: Sequence[Item], config: Config) -> list[str]:
    """Greedy answers to the items, each up to the end of its line."""
    return generate(model, [item.prompt for item in items], max_new_tokens=config.max_new_tokens, stop=["\n"])


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
