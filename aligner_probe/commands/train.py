"""Train an adapter on a task, and save it with everything that made it.

aligner-probe train --model M --task T --method aligner --n-tokens 1 --out DIR
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aligner_probe.commands import going_on
from aligner_probe.commands.options import Parser, add_rows, add_threads, positive, rows_options, use_threads
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
DEFAULT_METHOD = "aligner"
#: What --freeze leaves to train.
TRAINS = {"tokens": "gates", "gates": "tokens"}


def _finite(text: str) -> float:
    """A number, as the type of an option."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}; expected a number")
    return value


def _bytes(text: str) -> int:
    """Gigabytes, as bytes."""
    value = _finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}; expected 0 or more")
    return int(1e9 * value)


def _seed(text: str) -> int:
    """A whole number that torch's generators take."""
    try:
        value = int(text)
    except ValueError:
        value = math.inf
    if not -(2**63) <= value < 2**64:
        raise argparse.ArgumentTypeError(f"{text}; expected a whole number from {-(2**63)} to {2**64 - 1}")
    return value


def _unless_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """The type of an option that `none` switches off."""

    def read(text: str) -> Any:
        return text if text == "none" else kind(text)

    read.__name__ = kind.__name__.strip("_")
    return read


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


#: The recipe's numbers that an option of the same name changes, and what each is.
NUMBERS = {
    "lr": (_finite, "learning rate, after warm-up (default: by method and the base's width)"),
    "weight_decay": (_finite, "AdamW's"),
    "batch_size": (int, "examples an optimiser step (default: 32, or 16 for a task of few examples)"),
    "micro_batch_size": (int, "examples a forward pass; the rest of a batch is accumulated"),
    "epochs": (_finite, "length of the training (default: 3, but 240 steps or more, at most 100 epochs)"),
    "steps": (int, "length in optimiser steps, instead of epochs"),
    "warmup": (_finite, "epochs until the learning rate is reached"),
    "warmup_steps": (int, "optimiser steps until then, instead of epochs"),
    "evaluate_every": (
        int,
        "steps between validations, 0: at each epoch's end; there is one after the last, too (default: an eighth of "
        "the length, or 0 where a length is given)",
    ),
    "patience": (
        _unless_none(int),
        "validations without a better one before it stops, or none (default: 2 for corrected, unless --steps is given)",
    ),
    "min_improvement": (_finite, "how much lower a validation loss must be to count as better, in nats a token"),
    "max_length": (int, "tokens a sequence, at most (default: the base's context)"),
    "beta": (_finite, "DPO's"),
}
EPILOG = """\
Where no --validation is given, 10 % of the training examples are held out for it, also where
a folder has a test.jsonl: that is for the end.

In DIR: metrics.jsonl, state.pt (what --resume goes on from) and adapter/, which
ap.load_adapter reads. Tasks are JSONL: TRL's fields, Alpaca, GSM8K, MetaMathQA, HH-RLHF
and Beaver are recognised; others by --prompt-template and --completion-field.
"""


def parser() -> Parser:
    parser = Parser(prog="aligner-probe train", description=__doc__.splitlines()[0], epilog=EPILOG)
    parser.add_argument("--model", required=True, metavar="M", help="a hub id, or a local folder")
    parser.add_argument(
        "--task",
        required=True,
        type=Path,
        metavar="T",
        help="a JSONL file, a folder with train.jsonl, or panel:NAME (list: aligner-probe probe tasks)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to")
    parser.add_argument("--resume", action="store_true", help="go on with what is in DIR")
    parser.add_argument("--method", choices=METHODS, help=f"default: {DEFAULT_METHOD}, or what --adapter is")
    parser.add_argument(
        "--adapter",
        metavar="A",
        help="begin from this one, for instance DPO from what SFT left: DIR/adapter, or what ap.load_adapter reads",
    )
    _add_method(parser.add_argument_group("the method's options"))
    _add_recipe(parser.add_argument_group("the recipe, and what to change in it"))
    _add_execution(parser.add_argument_group("how it is carried out"))
    data = parser.add_argument_group("data")
    data.add_argument(
        "--validation", type=Path, metavar="FILE", help="JSONL; default: 10 %% of the training examples, by group"
    )
    data.add_argument("--prompt-template", metavar="TEXT", help="with {field}s; \\n is a new line")
    data.add_argument("--completion-field", metavar="FIELD")
    add_rows(data)
    data.add_argument("--prefer", choices=("safer", "better"), help="Beaver: whose answer is the chosen one")
    data.add_argument(
        "--only-safe-chosen", action="store_true", help="Beaver: train only on pairs whose chosen answer is safe"
    )
    return parser


def _add_method(group: Any) -> None:
    group.add_argument("--n-tokens", type=int, metavar="N")
    group.add_argument("--start-layer", type=int, metavar="L", help="first adapted layer (default: 2 on deep models)")
    group.add_argument("--freeze", choices=TRAINS, help="a control arm: leave these as they start")
    group.add_argument(
        "--initial-gate",
        type=_finite,
        metavar="G",
        help="of every gate; default 0, and with --freeze gates what adds 5 %% of the residual norm",
    )
    group.add_argument("--gate-function", choices=("linear", "tanh"))
    group.add_argument("--gate-per", choices=("head", "layer"))
    group.add_argument("--r", type=int, help="LoRA's rank")
    group.add_argument("--alpha", type=_finite, help="LoRA's scale")
    group.add_argument("--targets", type=_names, metavar="q,v", help="projections that LoRA adds to")
    group.add_argument(
        "--subspace", type=int, metavar="K", help="output_bias: K random directions instead of free ones"
    )
    group.add_argument("--scale", type=_finite, help="output_bias: of the random directions")
    group.add_argument("--spread", type=_finite, help="prefix_tuning: standard deviation of the start")
    group.add_argument("--seed", type=_seed, metavar="S", help="of the start (default: 0)")


def _add_recipe(group: Any) -> None:
    group.add_argument(
        "--recipe",
        choices=("corrected", "as-published"),
        default="corrected",
        help="as-published: what the authors' scripts do; their LoRA's is another than their Aligner's",
    )
    for name, (kind, what) in NUMBERS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="X", help=what)
    group.add_argument("--clip", type=_unless_none(_finite), metavar="X", help="largest norm of the gradient, or none")
    group.add_argument("--betas", type=_finite, nargs=2, metavar="X", help="AdamW's")
    group.add_argument("--warmup-counts", choices=("steps", "micro_batches"), help="what of an epoch warm-up counts")
    group.add_argument("--precision", choices=("float32", "bf16-true"), help="of the adapter and the optimiser")
    group.add_argument("--loss-on", choices=("completion", "all"), help="which tokens are learned")
    group.add_argument("--end-token", choices=("yes", "no"), help="whether completions end with it")
    group.add_argument("--draw", choices=("shuffled", "replacement"), help="how batches are drawn")
    group.add_argument("--overlong", choices=("truncate", "drop", "refuse"), help="examples over the length")
    group.add_argument("--order-seed", type=int, metavar="S", help="of the batches (default: the recipe's)")


def _add_execution(group: Any) -> None:
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the base (default: float32, but bfloat16 where the precision is bf16-true)",
    )
    group.add_argument("--device", help="for instance cuda (default: cpu)")
    add_threads(group)
    group.add_argument(
        "--cache", choices=("auto", "on", "off"), default="auto", help="compute layers below the adapter's only once"
    )
    group.add_argument("--cache-gb", type=_bytes, metavar="X", help="at most this much of them (default: 2.1)")
    group.add_argument(
        "--checkpoint-activations", action="store_true", help="compute layers twice rather than keep them"
    )
    group.add_argument(
        "--save-every", type=positive, default=50, metavar="N", help="steps between states (default: 50)"
    )
    group.add_argument("--wandb", metavar="PROJECT", help="log to Weights & Biases, if it is installed")


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    chosen, changes = _method_options(options), _recipe_changes(options)
    use_threads(options.threads)

    import torch

    from aligner_probe.checkpoints.adapters import METHODS as CLASSES
    from aligner_probe.checkpoints.adapters import load_adapter, method_of, save_adapter
    from aligner_probe.models import load_model
    from aligner_probe.tasks.loading import load_splits
    from aligner_probe.tasks.templates import unescape
    from aligner_probe.training import fit, recipe
    from aligner_probe.training.callbacks import Callback, Start
    from aligner_probe.training.lower_layers import BUDGET_BYTES
    from aligner_probe.training.opening import open_gate

    template = None if options.prompt_template is None else unescape(options.prompt_template)
    reading = {"prompt_template": template, "completion_field": options.completion_field, **rows_options(options)}
    reading |= {"prefer": options.prefer, "only_safe_chosen": options.only_safe_chosen}
    task, validation = load_splits(options.task, options.validation, **reading)
    made_by: dict[str, Any] = {"command": list(sys.argv[1:] if argv is None else argv)}
    if options.validation is None:
        # A folder's test.jsonl is for the end; validation is held out of the training part.
        task, validation = task.split(0.1, seed=0)
        made_by["split"] = {"validation": 0.1, "seed": 0}
    method = options.method or DEFAULT_METHOD if options.adapter is None else method_of(options.adapter)
    how = recipe(options.recipe, task.kind, method=method, **changes)
    dtype = options.dtype or ("bfloat16" if how.precision == "bf16-true" else "float32")
    callbacks: list[Callback] = []
    if options.wandb is not None:
        from aligner_probe.training.wandb import WeightsAndBiases

        callbacks.append(WeightsAndBiases(options.wandb))
    model = load_model(options.model, dtype=getattr(torch, dtype), device=options.device)
    if options.adapter is not None:
        adapter = load_adapter(options.adapter, model)
    else:
        seed = options.seed or 0
        if chosen.get("train") == "tokens" and "initial_gate" not in chosen:
            opened = open_gate(model, task, CLASSES[method], max_length=how.max_length, seed=seed, **chosen)
            chosen["initial_gate"], made_by["open_gate"] = opened.initial_gate, asdict(opened)
            print(f"gates are left at {opened.initial_gate:.4g}: tokens add {opened.measured:.1%} of the residual norm")
        adapter = CLASSES[method](model, seed=seed, **chosen)
    held_out = "" if options.validation else f" (10 % of {options.task}, held out by group)"
    print(f"{adapter.method}: {adapter.n_parameters:,} trained numbers on {options.model} in {dtype}; "
          f"{len(task)} examples, {len(validation)} for validation{held_out}. {task.dropped_note}")  # fmt: skip
    print(f"data: {task.reading_note}")
    for note in _unlike_published(options.recipe, method, task.kind, how, dtype):
        print(f"not as published: {note}")

    class Announce(Callback):
        def started(self, start: Start) -> None:
            print(f"{start.rule}\n{start.schedule}\nthreads: {start.threads}")
            print(f"memory: {start.memory}\nlower layers: {start.lower_layers}")

    with going_on(lambda: _way_on(options)):
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
            cache_budget=BUDGET_BYTES if options.cache_gb is None else options.cache_gb,
            checkpoint_activations=options.checkpoint_activations,
            callbacks=[Announce(), *callbacks],
        )
    save_adapter(adapter, options.out / "adapter", run=done.provenance | made_by, overwrite=True)
    losses = done.validation_loss
    print(
        f"validation loss {losses.iloc[0]:.4f} before, {done.best_validation_loss:.4f} at best (step {done.best_step})"
    )
    if how.precision == "bf16-true":
        print(_lost(done.metrics))
    print(f"saved {options.out / 'adapter'}")
    return 0


def _way_on(options: argparse.Namespace) -> str:
    """What an interrupted training left, and how to go on."""
    from aligner_probe.training.state import STATE

    if (options.out / STATE).is_file():
        return f"{options.out} keeps the last saved state: go on with the same command and --resume"
    return (
        f"no state was saved yet (the first comes after {options.save_every} steps, --save-every), so there is nothing "
        "to --resume: the same command begins anew"
    )


def _method_options(options: argparse.Namespace) -> dict[str, Any]:
    """What was given for the method; an option it does not take is an error rather than ignored."""
    method = options.method or DEFAULT_METHOD
    given = {name: getattr(options, name) for taken in METHODS.values() for name in taken if name != "train"}
    given["train"] = TRAINS.get(options.freeze)
    given = {name: value for name, value in given.items() if value is not None}
    flags = {name: "--freeze" if name == "train" else f"--{name.replace('_', '-')}" for name in given}
    if options.adapter is not None:
        flags |= {name: f"--{name}" for name in ("method", "seed") if getattr(options, name) is not None}
        if flags:
            raise AlignerProbeError(f"--adapter has its own {', '.join(flags.values())}; leave these out")
    for name in given:
        if name not in METHODS[method]:
            takes = ", ".join("freeze" if o == "train" else o.replace("_", "-") for o in METHODS[method])
            raise AlignerProbeError(f"{method} takes no {flags[name]}; it takes {takes or 'no options'}")
    return given


def _recipe_changes(options: argparse.Namespace) -> dict[str, Any]:
    """The recipe's options that were given, under the recipe's names."""
    given = {name: getattr(options, name) for name in (*NUMBERS, "warmup_counts", "precision", "overlong")}
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


def _unlike_published(recipe: str, method: str, kind: str, how: Any, dtype: str) -> Iterator[str]:
    """What differs from the authors' runs though the recipe is theirs."""
    if recipe != "as-published":
        return
    if how.precision == "bf16-true" and dtype != "bfloat16":
        yield f"the base is in {dtype}, theirs in bfloat16 as the adapter (leave out --dtype)"
    if method == "lora" and kind == "preference":
        yield "they trained no LoRA by DPO, so the recipe is their Aligner's"
    elif method == "lora":
        yield "their LoRA's dropout of .05 is not applied"


def _lost(metrics: Any) -> str:
    """The last report of the lost-update monitor in a sentence."""
    if "monitored_epochs" not in metrics:
        return "lost updates were not counted"
    last = metrics.dropna(subset=["monitored_epochs"]).iloc[-1]
    if not 0 <= last["lost_updates"] <= 1:
        return "no update was due"
    over = "the last epoch" if last["monitored_epochs"] == 1 else f"the last {last['monitored_epochs']:.2g} of an epoch"
    return f"{last['lost_updates']:.1%} of the updates due in {over} rounded to nothing"
