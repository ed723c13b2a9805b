"""Backends make jobs: `Processes` on this machine; `ray_tasks.RayTasks` on the nodes of a cluster."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from aligner_probe.errors import AlignerProbeError
from aligner_probe.jobs.pool import Shared, each

#: `make(shared, job, out=folder)` makes the folders of a job in `folder/runs`, and keeps its state in `folder/work`.
Make = Callable[..., object]


@runtime_checkable
class Backend(Protocol):
    """Makes jobs independently of one another, in any order. Every backend gives the same results."""

    def n_at_once(self) -> int:
        """How many jobs are made at the same time. Raises AlignerProbeError where none can be made."""
        ...

    @property
    def travels(self) -> bool:
        """Whether jobs are made in other processes, which do not have the models that are loaded in this one."""
        ...

    def make(
        self, make: Make, shared: Shared, jobs: Sequence[Any], out: Path
    ) -> Iterator[tuple[Any, AlignerProbeError | None]]:
        """Make jobs, and yield each when it ends, with the error of a job that failed.

        The folders of a job that did not fail are in `out/runs` by then. Closing the iterator early stops the jobs that
        are under way.
        """
        ...


@dataclass(frozen=True)
class Processes:
    """`n` worker processes of this machine, each with the CPU threads of `threads_each`; 1 is this process itself."""

    n: int = 1

    @property
    def travels(self) -> bool:
        return self.n > 1

    def n_at_once(self) -> int:
        return self.n

    def make(
        self, make: Make, shared: Shared, jobs: Sequence[Any], out: Path
    ) -> Iterator[tuple[Any, AlignerProbeError | None]]:
        for job, made in each(partial(make, out=out), shared, jobs, self.n):
            yield job, made if isinstance(made, AlignerProbeError) else None
