"""How to train: every option in one place, and the two named recipes.

The recipe "as-published" does what the authors' scripts do (finetune/aligner.py, finetune/alignerDPO.py), with their
mistakes. The adapter and the states of the optimiser are in bfloat16. The prompt is part of the loss. Batches are drawn
with replacement. The warm-up is counted in micro-batches but compared with optimiser steps, so a warm-up of two epochs
lasts sixteen. Their LoRA script (finetune/lora.py) has other values, which `adapters/lora.py` declares. The recipe
"corrected" does not make these mistakes.

What a recipe leaves open is settled when the adapter and the number of examples are known. The learning rate follows
from the method and the width of the base model (`rates.py`). Length, batch size and validation follow from the size of
the task; these rules were chosen on the micro-world with panel:style_pirate:

- With 54 training examples and 240 steps of 16 examples, the validation loss was .082 with Aligner-1, .087 with an
  output bias, .002 with LoRA and .006 with prompt tuning. Before training it was 1.29 nats a token. All held-out
  answers were right.
- With 180 training examples, 480 steps instead of 240 lowered the loss of Aligner-1 from .095 to .083, and that of the
  output bias from .087 to .063.
- In as many steps, batches of 32 were no better, and with batches of 8 LoRA was unstable.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from aligner_probe.adapters.registry import adapter_class
from aligner_probe.arguments import ArgumentError, accepts, refuse
from aligner_probe.errors import AlignerProbeError, did_you_mean, one_of

Precision = Literal["float32", "bf16-true"]
WarmupCounts = Literal["steps", "micro_batches"]
Overlong = Literal["truncate", "drop", "refuse"]
TrainOn = Literal["last", "all"]
RecipeName = Literal["as-published", "corrected"]
#: The fewest tokens of a sequence: one of the prompt and one of the completion.
FEWEST_TOKENS = 2
#: Epochs of warm-up, where neither epochs nor steps of it are given.
WARMUP = 0.1
#: Examples an optimiser step, and epochs, where they are not given.
BATCH_SIZE, EPOCHS = 32, 3.0
#: Where no length is given: the fewest steps, and the most epochs, which have precedence.
FEWEST_STEPS, MOST_EPOCHS = 240, 100.0
#: Where no length is given: examples a step, if `EPOCHS` epochs would be fewer steps than `FEWEST_STEPS`.
SMALL_BATCH = 16
#: Where no length is given: how many times a run is validated.
EVALUATIONS = 8


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The options of a training; `ap.recipe` makes one. Lengths are in epochs unless `steps` is given.

    `lr`, `batch_size`, `epochs`, `steps` and `evaluate_every` may be left open (None). `fit` settles a recipe before it
    trains (`settled` says how), and a run records the settled one.

    An optimiser step has `batch_size` examples, `micro_batch_size` in a pass (None: see `passes.py`). The warm-up is
    either `warmup` epochs (`warmup_counts` says what is counted) or `warmup_steps` optimiser steps; by default a tenth
    of an epoch. `precision` is that of the adapter and the optimiser, also for an adapter that was loaded in another
    precision (full fine-tuning has that of the base model). The base model has its own precision, from `load_model`; so
    the authors' "bf16-true", bfloat16 throughout, is this option on a base model loaded with `dtype=torch.bfloat16`. A
    sequence has at most `max_length` tokens (None: the context of the base model); `overlong` says what happens to
    longer ones. `mask_prompt` leaves the prompt out of the loss, `append_eos` trains on an end token. In a conversation
    `train_on` says whether the last answer is trained or all answers of the assistant. `beta` is DPO's.

    The optimiser is AdamW with `betas` and `weight_decay`; gradients are scaled down to the norm `clip`. The order of
    the examples follows from the order seed, `seed`; with `replacement` every batch is drawn anew from all of them.

    The validation loss is computed every `evaluate_every` steps (0: at the end of each epoch), and after the last step.
    Training stops after `patience` evaluations without one that is better by more than `min_improvement` nats per token
    (None: never), and the best parameters are kept.
    """

    lr: float | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int | None = None
    micro_batch_size: int | None = None
    epochs: float | None = None
    steps: int | None = None
    warmup: float | None = None
    warmup_steps: int | None = None
    warmup_counts: WarmupCounts = "steps"
    clip: float | None = 1.0
    precision: Precision = "float32"
    replacement: bool = False
    mask_prompt: bool = True
    append_eos: bool = True
    train_on: TrainOn = "last"
    max_length: int | None = None
    overlong: Overlong = "truncate"
    beta: float = 0.1
    evaluate_every: int | None = None
    patience: int | None = None
    min_improvement: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.warmup is None and self.warmup_steps is None:
            object.__setattr__(self, "warmup", WARMUP)
        micro, size = self.micro_batch_size, self.batch_size
        wrong = [
            f"{name} {getattr(self, name)!r} (expected {wanted})"
            for name, good, wanted in (
                ("lr", self.lr is None or 0 < self.lr < math.inf, "more than 0, or None"),
                ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
                ("betas", len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "two from 0 to below 1"),
                ("batch_size", size is None or size >= 1, "1 or more, or None"),
                (
                    "micro_batch_size",
                    micro is None or (micro >= 1 and (size is None or size % micro == 0)),
                    f"a divisor of batch_size {size}, or None",
                ),
                ("epochs", self.epochs is None or 0 < self.epochs < math.inf, "more than 0, or None"),
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
                ("evaluate_every", self.evaluate_every is None or self.evaluate_every >= 0, "0 or more, or None"),
                ("patience", self.patience is None or self.patience >= 1, "1 or more, or None"),
                ("min_improvement", 0 <= self.min_improvement < math.inf, "0 or more"),
                ("precision", self.precision in get_args(Precision), " or ".join(get_args(Precision))),
                ("warmup_counts", self.warmup_counts in get_args(WarmupCounts), " or ".join(get_args(WarmupCounts))),
                ("train_on", self.train_on in get_args(TrainOn), " or ".join(get_args(TrainOn))),
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

    def settled(self, n_examples: int, lr: float | None = None) -> "Recipe":
        """The recipe with everything that was left open, for a task of so many examples; `lr` is the default rate.

        Where neither `epochs` nor `steps` is given, the length depends on the size of the task: `EPOCHS` epochs, but
        at least `FEWEST_STEPS` steps, which are at most `MOST_EPOCHS` epochs; the batch is then smaller for a task of
        few examples, and the run is validated `EVALUATIONS` times. Where a length is given, an open batch size is
        `BATCH_SIZE`, and the run is validated at each epoch's end.
        """
        changes: dict[str, Any] = {"lr": lr if self.lr is None else self.lr, "epochs": self.epochs or EPOCHS}
        by_size = self.epochs is None and self.steps is None
        size, every = self.batch_size, self.evaluate_every
        if size is None:
            few = by_size and EPOCHS * math.ceil(n_examples / BATCH_SIZE) < FEWEST_STEPS
            micro = self.micro_batch_size or 1
            # A whole number of micro-batches.
            size = math.ceil((SMALL_BATCH if few else BATCH_SIZE) / micro) * micro
        changes["batch_size"], changes["evaluate_every"] = size, every or 0
        if by_size:
            per_epoch = max(1, math.ceil(n_examples / size))
            steps = max(round(EPOCHS * per_epoch), min(FEWEST_STEPS, round(MOST_EPOCHS * per_epoch)))
            changes |= {"steps": steps, "evaluate_every": math.ceil(steps / EVALUATIONS) if every is None else every}
        return replace(self, **changes)

    def described(self, n_examples: int, *, validated: bool = True) -> str:
        """Learning rate and length in a sentence, and when the run is `validated`, if it is."""
        made = self.settled(n_examples)
        steps, rate = made.total_steps(n_examples), "by method and width" if made.lr is None else f"{made.lr:g}"
        epochs = steps / made.steps_per_epoch(n_examples)
        every = f"every {made.evaluate_every} steps" if made.evaluate_every else "at the end of each epoch"
        stops = "" if made.patience is None else f", stopped after {made.patience} validations without a lower loss"
        length = f"{epochs:.3g} epoch{'' if epochs == 1 else 's'}"
        said = f"learning rate {rate}, {steps} steps of {made.batch_size} examples ({length})"
        return f"{said}, validated {every}{stops}" if validated else said

    @property
    def rows_at_once(self) -> int:
        """The most examples in a forward pass."""
        return self.micro_batch_size or self.batch_size or BATCH_SIZE

    @property
    def accumulation(self) -> int:
        """Micro-batches an optimiser step."""
        return (self.batch_size or BATCH_SIZE) // self.rows_at_once

    def steps_per_epoch(self, n_examples: int) -> int:
        size = self.batch_size or self.settled(n_examples).batch_size
        assert size is not None  # a settled recipe has it
        return max(1, math.ceil(n_examples / size))

    def total_steps(self, n_examples: int) -> int:
        steps = self.steps
        if steps is None and self.epochs is None:
            steps = self.settled(n_examples).steps
        return steps or max(1, round((self.epochs or EPOCHS) * self.steps_per_epoch(n_examples)))

    def lr_at(self, step: int, n_examples: int) -> float:
        """Learning rate of optimiser step 1, 2, ...: a linear warm-up, then constant.

        Raises AlignerProbeError where the learning rate is left open.
        """
        if self.lr is None:
            raise AlignerProbeError(
                "this recipe leaves the learning rate to method and width; give one (lr=), or settle it: "
                "recipe.settled(n_examples, lr)"
            )
        length = self.warmup_steps
        if length is None:
            per_epoch = self.steps_per_epoch(n_examples)
            if self.warmup_counts == "micro_batches":
                per_epoch *= self.accumulation
            length = (self.warmup or 0.0) * per_epoch
        return self.lr if step >= length else self.lr * step / length

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def as_completed(recorded: dict[str, Any]) -> dict[str, Any]:
    """A recorded recipe, as `to_dict` gives it, with the options that an older version did not have, as it trained."""
    return AS_BEFORE | recorded


def options_of(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The options that make the recipe `now` the recipe `before` again, both as `to_dict` gives them.

    First as `train` takes them, then in brackets as `recipe` does. Empty where the recipes are the same. An option that
    is missing in `before`, since an older version did not have it, was None.
    """
    changed = {name: before.get(name) for name in now if before.get(name) != now[name]}
    if "steps" in changed and changed["steps"] is None:
        # The length was in epochs; these are a field of their own, which may be the same.
        changed["epochs"] = before["epochs"]
    # Each of these is left out where the other one is given.
    for name in ("steps", "warmup", "warmup_steps"):
        if name in changed and changed[name] is None:
            del changed[name]
    options = [_as_option(name, value) for name, value in changed.items()]
    arguments = ", ".join(f"{name}={value!r}" for name, value in changed.items())
    return f"{' '.join(options)} (recipe({arguments}))" if changed else ""


def _as_option(field: str, value: Any) -> str:
    """A field of the recipe and its value as options of `train`."""
    name, values = _OPTIONS.get(field, (field, {}))
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, list | tuple):
        return f"{option} {' '.join(f'{one:g}' for one in value)}"
    if value is None:
        return f"{option} none" if field in ("clip", "patience") else f"without {option}"
    return f"{option} {values.get(value, value) if values else _number(value)}"


def _number(value: Any) -> str:
    """A number without a needless .0, or a text as it is."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


#: Options that older versions did not have, with the value that says what they did.
AS_BEFORE: dict[str, Any] = {"train_on": "last"}

#: Fields of the recipe that `train` has under other names, and the values that it takes for them.
_OPTIONS: dict[str, tuple[str, dict[bool, str]]] = {
    "seed": ("order_seed", {}),
    "mask_prompt": ("loss_on", {True: "completion", False: "all"}),
    "append_eos": ("end_token", {True: "yes", False: "no"}),
    "replacement": ("draw", {True: "replacement", False: "shuffled"}),
}


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
    "corrected": {"sft": {"patience": 2}, "preference": {"patience": 2}},
}


def _recipe_name(value: Any, where: str) -> str:
    if isinstance(value, str) and value in RECIPES:
        return value
    raise ArgumentError(f"no recipe is named {value!r}; {did_you_mean(value, RECIPES)}there are {', '.join(RECIPES)}")


def one_recipe(value: Any, where: str) -> Recipe:
    """The recipe that was given. Raises ArgumentError for anything else, a recipe's name among it."""
    if isinstance(value, Recipe):
        return value
    name = repr(value) if isinstance(value, str) and value in RECIPES else '"corrected"'
    raise refuse(value, where, f"a recipe: ap.recipe({name}, lr=..., steps=...)")


class _AsNamed:
    """Stands for an option that is not given: the named recipe decides on it."""

    def __repr__(self) -> str:
        return "as named"


_AS_NAMED: Any = _AsNamed()


@accepts(name=_recipe_name)
def recipe(
    name: RecipeName | str = "corrected",
    kind: Literal["sft", "preference"] | str = "sft",
    *,
    method: str | None = None,
    lr: float | None = _AS_NAMED,
    weight_decay: float = _AS_NAMED,
    betas: tuple[float, float] = _AS_NAMED,
    batch_size: int | None = _AS_NAMED,
    micro_batch_size: int | None = _AS_NAMED,
    epochs: float | None = _AS_NAMED,
    steps: int | None = _AS_NAMED,
    warmup: float | None = _AS_NAMED,
    warmup_steps: int | None = _AS_NAMED,
    warmup_counts: WarmupCounts = _AS_NAMED,
    clip: float | None = _AS_NAMED,
    precision: Precision = _AS_NAMED,
    replacement: bool = _AS_NAMED,
    mask_prompt: bool = _AS_NAMED,
    append_eos: bool = _AS_NAMED,
    train_on: TrainOn = _AS_NAMED,
    max_length: int | None = _AS_NAMED,
    overlong: Overlong = _AS_NAMED,
    beta: float = _AS_NAMED,
    evaluate_every: int | None = _AS_NAMED,
    patience: int | None = _AS_NAMED,
    min_improvement: float = _AS_NAMED,
    seed: int = _AS_NAMED,
) -> Recipe:
    """A named recipe for a kind of task, with any option changed.

    Args:
        name: "corrected" or "as-published". The corrected recipe leaves open what is not given, so that learning rate
            and length fit the method, the base model and the task (`Recipe.settled`). It stops early on validation,
            where `fit` is given any; a length in `steps` is made to its end, unless `patience` is given, too.
        kind: what the task has: "sft" (completions) or "preference" (pairs, for DPO).
        method: the adapter's method, whose class can declare a published recipe of its own (LoRA, prompt tuning).
        lr: the highest learning rate; None leaves it open.
        weight_decay: AdamW's weight decay.
        betas: AdamW's two decay rates.
        batch_size: examples in an optimiser step; None leaves it open.
        micro_batch_size: examples that go through the model at once; None for as many as are fastest, on a GPU all.
        epochs: length of the training in passes over the examples; None leaves it open.
        steps: length of the training in optimiser steps, instead of epochs.
        warmup: epochs in which the learning rate rises to `lr`. Given here, it takes the place of the recipe's
            own warm-up, in epochs or in steps.
        warmup_steps: the same in optimiser steps.
        warmup_counts: what the warm-up counts: "steps", or "micro_batches" as the authors' scripts do.
        clip: the greatest norm of the gradient; None does not clip.
        precision: of the adapter's parameters and the optimiser: "float32" or "bf16-true".
        replacement: draw every batch anew from all examples, instead of going through them epoch by epoch.
        mask_prompt: leave the prompt's tokens out of the loss.
        append_eos: train on an end token after each completion.
        train_on: what is trained of a conversation: the "last" answer, or "all" answers of the assistant.
        max_length: the most tokens of a sequence; None for the base model's context.
        overlong: what happens to longer sequences: "truncate", "drop" or "refuse".
        beta: DPO's beta.
        evaluate_every: optimiser steps between two validations; 0 validates at the end of each epoch, None leaves it
            open.
        patience: validations without improvement after which training stops; None never stops early.
        min_improvement: by how much the validation loss must fall to count as improved, in its own unit.
        seed: order seed: draws the order of the examples.

    Raises AlignerProbeError for an unknown name, kind, method or option, and for values outside their range.
    """
    arguments = locals()
    changes = {
        option: arguments[option] for option in Recipe.__dataclass_fields__ if arguments[option] is not _AS_NAMED
    }
    one_of(kind, RECIPES[name], "kind of task")
    of_method = {} if method is None else adapter_class(method).published_recipe
    options = dict(RECIPES[name][kind])
    if name == "as-published" and kind in of_method:
        options = _PUBLISHED | dict(of_method[kind])
    replaced = {
        "warmup": ("warmup_steps",),
        "warmup_steps": ("warmup", "warmup_counts"),
        "steps": ("patience",),
        "epochs": ("steps",),
    }
    for given, others in replaced.items():
        if changes.get(given) is not None:
            for other in others:
                options.pop(other, None)
    return Recipe(**(options | changes))
