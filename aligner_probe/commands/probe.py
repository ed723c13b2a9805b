"""Is a task form, latent, or new to a base model? Runs, controls, a verdict with its reasons, and a report.

aligner-probe probe run --task mytask.jsonl --out DIR
aligner-probe probe compare DIR DIR ... --out FILE.html
aligner-probe probe panel --out DIR
aligner-probe probe tasks
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_probe.commands import going_on, messages
from aligner_probe.commands.options import (
    Parser,
    add_rows,
    add_threads,
    command_parser,
    positive,
    rows_options,
    use_threads,
)

if TYPE_CHECKING:
    from aligner_probe.jobs.backend import Backend

#: What a task of the panel can be known to be.
NATURES = ("form", "latent", "new", "mixed", "open", "control")
EPILOG = """\
OUT gets plan.json, runs/ID/ with result.json and adapter/, report.json and report.html.
Interrupted, the same command with --resume goes on; what is finished is not made again.
With --backend ray results travel back to OUT, which no node needs to see; a base that is a folder must be in that place
on every node, with the same packages. A run whose worker or node dies is made again.
"""


def parser() -> Parser:
    parser = command_parser("probe", EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    probe = commands.add_parser("run", help="probe a task", epilog=EPILOG)
    probe.add_argument(
        "--task",
        required=True,
        metavar="T",
        help='JSONL, a folder with train.jsonl, or "panel:NAME", a name that `tasks` lists',
    )
    probe.add_argument("--test", type=Path, metavar="FILE", help="JSONL (default: a folder's test.jsonl, else a split)")
    probe.add_argument("--validation", type=Path, metavar="FILE", help="JSONL (default: a split)")
    probe.add_argument(
        "--kind",
        choices=("general", "memory"),
        help="memory: tested on trained groups in other words (default: general)",
    )
    probe.add_argument("--model", default="microworld", metavar="M", help="a hub id or a folder (default: microworld)")
    probe.add_argument("--scorer", metavar="S", help="exact, contains, regex:PATTERN, ... (default: guessed, and said)")
    probe.add_argument(
        "--ending",
        metavar="TEXT",
        help="what ends answers, \\n a new line, '' the base's end token (default: that, or a new line where the base "
        "hardly knows it)",
    )
    probe.add_argument("--budget", choices=("quick", "standard", "thorough"), default="standard")
    probe.add_argument("--prompt-file", type=Path, metavar="FILE", help="your own prompt, with {prompt} or before it")
    probe.add_argument("--off-domain", type=Path, metavar="FILE", help="JSONL of another domain, for K")
    probe.add_argument("--prompt-template", metavar="TEXT", help="with {field}s; \\n is a new line")
    probe.add_argument("--completion-field", metavar="FIELD")
    add_rows(probe)
    probe.add_argument("--out", type=Path, metavar="DIR", help="where to (default: probe-TASK-BUDGET)")
    probe.add_argument("--json", type=Path, metavar="FILE", help="the report's JSON here, too")
    probe.add_argument("--resume", action="store_true", help="go on with what is in DIR")
    probe.add_argument("--dry-run", action="store_true", help="say what would be done and how long it takes")
    probe.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the base")
    _add_where(probe)
    panel = commands.add_parser("panel", help="probe the tasks of known nature, and calibrate the thresholds on them")
    panel.add_argument("--budget", choices=("quick", "standard", "thorough"), default="standard")
    panel.add_argument(
        "--only", nargs="+", default=["*"], metavar="PATTERN", help="tasks whose name fits one, for instance 'locked_*'"
    )
    panel.add_argument("--natures", nargs="+", choices=NATURES, default=NATURES, help="tasks of these (default: all)")
    panel.add_argument(
        "--draw",
        type=int,
        default=0,
        metavar="SEED",
        help="other facts, codes and splits, judged by the thresholds as they are (default: 0, the stored panel)",
    )
    panel.add_argument("--out", type=Path, metavar="DIR", help="a folder a task (default: probe-panel-BUDGET[-SEED])")
    panel.add_argument("--json", type=Path, metavar="FILE", help="all results (default: DIR/panel.json)")
    _add_where(panel)
    panel.set_defaults(model="microworld")
    commands.add_parser("tasks", help="list the tasks of known nature: --task panel:NAME")
    compare = commands.add_parser("compare", help="several reports on one chart and table")
    compare.add_argument("reports", nargs="+", type=Path, metavar="DIR", help="folders of probes, or their report.json")
    compare.add_argument("--out", type=Path, default=Path("comparison.html"), metavar="FILE", help="the page")
    return parser


def _add_where(parser: argparse.ArgumentParser) -> None:
    """Options of where runs are made."""
    parser.add_argument("--jobs", type=positive, metavar="N", help="processes (default: 2)")
    add_threads(parser, default="1")
    parser.add_argument(
        "--backend", choices=("processes", "ray"), default="processes", help="ray: a cluster makes the runs"
    )
    parser.add_argument(
        "--ray-address", metavar="HOST:PORT", help="its head node (default: the cluster of this machine)"
    )
    parser.add_argument("--gpus-per-run", type=float, metavar="N", help="on the cluster, where runs are then on cuda")
    parser.add_argument("--device", help="for instance cuda (default: cpu)")


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    return {"run": _run, "panel": _panel, "tasks": _tasks, "compare": _compare}[options.command](options)


def _run(options: argparse.Namespace) -> int:
    import json

    from aligner_probe.errors import AlignerProbeError
    from aligner_probe.figures.probe import write_page
    from aligner_probe.files import write_text
    from aligner_probe.jobs.pool import threads_each
    from aligner_probe.probing.checks import lost_note
    from aligner_probe.probing.inputs import load_parts
    from aligner_probe.probing.plan import described
    from aligner_probe.probing.probe import (
        carry_out_probe,
        check_folder,
        new_probe,
        with_batches,
        with_off_domain,
    )
    from aligner_probe.probing.timing import seconds_and_memory
    from aligner_probe.tasks.loading import load_task
    from aligner_probe.tasks.templates import unescape

    backend = _backend(options)
    template = None if options.prompt_template is None else unescape(options.prompt_template)
    reading = {"prompt_template": template, "completion_field": options.completion_field, **rows_options(options)}
    given = load_parts(options.task, options.test, options.validation, options.kind, **reading)
    out = options.out or Path(f"probe-{given.train.name}-{options.budget}")
    if not options.dry_run:
        check_folder(out, options.resume)
    own = None
    if options.prompt_file is not None:
        try:
            own = options.prompt_file.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise AlignerProbeError(f"{options.prompt_file}: {error}; expected a text file with your prompt") from error
    probe = new_probe(
        options.model,
        given.train,
        test=given.test,
        validation=given.validation,
        kind=given.kind,
        scorer=options.scorer,
        budget=options.budget,
        off_domain=None if options.off_domain is None else load_task(options.off_domain),
        own_prompt=own,
        ending=None if options.ending is None else unescape(options.ending),
        dtype=options.dtype,
        device=options.device,
    )
    print(f"{given.train.name}: {given.train.reading_note}")
    for part in (given.train, given.validation, given.test):
        if part is not None and part.dropped:
            print(f"{part.source}: {part.dropped_note}")
    print(f"{given.train.name}: {given.kind}, scored by {probe.bench.scorer!r}, because {probe.why_scorer}")
    probe = with_batches(with_off_domain(probe))
    print(lost_note(probe.bench.lost))
    if (ending := probe.ending) is not None:
        print(f"answers end with {ending.said}, because {ending.because}")
    if options.dry_run or not options.resume:
        seconds, memory = seconds_and_memory(probe.plan, probe.bench)
        print(described(probe.plan, seconds, backend.n_at_once(), memory))
        print(f"threads of each process: {threads_each()}")
        print(f"test: {probe.size_of_test().said}")
    if options.dry_run:
        return 0
    with going_on(lambda: messages.CELLS_KEPT_RESUME.format(out=out)):
        result = carry_out_probe(probe, out, backend=backend, resume=options.resume)
    write_page([result.report], out / "report.html")
    if options.json is not None:
        write_text(options.json, json.dumps(result.report, indent=1, allow_nan=False) + "\n")
    print(f"{result.verdict.outcome}: {result.verdict.reason}")
    for note in result.verdict.notes:
        print(f"- {note}")
    print(f"made {out / 'report.html'}")
    return 0


def _panel(options: argparse.Namespace) -> int:
    import json

    from aligner_probe.errors import AlignerProbeError
    from aligner_probe.files import write_text
    from aligner_probe.probing.panel import (
        Tried,
        as_judged,
        calibrated,
        confusions,
        draw_panel,
        known_tasks,
        leave_one_out,
        panel_report,
        probe_panel,
        summary,
    )
    from aligner_probe.tasks.panel import PANEL as STORED

    backend, folder = _backend(options), STORED
    out = options.out or Path(f"probe-panel-{options.budget}" + (f"-{options.draw}" if options.draw else ""))
    if options.draw:
        folder = out / "tasks"
        draw_panel(options.draw, folder)
    tasks, tried = known_tasks(options.only, options.natures, folder), []
    found = probe_panel(
        options.model, tasks, out, folder=folder, budget=options.budget, backend=backend, device=options.device
    )
    with going_on(lambda: messages.CELLS_KEPT.format(out=out)):
        for place, (known, result) in enumerate(found, 1):
            tried.append(Tried(known, result.gathered.evidence, result.verdict, result.report))
            print(f"{place} of {len(tasks)}, {known.name}, {known.nature}: {result.verdict.outcome}", flush=True)
    judged, cuts = as_judged(tried), None
    if options.draw:
        print("judged by the thresholds as they are, in which these tasks had no part")
    else:
        try:
            judged, cuts = leave_one_out(tried), calibrated(tried)
            print(f"each judged by cuts that the others set; all together set F {cuts.F_cut:.2f}, R1 {cuts.R1_cut:.2f}")
        except AlignerProbeError as reason:
            print(f"judged by the thresholds as they are, because these tasks set none: {reason}")
    print(confusions(judged).to_string())
    for name, value in summary(judged).items():
        print(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
    file = options.json or out / "panel.json"
    content = panel_report(judged, options.budget, cuts, options.draw)
    write_text(file, json.dumps(content, indent=1, allow_nan=False) + "\n")
    print(f"made {file}")
    return 0


def _tasks(options: argparse.Namespace) -> int:
    from aligner_probe.tasks.panel import list_tasks

    print(f"{'NAME':24}{'NATURE':9}{'KIND':9}{'ROWS':>5}  WHY")
    for task in list_tasks():
        print(f"{task.name:24}{task.nature:9}{task.kind:9}{task.n_train:5}  {task.why}")
    print("probe one: aligner-probe probe run --task panel:NAME. ROWS: training examples")
    return 0


def _backend(options: argparse.Namespace) -> "Backend":
    from aligner_probe.errors import AlignerProbeError
    from aligner_probe.jobs.backend import Processes

    use_threads(options.threads)
    if options.backend == "processes":
        for option in ("ray_address", "gpus_per_run"):
            if getattr(options, option) is not None:
                raise AlignerProbeError(f"--{option.replace('_', '-')} is for --backend ray; add that, or leave it out")
        return Processes(options.jobs or 2)
    if options.jobs is not None:
        raise AlignerProbeError("--jobs is for --backend processes; a cluster makes as many runs as it has room for")
    if options.threads is not None:
        raise AlignerProbeError("--threads is for --backend processes; a run on a cluster takes one CPU of it")

    from aligner_probe.jobs.ray_tasks import RayTasks

    changes = {}
    if Path(options.model).is_dir():
        changes["base"] = str(Path(options.model).resolve())  # nodes work elsewhere
    if options.gpus_per_run:
        if options.device is not None:
            raise AlignerProbeError(
                "--gpus-per-run puts runs on cuda, and what is done here on the CPU; leave out --device"
            )
        changes["device"] = "cuda"
    backend = RayTasks(options.ray_address, options.gpus_per_run or 0, changes)
    print(f"the Ray cluster has room for {backend.n_at_once()} runs at a time")
    return backend


def _compare(options: argparse.Namespace) -> int:
    from aligner_probe.figures.probe import write_page
    from aligner_probe.probing.report import comparison, read_report

    reports = [read_report(path) for path in options.reports]
    print(comparison(reports).to_string(index=False))
    write_page(reports, options.out)
    print(f"made {options.out}")
    return 0
