"""Jobs for a Ray cluster that note what they do, and that die where a test wants it. Its workers import this module."""

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from aligner_probe.errors import CheckpointError
from aligner_probe.jobs.folder import RESULT, RUNS, WORK
from aligner_probe.probing import cells


@dataclass(frozen=True)
class Job:
    """A job that reads the results of the jobs in `after`; the first word of its id says how it goes."""

    id: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shared:
    """Where jobs note what they do, a line each time."""

    log: str
    note: str = "as here"


def noted(log, *what):
    """Add a line to a log."""
    with Path(log).open("a") as file:
        file.write(" ".join(what) + "\n")


def lines(log):
    """The lines of a log."""
    return Path(log).read_text().splitlines()


def make(shared, job, *, out):
    """Make a job's folder: "wrong" raises, "killed" kills its process once, "doomed" each time."""
    noted(shared.log, job.id)
    kept = out / WORK / job.id / "state"
    kind = job.id.split("-")[0]
    if kind == "wrong":
        raise CheckpointError(job.id, "no checkpoint")
    if kind == "doomed" or (kind == "killed" and not kept.is_file()):
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("half done")
        os.kill(os.getpid(), signal.SIGKILL)
    folder = out / RUNS / job.id
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "numbers.bin").write_bytes(bytes(range(256)))
    read = [json.loads((out / RUNS / name / RESULT).read_text())["id"] for name in job.after]
    went_on = kept.read_text() if kept.is_file() else "began anew"
    (folder / RESULT).write_text(json.dumps({"id": job.id, "read": read, "note": shared.note, "state": went_on}))


def slow(shared, job, *, out):
    """Make "quick" as soon as "long" has begun; any other job lasts a minute."""
    (out / WORK).mkdir(parents=True)
    noted(shared.log, job.id)
    if job.id == "quick":
        while "long" not in lines(shared.log):
            time.sleep(0.1)
        make(shared, job, out=out)
    else:
        for _ in range(600):
            time.sleep(0.1)


class Dies:
    """Carries out a probe's jobs, notes each, and calls `how` once, in the middle of one job's training."""

    def __init__(self, log, job_id, how):
        self.log, self.job_id, self.how = log, job_id, how

    def __call__(self, bench, job, *, out):
        noted(self.log, "began", job.id)
        real = cells._Follow.stepped

        def stepped(follow, row):
            real(follow, row)
            if job.id == self.job_id and row["step"] == 4 and f"died {job.id}" not in lines(self.log):
                noted(self.log, "died", job.id)
                self.how()

        cells._Follow.stepped = stepped
        try:
            cells.carry_out(bench, job, out=out)
        finally:
            cells._Follow.stepped = real
        noted(self.log, "made", job.id)


def die():
    """Kill this worker process."""
    os.kill(os.getpid(), signal.SIGKILL)


def lose_the_node():
    """Kill the node's manager, and this worker with it."""
    os.kill(os.getppid(), signal.SIGKILL)
    die()
