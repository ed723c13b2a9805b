"""`aligner-probe probe panel`: probe the tasks of known nature, and calibrate the thresholds on them."""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from aligner_probe.commands import going_on, messages
from aligner_probe.commands.backends import add_backend, backend_of
from aligner_probe.commands.options import Parser
from aligner_probe.commands.probe_run import BUDGETS
from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import write_text

if TYPE_CHECKING:
    from aligner_probe.jobs.backend import Backend
    from aligner_probe.probing.panel import Known, Tried

#: What a task of the panel can be known to be.
NATURES = ("form", "latent", "new", "mixed", "open", "control")


def add_options(parser: Parser) -> None:
    parser.add_argument("--budget", choices=BUDGETS, default="standard", help="how much is trained (default: standard)")
    parser.add_argument(
        "--only", nargs="+", default=["*"], metavar="PATTERN", help="tasks whose name fits one, for instance 'locked_*'"
    )
    parser.add_argument(
        "--natures", nargs="+", choices=NATURES, default=NATURES, help="tasks of these natures (default: all)"
    )
    parser.add_argument(
        "--draw",
        type=int,
        default=0,
        metavar="SEED",
        help="draw other facts, codes and splits, judged by the thresholds as they are (default: 0, the stored panel)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the folder of the results, with one folder for each task (default: probe-panel-BUDGET[-SEED])",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="all results (default: DIR/panel.json)")
    parser.add_argument(
        "--add-to",
        type=Path,
        metavar="FILE",
        help="results of another day: tasks in FILE are not probed again, and all are judged together",
    )
    parser.add_argument("--dry-run", action="store_true", help="print which tasks, and how long one takes, and stop")
    add_backend(parser)
    parser.set_defaults(model="microworld")


def probe(options: argparse.Namespace) -> int:
    """Probe the chosen tasks and print how often the verdict was right; return the exit code."""
    from aligner_probe.probing.panel import (
        Tried,
        as_judged,
        calibrated,
        confusions,
        known_tasks,
        leave_one_out,
        panel_report,
        probe_panel,
        summary,
    )

    backend = backend_of(options)
    out = options.out or Path(f"probe-panel-{options.budget}" + (f"-{options.draw}" if options.draw else ""))
    if options.dry_run:
        with TemporaryDirectory() as drawn:
            _print_plan(options, _folder(options.draw, Path(drawn)), out, backend)
        return 0
    folder = _folder(options.draw, out / "tasks")
    tried, _, tasks = _asked(options, folder)
    results = probe_panel(
        options.model, tasks, out, folder=folder, budget=options.budget, backend=backend, device=options.device
    )
    with going_on(lambda: messages.CELLS_KEPT.format(out=out)):
        for number, (known, result) in enumerate(results, 1):
            tried.append(Tried.of(known, result.gathered.evidence, result.verdict, result.report))
            print(f"{number} of {len(tasks)}, {known.name}, {known.nature}: {result.verdict.outcome}", flush=True)
    order = known_tasks(folder=folder)
    tried.sort(key=lambda one: order.index(one.known))
    judged, cuts = as_judged(tried), None
    if options.draw:
        print("judged by the thresholds as they are, in which these tasks had no part")
    else:
        try:
            judged, cuts = leave_one_out(tried), calibrated(tried)
            print(
                f"each judged by cuts that the others set; all together set F {cuts.F_cut:.2f}, "
                f"R_soft {cuts.R_soft_cut:.2f}, R1 {cuts.R1_cut:.2f}"
            )
        except AlignerProbeError as reason:
            print(f"judged by the thresholds as they are, because these tasks set none: {reason}")
    print(confusions(judged).to_string())
    for name, value in summary(judged).items():
        print(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
    file = options.json or out / "panel.json"
    content = panel_report(judged, cuts, options.draw)
    write_text(file, json.dumps(content, indent=1, allow_nan=False) + "\n")
    print(f"made {file}")
    return 0


def _folder(draw: int, drawn: Path) -> Path:
    """Where the tasks are: the stored panel, or one that is drawn anew into `drawn`."""
    from aligner_probe.probing.panel import draw_panel
    from aligner_probe.tasks.panel import PANEL as STORED

    if not draw:
        return STORED
    draw_panel(draw, drawn)
    return drawn


def _asked(options: argparse.Namespace, folder: Path) -> "tuple[list[Tried], list[Known], list[Known]]":
    """The results that --add-to names, the tasks that the options choose, and those of them without a result there."""
    from aligner_probe.probing.panel import known_tasks, stored

    tried = [] if options.add_to is None else stored(options.add_to, folder, options.draw)
    there = [one.known for one in tried]
    chosen = known_tasks(options.only, options.natures, folder)
    return tried, chosen, [one for one in chosen if one not in there]


def _print_plan(options: argparse.Namespace, folder: Path, out: Path, backend: "Backend") -> None:
    """Print each chosen task and whether it was probed already; then the plan, with its time, of the first one left."""
    from aligner_probe.probing.panel import panel_probe
    from aligner_probe.probing.probe import with_batches
    from aligner_probe.probing.report import REPORT
    from aligner_probe.probing.timing import plan_in_words

    _, chosen, tasks = _asked(options, folder)
    left = [one for one in tasks if not (out / one.name / REPORT).is_file()]
    for known in chosen:
        where = "" if known in left else f" (finished in {out})" if known in tasks else f" (in {options.add_to})"
        print(f"{known.name}: {known.nature}, {known.kind}{where}")
    if not left:
        print("no task is left to probe")
        return
    probe = with_batches(
        panel_probe(options.model, left[0], folder=folder, budget=options.budget, device=options.device)
    )
    print(plan_in_words(probe.plan, probe.bench, backend.n_at_once()))
    print(f"these are the plan and the time of {left[0].name}; tasks to probe: {len(left)}, one after another")
