"""How much of what a task teaches is recovered by a prompt, by one token, by more: one number each, with its interval.

    R(arm) = (A_arm - A_floor) / (A_reference - A_floor)
    A_floor = max(base, best constant answer, reference trained on shuffled answers)

all on the same test items. Without that floor a reference that learns nothing but which answers are frequent would
look like knowledge. F is R of the best prompt, R1 of Aligner-1, B of a free output bias in every layer; delta is R1
less R of a random subspace of Aligner-1's size. Intervals are a bootstrap over items and seeds; items of one group (an
entity, a fact) are drawn together, since they stand and fall together (Miller, arXiv 2411.00640).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import Interval, Statistic, bootstrap, mean_interval
from aligner_probe.probing.arms import (
    ALIGNER_1,
    BASE,
    FLOORS,
    OUTPUT_BIAS,
    PROMPT,
    RANDOM_SUBSPACE,
    REFERENCE,
    REFERENCE_SHUFFLED,
)
from aligner_probe.probing.doses import DoseResponse, Size, dose_response

Kind = Literal["general", "memory"]
Which = Literal["strict", "content", "format", "likelihood"]
#: A mean, or all resamples' means at once.
Mean = np.ndarray | float
#: Enough for a bound's second digit; thousands of them are drawn for every measure of every kind of score.
N_RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Table:
    """One kind of score (strict, content, format, likelihood) of every arm on the same test items.

    An arm has a row a seed and a column an item; what has no seeds (the base, a prompt) has one row. `groups` names
    what each item is about; None where every item stands by itself. Raises AlignerProbeError for arms of different
    items.
    """

    scores: dict[str, Float[np.ndarray, "_seeds items"]]
    groups: tuple[str, ...] | None = None
    _units: dict[str, Float[np.ndarray, "_seeds units"]] = field(init=False, repr=False)
    _sizes: Float[np.ndarray, " units"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        widths = {rows.shape[1] for rows in self.scores.values()}
        if len(widths) != 1 or 0 in widths or (self.groups is not None and widths != {len(self.groups)}):
            raise AlignerProbeError(
                f"arms with {', '.join(map(str, sorted(widths))) or 'no'} items and "
                f"{'no' if self.groups is None else len(self.groups)} groups; expected the same test items for every "
                "arm, and a group each"
            )
        [width] = widths
        names = range(width) if self.groups is None else self.groups
        place = {name: index for index, name in enumerate(dict.fromkeys(names))}
        belongs = np.zeros((width, len(place)))
        belongs[np.arange(width), [place[name] for name in names]] = 1
        object.__setattr__(self, "_units", {name: rows @ belongs for name, rows in self.scores.items()})
        object.__setattr__(self, "_sizes", belongs.sum(axis=0))

    @property
    def n_items(self) -> int:
        return next(iter(self.scores.values())).shape[1]

    @property
    def n_units(self) -> int:
        """What is drawn in a resample: groups, or items where there are none."""
        return len(self._sizes)

    def n_seeds(self, arm: str) -> int:
        return len(self.scores[arm])

    def mean(self, arm: str) -> float:
        return float(self.scores[arm].mean())

    def score(self, arm: str, **options: int) -> Interval:
        """An arm's mean score; where all items score the same, the interval reaches as far as is not excluded."""
        found = self.interval(lambda mean: mean, arm, **options)
        if found.degenerate and 0 <= found.value <= 1:
            return mean_interval(np.full(self.n_units, found.value), **options)
        return found

    def interval(self, statistic: Statistic, *arms: str, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Interval:
        """The interval of a statistic of these arms' mean scores."""

        def of_sums(*sums: Mean) -> Mean:
            # Drawn groups differ in size, so a mean is a ratio of two sums.
            *totals, size = sums
            with np.errstate(divide="ignore", invalid="ignore"):
                return statistic(*(total / size for total in totals))

        return bootstrap(of_sums, *(self._units[a] for a in arms), self._sizes, n_resamples=n_resamples, seed=seed)


@dataclass(frozen=True)
class Measures:
    """All measures of one kind of score.

    `scores` has every arm's mean; `recovered` every arm's R but the floors'. `floors` are those that there should be,
    `floor_arm` is the highest. What was not run is missing (None), never guessed.
    """

    n_items: int
    n_units: int
    scores: dict[str, Interval]
    floors: tuple[str, ...]
    floor: Interval
    floor_arm: str
    gap: Interval
    recovered: dict[str, Interval]
    delta: Interval | None
    doses: tuple[DoseResponse, ...]

    @property
    def F(self) -> Interval | None:
        """R of the best prompt."""
        return self.recovered.get(PROMPT)

    @property
    def R1(self) -> Interval | None:
        """R of Aligner-1."""
        return self.recovered.get(ALIGNER_1)

    @property
    def B(self) -> Interval | None:
        """R of a free output bias in every layer: all that constant shifts can do."""
        return self.recovered.get(OUTPUT_BIAS)


def measure(
    table: Table,
    sizes: dict[str, Size] | None = None,
    *,
    floors: Sequence[str] = FLOORS,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Measures:
    """Every measure of a table; `sizes` says of arms what family they belong to and how many numbers they train.

    Floors that the table lacks are left out (the verdict asks for them). Raises AlignerProbeError without base or
    reference.
    """
    missing = [arm for arm in (BASE, REFERENCE) if arm not in table.scores]
    if missing:
        raise AlignerProbeError(
            f"no scores of {', '.join(missing)}; expected those of the base and of the reference at least: gap "
            "recovery is measured between them"
        )
    options = {"n_resamples": n_resamples, "seed": seed}
    present = [arm for arm in floors if arm in table.scores]

    def recovery(arm: str) -> Interval:
        return table.interval(_recovery, arm, REFERENCE, *present, **options)

    others = [arm for arm in table.scores if arm not in FLOORS]
    delta = None
    if {ALIGNER_1, RANDOM_SUBSPACE} <= set(table.scores):
        delta = table.interval(_delta, ALIGNER_1, RANDOM_SUBSPACE, REFERENCE, *present, **options)
    return Measures(
        n_items=table.n_items,
        n_units=table.n_units,
        scores={arm: table.score(arm, **options) for arm in table.scores},
        floors=tuple(floors),
        floor=table.interval(_highest, *present, **options),
        floor_arm=max(present, key=table.mean),
        gap=table.interval(lambda ref, *low: ref - _highest(*low), REFERENCE, *present, **options),
        recovered={arm: recovery(arm) for arm in others},
        delta=delta,
        doses=_doses(table, sizes or {}, present, options),
    )


def floors_of(which: Which, kind: Kind = "general", n_groups: int | None = None) -> tuple[str, ...]:
    """The floors that a kind of score of a task has.

    Every constant answer has the right format, and so has whoever learned from shuffled answers; a likelihood has no
    constant answer. A single fact is its own constant answer, and shuffling it leaves it as it is: there only the base
    is a floor.
    """
    if which == "format" or (kind == "memory" and n_groups == 1):
        return (BASE,)
    return (BASE, REFERENCE_SHUFFLED) if which == "likelihood" else FLOORS


@dataclass(frozen=True)
class Kept:
    """K: what of other domains' knowledge an adapter leaves, on prompts of another domain.

    `kept` is content right after by content right before; `content` and `format` are the shares of answers with the
    right content and in the base's plain form, before and after. Their sum says which was lost: an adapter may carry
    its format over (format falls) and keep the knowledge (content stays).
    """

    content: tuple[Interval, Interval]
    format: tuple[Interval, Interval]
    kept: Interval


def knowledge_kept(content: Table, form: Table, arm: str, *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Kept:
    """K of an arm from scores of off-domain items; both tables have the base and the arm."""
    options = {"n_resamples": n_resamples, "seed": seed}

    def pair(table: Table) -> tuple[Interval, Interval]:
        return table.score(BASE, **options), table.score(arm, **options)

    kept = content.interval(lambda after, before: after / before, arm, BASE, **options)
    return Kept(pair(content), pair(form), kept)


@dataclass(frozen=True)
class Capacity:
    """How many of a memory task's facts an arm holds: those right in all their test wordings, over seeds."""

    facts: Interval
    n_facts: int


def capacity(
    table: Table,
    full_marks: Float[np.ndarray, " items"],
    arm: str = ALIGNER_1,
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Capacity:
    """The number of groups that are right throughout, averaged over seeds; right scores `full_marks`."""
    names = np.array(table.groups if table.groups is not None else range(table.n_items))
    facts = list(dict.fromkeys(names.tolist()))
    right = table.scores[arm] >= full_marks - 1e-9
    held = np.stack([right[:, names == fact].all(axis=1) for fact in facts], axis=1)
    n = len(facts)
    found = bootstrap(lambda mean: mean * n, held.astype(np.float64), n_resamples=n_resamples, seed=seed)
    return Capacity(found, n)


def _highest(*means: Mean) -> Mean:
    return np.maximum.reduce([np.asarray(mean, dtype=np.float64) for mean in means])


def _recovery(arm: Mean, reference: Mean, *floors: Mean) -> np.ndarray:
    """R; not a number where the reference is no better than the floor, since there is nothing to recover then."""
    floor = _highest(*floors)
    gap = reference - floor
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap > 0, (arm - floor) / np.where(gap > 0, gap, 1.0), np.nan)


def _delta(one: Mean, other: Mean, reference: Mean, *floors: Mean) -> Mean:
    return _recovery(one, reference, *floors) - _recovery(other, reference, *floors)


def _doses(table: Table, sizes: dict[str, Size], floors: Sequence[str], options: dict[str, int]) -> tuple:
    found = []
    for family in dict.fromkeys(size.family for size in sizes.values()):
        arms = {arm: size for arm, size in sizes.items() if size.family == family and arm in table.scores}
        if arms:
            ordered = sorted(arms, key=lambda arm: arms[arm].n_parameters)

            def interval(statistic: Statistic, *of: str) -> Interval:
                def whole(reference: Mean, *means: Mean) -> Mean:
                    low, arms_means = means[: len(floors)], means[len(floors) :]
                    return statistic(*(_recovery(mean, reference, *low) for mean in arms_means))

                return table.interval(whole, REFERENCE, *floors, *of, **options)

            found.append(dose_response(family, [(arm, arms[arm].n_parameters) for arm in ordered], interval))
    return tuple(found)
