"""`aligner-probe probe run`: probe one task."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_probe.commands import going_on, messages
from aligner_probe.commands.backends import add_backend, backend_of
from aligner_probe.commands.options import Group, add_quantization, add_rows, rows_options
from aligner_probe.commands.recipe_options import add_chat_template
from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import write_text

if TYPE_CHECKING:
    from aligner_probe.jobs.backend import Backend
    from aligner_probe.probing.inputs import Given
    from aligner_probe.probing.plan import Budget
    from aligner_probe.probing.probe import Probe

BUDGETS = ("quick", "standard", "thorough")
EPILOG = """\
OUT gets plan.json, runs/ID/ with result.json and adapter/, report.json and report.html.
If it is interrupted, the same command with --resume goes on; finished runs are not made again.
With --backend ray the results travel back to OUT, which the nodes need not see. A base model
that is a folder must lie at the same path on every node, and the packages must be the same.
A run whose worker or node dies is made again.
"""


def add_task_options(parser: Group) -> None:
    """Add what is asked of which base model; `task_given` and `probe_given` read it."""
    parser.add_argument(
        "--task",
        required=True,
        metavar="T",
        help="a file of JSONL, JSON, CSV or Parquet, a folder with train.jsonl (or .csv, ...), panel:NAME, a name that "
        "`tasks` lists, or hub:NAME[:CONFIG][:SPLIT]",
    )
    parser.add_argument(
        "--test",
        type=Path,
        metavar="FILE",
        help="like T (default: the test of the folder or the hub's data set, else a part of the task)",
    )
    parser.add_argument("--validation", type=Path, metavar="FILE", help="like T (default: as for --test)")
    parser.add_argument(
        "--kind",
        choices=("general", "memory"),
        help="general: tested on other groups than those trained; memory: on the trained groups in other words "
        "(default: general)",
    )
    parser.add_argument(
        "--model", default="microworld", metavar="M", help="the base model: a hub id or a folder (default: microworld)"
    )
    parser.add_argument(
        "--scorer", metavar="S", help="exact, contains, regex:PATTERN, ... (default: guessed, with the reason)"
    )
    parser.add_argument(
        "--ending",
        metavar="TEXT",
        help="what ends answers: \\n is a new line, '' the end token of the base model (default: the end token, or a "
        "new line where the base model hardly knows that token)",
    )
    parser.add_argument(
        "--prompt-file", type=Path, metavar="FILE", help="your own prompt; it holds {prompt}, or stands before it"
    )
    parser.add_argument(
        "--describe",
        action="append",
        default=[],
        metavar="TEXT",
        help="the task as an instruction in words, which is tried alone and with examples; may be given several times",
    )
    parser.add_argument(
        "--off-domain", type=Path, metavar="FILE", help="like T, of another domain, for K (the knowledge that is kept)"
    )
    parser.add_argument("--prompt-template", metavar="TEXT", help="the prompt with {field}s; \\n is a new line")
    parser.add_argument("--completion-field", metavar="FIELD", help="the field that holds the completion")
    add_rows(parser)
    add_chat_template(parser)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the base model")
    add_quantization(parser)


def add_options(parser: Group) -> None:
    add_task_options(parser)
    parser.add_argument("--budget", choices=BUDGETS, default="standard", help="how much is trained (default: standard)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder of the results (default: probe-TASK-BUDGET)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report's JSON to this file as well")
    parser.add_argument(
        "--cuts",
        type=Path,
        metavar="FILE",
        help="the cuts of F, R_soft and R1 that tasks of known nature set on this base (default: the micro-world's)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with what is in DIR")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be done and how long it takes, and stop"
    )
    add_backend(parser)


def probe(options: argparse.Namespace) -> int:
    """Probe the task, print the verdict and write the report; return the exit code."""
    from aligner_probe.figures.probe import write_page
    from aligner_probe.probing.calibration import read_cuts
    from aligner_probe.probing.probe import carry_out_probe, with_batches, with_off_domain
    from aligner_probe.probing.run import check_folder
    from aligner_probe.probing.verdicts.thresholds import THRESHOLDS

    backend = backend_of(options)
    thresholds = THRESHOLDS if options.cuts is None else read_cuts(options.cuts)
    parts = task_given(options)
    out = options.out or Path(f"probe-{parts.train.name}-{options.budget}")
    if not options.dry_run:
        check_folder(out, options.resume)
    planned = probe_given(options, parts, options.budget)
    _print_parts(parts, planned)
    planned = with_batches(with_off_domain(planned))
    _print_plan(options, planned, backend)
    if options.dry_run:
        return 0
    with going_on(lambda: messages.CELLS_KEPT_RESUME.format(out=out)):
        result = carry_out_probe(planned, out, backend=backend, resume=options.resume, thresholds=thresholds)
    write_page([result.report], out / "report.html")
    if options.json is not None:
        write_text(options.json, json.dumps(result.report, indent=1, allow_nan=False) + "\n")
    print(f"{result.verdict.outcome}: {result.verdict.reason}")
    for note in result.verdict.notes:
        print(f"- {note}")
    print(f"made {out / 'report.html'}")
    return 0


def task_given(options: argparse.Namespace) -> "Given":
    """The task's training, validation and test examples."""
    from aligner_probe.probing.inputs import load_parts
    from aligner_probe.tasks.templates import unescape

    template = None if options.prompt_template is None else unescape(options.prompt_template)
    reading = {"prompt_template": template, "completion_field": options.completion_field, **rows_options(options)}
    return load_parts(options.task, options.test, options.validation, options.kind, **reading)


def probe_given(options: argparse.Namespace, parts: "Given", budget: "Budget | str") -> "Probe":
    """The probe of the task by a budget, with what the options say of its base model and of how it is asked."""
    from aligner_probe.probing.probe import new_probe
    from aligner_probe.tasks.loading import load_task
    from aligner_probe.tasks.templates import unescape

    reading = rows_options(options)
    # The off-domain file has fields of its own, but it asks the same chat model.
    chat = {name: reading[name] for name in ("as_chat", "system")}
    return new_probe(
        options.model,
        parts.train,
        test=parts.test,
        validation=parts.validation,
        kind=parts.kind,
        scorer=options.scorer,
        budget=budget,
        off_domain=None if options.off_domain is None else load_task(options.off_domain, **chat),
        own_prompt=None if options.prompt_file is None else _text(options.prompt_file),
        describe=options.describe,
        ending=None if options.ending is None else unescape(options.ending),
        chat_template=options.chat_template,
        dtype=options.dtype,
        device=options.device,
        quantization=options.quantization,
    )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise AlignerProbeError(f"{file}: {error}; expected a text file with your prompt") from error


def _print_parts(parts: "Given", planned: "Probe") -> None:
    print(f"{parts.train.name}: {parts.train.reading_note}")
    for part in (parts.train, parts.validation, parts.test):
        if part is not None and part.dropped:
            print(f"{part.source}: {part.dropped_note}")
    print(f"{parts.train.name}: {parts.kind}, scored by {planned.bench.scorer!r}, because {planned.why_scorer}")


def _print_plan(options: argparse.Namespace, planned: "Probe", backend: "Backend") -> None:
    from aligner_probe.jobs.pool import threads_each
    from aligner_probe.probing.checks import lost_note
    from aligner_probe.probing.timing import plan_in_words

    print(lost_note(planned.bench.lost))
    if (ending := planned.ending) is not None:
        print(f"answers end with {ending.said}, because {ending.because}")
    if options.dry_run or not options.resume:
        print(plan_in_words(planned.plan, planned.bench, backend.n_at_once()))
        print(f"threads of each process: {threads_each()}")
        print(f"test: {planned.size_of_test().said}")
