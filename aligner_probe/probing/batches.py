"""Which runs of a probe share their batches: by a rule on sizes alone, never on timing, so a plan has its numbers.

A pass over few tokens costs mostly the calls of its kernels; from some number of tokens on a core is busy with
products, and more rows at once bring nothing. On the micro-world (8 layers of 128), forward and backward pass of three
runs took, together against one after another, 0.71 to 0.79 of the processor time with 170 tokens in all, 0.80 to 0.85
with 340, 0.85 to 0.89 with 460, 0.94 to 1.00 with 670 and 1.00 to 1.04 with 1,010. Wider bases reach that point sooner.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aligner_probe.checkpoints.adapters import METHODS as CLASSES
from aligner_probe.jobs.folder import unfinished
from aligner_probe.models import device_of, embedding_rows
from aligner_probe.probing.bench import Bench
from aligner_probe.probing.methods import METHODS
from aligner_probe.probing.plan import Cell, Plan
from aligner_probe.tasks.encoding import encode

#: Tokens of a batch that several runs share, at most, padding among them; on a GPU by guess, not measured.
MOST_TOKENS = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True)
class Batch:
    """Runs of an arm that are trained together; one job, which makes a folder a cell. `left` are not finished."""

    cells: tuple[Cell, ...]
    left: tuple[Cell, ...]

    @property
    def id(self) -> str:
        """That of the cell which is made last, so that the job is finished when that is there."""
        return self.left[-1].id

    @property
    def after(self) -> tuple[str, ...]:
        return self.cells[0].after


def share_batches(probe: Plan, bench: Bench) -> Plan:
    """The plan with how many runs of each arm (and learning rates, where they are tuned) train together.

    As many as have at most `MOST_TOKENS` together: a run's batch size times the longest sequence that is trained on.
    """
    train, longest = bench.as_trained(bench.parts.train), bench.model.cfg.n_ctx
    model = bench.model
    encoded = encode(
        train, model.tokenizer, max_length=longest, append_eos=not bench.ending, d_vocab=embedding_rows(model)
    )
    own = min(bench.budget.batch_size, len(encoded)) * max(map(len, encoded.sequences))
    most = max(1, MOST_TOKENS.get(device_of(bench.model).type, MOST_TOKENS["cpu"]) // own)

    def together(cell: Cell) -> int:
        if cell.arm is None or not CLASSES[METHODS[cell.arm].adapter].stacks:
            return 1
        n = len(METHODS[cell.arm].rates) if cell.kind == "tune" else len(probe.runs_of(cell.arm))
        # In as few batches as there must be, of equal size but for the last.
        return -(-n // -(-n // most))

    return replace(probe, cells=tuple(replace(cell, together=together(cell)) for cell in probe.cells))


def jobs(cells: Sequence[Cell], out: Path) -> list[Cell | Batch]:
    """The cells of a wave as pieces of work, without what is finished in OUT."""
    left = {cell.id for cell in unfinished(cells, out)}
    apart = [cell for cell in cells if not _shares(cell)]
    found: list[Cell | Batch] = [cell for cell in apart if cell.id in left]
    for arm in dict.fromkeys(cell.arm for cell in cells if _shares(cell)):
        its = [cell for cell in cells if _shares(cell) and cell.arm == arm]
        for place in range(0, len(its), its[0].together):
            batch = tuple(its[place : place + its[0].together])
            if missing := tuple(cell for cell in batch if cell.id in left):
                found.append(Batch(batch, missing))
    order = {cell.id: place for place, cell in enumerate(cells)}
    return sorted(found, key=lambda job: order[job.cells[0].id if isinstance(job, Batch) else job.id])


def _shares(cell: Cell) -> bool:
    return cell.kind == "train" and cell.together > 1
