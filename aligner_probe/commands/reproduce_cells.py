"""How `aligner-probe reproduce` makes cells: which are wanted, how long they take, and what an interrupt keeps."""

import argparse
import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_probe.commands import going_on, messages
from aligner_probe.errors import AlignerProbeError

if TYPE_CHECKING:
    from aligner_probe.jobs.backend import Backend
    from aligner_probe.reproduction.cells import ReproductionCell
    from aligner_probe.reproduction.run import ReproductionBench

#: Below this share of its cores, it is said that the timing had company.
BUSY = 0.8


def wanted(options: argparse.Namespace, cells: "Sequence[ReproductionCell]") -> "list[ReproductionCell]":
    """The cells that --experiment and --only name. Raises AlignerProbeError where there are none."""
    chosen = [
        cell
        for cell in cells
        if options.experiment in ("all", cell.experiment)
        and (options.only is None or fnmatch.fnmatchcase(cell.id, options.only))
    ]
    if not chosen:
        raise AlignerProbeError(f"no run's id fits {options.only!r}; see them all: --dry-run")
    return chosen


def make(
    options: argparse.Namespace,
    cells: "Sequence[ReproductionCell]",
    bench: "ReproductionBench",
    out: Path,
    backend: "Backend",
) -> int:
    """Make the wanted cells of a plan, or print what they are and how long they take; return the exit code."""
    from aligner_probe.jobs.folder import unfinished
    from aligner_probe.jobs.pool import threads_each
    from aligner_probe.reproduction.results import load_results
    from aligner_probe.reproduction.runner import study_of
    from aligner_probe.reproduction.timing import time_needed

    chosen = wanted(options, cells)
    study = study_of(cells, bench)
    if not options.dry_run:
        study.begin(out)
    left = unfinished(chosen, out)
    needed = time_needed(left, bench)
    if options.dry_run:
        for one in chosen:
            said = f"{needed.seconds[one.id]:8.0f} s" if one.id in needed.seconds else "    done"
            print(f"{one.id:60}{said}")
    n_at_once = backend.n_at_once()
    print(
        f"{len(left)} of {len(chosen)} runs to make in {out}: about {needed.total / 60 / n_at_once:.0f} minutes by "
        f"{n_at_once} processes, if each has a core (timed steps x their number)\n"
        f"threads of each process: {threads_each()}"
    )
    if needed.share < BUSY:
        print(
            f"this machine is busy: the timing had {needed.share:.0%} of a core; as long as that lasts, the runs take "
            "as much longer"
        )
    if options.dry_run or not left:
        return 0
    with going_on(lambda: messages.CELLS_KEPT.format(out=out)):
        study.make(out, backend, only=chosen)
    made = {cell.id for cell in left}
    for run in load_results(out).runs:
        if run.id in made and run.unchanged:
            stages = " and ".join(run.unchanged)
            print(f"{run.id}: no step of {stages} lowered the validation loss, so that training changed nothing")
    print(f"made {out}")
    return 0
