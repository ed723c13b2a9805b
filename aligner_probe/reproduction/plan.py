"""The cells of the reproduction: experiments, methods and seeds, the recipe as published, and the control arms.

All sizes and numbers of steps are in `Config`. The learning rates were chosen on validation and are in
learning_rates.json, which `aligner-probe reproduce --sweep` writes. The same configuration gives the same plan, to the
byte.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aligner_probe.arms.catalogue import ARMS, REPRODUCED_ARMS, Arm
from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.files import read_json
from aligner_probe.reproduction.cells import (
    BASE,
    EXPERIMENTS,
    FREEZING,
    PUBLISHED_RATE,
    Experiment,
    ReproductionCell,
    Variant,
    cell_of,
    options_of,
)

LEARNING_RATES = Path(__file__).with_name("learning_rates.json")
PUBLISHED_METHODS = ("aligner-1", "aligner-10", "llama-adapter-10", "lora-8")
#: Run with the published recipe at a tenth of its learning rate, where bfloat16 also loses updates of smaller values.
TENTH_METHODS = ("aligner-10", "llama-adapter-10")
#: The number of mixed questions of each kind: eighty in all, as many as Vicuna's questions.
MIXED = {"person": 12, "place": 12, "chain": 12, "sum": 20, "harmless": 12, "harmful": 12}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The sizes of a reproduction.

    Args:
        seeds: the seeds of the corrected recipe. Each is the start seed and the order seed of a run.
        published_seed: the seed of the recipe as published.
        other_seed: the seed of its arm "other-seed".
        batch_size: examples in a batch.
        steps, safety_steps, dpo_steps: optimiser steps of SFT, of SFT in the safety experiment, and of DPO. They are
            rounded down to a multiple of `evaluate_every`.
        evaluate_every: steps between two validations.
        dpo_beta: beta of DPO.
        n_train, n_validation, n_test: examples to train on, to validate with, and items to ask.
        n_sums: sums that are asked off the domain of the instructions.
        mixed: the number of mixed questions of each kind.
        max_new_tokens: the most tokens of an answer.
        published_epochs, published_warmup: the authors' eight epochs with a warm-up of two. They count the warm-up in
            micro-batches, so it lasts for sixteen epochs.
        lora_published: the learning rate and the warm-up (in epochs, counted in steps) of the authors' LoRA. Their
            hundred steps of 128 examples are a quarter of an epoch of Alpaca.
        sweep_steps: the most steps of a trial of a learning rate.
        sweep_rates: how many learning rates are tried for each method.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    published_seed: int = 1337
    other_seed: int = 1338
    batch_size: int = 32
    steps: int = 150
    safety_steps: int = 30
    dpo_steps: int = 80
    evaluate_every: int = 30
    dpo_beta: float = 0.1
    n_train: int = 640
    n_validation: int = 64
    n_test: int = 150
    n_sums: int = 80
    mixed: dict[str, int] = field(default_factory=lambda: dict(MIXED))
    max_new_tokens: int = 32
    published_epochs: float = 8.0
    published_warmup: float = 2.0
    lora_published: tuple[float, float] = (3e-4, 0.25)
    sweep_steps: int = 60
    sweep_rates: int = 3

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, int | float) and not name.endswith("seed") and value <= 0:
                raise AlignerProbeError(f"{name} {value}; expected more than 0")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise AlignerProbeError(f"seeds {self.seeds}; expected at least one, each once")


def plan(config: Config, rates: dict[str, dict[str, float]]) -> tuple[ReproductionCell, ...]:
    """All cells: the base model, the runs of the first seed, the recipe as published, and then the other seeds."""
    return tuple(_runs(config, rates))


def plan_json(config: Config, runs: tuple[ReproductionCell, ...], base: str, world_seed: int) -> str:
    """The text of plan.json: the configuration, the fingerprint of the base model, the methods and all cells."""
    content = {"base": base, "world_seed": world_seed, "config": asdict(config)}
    content |= {"methods": {name: _recorded(ARMS[name]) for name in REPRODUCED_ARMS}}
    return json.dumps(content | {"runs": [asdict(run) for run in runs]}, indent=1, sort_keys=True) + "\n"


def _recorded(arm: Arm) -> dict[str, Any]:
    """An arm as plan.json has it, in the words of version 0.1, so that a folder begun by it goes on."""
    return {"name": arm.name, "label": arm.label, "adapter": arm.method, "options": options_of(arm)}


def learning_rates(path: Path = LEARNING_RATES) -> dict[str, dict[str, float]]:
    """Chosen learning rates: by stage ("instructions", "math", "safety" for its DPO), then by method or arm."""
    try:
        return read_json(path)["chosen"]
    except (CheckpointError, KeyError, TypeError) as error:
        raise AlignerProbeError(
            f"{path}: no learning rates there ({error!r}); choose them: aligner-probe reproduce --sweep"
        ) from error


def rate_key(method: str, arm: Variant) -> str:
    """Under which name a method's learning rate stands: arms that freeze have one of their own."""
    return f"{method}-{arm}" if arm in FREEZING else method


def _runs(config: Config, rates: dict[str, dict[str, float]]) -> Iterator[ReproductionCell]:
    def corrected(experiment: Experiment, method: str, seed: int, arm: Variant = "main") -> ReproductionCell:
        key = rate_key(method, arm)
        lr = {"sft": rates["instructions" if experiment == "safety" else experiment][key]}
        if experiment == "safety":
            lr["dpo"] = rates["safety"][key]
        return cell_of(experiment, method, "corrected", arm, "float32", seed, lr)

    def published(experiment: Experiment, method: str, seed: int, arm: Variant = "main") -> ReproductionCell:
        lr = {"sft": config.lora_published[0] if method == "lora-8" else PUBLISHED_RATE}
        if arm == "tenth-rate":
            lr = {"sft": PUBLISHED_RATE / 10}
        precision = "float32" if arm == "float32" else "bf16-true"
        return cell_of(experiment, method, "as-published", arm, precision, seed, lr)

    def freezing(seed: int) -> Iterator[ReproductionCell]:
        for experiment in EXPERIMENTS[:2]:
            for arm in FREEZING:
                yield corrected(experiment, "aligner-1", seed, arm)

    for experiment in EXPERIMENTS:
        yield ReproductionCell(f"{experiment}_{BASE}", experiment, BASE, None, "main", None, None, {})
    for index, seed in enumerate(config.seeds):
        for experiment in EXPERIMENTS:
            for method in REPRODUCED_ARMS:
                yield corrected(experiment, method, seed)
        yield from freezing(seed)
        if index == 0:
            for experiment in EXPERIMENTS[:2]:
                for method in PUBLISHED_METHODS:
                    yield published(experiment, method, config.published_seed)
                for method in PUBLISHED_METHODS[:2]:
                    yield published(experiment, method, config.other_seed, "other-seed")
                    yield published(experiment, method, config.published_seed, "float32")
                for method in TENTH_METHODS:
                    yield published(experiment, method, config.published_seed, "tenth-rate")
