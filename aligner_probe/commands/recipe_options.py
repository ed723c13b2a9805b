"""The options of the recipe in `aligner-probe train`: which recipe, and what to change in it."""

import argparse
from typing import Any

from aligner_probe.commands.options import Group, finite, unless_none

#: Options of the recipe that take one number: the type, and the help. Each has the name of the recipe's own option.
NUMBERS = {
    "lr": (finite, "learning rate after warm-up (default: by method and by the width of the base model)"),
    "weight_decay": (finite, "weight decay of AdamW"),
    "batch_size": (int, "examples in an optimiser step (default: 32, or 16 for a task of few examples)"),
    "micro_batch_size": (int, "examples in a forward pass; gradients are accumulated over the rest of a batch"),
    "epochs": (finite, "length of the training (default: 3, but 240 steps or more, and at most 100 epochs)"),
    "steps": (int, "length of the training in optimiser steps, instead of epochs"),
    "warmup": (finite, "epochs until the learning rate is reached"),
    "warmup_steps": (int, "optimiser steps until the learning rate is reached, instead of epochs"),
    "evaluate_every": (
        int,
        "steps between validations; 0: at the end of each epoch. There is always one after the last step (default: an "
        "eighth of the length, or 0 where a length is given)",
    ),
    "patience": (
        unless_none(int),
        "validations without a better one before the training stops, or none (default: 2 for corrected, unless --steps "
        "is given)",
    ),
    "min_improvement": (finite, "how much lower a validation loss must be to count as better, in nats per token"),
    "max_length": (int, "most tokens in a sequence (default: the context of the base model)"),
    "beta": (finite, "beta of DPO"),
}


def add_recipe_options(group: Group) -> None:
    """Add --recipe and the options that change it; `recipe_changes` reads them."""
    group.add_argument(
        "--recipe",
        choices=("corrected", "as-published"),
        default="corrected",
        help="as-published: what the authors' scripts do; they train LoRA by another recipe than Aligner",
    )
    for name, (kind, purpose) in NUMBERS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="X", help=purpose)
    group.add_argument("--clip", type=unless_none(finite), metavar="X", help="largest norm of the gradient, or none")
    group.add_argument("--betas", type=finite, nargs=2, metavar="X", help="the two betas of AdamW")
    group.add_argument("--warmup-counts", choices=("steps", "micro_batches"), help="in what --warmup counts an epoch")
    group.add_argument("--precision", choices=("float32", "bf16-true"), help="of the adapter and the optimiser")
    group.add_argument("--loss-on", choices=("completion", "all"), help="which tokens count in the loss")
    group.add_argument(
        "--train-on",
        choices=("last", "all"),
        help="in conversations: the last answer, or all answers of the assistant (default: last)",
    )
    group.add_argument("--end-token", choices=("yes", "no"), help="whether completions end with the end token")
    group.add_argument("--draw", choices=("shuffled", "replacement"), help="how batches are drawn")
    group.add_argument("--overlong", choices=("truncate", "drop", "refuse"), help="what to do with longer examples")
    group.add_argument("--order-seed", type=int, metavar="S", help="seed of the batches (default: the recipe's)")


def add_chat_template(group: Group) -> None:
    """Add --chat-template; `ap.set_chat_template` and `template_given` take what it holds."""
    group.add_argument(
        "--chat-template",
        default="auto",
        metavar="T",
        help="how conversations become text: auto (the template of the base model's tokenizer), none (no template: "
        "prompts are asked as they stand), or a file with a template (default: auto)",
    )


def recipe_changes(options: argparse.Namespace) -> dict[str, Any]:
    """The options of the recipe that were given, as keyword arguments of `recipe`."""
    given = {name: getattr(options, name) for name in (*NUMBERS, "warmup_counts", "precision", "overlong", "train_on")}
    given |= {
        "clip": options.clip,
        "betas": options.betas and tuple(options.betas),
        "mask_prompt": options.loss_on and options.loss_on == "completion",
        "append_eos": options.end_token and options.end_token == "yes",
        "replacement": options.draw and options.draw == "replacement",
        "seed": options.order_seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return {name: None if value == "none" else value for name, value in given.items()}
