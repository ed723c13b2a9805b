"""Train an adapter on a task, and save it with everything that made it.

python -m aligner_probe.train --model M --task T --method aligner --n-tokens 1 --out DIR
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aligner_probe.commands import Parser, run
from aligner_probe.errors import AlignerProbeError

#: Methods, and which of the options below each takes.
METHODS = {
    "aligner": ("n_tokens", "start_layer", "train", "initial_gate", "gate_function"),
    "llama_adapter": ("n_tokens", "start_layer", "train", "initial_gate", "gate_function"),
    "lora": ("r", "alpha", "start_layer"),
    "output_bias": ("subspace", "start_layer"),
    "prefix_tuning": ("n_tokens", "start_layer"),
    "prompt_tuning": ("n_tokens",),
    "full": (),
}
RECIPE_OPTIONS = ("lr", "batch_size", "micro_batch_size", "epochs", "steps", "max_length", "patience", "beta")
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
    method = parser.add_argument_group("the method's options")
    method.add_argument("--n-tokens", type=int, metavar="N")
    method.add_argument("--start-layer", type=int, metavar="L", help="first adapted layer (default: 2 on deep models)")
    method.add_argument("--freeze", choices=("tokens", "gates"), help="a control arm: leave these as they start")
    method.add_argument("--initial-gate", type=float, metavar="G", help="for --freeze gates: what they are left at")
    method.add_argument("--gate-function", choices=("linear", "tanh"))
    method.add_argument("--r", type=int, help="LoRA's rank")
    method.add_argument("--alpha", type=float, help="LoRA's scale")
    method.add_argument(
        "--subspace", type=int, metavar="K", help="output_bias: K random directions instead of free ones"
    )
    method.add_argument("--seed", type=int, default=0, help="of the start (default: 0)")
    how = parser.add_argument_group("training")
    how.add_argument("--recipe", choices=("corrected", "as-published"), default="corrected")
    for name in RECIPE_OPTIONS:
        kind = float if name in ("lr", "epochs", "beta") else int
        how.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="X", help="the recipe's, changed")
    how.add_argument("--order-seed", type=int, metavar="S", help="of the batches (default: the recipe's)")
    how.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the base (default: float32)"
    )
    how.add_argument("--device", help="for instance cuda (default: cpu)")
    data = parser.add_argument_group("data")
    data.add_argument("--validation", type=Path, metavar="FILE", help="JSONL; default: a tenth of the task, by group")
    data.add_argument("--prompt-template", metavar="TEXT", help="with {field}s; \\n is a new line")
    data.add_argument("--completion-field", metavar="FIELD")
    data.add_argument("--flawed", choices=("refuse", "drop"), default="refuse", help="rows that teach nothing")
    data.add_argument("--overlong", choices=("truncate", "drop", "refuse"), default="truncate")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    chosen = _method_options(options)
    changes = {name: value for name in RECIPE_OPTIONS if (value := getattr(options, name)) is not None}
    if options.order_seed is not None:
        changes["seed"] = options.order_seed

    import torch

    from aligner_probe.checkpoints.adapters import METHODS as CLASSES
    from aligner_probe.checkpoints.adapters import save_adapter
    from aligner_probe.models import load_model
    from aligner_probe.tasks.loading import load_splits
    from aligner_probe.tasks.templates import unescape
    from aligner_probe.training import fit, recipe

    template = None if options.prompt_template is None else unescape(options.prompt_template)
    reading = {"prompt_template": template, "completion_field": options.completion_field, "flawed": options.flawed}
    task, validation = load_splits(options.task, options.validation, **reading)
    if options.validation is None:
        # A folder's test.jsonl is for the end; validation is held out of the training part.
        task, validation = task.split(0.1, seed=0)
    how = recipe(options.recipe, task.kind, overlong=options.overlong, **changes)
    model = load_model(options.model, dtype=getattr(torch, options.dtype), device=options.device)
    adapter = CLASSES[options.method](model, seed=options.seed, **chosen)
    print(f"{adapter.method}: {adapter.n_parameters:,} trained numbers on {options.model}; {len(task)} examples, "
          f"{len(validation)} for validation. {task.dropped_note}")  # fmt: skip
    done = fit(model, adapter, task, validation=validation, recipe=how, out=options.out, resume=options.resume)
    origin = {"command": list(argv or sys.argv[1:]), "model": options.model, "git": _git(), "recipe": how.to_dict()}
    data = {"task": task.source, "task_sha256": task.sha256, "template": task.template, "encoding": done.rule}
    save_adapter(adapter, options.out / "adapter", run=origin | data, overwrite=True)
    losses = done.validation_loss
    print(done.rule)
    print(
        f"validation loss {losses.iloc[0]:.4f} before, {done.best_validation_loss:.4f} at best (step {done.best_step})"
    )
    print(f"saved {options.out / 'adapter'}")
    return 0


def _method_options(options: argparse.Namespace) -> dict[str, Any]:
    """What was given for the method; an option it does not take is an error rather than ignored."""
    given = {
        "n_tokens": options.n_tokens,
        "start_layer": options.start_layer,
        "train": {"tokens": "gates", "gates": "tokens", None: None}[options.freeze],
        "initial_gate": options.initial_gate,
        "gate_function": options.gate_function,
        "r": options.r,
        "alpha": options.alpha,
        "subspace": options.subspace,
    }
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in METHODS[options.method]:
            flag = "--freeze" if name == "train" else f"--{name.replace('_', '-')}"
            takes = ", ".join("freeze" if o == "train" else o.replace("_", "-") for o in METHODS[options.method])
            raise AlignerProbeError(f"{options.method} takes no {flag}; it takes {takes or 'no options'}")
    return given


def _git() -> dict[str, Any] | None:
    """Commit of the source this runs from, and whether it was changed; None where it is installed."""
    here = Path(__file__).parent
    try:
        commit, state = (
            subprocess.run(
                ["git", "-C", str(here), *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(state)}


if __name__ == "__main__":
    sys.exit(run(main))
