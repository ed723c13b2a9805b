"""How to train: every option in one place, and the two named recipes.

`as_published` is what the authors' scripts do (finetune/aligner.py, finetune/alignerDPO.py), slips included: adapter
and optimiser states in bfloat16, the prompt in the loss, batches drawn with replacement, and a warm-up counted in
micro-batches but compared with optimiser steps, so that two epochs of it last sixteen; their LoRA (finetune/lora.py)
has numbers of its own. `corrected` mends these.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from aligner_probe.errors import AlignerProbeError, did_you_mean, one_of

Precision = Literal["float32", "bf16-true"]
WarmupCounts = Literal["steps", "micro_batches"]
Overlong = Literal["truncate", "drop", "refuse"]
RecipeName = Literal["as-published", "corrected"]
#: Of a sequence: a prompt's and its completion's.
FEWEST_TOKENS = 2
#: Epochs until the learning rate is reached, where neither these nor steps are given.
WARMUP = 0.1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options of a training run; lengths are in epochs unless `steps` is given.

    `batch_size` examples make an optimiser step, in micro-batches of `micro_batch_size` (None: in one). The warm-up is
    either `warmup` epochs, of which `warmup_counts` says what is counted, or `warmup_steps` optimiser steps; without
    either a tenth of an epoch. `precision` is the adapter's and the optimiser's, also of an adapter that was loaded in
    another (full fine-tuning is in the base's); the base has its own from `load_model`, so the authors' "bf16-true",
    bfloat16 throughout, is this on a base loaded with `dtype=torch.bfloat16`. A sequence has at most `max_length`
    tokens (None: the base's context). `beta` is DPO's.

    `evaluate_every` steps the validation loss is taken (0: at each epoch's end), and after the last one; after
    `patience` evaluations without one that is better by more than `min_improvement`, training stops (None: never), and
    the best numbers are kept.
    """

    lr: float = 1e-2
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int = 32
    micro_batch_size: int | None = None
    epochs: float = 3.0
    steps: int | None = None
    warmup: float | None = None
    warmup_steps: int | None = None
    warmup_counts: WarmupCounts = "steps"
    clip: float | None = 1.0
    precision: Precision = "float32"
    replacement: bool = False
    mask_prompt: bool = True
    append_eos: bool = True
    max_length: int | None = None
    overlong: Overlong = "truncate"
    beta: float = 0.1
    evaluate_every: int = 0
    patience: int | None = None
    min_improvement: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.warmup is None and self.warmup_steps is None:
            object.__setattr__(self, "warmup", WARMUP)
        micro = self.micro_batch_size
        wrong = [
            f"{name} {getattr(self, name)!r} (expected {wanted})"
            for name, good, wanted in (
                ("lr", 0 < self.lr < math.inf, "more than 0"),
                ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
                ("betas", len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "two from 0 to below 1"),
                ("batch_size", self.batch_size >= 1, "1 or more"),
                (
                    "micro_batch_size",
                    micro is None or (micro >= 1 and self.batch_size % micro == 0),
                    f"a divisor of batch_size {self.batch_size}, or None",
                ),
                ("epochs", 0 < self.epochs < math.inf, "more than 0"),
                ("steps", self.steps is None or self.steps >= 1, "1 or more"),
                ("warmup", self.warmup is None or 0 <= self.warmup < math.inf, "0 or more"),
                ("warmup_steps", self.warmup_steps is None or self.warmup_steps >= 0, "0 or more"),
                ("clip", self.clip is None or self.clip > 0, "more than 0, or None"),
                (
                    "max_length",
                    self.max_length is None or self.max_length >= FEWEST_TOKENS,
                    f"{FEWEST_TOKENS} or more, or None",
                ),
                ("beta", 0 < self.beta < math.inf, "more than 0"),
                ("evaluate_every", self.evaluate_every >= 0, "0 or more"),
                ("patience", self.patience is None or self.patience >= 1, "1 or more, or None"),
                ("min_improvement", 0 <= self.min_improvement < math.inf, "0 or more"),
                ("precision", self.precision in get_args(Precision), " or ".join(get_args(Precision))),
                ("warmup_counts", self.warmup_counts in get_args(WarmupCounts), " or ".join(get_args(WarmupCounts))),
                ("overlong", self.overlong in get_args(Overlong), " or ".join(get_args(Overlong))),
            )
            if not good
        ]
        if self.warmup_steps is not None and self.warmup_counts == "micro_batches":
            wrong.append(f"warmup_steps {self.warmup_steps} with warmup_counts 'micro_batches' (expected 'steps')")
        if None not in (self.warmup, self.warmup_steps):
            wrong.append(
                f"both warmup {self.warmup!r} and warmup_steps {self.warmup_steps!r} (expected None for one of them)"
            )
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
        length = self.warmup_steps
        if length is None:
            per_epoch = self.steps_per_epoch(n_examples)
            if self.warmup_counts == "micro_batches":
                per_epoch *= self.accumulation
            length = self.warmup * per_epoch
        return self.lr if step >= length else self.lr * step / length

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


#: What the authors' scripts share.
_PUBLISHED = {
    "weight_decay": 0.02,
    "batch_size": 64,
    "warmup_counts": "micro_batches",
    "clip": None,
    "precision": "bf16-true",
    "replacement": True,
    "seed": 1337,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "as-published": {
        "sft": _PUBLISHED | {"lr": 9e-3, "micro_batch_size": 8, "epochs": 8.0, "warmup": 2.0, "mask_prompt": False},
        "preference": _PUBLISHED
        | {"lr": 1e-4, "micro_batch_size": 2, "epochs": 3.0, "warmup": 0.5, "max_length": 1024, "beta": 0.1},
    },
    "corrected": {"sft": {"patience": 2}, "preference": {"lr": 1e-3, "patience": 2}},
}
#: Of finetune/lora.py, which is lit-llama's: its warm-up is in steps, and its weight decay AdamW's own. The dropout of
#: .05 is not applied: its masks would have to be the same in a resumed run, a checkpointed block and a shared batch.
LORA_AS_PUBLISHED = _PUBLISHED | {
    "lr": 3e-4,
    "weight_decay": 0.01,
    "batch_size": 128,
    "micro_batch_size": 4,
    "epochs": 3.0,
    "warmup_steps": 100,
    "warmup_counts": "steps",
    "mask_prompt": False,
}


def recipe(
    name: RecipeName | str = "corrected",
    kind: Literal["sft", "preference"] | str = "sft",
    *,
    method: str | None = None,
    **changes: Any,
) -> Recipe:
    """A named recipe for a kind of task, with any option changed.

    `method` is the adapter's, since the authors trained "lora" by SFT in another way than Aligner (of that, the dropout
    of .05 is not applied). A warm-up in `changes` takes the place of the recipe's own, in epochs or in steps.
    `corrected` stops early on validation, where `fit` is given any; a length in `steps` is made to its end, unless
    `patience` is given, too.
    """
    if name not in RECIPES:
        raise AlignerProbeError(
            f"no recipe is named {name!r}; {did_you_mean(name, RECIPES)}there are {', '.join(RECIPES)}"
        )
    one_of(kind, RECIPES[name], "kind of task")
    unknown = set(changes) - set(Recipe.__dataclass_fields__)
    if unknown:
        first, fields = sorted(unknown)[0], Recipe.__dataclass_fields__
        raise AlignerProbeError(
            f"a recipe has no option {first!r}; {did_you_mean(first, fields)}there are {', '.join(fields)}"
        )
    options = dict(RECIPES[name][kind])
    if (name, kind, method) == ("as-published", "sft", "lora"):
        options = dict(LORA_AS_PUBLISHED)
    replaced = {"warmup": ("warmup_steps",), "warmup_steps": ("warmup", "warmup_counts"), "steps": ("patience",)}
    for given, others in replaced.items():
        if changes.get(given) is not None:
            for other in others:
                options.pop(other, None)
    return Recipe(**(options | changes))
