"""Which runs of a probe are trained together, with their batches side by side in one batch.

The rule depends on sizes alone and never on measured times, so that the same plan always gives the same results.

A pass over few tokens spends most of its time on starting its kernels. From some number of tokens on, a processor core
is busy with matrix products, and more rows at once gain nothing. On the micro-world (8 layers of width 128), the
forward and backward passes of three runs were timed together and one after another. Together they took 0.71 to 0.79 of
the processor time with 170 tokens in all, 0.80 to 0.85 with 340, 0.85 to 0.89 with 460, 0.94 to 1.00 with 670, and 1.00
to 1.04 with 1,010. Wider base models reach that point with fewer tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aligner_probe.arms.catalogue import ARMS
from aligner_probe.jobs.folder import unfinished
from aligner_probe.models import device_of, embedding_rows
from aligner_probe.probing.bench import ProbeBench
from aligner_probe.probing.plan import Plan, ProbeCell
from aligner_probe.tasks.encoding import encode

#: The most tokens, with padding, of a batch that several runs share. The number for a GPU is a guess.
MOST_TOKENS = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True)
class SharedTraining:
    """Runs of one arm that are trained together: one job, which makes the folder of each cell in `left`.

    `cells` are all the runs; those not in `left` are finished, and are trained again only for the sake of the others.
    """

    cells: tuple[ProbeCell, ...]
    left: tuple[ProbeCell, ...]

    @property
    def id(self) -> str:
        """The id of the cell that is made last: the job is finished when that cell is."""
        return self.left[-1].id

    @property
    def after(self) -> tuple[str, ...]:
        """The ids of the cells that come first."""
        return self.cells[0].after


def share_batches(probe: Plan, bench: ProbeBench) -> Plan:
    """Set in the plan how many runs of each arm, and how many learning rates of each tuning, are trained together.

    It is the largest number whose batches have at most `MOST_TOKENS` tokens together, where a run has its batch size
    times the length of the longest training sequence.
    """
    most = most_together(bench)

    def together(cell: ProbeCell) -> int:
        if cell.arm is None or not ARMS[cell.arm].stacks:
            return 1
        n = len(ARMS[cell.arm].tried_rates) if cell.kind == "tune" else len(probe.runs_of(cell.arm))
        return evenly(n, most)

    return replace(probe, cells=tuple(replace(cell, together=together(cell)) for cell in probe.cells))


def most_together(bench: ProbeBench) -> int:
    """The most runs whose batches have at most `MOST_TOKENS` tokens together, at least 1."""
    train, model = bench.as_trained(bench.parts.train), bench.model
    encoded = encode(
        train, model.tokenizer, max_length=model.cfg.n_ctx, append_eos=not bench.ending, d_vocab=embedding_rows(model)
    )
    own = min(bench.budget.batch_size, len(encoded)) * max(map(len, encoded.sequences))
    return max(1, MOST_TOKENS.get(device_of(model).type, MOST_TOKENS["cpu"]) // own)


def evenly(n: int, most: int) -> int:
    """How many of `n` runs share a batch: as few batches as possible, of equal size but for the last."""
    return -(-n // -(-n // most))


def jobs(cells: Sequence[ProbeCell], out: Path) -> list[ProbeCell | SharedTraining]:
    """Put the cells of a wave together into jobs, without the cells that are finished in OUT."""
    left = {cell.id for cell in unfinished(cells, out)}
    apart = [cell for cell in cells if not _shares(cell)]
    made: list[ProbeCell | SharedTraining] = [cell for cell in apart if cell.id in left]
    for arm in dict.fromkeys(cell.arm for cell in cells if _shares(cell)):
        its = [cell for cell in cells if _shares(cell) and cell.arm == arm]
        for start in range(0, len(its), its[0].together):
            group = tuple(its[start : start + its[0].together])
            if missing := tuple(cell for cell in group if cell.id in left):
                made.append(SharedTraining(group, missing))
    order = {cell.id: index for index, cell in enumerate(cells)}
    return sorted(made, key=lambda job: order[job.cells[0].id if isinstance(job, SharedTraining) else job.id])


def _shares(cell: ProbeCell) -> bool:
    return cell.kind == "train" and cell.together > 1
