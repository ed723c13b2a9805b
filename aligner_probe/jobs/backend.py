"""Who makes jobs: processes of this machine here, the nodes of a cluster in `ray_tasks.py`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from aligner_probe.errors import AlignerProbeError
from aligner_probe.jobs.pool import Shared, each

#: `make(shared, job, out=folder)` makes a job's folder(s) in `folder/runs`, and keeps its state in `folder/work`.
Make = Callable[..., object]


@runtime_checkable
class Backend(Protocol):
    """Makes jobs apart, in any order, to the same results wherever it makes them."""

    def n_at_once(self) -> int:
        """How many jobs are made at a time. Raises AlignerProbeError where none can be."""

    @property
    def travels(self) -> bool:
        """Whether jobs are made in other processes, where what is loaded in this one is not."""

    def make(
        self, make: Make, shared: Shared, jobs: Sequence[Any], out: Path
    ) -> Iterator[tuple[Any, AlignerProbeError | None]]:
        """Jobs as they finish, with what went wrong; of the others the folder is in `out/runs` by then.

        Closed early, it stops what is under way.
        """


@dataclass(frozen=True)
class Processes:
    """`n` worker processes of this machine, each with the threads of `pool.threads_each`; one works in this process."""

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
