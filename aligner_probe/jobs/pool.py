"""Jobs on worker processes, by default one torch thread each; they end with their parent, however it ends.

Ctrl-C reaches every process of a terminal's group. Only the parent takes it: it tells its workers to stop, and they
remove the semaphores that they made before they end. So no worker prints a traceback, and no semaphore
is left to be reported as leaked.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import util
from multiprocessing.connection import wait
from typing import Any

from tqdm.auto import tqdm

from aligner_probe.errors import AlignerProbeError
from aligner_probe.threads import Threads, chosen_threads, exactly, set_threads

#: What all jobs share: a dataclass that travels to each worker once, without what it has cached.
Shared = Any
#: Of what is shared and a job to what the job gives.
Work = Callable[[Shared, Any], Any]
#: Seconds between two looks whether to stop.
PATIENCE = 0.5
_shared: Shared = None
_stop: Any = None


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
    # Without what was loaded: models do not travel, and each process has its own.
    with workers(min(n_processes, len(jobs)), replace(shared)) as submit:
        futures = {submit(_in_worker, work, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()


@contextmanager
def workers(n_processes: int, shared: Shared = None) -> Iterator[Callable[..., Future]]:
    """A function that submits work to worker processes; each of them has `shared`.

    Where the block is left by an error or an interrupt, the workers stop in the middle of their work. Raises
    AlignerProbeError where a worker was killed.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(n_processes, context, _start, (shared, stop, threads_each().n))

    def submit(work: Callable[..., Any], *arguments: Any) -> Future:
        with _interrupts_held():  # a submission starts the next worker
            return pool.submit(_unless_stopped, work, *arguments)

    try:
        yield submit
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


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the block ends; processes that are started inside never get it.

    Windows has no masks of signals, so there the workers hear Ctrl-C like their parent.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(shared: Shared, stop: Any, threads: int) -> None:
    global _shared, _stop
    _shared, _stop = shared, stop
    set_threads(threads)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, for bars of several processes
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()


def _watch(stop: Any) -> None:
    """End this process when it is told to, or when its parent is gone."""
    parent = multiprocessing.parent_process()
    while not stop.is_set():
        if parent is not None and wait([parent.sentinel], PATIENCE):
            break
    # What os._exit leaves out: semaphores that this process made are removed.
    util._run_finalizers(0)
    if stop.is_set():
        # As soon as one worker is gone, the pool kills the others: until then they have to have come here.
        time.sleep(2 * PATIENCE)
        util._run_finalizers(0)
    os._exit(1)


def _unless_stopped(work: Callable[..., Any], *arguments: Any) -> Any:
    """Work that is begun only where this process is not about to end."""
    while _stop.is_set():
        time.sleep(PATIENCE)
    return work(*arguments)


def _in_worker(work: Work, job: Any) -> Any:
    return tried(work, _shared, job)


def tried(work: Work, shared: Shared, job: Any) -> Any:
    """What a job gives, or its AlignerProbeError."""
    try:
        return work(shared, job)
    except AlignerProbeError as error:
        # As one of that very class: others are made of more than their message and do not travel.
        return AlignerProbeError(str(error))
