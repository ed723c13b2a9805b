"""How `aligner-probe reproduce` makes cells: which are wanted, how long they take, and what an interrupt keeps."""

import argparse
import fnmatch
from collections.abc import Callable, Sequence
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
    seconds_of: "Callable[[ReproductionCell], float] | None" = None,
) -> int:
    """Make the wanted cells of a plan, or print what they are and how long they take; return the exit code.

    Steps are timed here, unless runs get GPUs of a cluster: a step on this CPU says nothing about these. Their time is
    the arithmetic of `seconds_of` for one A100, or is not known without it.
    """
    from aligner_probe.jobs.folder import unfinished
    from aligner_probe.reproduction.results import load_results
    from aligner_probe.reproduction.runner import study_of

    chosen = wanted(options, cells)
    study = study_of(cells, bench)
    if not options.dry_run:
        study.begin(out)
    left = unfinished(chosen, out)
    if options.gpus_per_run:
        seconds, said = _computed(left, backend, seconds_of)
    else:
        seconds, said = _timed(left, backend, bench)
    if options.dry_run:
        for one in chosen:
            time = f"{seconds[one.id]:8.0f} s" if one.id in seconds else "    done" if one not in left else "       ?"
            print(f"{one.id:60}{time}")
    print(f"{len(left)} of {len(chosen)} runs to make in {out}{said}")
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


def _timed(
    left: "Sequence[ReproductionCell]", backend: "Backend", bench: "ReproductionBench"
) -> tuple[dict[str, float], str]:
    """The seconds of each run by a few timed steps, and what is said of all of them."""
    from aligner_probe.jobs.pool import threads_each
    from aligner_probe.reproduction.timing import time_needed

    needed, n_at_once = time_needed(left, bench), backend.n_at_once()
    said = (
        f": about {needed.total / 60 / n_at_once:.0f} minutes by {n_at_once} processes, if each has a core (timed "
        f"steps x their number)\nthreads of each process: {threads_each()}"
    )
    if needed.share < BUSY:
        said += (
            f"\nthis machine is busy: the timing had {needed.share:.0%} of a core; as long as that lasts, the runs "
            "take as much longer"
        )
    return needed.seconds, said


def _computed(
    left: "Sequence[ReproductionCell]",
    backend: "Backend",
    seconds_of: "Callable[[ReproductionCell], float] | None",
) -> tuple[dict[str, float], str]:
    """The seconds of each run on one A100 by arithmetic, where it is known, and what is said of all of them."""
    seconds = {} if seconds_of is None else {cell.id: seconds_of(cell) for cell in left}
    hours = f", about {sum(seconds.values()) / 3600:,.1f} hours by one A100 by arithmetic from sizes" if seconds else ""
    said = f", {backend.n_at_once()} at once on GPUs of the cluster{hours}; no step was timed, because the base model "
    return seconds, said + "is on the CPU here"
