"""All runs of a plan into one folder: what is finished is never repeated, what is not goes on where it was.

OUT/plan.json says what is made and OUT/items.json what is asked; both are written first and must not change, so that no
folder mixes runs of two plans or two bases.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from aligner_probe.jobs.backend import Processes
from aligner_probe.jobs.folder import begin, make_all, unfinished
from aligner_probe.models import fingerprint
from aligner_probe.reproduction.plan import Planned, plan_json
from aligner_probe.reproduction.results import ITEMS, PLAN
from aligner_probe.reproduction.run import Bench, carry_out


def pending(runs: Sequence[Planned], out: Path) -> list[Planned]:
    """Runs that are not finished yet."""
    return unfinished(runs, out)


def prepare(runs: Sequence[Planned], bench: Bench, out: Path) -> None:
    """Write plan and items, or check that those in the folder are the same.

    Raises AlignerProbeError where the folder was begun with another plan, base or world.
    """
    wanted = {
        PLAN: plan_json(bench.config, tuple(runs), fingerprint(bench.model), bench.world_seed),
        ITEMS: json.dumps(bench.items_json(), indent=1) + "\n",
    }
    begin(out, wanted, "another plan, base model or world than these")


def carry_out_all(
    runs: Sequence[Planned], bench: Bench, out: Path, n_processes: int, *, show_progress: bool = True
) -> None:
    """Make the runs that are not finished; `prepare` comes first.

    Raises AlignerProbeError where another process is at work in the folder, or, after all others were made, where runs
    failed, with the first one's reason.
    """
    make_all(runs, _made, bench, out, Processes(n_processes), show_progress=show_progress)


def _made(bench: Bench, run: Planned, *, out: Path) -> Path:
    return carry_out(run, bench, out)
