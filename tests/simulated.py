"""A folder of artifacts as `aligner-probe reproduce` leaves it; the runs' history and skill are known."""

import json
import random
from pathlib import Path

import torch
from builders import run as trained
from safetensors.torch import save_file

from aligner_probe.arms.catalogue import ARMS, REPRODUCED_ARMS
from aligner_probe.checkpoints import save_checkpoint
from aligner_probe.microworld.world import World
from aligner_probe.reproduction.cells import EXPERIMENTS, ReproductionCell
from aligner_probe.reproduction.items import KINDS, Item, scores
from aligner_probe.reproduction.plan import Config, plan, plan_json, rate_key
from aligner_probe.reproduction.results import ADAPTER, ITEMS, PLAN, RESULT, RUNS
from aligner_probe.reproduction.tasks import Maker

D_MODEL, N_LAYERS, N_HEADS, START = 128, 8, 8, 2
RATES = {
    stage: {rate_key(m, arm): 0.02 for m in REPRODUCED_ARMS for arm in ("main", "gates", "tokens")}
    for stage in EXPERIMENTS
}
#: Chance that an answer is right in content, and in form.
SKILL = {
    "base": (0.9, 0.05),
    "aligner-1": (0.85, 0.9),
    "aligner-10": (0.85, 0.95),
    "aligner-60": (0.9, 0.95),
    "aligner-300": (0.9, 0.95),
    "llama-adapter-10": (0.9, 0.95),
    "lora-8": (0.95, 0.97),
    "prompt-tuning-10": (0.7, 0.6),
}
#: On math, by method; content here is what the base lacks.
MATH = {
    "base": 0.02,
    "aligner-1": 0.05,
    "aligner-10": 0.1,
    "aligner-60": 0.3,
    "aligner-300": 0.4,
    "llama-adapter-10": 0.32,
    "lora-8": 0.9,
    "prompt-tuning-10": 0.1,
}


def skill(planned: ReproductionCell, of: str) -> tuple[float, float]:
    if planned.experiment == "math" and of == "test":
        share = {"gates": 0.8, "tokens": 0.2}.get(planned.arm, 1.0) * MATH[planned.method]
        return share, min(1.0, 0.1 + share)
    content, form = SKILL[planned.method]
    return (0.2 if of == "after_sft" else content), form


def answer(item: Item, content: bool, form: bool) -> str:
    if content and form:
        return item.reference
    if content:
        return f" {item.content} it is."
    return item.reference.replace(item.content, "99" if item.final_number else "zzz") if form else " no idea."


def answers(items: tuple[Item, ...], planned: ReproductionCell, of: str) -> list[str]:
    generator = random.Random(f"{planned.id} {of}")
    content, form = skill(planned, of)
    return [answer(item, generator.random() < content, generator.random() < form) for item in items]


def n_parameters(method: str) -> int:
    adapted, options = N_LAYERS - START, ARMS[method].options
    gates = adapted * N_HEADS
    return {
        "aligner": options.get("n_tokens", 0) * D_MODEL + gates,
        "llama_adapter": adapted * 10 * D_MODEL + gates,
        "lora": N_LAYERS * 2 * 2 * 8 * D_MODEL,
        "prompt_tuning": 10 * D_MODEL,
    }[ARMS[method].method]


def _save_adapter(planned: ReproductionCell, folder: Path, steps: int) -> None:
    method = ARMS[planned.method]
    prefix_layers = 1 if method.method == "aligner" else N_LAYERS - START
    save_checkpoint(
        trained(
            method=method.method,
            shape=(prefix_layers, method.n_tokens, D_MODEL),
            n_layers=N_LAYERS - START,
            n_heads=N_HEADS,
            start_layer=START,
            start_seed=planned.seed,
            order_seed=EXPERIMENTS.index(planned.experiment),
            lr=planned.lr["sft"] / 2,
            steps=steps,
            dtype=torch.bfloat16 if planned.precision == "bf16-true" else torch.float32,
            keep_start=True,
        ),
        folder,
    )


def write_run(planned: ReproductionCell, sets: dict, questions: tuple[Item, ...], folder: Path, steps: int) -> None:
    if planned.experiment == "safety" and not planned.is_base:
        sets = sets | {"after_sft": sets["test"]}
    found = {of: scores(items, answers(items, planned, of)) for of, items in sets.items()}
    method = ARMS.get(planned.method)
    row = {
        "id": planned.id,
        "experiment": planned.experiment,
        "method": planned.method,
        "label": method.label if method else "Base, untrained",
        "n_tokens": method.n_tokens if method else None,
        "n_parameters": n_parameters(planned.method) if method else 0,
        "recipe": planned.recipe,
        "arm": planned.arm,
        "precision": planned.precision,
        "seeds": {} if planned.is_base else {"start": planned.seed, "order": planned.seed},
        "steps": dict.fromkeys(planned.lr, 200),
        "lr": planned.lr,
        "validation_loss": {},
        "seconds": 1.0,
        "scores": {
            of: {kind: "".join(str(int(v)) for v in kinds[kind]) for kind in KINDS} for of, kinds in found.items()
        },
        "responses": answers(questions, planned, "questions"),
        "provenance": {},
    }
    folder.mkdir(parents=True)
    (folder / RESULT).write_text(json.dumps(row))
    if method and method.method in ("aligner", "llama_adapter"):
        _save_adapter(planned, folder / ADAPTER, steps)


def artifacts(folder: Path, *, steps: int = 40, config: Config | None = None, seeds: tuple[int, ...] = (0, 1)) -> Path:
    """`folder` with microworld/ (sizes alone) and reproduction/, complete."""
    config = config or Config(seeds=seeds, n_test=60, n_sums=30)
    base = folder / "microworld"
    base.mkdir(parents=True)
    sizes = {"hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "num_attention_heads": N_HEADS}
    (base / "config.json").write_text(json.dumps(sizes))
    save_file({"embedding": torch.zeros(400, D_MODEL), "head": torch.zeros(D_MODEL)}, base / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json", "provenance.json"):
        (base / name).write_text("{}")
    maker = Maker(World.from_seed(0), config)
    sets = {experiment: material.items for experiment, material in maker.materials().items()}
    runs = plan(config, RATES)
    results = folder / "reproduction"
    results.mkdir()
    (results / PLAN).write_text(plan_json(config, runs, "0" * 64, 0))
    asked = {
        experiment: {name: [item.to_json() for item in items] for name, items in by_name.items()}
        for experiment, by_name in sets.items()
    }
    (results / ITEMS).write_text(json.dumps(asked | {"questions": [item.to_json() for item in maker.questions()]}))
    for planned in runs:
        write_run(planned, sets[planned.experiment], maker.questions(), results / RUNS / planned.id, steps)
    return folder
