"""How many independent test items a verdict needs, and how many rows of a task that is.

The plan of a probe and its verdict both ask `size_of_test`. The plan does not know yet what floor and reference will
score: it takes the best constant answer as the floor, and the weakest reference that counts as learned. The verdict
takes what was found.
"""

import math
from dataclasses import dataclass

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import items_needed, power
from aligner_probe.probing.measures import Kind
from aligner_probe.probing.splitting import Parts
from aligner_probe.probing.thresholds import THRESHOLDS, Thresholds


@dataclass(frozen=True)
class SizeOfTest:
    """A test's number of independent items against what is needed.

    `scale` says what decides: the power to tell two shares of right answers apart ("shares"), a least number for
    intervals of log-likelihoods ("likelihood"), or nothing, as every fact of a memory task is asked ("facts").
    `power` is None where it is not defined, `needed` where no number of items is enough. `rows_an_item` is how many
    rows are written for one more independent test item, training rows among them unless `own_file` is set: then the
    test is a file of its own.
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

    @property
    def enough(self) -> bool:
        return self.needed is not None and self.n >= self.needed

    @property
    def rows(self) -> int | None:
        """Rows in all (of the test file, where it is given apart) that have about as many items as are needed."""
        return None if self.needed is None else math.ceil(self.needed * self.rows_an_item)

    @property
    def said(self) -> str:
        """For instance "12 independent items, and 27 are needed to tell R = 0.44 from 0.19 with a power of 0.8 …"."""
        t, items = self.thresholds, f"{self.n} independent items"
        if self.scale == "facts":
            return f"{items}, which are all the facts there are: a memory task needs no number of them"
        between = f"between floor {self.floor:.2f} and reference {self.reference:.2f}"
        if self.needed is None:
            return f"{items}, and no test set is large enough {between}"
        if self.scale == "likelihood":
            what = "for intervals of log-likelihoods"
        else:
            high = min(1.0, t.R1_cut + t.resolution)
            what = f"to tell R = {high:.2f} from {t.R1_cut:.2f} with a power of {t.power:g} {between}"
            what += f" (it is {self.power:.2f} here)"
        rows = f"write about {self.rows:,} rows{' of test' if self.own_file else ''} ({self.needed:,} test items)"
        return f"{items}, and {self.needed:,} are needed {what}" + ("" if self.enough else f": {rows}")


def size_of_test(
    n: int,
    *,
    kind: Kind,
    floor: float,
    reference: float,
    rows_an_item: float = 1.0,
    own_file: bool = False,
    thresholds: Thresholds = THRESHOLDS,
) -> SizeOfTest:
    """What `n` independent items can show between the scores of floor and reference.

    Shares of right answers are tested by the exact one-sided binomial test. Scores outside 0 to 1 are log-likelihoods.
    """
    t = thresholds
    rest = (floor, reference, rows_an_item, own_file, t)
    if kind == "memory":
        return SizeOfTest(n, "facts", 0, None, *rest)
    # The weights of a perfect reference may add up to a little more than 1.
    if floor < 0 or reference > 1 + 1e-9:
        return SizeOfTest(n, "likelihood", t.fewest_items, None, *rest)
    gap = reference - floor
    lower = floor + t.R1_cut * gap
    upper = min(floor + min(1.0, t.R1_cut + t.resolution) * gap, 1.0)
    if not lower < upper:
        return SizeOfTest(n, "shares", None, None, *rest)
    try:
        needed = items_needed(lower, upper, wanted=t.power, alpha=t.alpha)
    except AlignerProbeError:
        needed = None
    return SizeOfTest(n, "shares", needed, power(n, lower, upper, t.alpha), *rest)


def planned_size(parts: Parts, constant: float | None, thresholds: Thresholds = THRESHOLDS) -> SizeOfTest:
    """The size of a probe's test before anything is run.

    `constant` is what the best constant answer scores in the test, None where log-likelihoods are the score.
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
