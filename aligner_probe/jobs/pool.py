"""Jobs on worker processes, by default one torch thread each; they end with their parent, however it ends."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

from aligner_probe.errors import AlignerProbeError
from aligner_probe.threads import Threads, chosen_threads, exactly, set_threads

#: What all jobs share: a dataclass that travels to each worker once, without what it has cached.
Shared = Any
#: Of what is shared and a job to what the job gives.
Work = Callable[[Shared, Any], Any]
#: Seconds between two looks whether to stop.
PATIENCE = 0.5
_shared: Shared = None


def threads_each() -> Threads:
    """CPU threads of a process that makes jobs: one, whatever the base, or what --threads or `set_threads` says."""
    chosen = chosen_threads()
    if chosen is not None:
        return Threads(chosen, "chosen by --threads or ap.set_threads", given=True)
    return Threads(1, "the default of processes that work side by side; --threads N, ap.set_threads(N)")


def each(work: Work, shared: Shared, jobs: Sequence[Any], n_processes: int) -> Iterator[tuple[Any, Any]]:
    """Jobs with what they gave, as they finish; an AlignerProbeError of one stands in place of its result.

    Each process has the threads of `threads_each`. With one process, the jobs are made in this one. A break out of the
    loop stops the workers; nothing of theirs is left half-written but what it resumes from. Raises AlignerProbeError
    where a worker was killed.
    """
    if n_processes == 1:
        for job in jobs:
            with exactly(threads_each().n):
                made = tried(work, shared, job)
            yield job, made
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    # Without what was loaded: models do not travel, and each process has its own.
    pool = ProcessPoolExecutor(min(n_processes, len(jobs)), context, _start, (replace(shared), stop, threads_each().n))
    try:
        futures = {pool.submit(_in_worker, work, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise AlignerProbeError(
            "a worker process was killed, perhaps for want of memory; what is finished is kept. Go on with the same "
            "command (--resume where it has that), with fewer --jobs"
        ) from error
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start(shared: Shared, stop: Any, threads: int) -> None:
    global _shared
    _shared = shared
    set_threads(threads)
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()


def _watch(stop: Any) -> None:
    """End this process when it is told to, or when its parent is gone."""
    parent = multiprocessing.parent_process()
    while not stop.is_set():
        if parent is not None and wait([parent.sentinel], PATIENCE):
            break
    os._exit(1)


def _in_worker(work: Work, job: Any) -> Any:
    return tried(work, _shared, job)


def tried(work: Work, shared: Shared, job: Any) -> Any:
    """What a job gives, or its AlignerProbeError."""
    try:
        return work(shared, job)
    except AlignerProbeError as error:
        # As one of that very class: others are made of more than their message and do not travel.
        return AlignerProbeError(str(error))
