"""A study: a plan of cells, and the function that makes one cell.

    study = Study(cells=cells, carry_out=carry_out, bench=bench, files={"plan.json": text})
    study.make(out, Processes(2))                     # makes the cells that are not finished
    results = [read_result(out, cell.id) for cell in study.cells]

`carry_out(bench, cell, out=folder)` makes one cell and writes its folder (`cell_folder`). It is a function of a
module, so that it can travel to worker processes and to the nodes of a Ray cluster. A cell may read the results of the
cells in its `after` and of no others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from tqdm.auto import tqdm

from aligner_probe.errors import AlignerProbeError
from aligner_probe.jobs.backend import Backend, Make, Processes
from aligner_probe.jobs.folder import Job, begin, make_all, unfinished


@runtime_checkable
class Cell(Protocol):
    """One unit of work. `id` is the name of its folder; `after` has the ids of the cells that come first."""

    @property
    def id(self) -> str: ...

    @property
    def after(self) -> tuple[str, ...]: ...


AnyCell = TypeVar("AnyCell", bound=Cell)


def always(cell: Cell, out: Path) -> bool:
    """Every cell is wanted."""
    return True


def one_job_each(cells: Sequence[AnyCell], out: Path) -> Sequence[Job]:
    """Every unfinished cell is a job of its own."""
    return unfinished(cells, out)


@dataclass(frozen=True)
class Study(Generic[AnyCell]):
    """Cells, what they share, and how one of them is made.

    Args:
        cells: the plan, in the order in which the cells are made.
        carry_out: `carry_out(bench, cell, out=folder)` makes a cell. With `jobs`, it makes what that returns.
        bench: what all cells share. It travels to each process once, without the models that it has loaded.
        files: texts by file name that say what the study makes and of what. They are written into the folder first. A
            folder that has other texts is refused, so that no folder mixes two studies.
        differs: the words of that refusal: "FILE is of {differs}".
        is_wanted: `is_wanted(cell, out)` says, once all cells before it are made, whether a cell is made at all.
        jobs: `jobs(cells, out)` puts cells of one wave together into jobs, where several are made in one go. The id of
            a job is that of the cell that it finishes last. It leaves out what is finished in `out`.
        unit: the word that the progress bar has for cells.
    """

    cells: tuple[AnyCell, ...]
    carry_out: Make
    bench: Any
    files: Mapping[str, str] = field(default_factory=dict)
    differs: str = "another plan than this"
    is_wanted: Callable[[AnyCell, Path], bool] = always
    jobs: Callable[[Sequence[AnyCell], Path], Sequence[Job]] = one_job_each
    unit: str = "cells"

    def begin(self, out: Path) -> None:
        """Write `files` into the folder, or check that those in it are the same.

        Raises AlignerProbeError where the folder was begun with others.
        """
        begin(out, self.files, self.differs)

    def unfinished(self, out: Path) -> list[AnyCell]:
        """The cells that are wanted and not finished in `out`, as far as that is known by now."""
        return [cell for cell in unfinished(self.cells, out) if self.is_wanted(cell, out)]

    def make(
        self,
        out: Path,
        backend: Backend | None = None,
        *,
        only: Sequence[AnyCell] | None = None,
        show_progress: bool = True,
    ) -> None:
        """Make the cells that are not finished, wave after wave; with `only`, those of them.

        Args:
            out: the folder of the study.
            backend: who makes the cells, for instance `Processes(2)` or `RayTasks()`; by default this process.
            only: some of the cells. Cells that these come after must be finished.
            show_progress: whether a progress bar is shown.

        Raises AlignerProbeError where the folder was begun with another plan, where another process is at work in it,
        or, after the other cells of a wave were made, where cells failed.
        """
        self.begin(out)
        backend = backend or Processes()
        cells, n_made = self.cells if only is None else only, 0
        with tqdm(total=len(cells), desc=self.unit, disable=not show_progress) as bar:
            for wave in waves(cells):
                wanted = [cell for cell in wave if self.is_wanted(cell, out)]
                if jobs := self.jobs(wanted, out):
                    make_all(jobs, self.carry_out, self.bench, out, backend, bar=bar)
                n_made += len(wave)
                bar.update(n_made - bar.n)  # a job may make several cells, and finished cells are no jobs


def waves(cells: Sequence[AnyCell]) -> list[list[AnyCell]]:
    """The cells that can be made at the same time, wave after wave. Each comes after all the cells that it needs.

    A cell that is not among `cells` counts as made. Raises AlignerProbeError for cells that wait for one another.
    """
    planned = {cell.id for cell in cells}
    result: list[list[AnyCell]] = []
    made: set[str] = set()
    left = list(cells)
    while left:
        ready = [cell for cell in left if made.issuperset(planned.intersection(cell.after))]
        if not ready:
            raise AlignerProbeError(
                f"the cells {', '.join(cell.id for cell in left)} wait for one another; expected an order in which "
                "each comes after the cells that it needs"
            )
        result.append(ready)
        made |= {cell.id for cell in ready}
        left = [cell for cell in left if cell.id not in made]
    return result
