"""All runs of a plan into one folder: what is finished is never repeated, what is not goes on where it was.

OUT/plan.json says what is made and OUT/items.json what is asked; both are written first and must not change, so that no
folder mixes runs of two plans or two bases.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm

from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import write_text, writing_to
from aligner_probe.models import fingerprint
from aligner_probe.reproduction.plan import Planned, plan_json
from aligner_probe.reproduction.pool import each
from aligner_probe.reproduction.results import ITEMS, PLAN, RESULT, RUNS
from aligner_probe.reproduction.run import WORK, Bench, carry_out

LOCK = "lock"


def pending(runs: Sequence[Planned], out: Path) -> list[Planned]:
    """Runs that are not finished yet."""
    return [run for run in runs if not (out / RUNS / run.id / RESULT).is_file()]


def prepare(runs: Sequence[Planned], bench: Bench, out: Path) -> None:
    """Write plan and items, or check that those in the folder are the same.

    Raises AlignerProbeError where the folder was begun with another plan, base or world.
    """
    wanted = {
        PLAN: plan_json(bench.config, tuple(runs), fingerprint(bench.model), bench.world_seed),
        ITEMS: json.dumps(bench.items_json(), indent=1) + "\n",
    }
    for name, text in wanted.items():
        file = out / name
        if not file.is_file():
            write_text(file, text)
        elif file.read_text(encoding="utf-8") != text:
            raise AlignerProbeError(
                f"{file} is of another plan, base model or world than these; name another folder: --out DIR, or remove "
                f"{out}"
            )


def carry_out_all(
    runs: Sequence[Planned], bench: Bench, out: Path, n_processes: int, *, show_progress: bool = True
) -> None:
    """Make the runs that are not finished; `prepare` comes first.

    Raises AlignerProbeError where another process is at work in the folder, or, after all others were made, where runs
    failed, with the first one's reason.
    """
    with _locked(out):
        for leftover in (out / RUNS).glob(".unfinished-*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        left = pending(runs, out)
        failed: list[tuple[Planned, AlignerProbeError]] = []
        bar = tqdm(total=len(runs), initial=len(runs) - len(left), desc="runs", disable=not show_progress)
        with bar:
            for run, made in each(partial(_made, out=out), bench, left, n_processes) if left else ():
                if isinstance(made, AlignerProbeError):
                    failed.append((run, made))
                bar.update()
                bar.set_postfix_str(run.id)
        if failed:
            raise AlignerProbeError(
                f"{len(failed)} of {len(runs)} runs failed, the others are in {out}; the first, {failed[0][0].id}: "
                f"{failed[0][1]}"
            )
        shutil.rmtree(out / WORK, ignore_errors=True)


def _made(bench: Bench, run: Planned, *, out: Path) -> Path:
    return carry_out(run, bench, out)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One process at a time; the system lets go of the lock however that one ends."""
    with writing_to(out):
        (out / WORK).mkdir(parents=True, exist_ok=True)
        handle = os.open(out / WORK / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AlignerProbeError(
                f"another process is making runs in {out}; wait for it, or name another folder: --out DIR"
            ) from error
        yield
    finally:
        os.close(handle)
