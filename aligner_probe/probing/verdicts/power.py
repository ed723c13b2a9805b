"""How many independent test items a verdict needs, and how many rows of a task that is.

Both the plan of a probe and its verdict ask `size_of_test`. The plan does not know the scores yet. It takes the best
constant answer as the floor, and as the reference the lowest score that counts as learned. The verdict takes the scores
that were measured.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import items_needed, power
from aligner_probe.probing.verdicts.measures import TaskKind
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS, Thresholds


@dataclass(frozen=True)
class SizeOfTest:
    """The number of independent items of a test, and the number that is needed.

    Args:
        n: independent test items.
        scale: what decides how many are needed. "shares": the power to tell two shares of right answers apart.
            "likelihood": a least number for intervals of log-likelihoods. "facts": nothing, because every fact of a
            memory task is asked.
        needed: how many are needed; None where no number is enough.
        power: the power of the test as it is; None where it is not defined.
        floor, reference: the scores that the calculation is for.
        measure, cut: the measure that decides and needs the most items, and its cut; an empty name where none does.
        rows_an_item: rows to write for one more independent test item. They include training rows unless `own_file`.
        own_file: whether the test is a file of its own.
        thresholds: what the calculation compares with.
    """

    n: int
    scale: str
    needed: int | None
    power: float | None
    floor: float
    reference: float
    rows_an_item: float
    own_file: bool
    thresholds: Thresholds
    measure: str = ""
    cut: float = 0.0

    @property
    def enough(self) -> bool:
        """Whether the test has as many items as are needed."""
        return self.needed is not None and self.n >= self.needed

    @property
    def rows(self) -> int | None:
        """About how many rows give the items that are needed: of the test file, where the test is a file of its own."""
        return None if self.needed is None else math.ceil(self.needed * self.rows_an_item)

    @property
    def said(self) -> str:
        """For instance "12 independent items, and 32 are needed to tell F = 0.73 from 0.48 with a power of 0.8 …"."""
        t, items = self.thresholds, f"{self.n} independent items"
        if self.scale == "facts":
            return f"{items}, which are all the facts there are: a memory task needs no number of them"
        between = f"between floor {self.floor:.2f} and reference {self.reference:.2f}"
        if self.needed is None:
            return f"{items}, and no test set is large enough {between}"
        if self.scale == "likelihood":
            what = "for intervals of log-likelihoods"
        else:
            high = min(1.0, self.cut + t.resolution)
            what = f"to tell {self.measure} = {high:.2f} from {self.cut:.2f} with a power of {t.power:g} {between}"
            what += f" (it is {self.power:.2f} here)"
        rows = f"write about {self.rows:,} rows{' of test' if self.own_file else ''} ({self.needed:,} test items)"
        return f"{items}, and {self.needed:,} are needed {what}" + ("" if self.enough else f": {rows}")


def size_of_test(
    n: int,
    *,
    kind: TaskKind,
    floor: float,
    reference: float,
    rows_an_item: float = 1.0,
    own_file: bool = False,
    thresholds: Thresholds = THRESHOLDS,
) -> SizeOfTest:
    """The size of a test with `n` independent items, for given scores of floor and reference.

    Shares of right answers are tested by the exact one-sided binomial test, at the cut of F or of R_soft, whichever
    needs more items. Scores outside 0 to 1 are log-likelihoods.
    """
    t = thresholds
    rest = (floor, reference, rows_an_item, own_file, t)
    if kind == "memory":
        return SizeOfTest(n, "facts", 0, None, *rest)
    # The weights of a perfect reference may add up to a little more than 1.
    if floor < 0 or reference > 1 + 1e-9:
        return SizeOfTest(n, "likelihood", t.fewest_items, None, *rest)
    cuts = (("F", t.F_cut), ("R_soft", t.R_soft_cut))
    each = [(*_needed(n, cut, floor, reference, t), name, cut) for name, cut in cuts]
    needed, reached, name, cut = max(each, key=lambda one: math.inf if one[0] is None else one[0])
    return SizeOfTest(n, "shares", needed, reached, *rest, name, cut)


def _needed(n: int, cut: float, floor: float, reference: float, t: Thresholds) -> tuple[int | None, float | None]:
    """How many items tell a share of `resolution` above a cut from the cut, and the power of `n` items.

    None for what no number is enough for, and for a power that is not defined.
    """
    gap = reference - floor
    lower, upper = floor + cut * gap, min(floor + min(1.0, cut + t.resolution) * gap, 1.0)
    if not lower < upper:
        return None, None
    try:
        needed = items_needed(lower, upper, wanted=t.power, alpha=t.alpha)
    except AlignerProbeError:
        needed = None
    return needed, power(n, lower, upper, t.alpha)


@runtime_checkable
class TestedParts(Protocol):
    """What is asked of a task's parts (`splitting.Parts`) here."""

    @property
    def kind(self) -> TaskKind: ...

    @property
    def n_units(self) -> int: ...

    @property
    def rows_an_item(self) -> float: ...

    @property
    def own_test(self) -> bool: ...


def planned_size(parts: TestedParts, constant: float | None, thresholds: Thresholds = THRESHOLDS) -> SizeOfTest:
    """The size of a probe's test before anything is trained.

    `constant` is the score of the best constant answer on the test part; None where scores are log-likelihoods.
    """
    floor, reference = (-1.0, 0.0) if constant is None else (constant, max(constant, thresholds.learned))
    return size_of_test(
        parts.n_units,
        kind=parts.kind,
        floor=floor,
        reference=reference,
        rows_an_item=parts.rows_an_item,
        own_file=parts.own_test,
        thresholds=thresholds,
    )
