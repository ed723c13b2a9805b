"""Worker processes, each with one CPU thread by default, that end when the process that started them ends.

Ctrl-C reaches every process in a terminal's group, but only the parent process handles it. The parent tells its workers
to stop, and they remove the semaphores that they made before they end. So no worker prints a traceback, and no
semaphore is reported as leaked.
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

#: What all jobs share: a dataclass. It travels to each worker once, without the values that it has cached.
Shared = Any
#: A function of what is shared and of a job that returns the job's result.
Work = Callable[[Shared, Any], Any]
#: Seconds between two checks whether a worker has to stop.
PATIENCE = 0.5
_shared: Shared = None
_stop: Any = None


def threads_each() -> Threads:
    """The CPU threads of each process that makes jobs: one, whatever the base model, unless the user chose a number."""
    chosen = chosen_threads()
    if chosen is not None:
        return Threads(chosen, "chosen by --threads or ap.set_threads", given=True)
    return Threads(1, "the default of processes that work side by side; --threads N, ap.set_threads(N)")


def each(work: Work, shared: Shared, jobs: Sequence[Any], n_processes: int) -> Iterator[tuple[Any, Any]]:
    """Do the work of all jobs, and yield each job with its result when it ends.

    An AlignerProbeError of a job is yielded instead of its result. Each process has the threads of `threads_each`.
    With one process the work is done in this process. Leaving the loop early stops the workers; of their unfinished
    jobs only the state to go on from is left. Raises AlignerProbeError where a worker was killed.
    """
    if n_processes == 1:
        for job in jobs:
            with exactly(threads_each().n):
                made = tried(work, shared, job)
            yield job, made
        return
    # `replace` copies it without the models that it has loaded: each process loads its own.
    with workers(min(n_processes, len(jobs)), replace(shared)) as submit:
        futures = {submit(_in_worker, work, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()


@contextmanager
def workers(n_processes: int, shared: Shared = None) -> Iterator[Callable[..., Future]]:
    """Start worker processes that have `shared`, and yield a function that submits work to them.

    An error or an interrupt in the block stops the workers in the middle of their work. Raises AlignerProbeError where
    a worker was killed.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(n_processes, context, _start, (shared, stop, threads_each().n))

    def submit(work: Callable[..., Any], *arguments: Any) -> Future:
        with _interrupts_held():  # submitting work may start another worker
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
    """Delay Ctrl-C until the block ends; processes that are started inside never receive it.

    Windows cannot mask signals, so there the workers receive Ctrl-C like their parent.
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
    tqdm.set_lock(threading.RLock())  # by default its lock is a semaphore, which several processes share
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()


def _watch(stop: Any) -> None:
    """End this process when it is told to stop, or when its parent has ended."""
    parent = multiprocessing.parent_process()
    while not stop.is_set():
        if parent is not None and wait([parent.sentinel], PATIENCE):
            break
    # os._exit does not remove the semaphores that this process made.
    util._run_finalizers(0)  # pyright: ignore[reportAttributeAccessIssue]
    if stop.is_set():
        # When one worker has ended the pool kills the others, which have to remove their semaphores before that.
        time.sleep(2 * PATIENCE)
        util._run_finalizers(0)  # pyright: ignore[reportAttributeAccessIssue]
    os._exit(1)


def _unless_stopped(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do the work, unless this process is about to end."""
    while _stop.is_set():
        time.sleep(PATIENCE)
    return work(*arguments)


def _in_worker(work: Work, job: Any) -> Any:
    return tried(work, _shared, job)


def tried(work: Work, shared: Shared, job: Any) -> Any:
    """The result of a job, or its AlignerProbeError."""
    try:
        return work(shared, job)
    except AlignerProbeError as error:
        # Errors of derived classes are made from more than a message, so they do not travel between processes.
        return AlignerProbeError(str(error))
