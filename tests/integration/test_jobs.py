"""Worker processes that are killed, and folders that two processes want."""

import os
import signal
from dataclasses import dataclass

import pytest

from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.jobs.backend import Processes
from aligner_probe.jobs.folder import RESULT, RUNS, locked, make_all, unfinished
from aligner_probe.jobs.pool import each


@dataclass(frozen=True)
class Job:
    id: str


@dataclass(frozen=True)
class Shared:
    folder: str


def _write(shared, job, *, out):
    folder = out / RUNS / job.id
    folder.mkdir(parents=True)
    (folder / RESULT).write_text("{}")


def _refuse(shared, job):
    raise CheckpointError(job, "no checkpoint")


def _die(shared, job):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_said_with_the_way_on(tmp_path):
    with pytest.raises(AlignerProbeError, match="worker process was killed"):
        list(each(_die, Shared(str(tmp_path)), [1, 2], 2))


def test_an_error_made_of_more_than_its_message_comes_back_from_a_worker(tmp_path):
    [(job, error)] = each(_refuse, Shared(str(tmp_path)), ["a"], 2)
    assert (job, str(error)) == ("a", "a: no checkpoint")
    assert type(error) is AlignerProbeError


def test_what_is_finished_is_not_made_again(tmp_path):
    jobs = [Job("a"), Job("b")]
    made = []

    def make(shared, job, *, out):
        made.append(job.id)
        _write(shared, job, out=out)

    shared = Shared(str(tmp_path))
    make_all(jobs[:1], make, shared, tmp_path, Processes(), show_progress=False)
    assert unfinished(jobs, tmp_path) == jobs[1:]
    make_all(jobs, make, shared, tmp_path, Processes(), show_progress=False)
    assert made == ["a", "b"]


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    with locked(tmp_path), pytest.raises(AlignerProbeError, match="another process is making runs"):
        make_all([Job("a")], _write, Shared(str(tmp_path)), tmp_path, Processes(), show_progress=False)
