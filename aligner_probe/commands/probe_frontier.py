"""`aligner-probe probe frontier`: what methods keep of other knowledge where they reach the form of a task."""

import argparse
from pathlib import Path
from typing import Any

from aligner_probe.commands import going_on, messages
from aligner_probe.commands.backends import add_backend, backend_of
from aligner_probe.commands.options import Group, positive
from aligner_probe.commands.probe_run import add_task_options, probe_given, task_given
from aligner_probe.files import write_text

EPILOG = """\
Each arm is trained at several learning rates, each half a decade below the one before, and read
at several lengths: how much of the form it has reached, and how many questions of another domain
it still answers right. K is the most that is kept where the form is reached.
OUT gets plan.json, runs/ID/result.json and frontier.json. If it is interrupted, the same command
with --resume goes on; finished cells are not made again.
"""


def add_options(parser: Group) -> None:
    add_task_options(parser)
    parser.add_argument(
        "--arms",
        nargs="+",
        metavar="ARM",
        help="the methods, lora-8 among them (default: aligner-1 aligner-10 llama-adapter-10 lora-8 prompt-tuning-10 "
        "output-bias random-subspace)",
    )
    numbers = {
        "rates": "learning rates an arm (default: 4)",
        "seeds": "seeds an arm (default: 3)",
        "batch_size": "examples in a batch (default: 16)",
        "n_form": "the most test items that are asked (default: 100)",
        "n_off_domain": "the most off-domain items that are asked (default: 120)",
    }
    for name, purpose in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive, metavar="N", help=purpose)
    parser.add_argument(
        "--lengths",
        nargs="+",
        type=positive,
        metavar="N",
        help="optimiser steps after which each run is read (default: 15 30 60 120 240)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder of the results (default: frontier-TASK)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write frontier.json to this file as well")
    parser.add_argument("--resume", action="store_true", help="go on with what is in DIR")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be done and how long it takes, and stop"
    )
    add_backend(parser)


def frontier(options: argparse.Namespace) -> int:
    """Train, read, print K of every arm and write the report; return the exit code."""
    from aligner_probe.probing.frontier import as_text, carry_out_frontier, new_frontier
    from aligner_probe.probing.frontier_plan import frontier_plan
    from aligner_probe.probing.probe import with_ending
    from aligner_probe.probing.run import check_folder

    backend = backend_of(options)
    given = {name: getattr(options, name) for name in ("arms", "rates", "lengths", "seeds", "batch_size", "n_form")}
    given["n_off_domain"] = options.n_off_domain
    plan = frontier_plan(**{name: value for name, value in given.items() if value is not None})
    parts = task_given(options)
    out = options.out or Path(f"frontier-{parts.train.name}")
    if not options.dry_run:
        check_folder(out, options.resume)
    made = new_frontier(with_ending(probe_given(options, parts, plan.budget)).bench, plan)
    print(made.plan.described({} if options.resume else made.seconds(), backend.n_at_once()), flush=True)
    if options.dry_run:
        return 0
    with going_on(lambda: messages.CELLS_KEPT_RESUME.format(out=out)):
        content = carry_out_frontier(made, out, backend=backend, resume=options.resume)
    if options.json is not None:
        write_text(options.json, as_text(content))
    _print_K(content)
    print(f"made {out / 'frontier.json'}")
    return 0


def _print_K(content: dict[str, Any]) -> None:
    print(
        f"the base model is right on {content['before_right']:.2f} of {content['off_domain']['items']} off-domain "
        f"items; {content['reference']} reaches {content['form']['level']:.2f} of the form"
    )
    for share, arms in content["K"].items():
        print(f"most kept at {share} of that form or more:")
        for arm, one in arms.items():
            print(f"  {arm:20}{one['said']}")
