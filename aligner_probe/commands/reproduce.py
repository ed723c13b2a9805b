"""The paper's experiments on the micro-world: instructions, math and safety, by every method, with seeds and controls.

aligner-probe reproduce
"""

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_probe.commands import going_on, messages
from aligner_probe.commands.options import Parser, add_threads, command_parser, positive, use_threads

if TYPE_CHECKING:
    from aligner_probe.reproduction.run import ReproductionBench

EPILOG = """\
OUT gets plan.json, items.json (what is asked) and runs/ID/ with result.json and adapter/,
which ap.load_adapter reads. If it is interrupted, the same command goes on. Figures: make figures.
"""


def parser() -> Parser:
    parser = command_parser("reproduce", EPILOG)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder of the results (default: artifacts/reproduction)"
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="the base model (default: artifacts/microworld)")
    parser.add_argument(
        "--world", type=int, default=0, metavar="SEED", help="the seed of the base model's world (default: 0)"
    )
    parser.add_argument(
        "--only", metavar="PATTERN", help="only runs whose id fits, for instance 'math_*' or '*_lora-8_*'"
    )
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="processes (default: 2)")
    add_threads(parser, default="1, with which the stored runs were made")
    parser.add_argument(
        "--dry-run", action="store_true", help="print which runs there are and how long they take, and stop"
    )
    parser.add_argument(
        "--sweep", action="store_true", help="choose the learning rates anew, by validation, instead of making runs"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    use_threads(options.threads)

    from aligner_probe.artifacts import artifacts_folder, microworld_folder
    from aligner_probe.reproduction.plan import LEARNING_RATES, Config, learning_rates, plan
    from aligner_probe.reproduction.run import ReproductionBench

    config = Config()
    if options.sweep:
        from aligner_probe.reproduction.sweep import sweep

        bench = ReproductionBench(options.model or microworld_folder(), options.world, config)
        file = LEARNING_RATES if options.out is None else options.out
        sweep(bench, file, ["aligner-probe reproduce", *(sys.argv[1:] if argv is None else argv)], options.jobs)
        print(f"wrote {file}")
        return 0
    runs = plan(config, learning_rates())
    bench = ReproductionBench(options.model or microworld_folder(), options.world, config)
    return _make(options, runs, bench, options.out or artifacts_folder() / "reproduction")


def _make(options: argparse.Namespace, runs: Sequence[Any], bench: "ReproductionBench", out: Path) -> int:
    from aligner_probe.errors import AlignerProbeError
    from aligner_probe.jobs.backend import Processes
    from aligner_probe.jobs.folder import unfinished
    from aligner_probe.jobs.pool import threads_each
    from aligner_probe.reproduction.runner import study_of
    from aligner_probe.reproduction.timing import seconds_needed

    chosen = [one for one in runs if options.only is None or fnmatch.fnmatchcase(one.id, options.only)]
    if not chosen:
        raise AlignerProbeError(f"no run's id fits {options.only!r}; see them all: --dry-run")
    study = study_of(runs, bench)
    if not options.dry_run:
        study.begin(out)
    left = unfinished(chosen, out)
    seconds = seconds_needed(left, bench)
    if options.dry_run:
        for one in chosen:
            print(f"{one.id:60}{seconds[one.id]:8.0f} s" if one.id in seconds else f"{one.id:60}    done")
    print(
        f"{len(left)} of {len(chosen)} runs to make in {out}: about {sum(seconds.values()) / 60 / options.jobs:.0f} "
        f"minutes by {options.jobs} processes, if each has a core (timed steps x their number)\n"
        f"threads of each process: {threads_each()}"
    )
    if options.dry_run or not left:
        return 0
    with going_on(lambda: messages.CELLS_KEPT.format(out=out)):
        study.make(out, Processes(options.jobs), only=chosen)
    print(f"made {out}")
    return 0
