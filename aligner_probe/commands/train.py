"""Train an adapter on a task, and save it with everything that made it.

aligner-probe train --model M --task T --method aligner --n-tokens 1 --out DIR
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_probe.commands import going_on, messages
from aligner_probe.commands.declared import Declared
from aligner_probe.commands.method_options import (
    DEFAULT_METHOD,
    add_method_options,
    add_plugin,
    known_methods,
    method_options,
)
from aligner_probe.commands.options import (
    Group,
    Parser,
    add_quantization,
    add_rows,
    add_threads,
    command_parser,
    gigabytes,
    positive,
    rows_options,
    use_threads,
)
from aligner_probe.commands.recipe_options import add_chat_template, add_recipe_options, recipe_changes

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens.model_bridge import TransformerBridge

    from aligner_probe.adapters.adapter import Adapter
    from aligner_probe.tasks.task import Task
    from aligner_probe.training.callbacks import Callback
    from aligner_probe.training.recipe import Recipe
    from aligner_probe.training.run import Run

#: The share of the training examples that is held out for validation where no file is given, and the seed of the draw.
HELD_OUT = {"validation": 0.1, "seed": 0}
EPILOG = """\
If no --validation is given, 10 % of the training examples are held out for it. That is so even
if the folder has a test.jsonl, because the test examples are for the end.

DIR gets metrics.jsonl, state.pt (from which --resume goes on) and adapter/, which
ap.load_adapter reads. Tasks are JSONL, JSON, CSV or Parquet: TRL's fields, Alpaca, GSM8K,
MetaMathQA, HH-RLHF, Beaver and conversations (TRL, ShareGPT) are recognised; others need
--prompt-template and --completion-field.
"""


def parser(methods: Declared | None = None) -> Parser:
    """The parser of the command; `methods` are those it knows, by default the package's own."""
    methods = known_methods([]) if methods is None else methods
    parser = command_parser("train", EPILOG)
    parser.add_argument("--model", required=True, metavar="M", help="the base model: a hub id, or a local folder")
    parser.add_argument(
        "--task",
        required=True,
        type=Path,
        metavar="T",
        help="a file of JSONL, JSON, CSV or Parquet, a folder with train.jsonl (or .csv, ...), panel:NAME (list: "
        "aligner-probe probe tasks), or hub:NAME[:CONFIG][:SPLIT]",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder of the results")
    parser.add_argument("--resume", action="store_true", help="go on with what is in DIR")
    parser.add_argument(
        "--method", choices=list(methods), help=f"default: {DEFAULT_METHOD}, or the method of --adapter"
    )
    parser.add_argument(
        "--adapter",
        metavar="A",
        help="begin from this adapter, for instance DPO from the result of SFT: DIR/adapter, or what ap.load_adapter "
        "reads",
    )
    add_plugin(parser)
    of_method = parser.add_argument_group("the method's options")
    add_recipe_options(parser.add_argument_group("the recipe, and what to change in it"))
    _add_execution(parser.add_argument_group("how it is carried out"))
    _add_data(parser.add_argument_group("data"))
    add_method_options(of_method, methods)
    return parser


def _add_execution(group: Group) -> None:
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the base model (default: float32, but bfloat16 where the precision is bf16-true)",
    )
    group.add_argument("--device", help="for instance cuda (default: cpu)")
    add_quantization(group)
    add_threads(group)
    group.add_argument(
        "--cache",
        choices=("auto", "on", "off"),
        default="auto",
        help="compute the layers below the adapter only once",
    )
    group.add_argument("--cache-gb", type=gigabytes, metavar="X", help="most memory for that (default: 2.1)")
    group.add_argument(
        "--checkpoint-activations",
        action="store_true",
        help="compute layers a second time in the backward pass, instead of keeping their activations",
    )
    group.add_argument(
        "--save-every", type=positive, default=50, metavar="N", help="steps between saved states (default: 50)"
    )
    group.add_argument("--wandb", metavar="PROJECT", help="log to Weights & Biases, if it is installed")


def _add_data(group: Group) -> None:
    group.add_argument(
        "--validation", type=Path, metavar="FILE", help="like T; default: 10 %% of the training examples, by group"
    )
    group.add_argument("--prompt-template", metavar="TEXT", help="the prompt with {field}s; \\n is a new line")
    group.add_argument("--completion-field", metavar="FIELD", help="the field that holds the completion")
    add_rows(group)
    add_chat_template(group)
    group.add_argument("--prefer", choices=("safer", "better"), help="Beaver: which of two answers is the chosen one")
    group.add_argument(
        "--only-safe-chosen", action="store_true", help="Beaver: train only on pairs whose chosen answer is safe"
    )


def main(argv: Sequence[str] | None = None) -> int:
    methods = known_methods(argv)
    options = parser(methods).parse_args(argv)
    adapter_options, changes = method_options(options, methods), recipe_changes(options)
    use_threads(options.threads)

    import torch

    from aligner_probe.checkpoints.adapters import method_of, save_adapter
    from aligner_probe.models import load_model
    from aligner_probe.tasks.given_template import set_chat_template, template_given
    from aligner_probe.training import fit, recipe
    from aligner_probe.training.lower_layers import BUDGET_BYTES

    made_by: dict[str, Any] = {"command": list(sys.argv[1:] if argv is None else argv)}
    task, validation = _read_task(options)
    if options.validation is None:
        made_by["split"] = HELD_OUT
    method = options.method or DEFAULT_METHOD if options.adapter is None else method_of(options.adapter)
    how = recipe(options.recipe, task.kind, method=method, **changes)
    dtype = options.dtype or ("bfloat16" if how.precision == "bf16-true" else "float32")
    callbacks = _callbacks(options)
    template = template_given(options.chat_template)
    reading = {"dtype": getattr(torch, dtype), "device": options.device, "quantization": options.quantization}
    model = load_model(options.model, **reading)
    if template is not None:
        set_chat_template(model, template or None)
    adapter, opened = _adapter(options, method, adapter_options, model, task, how)
    made_by |= opened
    _print_start(options, adapter, task, validation, method, how, dtype)
    with going_on(lambda: _way_on(options)):
        run = fit(
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
            callbacks=callbacks,
        )
    save_adapter(adapter, options.out / "adapter", run=run.provenance | made_by, overwrite=True)
    _print_result(run, how)
    print(f"saved {options.out / 'adapter'}")
    return 0


def _read_task(options: argparse.Namespace) -> "tuple[Task, Task]":
    """The training and the validation examples."""
    from aligner_probe.tasks.loading import load_splits
    from aligner_probe.tasks.templates import unescape

    task, validation = load_splits(
        options.task,
        options.validation,
        prompt_template=None if options.prompt_template is None else unescape(options.prompt_template),
        completion_field=options.completion_field,
        prefer=options.prefer,
        only_safe_chosen=options.only_safe_chosen,
        **rows_options(options),
    )
    # The test.jsonl of a folder is for the end, so validation examples are held out of the training part.
    if options.validation is None or validation is None:
        return task.split(HELD_OUT["validation"], seed=HELD_OUT["seed"])
    return task, validation


def _adapter(
    options: argparse.Namespace,
    method: str,
    adapter_options: dict[str, Any],
    model: "TransformerBridge",
    task: "Task",
    how: "Recipe",
) -> "tuple[Adapter, dict[str, Any]]":
    """The adapter to train, and what to record about its initial gates.

    Gates that stay frozen must be open. If their value is not given, it is chosen on the task's examples.
    """
    from aligner_probe.adapters.prefix import Aligner, LLaMAAdapter
    from aligner_probe.adapters.registry import adapter_class, new_adapter
    from aligner_probe.checkpoints.adapters import load_adapter
    from aligner_probe.training.opening import open_gate

    if options.adapter is not None:
        return load_adapter(options.adapter, model), {}
    seed, recorded, cls = options.seed or 0, {}, adapter_class(method)
    is_frozen = adapter_options.get("train") == "tokens" and "initial_gate" not in adapter_options
    if is_frozen and issubclass(cls, (Aligner, LLaMAAdapter)):
        opened = open_gate(model, task, cls, max_length=how.max_length, seed=seed, **adapter_options)
        adapter_options = adapter_options | {"initial_gate": opened.initial_gate}
        recorded = {"open_gate": asdict(opened)}
        print(messages.GATES_OPENED.format(gate=opened.initial_gate, share=opened.measured))
    return new_adapter(method, model, {"seed": seed, **adapter_options}), recorded


def _callbacks(options: argparse.Namespace) -> "list[Callback]":
    """What listens to the training: one prints what is known at its start, and one logs, if --wandb is given."""
    from aligner_probe.training.callbacks import Callback, Start

    class Announce(Callback):
        def started(self, start: Start) -> None:
            print(f"{start.rule}\n{start.schedule}\nthreads: {start.threads}")
            print(f"memory: {start.memory}\nlower layers: {start.lower_layers}")

    callbacks: list[Callback] = [Announce()]
    if options.wandb is not None:
        from aligner_probe.training.wandb import WeightsAndBiases

        callbacks.append(WeightsAndBiases(options.wandb))
    return callbacks


def _print_start(
    options: argparse.Namespace,
    adapter: "Adapter",
    task: "Task",
    validation: "Task",
    method: str,
    how: "Recipe",
    dtype: str,
) -> None:
    from aligner_probe.models import precision_in_words

    trains = messages.TRAINS.format(
        method=adapter.method,
        n=adapter.n_parameters,
        model=options.model,
        dtype=precision_in_words(adapter.model),
        n_train=len(task),
        n_validation=len(validation),
    )
    held_out = "" if options.validation else f" {messages.HELD_OUT.format(task=options.task)}"
    print(f"{trains}{held_out}. {task.dropped_note}")
    print(f"data: {task.reading_note}")
    for note in _unlike_published(options.recipe, method, task.kind, how, dtype):
        print(messages.NOT_AS_PUBLISHED.format(difference=note))


def _print_result(run: "Run", how: "Recipe") -> None:
    before = run.validation_loss.iloc[0]
    print(messages.VALIDATION_LOSS.format(before=before, best=run.best_validation_loss, step=run.best_step))
    if how.precision == "bf16-true":
        print(_lost_updates(run.metrics))


def _way_on(options: argparse.Namespace) -> str:
    """What an interrupted training left in its folder, and how to go on."""
    from aligner_probe.training.state import STATE

    if (options.out / STATE).is_file():
        return messages.STATE_KEPT.format(out=options.out)
    return messages.NO_STATE.format(steps=options.save_every)


def _unlike_published(recipe: str, method: str, kind: str, how: "Recipe", dtype: str) -> Iterator[str]:
    """What differs from the authors' runs although the recipe is theirs."""
    from aligner_probe.adapters.registry import adapter_class

    if recipe != "as-published":
        return
    if how.precision == "bf16-true" and dtype != "bfloat16":
        yield messages.OTHER_DTYPE.format(dtype=dtype)
    if kind in (notes := adapter_class(method).published_notes):
        yield notes[kind]


def _lost_updates(metrics: "pd.DataFrame") -> str:
    """The last count of updates that rounding to bfloat16 lost, as a sentence."""
    if "monitored_epochs" not in metrics:
        return messages.UPDATES_NOT_COUNTED
    last = metrics.dropna(subset=["monitored_epochs"]).iloc[-1]
    if not 0 <= last["lost_updates"] <= 1:
        return messages.NO_UPDATE_DUE
    epochs = last["monitored_epochs"]
    period = "the last epoch" if epochs == 1 else f"the last {epochs:.2g} of an epoch"
    return messages.UPDATES_LOST.format(share=last["lost_updates"], period=period)
