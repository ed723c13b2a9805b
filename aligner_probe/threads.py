"""How many CPU threads the work with a base uses: one on a small base, as many as torch takes on a larger one.

The threads of one process wait for one another after every matrix product. On a quiet machine of two processors, two
threads made a training step of the micro-world (1.7 million parameters) 1.6 times as fast as one thread. With other
programs at work on the same machine, two threads were slower than one: 5 to 9 times for a base of 2 million
parameters, up to 38 times for one of 10 million, and 2.5 times for one of 28 million. So bases below
`SMALL` parameters run on one thread, unless the user has chosen a number.

    import aligner_probe as ap

    ap.set_threads(2)      # from here on two threads, whatever the base
    ap.set_threads(None)   # back to the rule

A user's choice is never overridden. It is, in this order: `set_threads` (or `--threads` of a command); the environment
variables OMP_NUM_THREADS and MKL_NUM_THREADS; a call of `torch.set_num_threads`. Such a call leaves no trace where it
sets the number that torch has anyway, so name that number with `set_threads`.

The number is set while the base computes (`using`) and put back afterwards: nothing else in the process is slowed
down, and a larger base that is loaded next gets its own number.
"""

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from aligner_probe.arguments import accepts
from aligner_probe.errors import AlignerProbeError, AlignerProbeWarning

#: Bases with fewer parameters than this run on one thread.
SMALL = 20_000_000
#: More threads than this are a slip of the pen, which would end the process in the operating system.
MOST = 1024
#: Environment variables by which a user says how many threads numerical libraries take.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
#: The number of threads that torch had when this module was imported.
STARTED = torch.get_num_threads()


@dataclass(frozen=True)
class Threads:
    """A number of threads, and why it is this number. `given` is True where the user chose it."""

    n: int
    reason: str
    given: bool = False

    def __str__(self) -> str:
        return f"{self.n} ({self.reason})"


#: What `set_threads` was told; None where the rule decides.
_chosen: int | None = None


class _Set(threading.local):
    """What `using` has done in this Python thread, the innermost last: the number before, and the number set."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, int]] = []


_set = _Set()


@accepts(n=lambda value, _: value)
def set_threads(n: int | None) -> None:
    """Use `n` CPU threads in this process from now on, for every base model.

    The number of torch's threads is set too.

    Args:
        n: The number of threads, or None to go back to the rule: one thread for a small base model.

    Raises:
        AlignerProbeError: `n` is neither None nor a whole number from 1 to `MOST`.
    """
    global _chosen
    if n is not None and (type(n) is not int or not 1 <= n <= MOST):
        raise AlignerProbeError(f"{n!r} threads; expected a whole number from 1 to {MOST}, or None for the default")
    _chosen = n
    torch.set_num_threads(STARTED if n is None else n)


def chosen_threads() -> int | None:
    """The number that `set_threads` or `--threads` was told; None where there was no such choice."""
    return _chosen


def threads_of_size(n_parameters: int, device: str = "cpu") -> Threads:
    """The number of threads for a base of so many parameters on a device, and why."""
    if _chosen is not None:
        return Threads(_chosen, "chosen by --threads or ap.set_threads", given=True)
    outside = torch.get_num_threads()
    if _set.changes and outside == _set.changes[-1][1]:
        outside = _set.changes[0][0]  # what `using` has set is nobody's choice
    for name in VARIABLES:
        if os.environ.get(name):
            return Threads(outside, f"{name} is set", given=True)
    if outside != STARTED or _SET_BEFORE:
        return Threads(outside, "chosen by torch.set_num_threads", given=True)
    if device != "cpu":
        return Threads(outside, f"torch's default; the base is on {device}")
    if n_parameters >= SMALL:
        return Threads(outside, f"torch's default, since the base has {_millions(n_parameters)} parameters")
    return Threads(
        1,
        f"the default for a base below {_millions(SMALL)} parameters, and this one has {_millions(n_parameters)}; more "
        "are faster only where no other program runs: --threads N, ap.set_threads(N)",
    )


def as_begun(threads: Threads, before: int | None) -> Threads:
    """The number of threads for work that goes on: the one it began with, unless the user chose another number.

    `before` is the number that was recorded; None where an older version recorded none. Where bits may differ from
    those of work without a break, the reason says so, and a warning does where the user chose another number.
    """
    if before == threads.n:
        return threads
    if before is not None and not threads.given:
        return Threads(before, "as the run began")
    began = "a number of threads that was not recorded" if before is None else f"{before} threads"
    note = f"this run began with {began}; with {threads.n} its last bits may differ from those of a run without a break"
    if before is not None:
        warnings.warn(note, AlignerProbeWarning, stacklevel=3)
    return replace(threads, reason=f"{threads.reason}; {note}")


@contextmanager
def using(threads: Threads) -> Iterator[Threads]:
    """Compute with a number of threads inside the block; the number from before comes back at its end.

    Where something inside the block calls `torch.set_num_threads`, what that call set stays.
    """
    before = torch.get_num_threads()
    _set.changes.append((before, threads.n))
    torch.set_num_threads(threads.n)
    try:
        yield threads
    finally:
        _set.changes.pop()
        if torch.get_num_threads() == threads.n:
            torch.set_num_threads(before)


@contextmanager
def exactly(n: int) -> Iterator[None]:
    """Inside the block, `n` threads are the user's choice: no rule changes them. What held before comes back."""
    global _chosen
    chosen, before = _chosen, torch.get_num_threads()
    set_threads(n)
    try:
        yield
    finally:
        _chosen = chosen
        torch.set_num_threads(before)


def _millions(n: int) -> str:
    return f"{n / 1e6:.3g} million" if n >= 1e6 else f"{n:,}"


def _torch_may_start_with() -> set[int]:
    """The thread counts that torch can start with on this machine.

    Torch starts with one thread for each processor, or for every two, since many cores count as two processors. It
    counts all processors of the machine, or only those that this process may use.
    """
    processors = {os.cpu_count() or 1}
    if hasattr(os, "sched_getaffinity"):
        processors.add(len(os.sched_getaffinity(0)))
    return processors | {max(1, n // 2) for n in processors}


#: Whether torch.set_num_threads was called before this module was imported. A Mac's fast cores are a number of their
#: own, so nothing is concluded there.
_SET_BEFORE = sys.platform != "darwin" and STARTED not in _torch_may_start_with()
