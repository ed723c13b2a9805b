"""The folder that jobs are made into: OUT/runs/ID when a job is finished, and OUT/work/ID with its state until then.

A finished job is never made again, and one process at a time makes jobs in a folder.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from tqdm.auto import tqdm

from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import UNFINISHED, held, write_text
from aligner_probe.jobs.backend import Backend, Make
from aligner_probe.jobs.pool import Shared

RUNS, RESULT, WORK, LOCK = "runs", "result.json", "work", "lock"


@runtime_checkable
class Job(Protocol):
    """A piece of work. A job may also have `after`, the ids of the jobs whose results it reads."""

    @property
    def id(self) -> str:
        """The name of its folder."""
        ...


AnyJob = TypeVar("AnyJob", bound=Job)


def unfinished(jobs: Sequence[AnyJob], out: Path) -> list[AnyJob]:
    """The jobs that have no result in `out`, in order."""
    return [job for job in jobs if not (out / RUNS / job.id / RESULT).is_file()]


def begin(out: Path, files: Mapping[str, str], of: str) -> None:
    """Write the files that say what a folder is for, or check that those in it are the same.

    Raises AlignerProbeError where they are not; `of` describes what they are for then ("another plan than this").
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
    """Make the jobs that are not finished.

    Args:
        jobs: the jobs.
        make: `make(shared, job, out=folder)` writes the folders of a job into `folder/runs`. On a cluster `folder` is
            not `out`: the backend copies there the results of the jobs in `after`, and copies the job's own folders
            back.
        shared: what all jobs share.
        out: the folder.
        backend: who makes the jobs.
        show_progress: whether a progress bar is shown.
        bar: the progress bar of a larger piece of work that the jobs are a part of.

    Raises:
        AlignerProbeError: another process is at work in the folder; or, after all other jobs were made, jobs failed.
            The message then has the reason of the first one.
    """
    with locked(out):
        for leftover in (out / RUNS).glob(f"{UNFINISHED}*"):  # left by a process that was killed
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
    """Lock the folder for this process. The operating system releases the lock however the process ends."""
    taken = f"another process is making runs in {out}; wait for it, or name another folder: --out DIR"
    with held(out / WORK / LOCK, taken):
        yield
