"""One run: train, ask, score, and write its folder, whole or not at all.

While it runs, its state is under `work/ID`; a run that was killed goes on from there, to the same numbers.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters import Adapter, Aligner
from aligner_probe.checkpoints.adapters import METHODS as CLASSES
from aligner_probe.checkpoints.adapters import save_adapter
from aligner_probe.evaluation import generate
from aligner_probe.files import whole, write_text
from aligner_probe.microworld.world import World
from aligner_probe.models import fingerprint, load_model
from aligner_probe.reproduction.items import Item, scores
from aligner_probe.reproduction.plan import METHODS, Config, Method, Planned
from aligner_probe.reproduction.results import ADAPTER, RESULT, RUNS
from aligner_probe.reproduction.tasks import Maker, Material, Stage
from aligner_probe.tasks import Task
from aligner_probe.training import Recipe, Run, fit, recipe
from aligner_probe.training.callbacks import Callback
from aligner_probe.training.opening import open_gate
from aligner_probe.training.provenance import PACKAGES
from aligner_probe.versions import git_state, versions

WORK = "work"
BASE_LABEL = "Base, untrained"


@dataclass(frozen=True)
class Bench:
    """What all runs share: where the base is, the world's seed, the configuration. Models are loaded when needed."""

    base: Path
    world_seed: int
    config: Config

    @cached_property
    def materials(self) -> dict[str, Material]:
        return self._maker.materials()

    @cached_property
    def questions(self) -> tuple[Item, ...]:
        return self._maker.questions()

    def items_json(self) -> dict[str, Any]:
        """All that is asked, as items.json has it."""
        return self._maker.items_json()

    @cached_property
    def _maker(self) -> Maker:
        return Maker(World.from_seed(self.world_seed), self.config)

    @cached_property
    def model(self) -> TransformerBridge:
        return self._loaded(torch.float32)

    @cached_property
    def model_in_bfloat16(self) -> TransformerBridge:
        return self._loaded(torch.bfloat16)

    def _loaded(self, dtype: torch.dtype) -> TransformerBridge:
        model = load_model(self.base, dtype=dtype)
        # Goes into what is published, where the path on this machine says nothing; the fingerprint tells bases apart.
        model.cfg.model_name = self.base.name
        return model

    def model_for(self, run: Planned) -> TransformerBridge:
        """Pure bf16 is the base, too."""
        return self.model_in_bfloat16 if run.precision == "bf16-true" else self.model


def carry_out(run: Planned, bench: Bench, out: Path, *, callbacks: Sequence[Callback] = ()) -> Path:
    """Make one run, and return its folder `out/runs/ID`; nothing is there before it is finished.

    Raises AlignerProbeError where the folder is there already, or as `fit` does.
    """
    material = bench.materials[run.experiment]
    work = out / WORK / run.id
    with whole(out / RUNS / run.id) as folder:
        folder.mkdir()
        if run.is_base:
            result = _asked_untrained(run, bench, material)
        else:
            result = _trained(run, bench, material, work, folder, callbacks)
        write_text(folder / RESULT, json.dumps(result, sort_keys=True) + "\n")
    shutil.rmtree(work, ignore_errors=True)
    return out / RUNS / run.id


def new_adapter(run: Planned, model: TransformerBridge, task: Task) -> Adapter:
    """The adapter that a run trains, as it starts; of the tokens-only arm the gates are opened for `task`."""
    method = METHODS[run.method]
    options = method.options | {"seed": run.seed}
    if run.arm == "gates":
        options |= {"train": "gates"}
    if run.arm == "tokens":
        opened = open_gate(model, task, Aligner, **options)
        options |= {"train": "tokens", "initial_gate": opened.initial_gate}
    return CLASSES[method.adapter](model, **options)


def recipe_of(run: Planned, stage: Stage, config: Config) -> Recipe:
    """How a stage of a run is trained."""
    if run.recipe == "as-published":
        return _as_published(run, config)
    dpo = stage.name == "dpo"
    steps = config.dpo_steps if dpo else config.safety_steps if run.experiment == "safety" else config.steps
    return recipe(
        "corrected",
        stage.train.kind,
        lr=run.lr[stage.name],
        batch_size=config.batch_size,
        steps=whole_intervals(steps, config.evaluate_every),
        evaluate_every=config.evaluate_every,
        beta=config.dpo_beta,
        seed=run.seed,
    )


def whole_intervals(steps: int, evaluate_every: int) -> int:
    """The committed runs went on beyond these, but without a validation loss, so nothing of that was kept."""
    return steps - steps % evaluate_every or steps


def _as_published(run: Planned, config: Config) -> Recipe:
    changes: dict[str, Any] = {"epochs": config.published_epochs, "warmup": config.published_warmup}
    if run.method == "lora-8":
        # Their LoRA script counts its warm-up as it says. All else is as in the other arms here, which are compared.
        changes |= {"warmup": config.lora_published[1], "warmup_counts": "steps"}
    precision = {} if run.precision == "bf16-true" else {"precision": run.precision}
    return recipe("as-published", "sft", lr=run.lr["sft"], seed=run.seed, **changes, **precision)


def _trained(
    run: Planned, bench: Bench, material: Material, work: Path, folder: Path, callbacks: Sequence[Callback]
) -> dict[str, Any]:
    model = bench.model_for(run)
    adapter = new_adapter(run, model, material.stages[0].train)
    began, fits, found = time.perf_counter(), {}, {}
    for stage in material.stages:
        if stage.name == "dpo":
            with adapter.attached():
                found["after_sft"] = ask(model, material.items["test"], bench.config)
        fits[stage.name] = fit(
            model,
            adapter,
            stage.train,
            validation=stage.validation,
            recipe=recipe_of(run, stage, bench.config),
            out=work / stage.name,
            resume=True,
            callbacks=callbacks,
            show_progress=False,
        )
    seconds = time.perf_counter() - began
    with adapter.attached():
        found |= {name: ask(model, items, bench.config) for name, items in material.items.items()}
        responses = answers(model, bench.questions, bench.config)
    save_adapter(adapter, folder / ADAPTER, run=adapter.provenance | {"reproduction": run.id})
    method = METHODS[run.method]
    own = {
        "label": _label(run, method),
        "n_tokens": method.n_tokens,
        "n_parameters": adapter.n_parameters,
        "seeds": {"start": run.seed, "order": run.seed},
        "steps": {name: int(done.metrics["step"].iloc[-1]) for name, done in fits.items()},
        "lr": {name: float(done.metrics["lr"].max()) for name, done in fits.items()},
        "validation_loss": {name: _losses(done) for name, done in fits.items()},
        "seconds": round(seconds, 2),
    }
    return _result(run, model) | own | {"scores": found, "responses": responses}


def _asked_untrained(run: Planned, bench: Bench, material: Material) -> dict[str, Any]:
    own = {"label": BASE_LABEL, "n_tokens": None, "n_parameters": 0, "seeds": {}, "seconds": 0.0}
    own |= {"steps": {}, "lr": {}, "validation_loss": {}}
    found = {name: ask(bench.model, items, bench.config) for name, items in material.items.items()}
    responses = answers(bench.model, bench.questions, bench.config)
    return _result(run, bench.model) | own | {"scores": found, "responses": responses}


def ask(model: TransformerBridge, items: Sequence[Item], config: Config) -> dict[str, str]:
    """Scores of a model's answers, under what is attached, by kind: a digit an item."""
    found = scores(items, answers(model, items, config))
    return {kind: "".join(str(int(value)) for value in values) for kind, values in found.items()}


def answers(model: TransformerBridge, items: Sequence[Item], config: Config) -> list[str]:
    """Greedy answers, each up to the end of its line."""
    return generate(model, [item.prompt for item in items], max_new_tokens=config.max_new_tokens, stop=["\n"])


def _result(run: Planned, model: TransformerBridge) -> dict[str, Any]:
    kept = ("id", "experiment", "method", "recipe", "arm", "precision")
    provenance = {"versions": versions(PACKAGES), "git": git_state(), "base": fingerprint(model)}
    return {name: value for name, value in asdict(run).items() if name in kept} | {"provenance": provenance}


def _losses(done: Run) -> list[tuple[int, float]]:
    return [(int(step), round(float(loss), 6)) for step, loss in done.validation_loss.items()]


def _label(run: Planned, method: Method) -> str:
    said = {
        "gates": "gates only",
        "tokens": "tokens only",
        "other-seed": "other seed",
        "float32": "float32",
        "tenth-rate": "a tenth of the rate",
    }
    return f"{method.label}, {said[run.arm]}" if run.arm in said else method.label
