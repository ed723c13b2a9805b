"""What training tests share: a tokenizer of letters, a small base with it, tasks and a quick recipe."""

import math
import random

import pytest
import torch
from tiny import bridge

from aligner_probe.tasks import Example, Preference, Task
from aligner_probe.training import Callback, recipe
from aligner_probe.training.member import Member

#: A learning rate that means nothing by itself: `plant_divergence` lets the runs that have it diverge.
DIVERGES = 0.0123


class Stops(Callback):
    """Ends a training after a step, as Ctrl-C does."""

    def __init__(self, step):
        self.step = step

    def stepped(self, row):
        if row["step"] == self.step:
            raise KeyboardInterrupt


class Letters:
    """A tokenizer of one id a letter; 0 pads, 1 ends."""

    pad_token_id, eos_token_id, bos_token_id = 0, 1, None

    def __call__(self, texts, **_):
        single = isinstance(texts, str)
        ids = [[2 + (ord(letter) - 97) % 26 for letter in text] for text in ([texts] if single else texts)]
        return {"input_ids": ids[0] if single else ids}

    def decode(self, ids, **_):
        return "".join(chr(95 + i) for i in ids)


def model(name="llama_gqa"):
    base = bridge(name)
    base.tokenizer = Letters()
    return base


def task(n=24, kind="sft"):
    words = ["".join(random.Random(i).choices("abcdefgh", k=4 + i % 3)) for i in range(n)]
    if kind == "sft":
        return Task("echo", "sft", tuple(Example(f"{w}x", w) for w in words))
    return Task("better", "preference", tuple(Preference(f"{w}x", w, w[::-1] + "z") for w in words))


def quick(**changes):
    return recipe(**({"lr": 0.02, "batch_size": 8, "epochs": 2.0} | changes))


def plant_divergence(monkeypatch: pytest.MonkeyPatch, at: int = 1) -> None:
    """From step `at` on, the trained parameters of the runs at the learning rate DIVERGES are NaN.

    No learning rate does that on every processor: whether an enormous one ends in NaN depends on the order of sums.
    """
    step = Member.step

    def planted(self: Member, loss: float) -> dict:
        row = step(self, loss)
        if self.recipe.lr == DIVERGES and self.progress.step >= at:
            with torch.no_grad():
                for parameter in self.trained.values():
                    parameter.fill_(math.nan)
        return row

    monkeypatch.setattr(Member, "step", planted)
