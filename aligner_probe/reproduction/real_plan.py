"""The cells of a reproduction on any base model but the micro-world, and the recipe as published at a smaller scale."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from aligner_probe.arms.catalogue import arm_named
from aligner_probe.reproduction.cells import BASE, Experiment, ReproductionCell, Variant, cell_of
from aligner_probe.reproduction.scales import PUBLISHED_LENGTH, PUBLISHED_MICRO_BATCHES, Scale
from aligner_probe.reproduction.source import Stage
from aligner_probe.training import Recipe, recipe
from aligner_probe.training.rates import DPO_SHARE

#: The learning rate of the arm "tenth-rate", as a share of the published one.
TENTH = 0.1


def real_cells(scale: Scale, experiments: Sequence[Experiment], d_model: int) -> tuple[ReproductionCell, ...]:
    """All cells: the base model, the runs of the first seed, the recipe as published, and then the other seeds.

    The corrected recipe takes the learning rates that a method declares for a base model of width `d_model`.
    """
    return tuple(_cells(scale, experiments, d_model))


def _cells(scale: Scale, experiments: Sequence[Experiment], d_model: int) -> Iterator[ReproductionCell]:
    for experiment in experiments:
        yield ReproductionCell(f"{experiment}_{BASE}", experiment, BASE, None, "main", None, None, {})
    for index, seed in enumerate(scale.seeds):
        for experiment in experiments:
            for method in scale.methods[experiment]:
                rate = arm_named(method).stored_rate_on(d_model)
                lr = {"sft": rate} | ({"dpo": float(f"{rate * DPO_SHARE:.2g}")} if experiment == "safety" else {})
                yield cell_of(experiment, method, "corrected", "main", "float32", seed, lr)
        if index == 0:
            for experiment in experiments:
                for method in scale.published[experiment]:
                    yield published_cell(experiment, method, scale.published_seed)
                for method, variant in scale.arms if experiment != "safety" else ():
                    seed_of_arm = scale.other_seed if variant == "other-seed" else scale.published_seed
                    yield published_cell(experiment, method, seed_of_arm, variant)


def published_cell(experiment: Experiment, method: str, seed: int, arm: Variant = "main") -> ReproductionCell:
    """A run by the recipe as published, or by that with what its arm does differently."""
    rate = published_rate(method, "sft") * (TENTH if arm == "tenth-rate" else 1)
    lr = {"sft": float(f"{rate:.4g}")}
    if experiment == "safety":
        lr["dpo"] = published_rate(method, "preference")
    return cell_of(experiment, method, "as-published", arm, "float32" if arm == "float32" else "bf16-true", seed, lr)


def published_rate(method: str, kind: str) -> float:
    """The learning rate of the authors' script for a method."""
    rate = recipe("as-published", kind, method=arm_named(method).method).lr
    assert rate is not None  # the named recipe has it
    return rate


def published_recipe(
    cell: ReproductionCell, stage: Stage, steps: int | None, batch_size: int | None, max_length: int
) -> Recipe:
    """The authors' recipe for a stage of a cell.

    Without `steps` it has their lengths. With `steps` it has so many steps of `batch_size` examples, in as many
    micro-batches as theirs. The warm-up then is the same share of the run as in theirs, counted as they counted it, so
    the learning rate takes the same course.
    """
    how = recipe(
        "as-published",
        stage.train.kind,
        method=arm_named(cell.method).method,
        lr=cell.lr[stage.name],
        seed=cell.trained_seed,
        max_length=max_length,
        precision=cell.precision or "bf16-true",
    )
    epochs, warmup = how.epochs or 0.0, how.warmup
    if stage.name == "sft":
        epochs = PUBLISHED_LENGTH[cell.experiment][0]
        warmup = PUBLISHED_LENGTH[cell.experiment][1] if how.warmup_steps is None else None
    changes: dict[str, Any] = {"epochs": epochs, "warmup": warmup}
    if steps is not None:
        size = batch_size or how.batch_size or 1
        micro = max(1, size // PUBLISHED_MICRO_BATCHES) if size % PUBLISHED_MICRO_BATCHES == 0 else size
        shorter = steps * size / len(stage.train) / epochs
        changes = {"epochs": epochs * shorter, "batch_size": size, "micro_batch_size": micro}
        if warmup is not None:
            changes["warmup"] = warmup * shorter
        elif how.warmup_steps is not None:
            changes["warmup_steps"] = min(how.warmup_steps, steps // 4)
    return replace(how, **changes)
