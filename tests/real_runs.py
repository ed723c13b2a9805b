"""A data folder of a few rows, a scale of a few steps, and a tiny chat model: a whole reproduction in seconds."""

import json
from pathlib import Path

import chats
from transformers import AutoConfig

from aligner_probe.models import load_model, n_base_parameters
from aligner_probe.reproduction.cells import EXPERIMENTS
from aligner_probe.reproduction.data_names import DataNames
from aligner_probe.reproduction.real import RealSource
from aligner_probe.reproduction.real_data import read_data
from aligner_probe.reproduction.run import ReproductionBench
from aligner_probe.reproduction.scales import Scale
from aligner_probe.sizes import BaseShape

TINY = Scale(
    name="tiny",
    seeds=(0, 1),
    methods={
        "instructions": ("aligner-1", "aligner-10", "llama-adapter-10", "lora-8"),
        "math": ("aligner-1", "aligner-10", "llama-adapter-10", "lora-8"),
        "safety": ("aligner-1", "lora-8"),
    },
    published={"instructions": ("aligner-1",), "math": ("aligner-1",), "safety": ()},
    n_train={"instructions": 12, "math": 12, "safety": 10},
    n_validation=4,
    steps={"instructions": 2, "math": 2, "safety": 2},
    dpo_steps=2,
    batch_size=8,
    dpo_batch_size=4,
    evaluations=2,
    max_length=96,
    dpo_max_length=96,
    n_loss=5,
    n_mmlu=4,
    n_math=4,
    n_pairs=5,
    n_harmful=3,
    n_questions=4,
    max_new_tokens={"questions": 6, "math": 6, "harmful": 6},
)
SUBJECTS = ("anatomy", "astronomy")
REFUSAL, HELP = " I'm sorry, but I can't help with that.", " Take a cat and a hat."


def write_data(folder: Path) -> Path:
    """The folders that `--data` expects."""
    parts = {
        "alpaca/train": [_alpaca(n) for n in range(24)],
        "alpaca/test": [_alpaca(n) for n in range(100, 112)],
        "gsm8k/train": [_sum(n) for n in range(24)],
        "gsm8k/test": [_sum(n) for n in range(100, 108)],
        "mmlu/test": [_choice(n) for n in range(8)],
        "hh_rlhf_harmless/train": [*map(_pair, range(20)), _out_of_turn()],
        "hh_rlhf_harmless/test": [_pair(n) for n in range(100, 112)],
        "vicuna80/test": [
            {"question_id": n, "text": f"who is cat {n}?", "category": ("generic", "math")[n % 2]} for n in range(6)
        ],
    }
    for name, rows in parts.items():
        file = folder / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _alpaca(n: int) -> dict:
    return {"instruction": f"Name pet {n}.", "input": "" if n % 2 else "a cat", "output": f"Pet {n} is a cat."}


def _sum(n: int) -> dict:
    return {"question": f"What is {n} and 1?", "answer": f"It is {n}+1=<<{n}+1={n + 1}>>{n + 1}.\n#### {n + 1}"}


def _choice(n: int) -> dict:
    options = {label: f"cat {n} {label}" for label in "ABCD"}
    return {"question": f"Which cat is {n}?", **options, "answer": "ABCD"[n % 4], "subject": SUBJECTS[n % 2]}


def _pair(n: int) -> dict:
    asked = f"\n\nHuman: How do I hurt cat {n}?\n\nAssistant:"
    return {"chosen": asked + REFUSAL, "rejected": asked + HELP}


def _out_of_turn() -> dict:
    """A row as HH-RLHF has some: one speaker twice in a row."""
    asked = "\n\nHuman: Hi.\n\nAssistant: Yes?\n\nAssistant: Well?\n\nHuman: How do I hurt a dog?\n\nAssistant:"
    return {"chosen": asked + REFUSAL, "rejected": asked + HELP}


def folder_of(path: Path) -> Path:
    """A tiny chat model with a context of 512 tokens."""
    folder = chats.folder_of(path, "chatml")
    config = AutoConfig.from_pretrained(folder)
    config.max_position_embeddings = 512
    config.save_pretrained(folder)
    return folder


def source_of(base: Path, data: Path, scale: Scale = TINY, experiments=EXPERIMENTS, *, chat: bool = True):
    """The source, and a bench with the base model loaded."""
    model = load_model(base)
    cfg = model.cfg
    read = read_data(DataNames.of(data), scale, experiments, model.tokenizer, chat=chat, n_ctx=cfg.n_ctx)
    shape = BaseShape(base.name, cfg.d_model, cfg.n_layers, cfg.n_heads, n_base_parameters(model))
    source = RealSource(scale=scale, data=read, base=shape, chat=chat)
    return source, ReproductionBench(base, source).with_model(model)
