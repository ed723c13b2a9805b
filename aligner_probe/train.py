"""Train an adapter on a task, and save it with everything that made it.

python -m aligner_probe.train --model M --task T --method aligner --n-tokens 1 --out DIR
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aligner_probe.commands import Parser, run
from aligner_probe.errors import AlignerProbeError

#: Methods, and which of the options below each takes.
METHODS = {
    "aligner": ("n_tokens", "start_layer", "train", "initial_gate", "gate_function", "gate_per"),
    "llama_adapter": ("n_tokens", "start_layer", "train", "initial_gate", "gate_function", "gate_per"),
    "lora": ("r", "alpha", "targets", "start_layer"),
    "output_bias": ("subspace", "scale", "start_layer"),
    "prefix_tuning": ("n_tokens", "spread", "start_layer"),
    "prompt_tuning": ("n_tokens",),
    "full": (),
}
#: What --freeze leaves to train.
TRAINS = {"tokens": "gates", "gates": "tokens"}
#: The recipe's numbers that an option of the same name changes, and what each is.
NUMBERS = {
    "lr": (float, "learning rate, after warm-up"),
    "weight_decay": (float, "AdamW's"),
    "batch_size": (int, "examples an optimiser step"),
    "micro_batch_size": (int, "examples a forward pass; the rest of a batch is accumulated"),
    "epochs": (float, "length of the training"),
    "steps": (int, "length in optimiser steps, instead of epochs"),
    "warmup": (float, "epochs until the learning rate is reached"),
    "evaluate_every": (int, "steps between validations (0: at each epoch's end)"),
    "patience": (int, "validations without a better one before it stops"),
    "min_improvement": (float, "how much lower a validation loss must be to count as better, in nats a token"),
    "max_length": (int, "tokens a sequence, at most (default: the base's context)"),
    "beta": (float, "DPO's"),
}
EPILOG = """\
In DIR: metrics.jsonl, state.pt (what --resume goes on from) and adapter/, which
ap.load_adapter reads. Tasks are JSONL: TRL's fields, Alpaca, GSM8K, MetaMathQA, HH-RLHF
and Beaver are recognised; others by --prompt-template and --completion-field.
"""


def parser() -> Parser:
    parser = Parser(prog="python -m aligner_probe.train", description=__doc__.splitlines()[0], epilog=EPILOG)
    parser.add_argument("--model", required=True, metavar="M", help="a hub id, or a local folder")
    parser.add_argument(
        "--task", required=True, type=Path, metavar="T", help="a JSONL file, or a folder with train.jsonl"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to")
    parser.add_argument("--resume", action="store_true", help="go on with what is in DIR")
    parser.add_argument("--method", choices=METHODS, default="aligner")
    _add_method(parser.add_argument_group("the method's options"))
    _add_recipe(parser.add_argument_group("the recipe, and what to change in it"))
    _add_execution(parser.add_argument_group("how it is carried out"))
    data = parser.add_argument_group("data")
    data.add_argument("--validation", type=Path, metavar="FILE", help="JSONL; default: a tenth of the task, by group")
    data.add_argument("--prompt-template", metavar="TEXT", help="with {field}s; \\n is a new line")
    data.add_argument("--completion-field", metavar="FIELD")
    data.add_argument("--flawed", choices=("refuse", "drop"), default="refuse", help="rows that teach nothing")
    return parser


def _add_method(group: Any) -> None:
    group.add_argument("--n-tokens", type=int, metavar="N")
    group.add_argument("--start-layer", type=int, metavar="L", help="first adapted layer (default: 2 on deep models)")
    group.add_argument("--freeze", choices=TRAINS, help="a control arm: leave these as they start")
    group.add_argument(
        "--initial-gate",
        type=float,
        metavar="G",
        help="of every gate; default 0, and with --freeze gates what adds 5 %% of the residual norm",
    )
    group.add_argument("--gate-function", choices=("linear", "tanh"))
    group.add_argument("--gate-per", choices=("head", "layer"))
    group.add_argument("--r", type=int, help="LoRA's rank")
    group.add_argument("--alpha", type=float, help="LoRA's scale")
    group.add_argument("--targets", type=_names, metavar="q,v", help="projections that LoRA adds to")
    group.add_argument(
        "--subspace", type=int, metavar="K", help="output_bias: K random directions instead of free ones"
    )
    group.add_argument("--scale", type=float, help="output_bias: of the random directions")
    group.add_argument("--spread", type=float, help="prefix_tuning: standard deviation of the start")
    group.add_argument("--seed", type=int, default=0, help="of the start (default: 0)")


def _add_recipe(group: Any) -> None:
    group.add_argument("--recipe", choices=("corrected", "as-published"), default="corrected")
    for name, (kind, what) in NUMBERS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="X", help=what)
    group.add_argument("--clip", type=_number_or_none, metavar="X", help="largest norm of the gradient, or none")
    group.add_argument("--betas", type=float, nargs=2, metavar="X", help="AdamW's")
    group.add_argument("--warmup-counts", choices=("steps", "micro_batches"), help="what of an epoch warm-up counts")
    group.add_argument("--precision", choices=("float32", "bf16-true"), help="of the adapter and the optimiser")
    group.add_argument("--loss-on", choices=("completion", "all"), help="which tokens are learned")
    group.add_argument("--end-token", choices=("yes", "no"), help="whether completions end with it")
    group.add_argument("--draw", choices=("shuffled", "replacement"), help="how batches are drawn")
    group.add_argument("--overlong", choices=("truncate", "drop", "refuse"), help="examples over the length")
    group.add_argument("--order-seed", type=int, metavar="S", help="of the batches (default: the recipe's)")


def _add_execution(group: Any) -> None:
    group.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the base (default: float32)"
    )
    group.add_argument("--device", help="for instance cuda (default: cpu)")
    group.add_argument(
        "--cache", choices=("auto", "on", "off"), default="auto", help="compute layers below the adapter's only once"
    )
    group.add_argument("--cache-gb", type=float, metavar="X", help="at most this much of them (default: 2.1)")
    group.add_argument(
        "--checkpoint-activations", action="store_true", help="compute layers twice rather than keep them"
    )
    group.add_argument("--save-every", type=int, default=50, metavar="N", help="steps between states (default: 50)")
    group.add_argument("--wandb", metavar="PROJECT", help="log to Weights & Biases, if it is installed")


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    chosen, changes = _method_options(options), _recipe_changes(options)

    import torch

    from aligner_probe.checkpoints.adapters import METHODS as CLASSES
    from aligner_probe.checkpoints.adapters import save_adapter
    from aligner_probe.models import load_model
    from aligner_probe.tasks.loading import load_splits
    from aligner_probe.tasks.templates import unescape
    from aligner_probe.training import fit, recipe
    from aligner_probe.training.callbacks import Callback, Start
    from aligner_probe.training.lower_layers import BUDGET_BYTES
    from aligner_probe.training.opening import open_gate

    template = None if options.prompt_template is None else unescape(options.prompt_template)
    reading = {"prompt_template": template, "completion_field": options.completion_field, "flawed": options.flawed}
    task, validation = load_splits(options.task, options.validation, **reading)
    made_by: dict[str, Any] = {"command": list(sys.argv[1:] if argv is None else argv)}
    if options.validation is None:
        # A folder's test.jsonl is for the end; validation is held out of the training part.
        task, validation = task.split(0.1, seed=0)
        made_by["split"] = {"validation": 0.1, "seed": 0}
    how = recipe(options.recipe, task.kind, **changes)
    callbacks: list[Callback] = []
    if options.wandb is not None:
        from aligner_probe.training.wandb import WeightsAndBiases

        callbacks.append(WeightsAndBiases(options.wandb))
    model = load_model(options.model, dtype=getattr(torch, options.dtype), device=options.device)
    method = CLASSES[options.method]
    if chosen.get("train") == "tokens" and "initial_gate" not in chosen:
        opened = open_gate(model, task, method, max_length=how.max_length, seed=options.seed, **chosen)
        chosen["initial_gate"], made_by["open_gate"] = opened.initial_gate, asdict(opened)
        print(f"gates are left at {opened.initial_gate:.4g}: tokens add {opened.measured:.1%} of the residual norm")
    adapter = method(model, seed=options.seed, **chosen)
    print(f"{adapter.method}: {adapter.n_parameters:,} trained numbers on {options.model}; {len(task)} examples, "
          f"{len(validation)} for validation. {task.dropped_note}")  # fmt: skip

    class Announce(Callback):
        def started(self, start: Start) -> None:
            print(f"{start.rule}\nmemory: {start.memory}\nlower layers: {start.lower_layers}")

    done = fit(
        model,
        adapter,
        task,
        validation=validation,
        recipe=how,
        out=options.out,
        resume=options.resume,
        save_every=options.save_every,
        cache={"auto": "auto", "on": True, "off": False}[options.cache],
        cache_budget=BUDGET_BYTES if options.cache_gb is None else int(1e9 * options.cache_gb),
        checkpoint_activations=options.checkpoint_activations,
        callbacks=[Announce(), *callbacks],
    )
    save_adapter(adapter, options.out / "adapter", run=done.provenance | made_by, overwrite=True)
    losses = done.validation_loss
    print(
        f"validation loss {losses.iloc[0]:.4f} before, {done.best_validation_loss:.4f} at best (step {done.best_step})"
    )
    print(f"saved {options.out / 'adapter'}")
    return 0


def _method_options(options: argparse.Namespace) -> dict[str, Any]:
    """What was given for the method; an option it does not take is an error rather than ignored."""
    given = {name: getattr(options, name) for taken in METHODS.values() for name in taken if name != "train"}
    given["train"] = TRAINS.get(options.freeze)
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in METHODS[options.method]:
            flag = "--freeze" if name == "train" else f"--{name.replace('_', '-')}"
            takes = ", ".join("freeze" if o == "train" else o.replace("_", "-") for o in METHODS[options.method])
            raise AlignerProbeError(f"{options.method} takes no {flag}; it takes {takes or 'no options'}")
    return given


def _recipe_changes(options: argparse.Namespace) -> dict[str, Any]:
    """The recipe's options that were given, under the recipe's names."""
    given = {name: getattr(options, name) for name in (*NUMBERS, "warmup_counts", "precision", "overlong")}
    given |= {
        "betas": options.betas and tuple(options.betas),
        "mask_prompt": options.loss_on and options.loss_on == "completion",
        "append_eos": options.end_token and options.end_token == "yes",
        "replacement": options.draw and options.draw == "replacement",
        "seed": options.order_seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if options.clip is not None:
        given["clip"] = None if options.clip == "none" else options.clip
    return given


def _number_or_none(text: str) -> float | str:
    return text if text == "none" else float(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    sys.exit(run(main))
