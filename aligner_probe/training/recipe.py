"""How to train: every option in one place, and the two named recipes.

`as_published` is what the authors' scripts do (finetune/aligner.py, finetune/alignerDPO.py), slips included: adapter
and optimiser states in bfloat16, the prompt in the loss, batches drawn with replacement, and a warm-up counted in
micro-batches but compared with optimiser steps, so that two epochs of it last sixteen. `corrected` mends these.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from aligner_probe.errors import AlignerProbeError

Precision = Literal["float32", "bf16-true"]
RecipeName = Literal["as-published", "corrected"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options of a training run; lengths are in epochs unless `steps` is given.

    `batch_size` examples make an optimiser step, in micro-batches of `micro_batch_size`. `warmup` is in epochs;
    `warmup_counts` says what of an epoch is counted. `precision` is the adapter's and the optimiser's: "bf16-true" is
    bfloat16 throughout. `beta` is DPO's. `evaluate_every` steps the validation loss is taken (0: at each epoch's end);
    after `patience` evaluations without one that is better by more than `min_improvement`, training stops (None:
    never), and the best numbers are kept.
    """

    lr: float = 1e-2
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int = 32
    micro_batch_size: int | None = None
    epochs: float = 3.0
    steps: int | None = None
    warmup: float = 0.1
    warmup_counts: Literal["steps", "micro_batches"] = "steps"
    clip: float | None = 1.0
    precision: Precision = "float32"
    replacement: bool = False
    mask_prompt: bool = True
    append_eos: bool = True
    max_length: int | None = None
    overlong: Literal["truncate", "drop", "refuse"] = "truncate"
    beta: float = 0.1
    evaluate_every: int = 0
    patience: int | None = None
    min_improvement: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            f"{name} {getattr(self, name)!r} (expected {wanted})"
            for name, good, wanted in (
                ("lr", self.lr > 0, "more than 0"),
                ("weight_decay", self.weight_decay >= 0, "0 or more"),
                ("batch_size", self.batch_size >= 1, "1 or more"),
                ("epochs", self.epochs > 0, "more than 0"),
                ("steps", self.steps is None or self.steps >= 1, "1 or more"),
                ("warmup", self.warmup >= 0, "0 or more"),
                ("clip", self.clip is None or self.clip > 0, "more than 0, or None"),
                ("beta", self.beta > 0, "more than 0"),
                ("evaluate_every", self.evaluate_every >= 0, "0 or more"),
                ("patience", self.patience is None or self.patience >= 1, "1 or more, or None"),
                ("min_improvement", self.min_improvement >= 0, "0 or more"),
                (
                    "micro_batch_size",
                    self.micro_batch_size is None or self.batch_size % max(self.micro_batch_size, 1) == 0,
                    f"a divisor of batch_size {self.batch_size}",
                ),
            )
            if not good
        ]
        if wrong:
            raise AlignerProbeError(f"recipe does not fit: {'; '.join(wrong)}")

    @property
    def accumulation(self) -> int:
        """Micro-batches an optimiser step."""
        return self.batch_size // (self.micro_batch_size or self.batch_size)

    def steps_per_epoch(self, n_examples: int) -> int:
        return max(1, math.ceil(n_examples / self.batch_size))

    def total_steps(self, n_examples: int) -> int:
        return self.steps or max(1, round(self.epochs * self.steps_per_epoch(n_examples)))

    def lr_at(self, step: int, n_examples: int) -> float:
        """Learning rate of optimiser step 1, 2, ...: a linear warm-up, then constant."""
        per_epoch = self.steps_per_epoch(n_examples)
        if self.warmup_counts == "micro_batches":
            per_epoch *= self.accumulation
        length = self.warmup * per_epoch
        return self.lr if step >= length else self.lr * step / length

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "as-published": {
        "sft": {
            "lr": 9e-3,
            "weight_decay": 0.02,
            "batch_size": 64,
            "micro_batch_size": 8,
            "epochs": 8.0,
            "warmup": 2.0,
            "warmup_counts": "micro_batches",
            "clip": None,
            "precision": "bf16-true",
            "replacement": True,
            "mask_prompt": False,
            "seed": 1337,
        },
        "preference": {
            "lr": 1e-4,
            "weight_decay": 0.02,
            "batch_size": 64,
            "micro_batch_size": 2,
            "epochs": 3.0,
            "warmup": 0.5,
            "warmup_counts": "micro_batches",
            "clip": None,
            "precision": "bf16-true",
            "replacement": True,
            "max_length": 1024,
            "beta": 0.1,
            "seed": 1337,
        },
    },
    "corrected": {"sft": {}, "preference": {"lr": 1e-3}},
}


def recipe(name: RecipeName = "corrected", kind: Literal["sft", "preference"] = "sft", **changes: Any) -> Recipe:
    """A named recipe for a kind of task, with any option changed."""
    if name not in RECIPES:
        raise AlignerProbeError(f"no recipe is named {name!r}; there are {', '.join(RECIPES)}")
    unknown = set(changes) - set(Recipe.__dataclass_fields__)
    if unknown:
        raise AlignerProbeError(
            f"a recipe has no option {sorted(unknown)[0]!r}; there are {', '.join(Recipe.__dataclass_fields__)}"
        )
    return Recipe(**(RECIPES[name][kind] | changes))
