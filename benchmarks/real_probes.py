"""Probes of a real chat model on tasks of known nature: forms, new facts, a new skill, a mix, controls, two open ones.

    python benchmarks/real_probes.py --model FOLDER [--only PATTERN ...] [--budget quick] [--jobs 2]
    python benchmarks/real_probes.py --dry-run             # what the tasks are; with --model the plan and its time, too
    python benchmarks/real_probes.py --table artifacts/real  # the table of the reports that are there
    python benchmarks/real_probes.py --table artifacts/real --cuts FILE  # the cuts that these tasks set, for --cuts

The tasks (`real_tasks/`) are drawn by --seed and written into OUT/tasks. Each is probed into OUT/NAME; --reports DIR
copies its report to DIR/NAME.json. What is finished is not made again, and each verdict is given anew. The two open
tasks are drawn from data/alpaca and data/hh_rlhf_harmless in $ALIGNER_PROBE_DATA.
"""

import argparse
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from real_tasks import RealTask

    from aligner_probe.probing.probe import Probe

MEASURES = ("F", "R_soft", "R1", "B", "K")
#: The last column of the table: minutes on processors, which other programs do not change.
MINUTES = "minutes"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Probes of a real chat model on tasks of known nature.")
    parser.add_argument("--model", metavar="M", help="the chat model: a folder or a hub id")
    parser.add_argument("--out", type=Path, default=Path("out/real_probes"), help="where tasks and probes are kept")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="only tasks with such names")
    parser.add_argument("--budget", choices=("quick", "standard", "thorough"), default="quick")
    parser.add_argument("--jobs", type=int, default=2, help="processes of a probe (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="draws other splits, facts and codes (default 0)")
    parser.add_argument("--reports", type=Path, metavar="DIR", help="copy each report to DIR/NAME.json")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what the tasks are, with --model what a probe does and how long it takes, and stop",
    )
    parser.add_argument("--tasks-only", action="store_true", help="write the tasks, and stop")
    parser.add_argument("--table", type=Path, metavar="DIR", help="print the table of the reports in DIR, and stop")
    parser.add_argument("--cuts", type=Path, metavar="FILE", help="with --table: write the cuts that the tasks set")
    options = parser.parse_args()
    if options.model is None and not (options.dry_run or options.tasks_only or options.table):
        parser.error("--model M is missing; without it there are --dry-run, --tasks-only and --table DIR")
    return options


def chosen(only: list[str], seed: int) -> "list[RealTask]":
    """The tasks whose names fit a pattern. A task whose data are missing is named and left out."""
    from real_tasks import TASKS

    from aligner_probe.errors import AlignerProbeError

    tasks = []
    for name, make in TASKS.items():
        if any(fnmatch(name, pattern) for pattern in only):
            try:
                tasks.append(make(seed))
            except AlignerProbeError as missing:
                print(f"{name}: left out: {missing}", file=sys.stderr)
    if not tasks:
        sys.exit(f"no task is left of {' '.join(only)}; there are {', '.join(TASKS)}")
    return tasks


def say(task: "RealTask") -> None:
    asked, answered = (message["content"] for message in task.parts["train"][0]["messages"])
    print(f"{task.name}: {task.nature}, {task.kind}; train, validation, test: {', '.join(map(str, task.sizes))}")
    print(f"  known, because {task.why}" if task.nature != "open" else f"  open, because {task.why}")
    print(f"  {asked!r} -> {answered!r}")
    print(f"  told: {task.describe}")


def planned(task: "RealTask", options: argparse.Namespace) -> "Probe":
    from real_tasks.knowledge import elsewhere

    from aligner_probe.probing.inputs import load_parts
    from aligner_probe.probing.probe import new_probe
    from aligner_probe.tasks.loading import load_task

    given = load_parts(task.write(options.out / "tasks"), kind=task.kind)
    return new_probe(
        options.model,
        given.train,
        test=given.test,
        validation=given.validation,
        kind=task.kind,
        scorer=task.scorer,
        budget=options.budget,
        off_domain=load_task(elsewhere(task.elsewhere)),
        describe=task.describe,
    )


def print_plan(ready: "Probe", processes: int) -> None:
    """What the probe will do, how long that takes, and how many test items a verdict needs."""
    from aligner_probe.probing.probe import with_batches
    from aligner_probe.probing.timing import plan_in_words

    ready = with_batches(ready)
    print(plan_in_words(ready.plan, ready.bench, processes))
    print(f"test: {ready.size_of_test().said}", flush=True)


def probe(task: "RealTask", options: argparse.Namespace) -> dict[str, Any]:
    """Probe one task and return its report, with what the task is known to be and how long its cells took."""
    import json

    from aligner_probe.files import write_text
    from aligner_probe.probing.probe import carry_out_probe
    from aligner_probe.probing.run import PLAN

    out, began, used = options.out / task.name, time.perf_counter(), processor_seconds()
    ready = planned(task, options)
    if not (out / PLAN).exists():
        print_plan(ready, options.jobs)
    cells = _n_made(out)
    try:
        result = carry_out_probe(ready, out, n_processes=options.jobs, resume=True)
    finally:  # a probe that is interrupted goes on later, and all its parts are counted
        spent = {"minutes": time.perf_counter() - began, "processor_minutes": processor_seconds() - used}
        spent_in_all = _spent_in_all(out / "minutes.json", spent if _n_made(out) > cells else {})
    known = {"name": task.name, "nature": task.nature, "why": task.why, "seed": options.seed}
    known |= spent_in_all | {"processes": options.jobs}
    report = {"known": known, **result.report}
    # The folder of the model is named without its path, which says nothing elsewhere.
    for named in (report, report["frontier"] or {}):
        named["base"] = Path(options.model).name
    if options.reports is not None:
        write_text(options.reports / f"{task.name}.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    return report


def processor_seconds() -> float:
    """The seconds that this process, and those that it has ended, spent on processors, whatever else runs there."""
    import resource

    every = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in every)


def _n_made(out: Path) -> int:
    return len(list((out / "runs").glob("*/result.json")))


def _spent_in_all(file: Path, seconds: dict[str, float]) -> dict[str, Any]:
    """The minutes of a probe that may have been interrupted: what `file` has, and these seconds, written there."""
    import json

    from aligner_probe.files import read_json, write_text

    before = read_json(file) if file.is_file() else {}
    in_all = {
        name: round(before.get(name, 0.0) + seconds.get(name, 0.0) / 60, 1) for name in ("minutes", "processor_minutes")
    }
    write_text(file, json.dumps(in_all) + "\n")
    return in_all


def table(folder: Path) -> str:
    """The reports of a folder as a table in Markdown, in the order of the tasks."""
    from real_tasks import TASKS

    from aligner_probe.files import read_json

    reports = [read_json(file) for name in TASKS if (file := folder / f"{name}.json").is_file()]
    if not reports:
        sys.exit(f"{folder}: no report of a task there; expected NAME.json, as --reports {folder} writes them")
    head = ("task", "nature", "verdict", *MEASURES, MINUTES)
    lines = [head, ("---",) * 3 + ("---:",) * (len(MEASURES) + 1), *map(_cells, reports)]
    return "\n".join(f"|{'|'.join(cells)}|" for cells in lines)


def cuts(folder: Path, file: Path) -> None:
    """Write the cuts of F, R_soft and R1 that the reports of a folder set; mixed, open and control tasks set none.

    Each task counts with the measures of the kind of score that decided it: where training teaches no content, the
    strict ones say little. A task whose reference learned nothing sets no cut.
    """
    from dataclasses import replace

    from aligner_probe.files import read_json
    from aligner_probe.probing.calibration import MEASURES as WITH_CUTS
    from aligner_probe.probing.calibration import KnownShares, cuts_from, write_cuts
    from aligner_probe.probing.report import shares_that_decided

    reports = [report for one in sorted(folder.glob("*.json")) if (report := read_json(one)).get("known")]
    known = [one for one in reports if one["known"]["nature"] in ("form", "latent", "new")]
    tasks = [
        KnownShares(
            one["known"]["nature"],
            one["task"]["kind"],
            {name: each["value"] for name, each in shares_that_decided(one).items() if name in WITH_CUTS},
        )
        for one in known
    ]
    n = sum(any(value is not None for value in one.shares.values()) for one in tasks)
    said = f"{n} tasks of known nature on {known[0]['base']}, at the {known[0]['budget']} budget"
    write_cuts(replace(cuts_from(tasks), calibration=said), file)
    print(f"{file}: the cuts of {said}")


def _cells(report: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table: the verdict and, where it is not the strict score, the score that decided; its measures."""
    from aligner_probe.probing.report import shares_that_decided

    known, by = report["known"], report["decided_by"]
    verdict = report["verdict"] + (f" (by {by})" if by != "strict" else "")
    measures = shares_that_decided(report) | {"K": report["K"]}
    values = [measures[name]["value"] for name in MEASURES]
    numbers = ["–" if value is None else f"{value:.2f}".replace("0.", ".") for value in values]
    return (f"`{known['name']}`", known["nature"], verdict, *numbers, f"{known['processor_minutes']:.0f}")


def main() -> None:
    options = parse()
    if options.table is not None:
        print(table(options.table))
        if options.cuts is not None:
            cuts(options.table, options.cuts)
        return
    for task in chosen(options.only, options.seed):
        say(task)
        if options.tasks_only:
            print(f"  {task.write(options.out / 'tasks')}")
        if options.dry_run and options.model is not None:
            print_plan(planned(task, options), options.jobs)
        if options.dry_run or options.tasks_only:
            continue
        report = probe(task, options)
        print(f"  {report['verdict']}: {report['reason']}")
        for note in report["notes"]:
            print(f"  - {note}")
        by_clock, on_processors = (report["known"][name] for name in ("minutes", "processor_minutes"))
        print(f"  {by_clock} minutes with {options.jobs} processes, {on_processors} minutes on processors", flush=True)


if __name__ == "__main__":
    main()
