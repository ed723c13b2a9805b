"""The paper's experiments on any base model: instructions, math and safety, by every method.

aligner-probe reproduce                                                 (on the micro-world, with seeds and controls)
aligner-probe reproduce --model M --experiment all --scale laptop [--dry-run]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from aligner_probe.commands import reproduce_cells
from aligner_probe.commands.backends import add_backend, backend_of
from aligner_probe.commands.options import Parser, command_parser
from aligner_probe.errors import AlignerProbeError

WORLD = "microworld"
EXPERIMENTS = ("instructions", "math", "safety")
#: Options that say nothing on the micro-world, which has one scale, draws its data and has rules for a judge.
OF_OTHERS = ("scale", "data", "judge", "prompts", "dtype")
EPILOG = """\
OUT gets plan.json, items.json (what is asked) and runs/ID/ with result.json and adapter/,
which ap.load_adapter reads. If it is interrupted, the same command goes on (there is no
--resume). Figures of it: aligner-probe figures --runs OUT; of the micro-world: make figures.
With --scale paper --dry-run the base model need not be here: time and memory are computed.
"""


def parser() -> Parser:
    parser = command_parser("reproduce", EPILOG)
    parser.add_argument(
        "--model",
        default=WORLD,
        metavar="M",
        help="the base model: a hub id or a folder (default: microworld, with its own data, questions and rules)",
    )
    parser.add_argument(
        "--experiment", choices=(*EXPERIMENTS, "all"), default="all", help="which of the experiments (default: all)"
    )
    parser.add_argument(
        "--scale",
        choices=("laptop", "paper"),
        help="laptop: a subset for an evening on two cores; paper: the paper's own sizes (default: laptop)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="a folder with alpaca/, gsm8k/, mmlu/, hh_rlhf_harmless/ and vicuna80/ (default: data/ in "
        "$ALIGNER_PROBE_DATA at scale laptop; the paper's data sets on the hub at scale paper)",
    )
    parser.add_argument(
        "--prompts",
        choices=("auto", "chat", "text"),
        help="ask by the chat template of the base model's tokenizer, or in the published templates; auto: chat where "
        "there is a chat template (default: auto)",
    )
    parser.add_argument(
        "--judge",
        metavar="J",
        help="who judges the answers for Tables 2 and 3 once they are there: endpoint:MODEL, or a model's folder, as "
        "in `evaluate judge`",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the base model (default: float32; bfloat16 at scale paper)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the folder of the results (default: reproduce-MODEL-SCALE; of the micro-world artifacts/reproduction)",
    )
    parser.add_argument(
        "--only", metavar="PATTERN", help="only runs whose id fits, for instance 'math_*' or '*_lora-8_*'"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print which runs there are and how long they take, and stop"
    )
    parser.add_argument(
        "--share",
        type=Path,
        metavar="COPY",
        help="copy the results in OUT without the texts of data and answers, and without adapters, so that they can be "
        "published; nothing is made",
    )
    add_backend(parser)
    world = parser.add_argument_group("on a micro-world")
    world.add_argument(
        "--world", type=int, default=0, metavar="SEED", help="the seed of the base model's world (default: 0)"
    )
    world.add_argument(
        "--sweep", action="store_true", help="choose the learning rates anew, by validation, instead of making runs"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.share is not None:
        return _share(options)
    if not _is_world(options):
        from aligner_probe.commands.reproduce_real import reproduce

        if options.sweep:
            raise AlignerProbeError(
                "--sweep chooses the learning rates of the micro-world; leave out --model, or --sweep"
            )
        return reproduce(options)
    if given := [name for name in OF_OTHERS if getattr(options, name) is not None]:
        raise AlignerProbeError(
            f"--{given[0]} is for other base models than the micro-world, which has one scale, its own data and rules; "
            "leave it out, or name another base model: --model M"
        )
    return _world(options, argv)


def _share(options: argparse.Namespace) -> int:
    """Copy finished results without texts."""
    if options.out is None:
        raise AlignerProbeError("--share copies finished results; name their folder: --out OUT")

    from aligner_probe.reproduction.sharing import share

    print(f"{options.share}: {share(options.out, options.share)} runs of {options.out}, without texts and adapters")
    return 0


def _is_world(options: argparse.Namespace) -> bool:
    """Whether the base model is a micro-world: its tokenizer has all words of the world."""
    if options.model == WORLD:
        return True
    if not Path(options.model).is_dir():
        return False

    from aligner_probe.microworld.vocabulary import knows_all_words
    from aligner_probe.microworld.world import World

    return knows_all_words(Path(options.model), World.from_seed(options.world))


def _world(options: argparse.Namespace, argv: Sequence[str] | None) -> int:
    """The experiments on a micro-world."""
    from aligner_probe.artifacts import artifacts_folder, microworld_folder
    from aligner_probe.reproduction.plan import LEARNING_RATES, Config, learning_rates, plan
    from aligner_probe.reproduction.run import ReproductionBench
    from aligner_probe.reproduction.world import WorldSource

    backend = backend_of(options)
    base = microworld_folder() if options.model == WORLD else Path(options.model)
    bench = ReproductionBench(base, WorldSource(options.world, Config()), device=options.device)
    if options.sweep:
        from aligner_probe.reproduction.sweep import sweep

        file = LEARNING_RATES if options.out is None else options.out
        command = ["aligner-probe reproduce", *(sys.argv[1:] if argv is None else argv)]
        sweep(bench, file, command, options.jobs or 2)
        print(f"wrote {file}")
        return 0
    runs = plan(Config(), learning_rates())
    out = options.out or artifacts_folder() / "reproduction"
    return reproduce_cells.make(options, runs, bench, out, backend)
