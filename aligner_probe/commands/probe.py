"""Find out whether a task is form, latent, or new to a base model, and report the verdict with its reasons.

aligner-probe probe run --task mytask.jsonl --out DIR
aligner-probe probe frontier --task mytask.jsonl --out DIR
aligner-probe probe compare DIR DIR ... --out FILE.html
aligner-probe probe panel --out DIR
aligner-probe probe tasks
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from aligner_probe.commands import probe_frontier, probe_panel, probe_run
from aligner_probe.commands.options import Parser, command_parser


def parser() -> Parser:
    parser = command_parser("probe", probe_run.EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    probe_run.add_options(commands.add_parser("run", help="probe a task", epilog=probe_run.EPILOG))
    probe_panel.add_options(
        commands.add_parser("panel", help="probe the tasks of known nature, and calibrate the thresholds on them")
    )
    probe_frontier.add_options(
        commands.add_parser(
            "frontier",
            help="what several methods keep of other knowledge where they reach the form of a task",
            epilog=probe_frontier.EPILOG,
        )
    )
    commands.add_parser("tasks", help="list the tasks of known nature: --task panel:NAME")
    compare = commands.add_parser("compare", help="several reports on one chart and in one table")
    compare.add_argument(
        "reports", nargs="+", type=Path, metavar="DIR", help="the folders of probes, or their report.json"
    )
    compare.add_argument("--out", type=Path, default=Path("comparison.html"), metavar="FILE", help="the page to write")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    commands = {
        "run": probe_run.probe,
        "panel": probe_panel.probe,
        "frontier": probe_frontier.frontier,
        "tasks": _tasks,
        "compare": _compare,
    }
    return commands[options.command](options)


def _tasks(options: argparse.Namespace) -> int:
    from aligner_probe.tasks.panel import list_tasks

    print(f"{'NAME':24}{'NATURE':9}{'KIND':9}{'ROWS':>5}  WHY")
    for task in list_tasks():
        print(f"{task.name:24}{task.nature:9}{task.kind:9}{task.n_train:5}  {task.why}")
    print("probe one: aligner-probe probe run --task panel:NAME. ROWS: training examples")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from aligner_probe.figures.probe import write_page
    from aligner_probe.probing.report import comparison, read_report

    reports = [read_report(path) for path in options.reports]
    print(comparison(reports).to_string(index=False))
    write_page(reports, options.out)
    print(f"made {options.out}")
    return 0
