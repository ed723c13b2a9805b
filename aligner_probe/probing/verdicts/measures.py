"""The measures of a probe: the share of what the reference learns that a prompt, one token or another arm recovers.

    R(arm) = (A_arm - A_floor) / (A_reference - A_floor)
    A_floor = max(base model, best constant answer, reference trained on shuffled answers)

A is the mean score on the test items, the same items for every arm. The floor is subtracted because a reference that
learns only which answers are frequent would otherwise look like knowledge.

F is R of the best prompt, R_soft is R of prompt tuning (ten trained vectors before the prompt), R1 is R of Aligner-1,
and B is R of a free output bias in every layer. Delta is R1 less R of
a random subspace with as many trained parameters as Aligner-1. Confidence intervals are a bootstrap over items and
seeds. Items of one group (an entity, a fact) are drawn together, because they are right or wrong together (Miller,
arXiv 2411.00640).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from aligner_probe.arms.names import (
    ALIGNER_1,
    BASE,
    FLOORS,
    ON_FEW,
    OUTPUT_BIAS,
    PROMPT,
    PROMPT_TUNING,
    RANDOM_SUBSPACE,
    REFERENCE,
    REFERENCE_SHUFFLED,
)
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import Interval, Statistic, bootstrap, mean_interval
from aligner_probe.probing.verdicts.doses import DoseResponse, Size, dose_response
from aligner_probe.probing.verdicts.example_doses import ExampleDose, example_dose

#: How a task is tested: "general" on groups that were not trained, "memory" on trained groups in other words.
TaskKind = Literal["general", "memory"]
#: Kinds of score; "known" is the strict score of the test items whose content the base model knows.
Which = Literal["strict", "content", "format", "likelihood", "known"]
#: The mean score of an arm, or its means in all resamples at once.
Mean = np.ndarray | float
#: Resamples of each bootstrap: enough for the second digit of a bound.
N_RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Table:
    """One kind of score (strict, content, format or likelihood) of every arm on the same test items.

    Args:
        scores: by arm, an array of shape (seeds, items). Arms without seeds (the base model, a prompt) have one row.
        groups: the group of each item; None where each item is a group of its own.

    Raises:
        AlignerProbeError: the arms have different numbers of items, or there is not one group an item.
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
        column = {name: index for index, name in enumerate(dict.fromkeys(names))}
        belongs = np.zeros((width, len(column)))
        belongs[np.arange(width), [column[name] for name in names]] = 1
        object.__setattr__(self, "_units", {name: rows @ belongs for name, rows in self.scores.items()})
        object.__setattr__(self, "_sizes", belongs.sum(axis=0))

    def only(self, items: Bool[np.ndarray, " items"]) -> "Table":
        """The table of these items alone."""
        groups = None if self.groups is None else tuple(np.array(self.groups)[items].tolist())
        return Table({arm: rows[:, items] for arm, rows in self.scores.items()}, groups)

    @property
    def n_items(self) -> int:
        """The number of test items."""
        return next(iter(self.scores.values())).shape[1]

    @property
    def n_units(self) -> int:
        """The number of units that a resample draws: groups, or items where there are no groups."""
        return len(self._sizes)

    def n_seeds(self, arm: str) -> int:
        """The number of an arm's rows."""
        return len(self.scores[arm])

    def mean(self, arm: str) -> float:
        """An arm's mean score over seeds and items."""
        return float(self.scores[arm].mean())

    def score(self, arm: str, **options: int) -> Interval:
        """An arm's mean score with its interval.

        Where all items score the same, a bootstrap has no width. The interval then covers every mean that so many items
        do not exclude.
        """
        mean = self.interval(lambda mean: mean, arm, **options)
        if mean.degenerate and 0 <= mean.value <= 1:
            return mean_interval(np.full(self.n_units, mean.value), **options)
        return mean

    def interval(self, statistic: Statistic, *arms: str, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Interval:
        """The value and interval of a statistic, a function of these arms' mean scores."""

        def of_sums(*sums: Mean) -> Mean:
            # Groups differ in size, so the mean of a resample is a ratio of two sums.
            *totals, size = sums
            with np.errstate(divide="ignore", invalid="ignore"):
                return statistic(*(total / size for total in totals))

        return bootstrap(of_sums, *(self._units[a] for a in arms), self._sizes, n_resamples=n_resamples, seed=seed)


@dataclass(frozen=True)
class Measures:
    """All measures of one kind of score; what was not run is missing or None.

    Args:
        n_items: test items.
        n_units: independent test items, groups counted once.
        scores: the mean score of every arm.
        floors: the arms that the floor should be the maximum of, also those that were not run.
        floor: the score of the floor.
        floor_arm: the arm that has it.
        gap: the score of the reference less that of the floor.
        recovered: R of every arm but those of the floor.
        delta: R1 less R of the random subspace.
        doses: the dose-response of each family of arms.
        examples: the dose of examples.
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
    examples: ExampleDose | None = None

    def has_gap(self, least: float) -> bool:
        """Whether the reference is clearly above the floor: the whole interval of the gap is above `least`."""
        return self.gap.low > least

    @property
    def F(self) -> Interval | None:
        """R of the best prompt."""
        return self.recovered.get(PROMPT)

    @property
    def R_soft(self) -> Interval | None:
        """R of prompt tuning with ten vectors, which is the most that a prompt of that length can do."""
        return self.recovered.get(PROMPT_TUNING)

    @property
    def R1(self) -> Interval | None:
        """R of Aligner-1."""
        return self.recovered.get(ALIGNER_1)

    @property
    def B(self) -> Interval | None:
        """R of a free output bias in every layer, which is the most that constant shifts can do."""
        return self.recovered.get(OUTPUT_BIAS)


def measure(
    table: Table,
    sizes: dict[str, Size] | None = None,
    *,
    examples: dict[str, int] | None = None,
    floors: Sequence[str] = FLOORS,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Measures:
    """Compute every measure of a table.

    Args:
        table: the scores.
        sizes: by arm, its family and its number of trained parameters, for the dose-response.
        examples: by arm, its number of training examples, of arms that differ in them alone, for the dose of examples.
        floors: the arms of the floor. Those that the table lacks are left out here, and the verdict reports them.
        n_resamples: resamples of each bootstrap.
        seed: the seed of the resampling.

    Raises:
        AlignerProbeError: the table lacks the base model or the reference.
    """
    missing = [arm for arm in (BASE, REFERENCE) if arm not in table.scores]
    if missing:
        raise AlignerProbeError(
            f"no scores of {', '.join(missing)}; expected those of the base and of the reference at least: gap "
            "recovery is measured between them"
        )
    options = {"n_resamples": n_resamples, "seed": seed}
    present = [arm for arm in floors if arm in table.scores]

    recovering = _recovering(table, present, options)
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
        recovered={arm: table.interval(recovery, arm, REFERENCE, *present, **options) for arm in others},
        delta=delta,
        doses=_doses(table, sizes or {}, recovering),
        examples=_example_dose(table, examples or {}, recovering),
    )


def floors_of(which: Which, kind: TaskKind = "general", n_groups: int | None = None) -> tuple[str, ...]:
    """The arms of the floor for a kind of score.

    Format: every constant answer has the right format, and so have answers learned from shuffled ones, so only the base
    model is a floor. Likelihood: a constant answer has none. A memory task about one fact: the fact itself is the best
    constant answer, and shuffling changes nothing, so only the base model is a floor.
    """
    if which == "format" or (kind == "memory" and n_groups == 1):
        return (BASE,)
    return (BASE, REFERENCE_SHUFFLED) if which == "likelihood" else FLOORS


@dataclass(frozen=True)
class Kept:
    """K: how much of the knowledge of another domain the base model still has with an adapter.

    `kept` is the share of answers with the right content with the adapter, divided by the share without. `content` and
    `format` are shares of answers, without and with the adapter: those with the right content, and those in the base
    model's plain form. An adapter may carry its own format over to the other domain (format falls) and still keep the
    knowledge (content stays).
    """

    content: tuple[Interval, Interval]
    format: tuple[Interval, Interval]
    kept: Interval


def knowledge_kept(content: Table, form: Table, arm: str, *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Kept:
    """K of an arm, from the scores of off-domain items; both tables have the base model and the arm."""
    options = {"n_resamples": n_resamples, "seed": seed}

    def pair(table: Table) -> tuple[Interval, Interval]:
        return table.score(BASE, **options), table.score(arm, **options)

    kept = content.interval(lambda after, before: after / before, arm, BASE, **options)
    return Kept(pair(content), pair(form), kept)


@dataclass(frozen=True)
class Capacity:
    """The number of facts of a memory task that an arm answers right in all test wordings, as a mean over seeds."""

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
    """Count the groups whose items all score `full_marks`, as a mean over an arm's seeds."""
    names = np.array(table.groups if table.groups is not None else range(table.n_items))
    facts = list(dict.fromkeys(names.tolist()))
    right = table.scores[arm] >= full_marks - 1e-9
    held = np.stack([right[:, names == fact].all(axis=1) for fact in facts], axis=1)
    n = len(facts)
    count = bootstrap(lambda mean: mean * n, held.astype(np.float64), n_resamples=n_resamples, seed=seed)
    return Capacity(count, n)


def _highest(*means: Mean) -> Mean:
    return np.maximum.reduce([np.asarray(mean, dtype=np.float64) for mean in means])


def recovery(arm: Mean, reference: Mean, *floors: Mean) -> np.ndarray:
    """R; not a number where the reference is no better than the floor, because there is nothing to recover."""
    floor = _highest(*floors)
    gap = reference - floor
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap > 0, (arm - floor) / np.where(gap > 0, gap, 1.0), np.nan)


def _delta(one: Mean, other: Mean, reference: Mean, *floors: Mean) -> Mean:
    return recovery(one, reference, *floors) - recovery(other, reference, *floors)


def _recovering(table: Table, floors: Sequence[str], options: dict[str, int]) -> Callable[..., Interval]:
    """A function of a statistic and of arms: its value and interval over these arms' recovered shares."""

    def interval(statistic: Statistic, *of: str) -> Interval:
        def whole(reference: Mean, *means: Mean) -> Mean:
            low, arms_means = means[: len(floors)], means[len(floors) :]
            return statistic(*(recovery(mean, reference, *low) for mean in arms_means))

        return table.interval(whole, REFERENCE, *floors, *of, **options)

    return interval


def _doses(table: Table, sizes: dict[str, Size], interval: Callable[..., Interval]) -> tuple[DoseResponse, ...]:
    responses = []
    for family in dict.fromkeys(size.family for size in sizes.values()):
        arms = {arm: size for arm, size in sizes.items() if size.family == family and arm in table.scores}
        if arms:
            ordered = sorted(arms, key=lambda arm: arms[arm].n_parameters)
            responses.append(dose_response(family, [(arm, arms[arm].n_parameters) for arm in ordered], interval))
    return tuple(responses)


def _example_dose(table: Table, examples: dict[str, int], interval: Callable[..., Interval]) -> ExampleDose | None:
    """The dose of examples; None where no arm was trained on a part of them."""
    tried = {arm: n for arm, n in examples.items() if arm in table.scores}
    return example_dose(tried, interval) if set(ON_FEW) & set(tried) else None
