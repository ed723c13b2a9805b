"""`aligner-probe reproduce --model M`: the experiments on published data, timed here or computed from sizes."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_probe.commands import going_on, messages, reproduce_cells
from aligner_probe.commands.backends import backend_of
from aligner_probe.commands.judges import exit_code, usual_setting
from aligner_probe.data import data_folder
from aligner_probe.errors import AlignerProbeError

if TYPE_CHECKING:
    from aligner_probe.reproduction.cells import Experiment
    from aligner_probe.reproduction.data_names import DataNames
    from aligner_probe.reproduction.scales import Scale

#: The folder of the data in $ALIGNER_PROBE_DATA.
DATA = "data"
VICUNA = Path("vicuna80") / "test.jsonl"
#: Of a base model, for the names of cells, which do not depend on it.
ANY_WIDTH = 128


def reproduce(options: argparse.Namespace) -> int:
    """Make the experiments on a base model, or say what they take; return the exit code."""
    from aligner_probe.reproduction.cells import EXPERIMENTS
    from aligner_probe.reproduction.costs import is_here
    from aligner_probe.reproduction.scales import lacks, scale_named

    scale = scale_named(options.scale or "laptop")
    experiments = EXPERIMENTS if options.experiment == "all" else (options.experiment,)
    if options.dry_run and not is_here(options.model):
        status = _computed(options, scale, experiments)
    else:
        status = _made(options, scale, experiments)
    if options.dry_run:
        print(f"what scale {scale.name} cannot decide:")
        print("\n".join(f"- {sentence}" for sentence in lacks(scale)))
    return status


def _made(options: argparse.Namespace, scale: "Scale", experiments: "tuple[Experiment, ...]") -> int:
    from aligner_probe.hooks import mlp_width
    from aligner_probe.models import load_model, n_base_parameters
    from aligner_probe.reproduction.costs import Sizes, cost_of
    from aligner_probe.reproduction.real import RealSource
    from aligner_probe.reproduction.real_data import read_data
    from aligner_probe.reproduction.real_plan import real_cells
    from aligner_probe.reproduction.run import ReproductionBench
    from aligner_probe.sizes import BaseShape
    from aligner_probe.tokenizers import own_tokenizer

    names = _names(options, scale)
    names.check(experiments)
    reproduce_cells.wanted(options, real_cells(scale, experiments, ANY_WIDTH))  # refused before anything is loaded
    judge = None
    if options.judge is not None:  # an unknown judge is refused before anything is computed
        judge = usual_setting(options.judge, "aligner-probe reproduce")
    backend = backend_of(options)
    dtype = options.dtype or ("float32" if scale.name == "laptop" else "bfloat16")
    model = load_model(options.model, dtype=dtype, device=options.device)
    model.cfg.model_name = name = Path(options.model).name
    tokenizer = own_tokenizer(model)
    if tokenizer is None:
        raise AlignerProbeError(
            f"{options.model} has no tokenizer; expected one in its folder, so that texts can be read"
        )
    chat = _is_chat(options, tokenizer)
    data = read_data(names, scale, experiments, tokenizer, chat=chat, n_ctx=model.cfg.n_ctx)
    cfg = model.cfg
    shape = BaseShape(name, cfg.d_model, cfg.n_layers, cfg.n_heads, n_base_parameters(model))
    source = RealSource(scale=scale, data=data, base=shape, chat=chat)
    bench = ReproductionBench(options.model, source, dtype=dtype, device=options.device).with_model(model)
    for part, read in data.about.items():
        numbers = {key.replace("_", " "): value for key, value in read.items() if isinstance(value, int)}
        counts = ", ".join(f"{value:,} {key}" for key, value in numbers.items())
        print(f"{part}: {read.get('source', 'rows of the others that are not trained')} ({counts})")
    print("prompts: " + ("the chat template of the tokenizer" if chat else "texts in the published templates"))
    suffix = "" if options.experiment == "all" else f"-{options.experiment}"
    out = options.out or Path(f"reproduce-{name}-{scale.name}{suffix}")
    sizes = Sizes(shape, mlp_width(model), cfg.d_vocab)
    status = reproduce_cells.make(
        options, source.cells(), bench, out, backend, lambda cell: cost_of(cell, scale, sizes).seconds
    )
    if judge is not None and not options.dry_run:
        from aligner_probe.judging.runs import judge_runs, judged_lines

        with going_on(lambda: messages.ANSWERS_KEPT.format(folder=judge.store.folder)):
            judged = judge_runs(out, judge)
        print("\n".join(judged_lines(judged)))
        return exit_code(judged.n_missing) or status
    return status


def _computed(options: argparse.Namespace, scale: "Scale", experiments: "tuple[Experiment, ...]") -> int:
    """Print what the cells take on one GPU, by arithmetic; the weights of the base model are not here."""
    from aligner_probe.reproduction.costs import A100, cost_of, sizes_named
    from aligner_probe.reproduction.real_plan import real_cells

    sizes = sizes_named(options.model)
    cells = reproduce_cells.wanted(options, real_cells(scale, experiments, sizes.shape.d_model))
    costs = [cost_of(cell, scale, sizes) for cell in cells]
    for cell, cost in zip(cells, costs, strict=True):
        memory = "" if cost.memory is None else f"{cost.memory.total / 1e9:8.1f} GB"
        print(f"{cell.id:60}{cost.seconds / 3600:8.2f} h {cost.operations:10.1e} operations{memory}")
    hours, gpus = sum(cost.seconds for cost in costs) / 3600, options.gpus_per_run or 1
    each = f"{gpus:g} GPU{'s' if gpus != 1 else ''} a run"
    print(
        f"{len(cells)} runs on {sizes.shape.name} ({sizes.shape.n_parameters:,} parameters), whose weights are not "
        f"here: about {hours:,.0f} hours by one GPU, {hours / len(cells):.1f} a run at the mean, by arithmetic from "
        f"sizes for {A100.name} at {A100.share:.0%} of its speed; {each} (--backend ray --gpus-per-run {gpus:g}). "
        "Nothing was timed: with the base model here, --dry-run times its steps"
    )
    return 0


def _names(options: argparse.Namespace, scale: "Scale") -> "DataNames":
    """Where the data are. Raises AlignerProbeError for a folder that is not there."""
    from aligner_probe.reproduction.data_names import DataNames

    if options.data is not None:
        if not options.data.is_dir():
            raise AlignerProbeError(f"--data {options.data} is no folder; expected one with alpaca/, gsm8k/ and so on")
        return DataNames.of(options.data)
    folder = data_folder(DATA)
    if folder is not None and scale.name == "laptop":
        return DataNames.of(folder)
    questions = None if folder is None or not (folder / VICUNA).is_file() else str(folder / VICUNA)
    return DataNames.of_hub(questions)


def _is_chat(options: argparse.Namespace, tokenizer: Any) -> bool:
    """Whether prompts are asked by the chat template. Raises AlignerProbeError where there is none."""
    from aligner_probe.tasks.chat_template import has_template

    if options.prompts == "chat" and not has_template(tokenizer):
        raise AlignerProbeError(
            f"the tokenizer of {options.model} has no chat template; expected one for --prompts chat: --prompts text"
        )
    return options.prompts != "text" and has_template(tokenizer)
