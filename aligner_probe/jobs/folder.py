"""Jobs into a folder: its runs/ID is there, whole, when a job is finished; its work/ID is where it goes on from.

What is finished is never made again, and one process at a time makes what is not.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from tqdm.auto import tqdm

from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import held, write_text
from aligner_probe.jobs.backend import Backend, Make
from aligner_probe.jobs.pool import Shared

RUNS, RESULT, WORK, LOCK = "runs", "result.json", "work", "lock"


@runtime_checkable
class Job(Protocol):
    """Something with an id that is the name of its folder."""

    @property
    def id(self) -> str: ...


AnyJob = TypeVar("AnyJob", bound=Job)


def unfinished(jobs: Sequence[AnyJob], out: Path) -> list[AnyJob]:
    """Jobs without a result, in order."""
    return [job for job in jobs if not (out / RUNS / job.id / RESULT).is_file()]


def begin(out: Path, files: Mapping[str, str], of: str) -> None:
    """Write what says what a folder is of, or check that what is there says the same.

    Raises AlignerProbeError where it was begun `of` something else ("another plan than this").
    """
    for name, text in files.items():
        file = out / name
        if not file.is_file():
            write_text(file, text)
        elif file.read_text(encoding="utf-8") != text:
            raise AlignerProbeError(f"{file} is of {of}; name another folder: --out DIR, or remove {out}")


def make_all(
    jobs: Sequence[AnyJob],
    make: Make,
    shared: Shared,
    out: Path,
    backend: Backend,
    *,
    show_progress: bool = True,
    bar: tqdm | None = None,
) -> None:
    """Make the jobs that are not finished; `make(shared, job, out=folder)` writes the job's folder into `folder/runs`.

    Where that is not `out`, `backend` brings there the results that a job reads (of the ids in its `after`, if it has
    that) and brings its own back.

    Where they are part of more work, `bar` is the bar over all of it.
    Raises AlignerProbeError where another process is at work in the folder, or, after all others were made, where jobs
    failed, with the first one's reason.
    """
    with locked(out):
        for leftover in (out / RUNS).glob(".unfinished-*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        left = unfinished(jobs, out)
        failed: list[tuple[AnyJob, AlignerProbeError]] = []
        own = tqdm(total=len(jobs), desc="runs", disable=not show_progress) if bar is None else nullcontext(bar)
        with own as bar:
            bar.update(len(jobs) - len(left))
            for job, error in backend.make(make, shared, left, out) if left else ():
                if error is not None:
                    failed.append((job, error))
                bar.update()
                bar.set_postfix_str(job.id)
        if failed:
            raise AlignerProbeError(
                f"{len(failed)} of {len(jobs)} runs failed, the others are in {out}; the first, {failed[0][0].id}: "
                f"{failed[0][1]}"
            )
        shutil.rmtree(out / WORK, ignore_errors=True)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """One process at a time; the system lets go of the lock however that one ends."""
    taken = f"another process is making runs in {out}; wait for it, or name another folder: --out DIR"
    with held(out / WORK / LOCK, taken):
        yield
