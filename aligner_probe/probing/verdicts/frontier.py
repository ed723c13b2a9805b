"""K as a frontier: the most knowledge of another domain that a method keeps among its runs that reach the form.

    frontier = Frontier(readings, before)
    frontier.most_kept("aligner-1").kept      # K with its interval; None where no run reaches the form
    frontier.difference("aligner-1", "lora-8")

Every learning rate damages knowledge in its own measure, so the knowledge that is kept at one rate says little of a
method. Here a method is trained at several rates and read after several lengths, equally often for every method. A
setting (a rate and a length, or a way to ask) reaches the form where its mean form score over seeds is at least a share
of what the reference reaches at its best setting. K is then the most that is kept among those settings.

A maximum over settings is biased upwards, because the luckiest one is taken. So K is cross-fitted: the setting is
chosen on one half of the off-domain items, and what it keeps is counted on the other half. Where there are several
seeds, it is chosen by the other seeds too, so that the luck of a run does not count either.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from aligner_probe.arms.names import LORA_8
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import NOTHING, Interval, said
from aligner_probe.probing.verdicts.thresholds import ROUNDING

#: The share of the reference's form score that a setting needs.
SHARE = 0.95
#: Resamples of each bootstrap.
N_RESAMPLES = 2000
CONFIDENCE = 0.95
#: Two means are taken as equal if they agree to this number of decimal places.
DIGITS = 12


@dataclass(frozen=True, eq=False)
class Reading:
    """What one run, or one way to ask, had reached and kept when it was asked.

    Args:
        arm: the arm's name.
        rate: its learning rate; None for a way to ask.
        steps: the optimiser steps it was trained by then; None for a way to ask.
        seed: the seed of the run. Settings are compared over the seeds of their arm.
        form: the form score of each item of the task, from 0 to 1.
        kept: for each off-domain item whether the content of the answer is right, from 0 to 1.
        plain: for each off-domain item whether the answer has the base model's plain form, from 0 to 1.
        way: the name of a way to ask; empty for a run.
    """

    arm: str
    rate: float | None
    steps: int | None
    seed: int
    form: Float[np.ndarray, " form_items"]
    kept: Float[np.ndarray, " off_domain_items"]
    plain: Float[np.ndarray, " off_domain_items"]
    way: str = ""

    @property
    def setting(self) -> str:
        """What it shares with the readings of other seeds, in words."""
        return self.way or f"lr {self.rate:g}, {self.steps} steps"


@dataclass(frozen=True)
class Point:
    """One setting of an arm on the curve of form against kept: means over seeds and items, with intervals.

    `form` is the form score, `kept` the share of the base model's right off-domain answers that remains, and `plain`
    the share of off-domain answers in the base model's plain form.
    """

    arm: str
    setting: str
    rate: float | None
    steps: int | None
    n_seeds: int
    form: Interval
    kept: Interval
    plain: float


@dataclass(frozen=True)
class MostKept:
    """K of an arm.

    Args:
        arm: the arm's name.
        kept: the most that is kept among the settings that reach the form, cross-fitted, as a share of what the base
            model has right; None where no setting reaches the form.
        needed: the form score that a setting needs.
        best_form: the highest mean form score of the arm's settings.
        tried, reached: how many settings were tried, and how many of them reach the form.
        settings: the settings that were chosen, by how often.
        certainty: the share of resamples in which some setting reaches the form. The interval is over those.
    """

    arm: str
    kept: Interval | None
    needed: float
    best_form: float
    tried: int
    reached: int
    settings: dict[str, int]
    certainty: float

    @property
    def said(self) -> str:
        """In words."""
        if self.kept is None:
            return f"no run reaches the form (at best {self.best_form:.2f}, needed {self.needed:.2f})"
        return said(self.kept)


class _Weights(NamedTuple):
    """How much each item and seed counts, one row a resample.

    `halves` has the weights of the off-domain items of each half, which are 0 elsewhere and sum to the share of the
    items in that half.
    """

    form: Float[np.ndarray, "resamples form_items"]
    halves: tuple[Float[np.ndarray, "resamples items"], Float[np.ndarray, "resamples items"]]
    seeds: dict[int, Float[np.ndarray, "resamples seeds"]]


class _Stack(NamedTuple):
    """The settings of an arm that were read with every seed."""

    settings: tuple[Reading, ...]
    form: Float[np.ndarray, "settings seeds form_items"]
    kept: Float[np.ndarray, "settings seeds items"]
    plain: Float[np.ndarray, "settings seeds items"]


@dataclass(frozen=True, eq=False)
class Frontier:
    """The readings of all arms, on the same items.

    Args:
        readings: one for each setting and seed of every arm. A setting that lacks a seed (its loss was not finite)
            counts as tried, and does not reach the form.
        before: for each off-domain item whether the base model alone has the content right, from 0 to 1.
        reference: the arm whose best mean form score the others are measured with.
        form_before: the form score of each item of the task by the base model alone; None where it was not asked.

    Raises:
        AlignerProbeError: there are no readings of the reference, readings have different items, a setting was read
            twice with one seed, or the base model has no off-domain item right.
    """

    readings: tuple[Reading, ...]
    before: Float[np.ndarray, " off_domain_items"]
    reference: str = LORA_8
    form_before: Float[np.ndarray, " form_items"] | None = None
    _stacks: dict[str, _Stack] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shapes = {(one.form.shape, one.kept.shape, one.plain.shape) for one in self.readings}
        twice = len({(one.arm, one.setting, one.seed) for one in self.readings}) < len(self.readings)
        if len(shapes) != 1 or twice or {one.kept.shape for one in self.readings} != {self.before.shape}:
            raise AlignerProbeError(
                f"{len(self.readings)} readings with items of shapes {sorted(shapes)}, and {len(self.before)} items "
                "of the base model; expected the same items in each, and one reading for each setting and seed"
            )
        if not np.sum(self.before) > 0 or len(self.before) < 2:
            raise AlignerProbeError(
                f"the base model has none of {len(self.before)} off-domain items right, so it has nothing to keep; "
                "give items that it knows: --off-domain FILE"
            )
        object.__setattr__(self, "_stacks", {arm: self._stacked(arm) for arm in self.arms})
        if self.reference not in self._stacks or not self._stacks[self.reference].settings:
            raise AlignerProbeError(
                f"no readings of the reference {self.reference!r} with every seed; there are {', '.join(self.arms)}. "
                "The form is measured with what the reference reaches, so train it as well"
            )

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that were read, in order."""
        return tuple(dict.fromkeys(one.arm for one in self.readings))

    @property
    def level(self) -> float:
        """The highest mean form score that a setting of the reference reaches."""
        return float(self._stacks[self.reference].form.mean(axis=(1, 2)).max())

    def curve(self, arm: str) -> tuple[Point, ...]:
        """Form reached and knowledge kept of every setting of an arm."""
        stack, weights = self._stacks[arm], self._weights(N_RESAMPLES, 0)
        seeds = weights.seeds[stack.form.shape[1]]
        form = _means(stack.form, weights.form, seeds)
        every = weights.halves[0] + weights.halves[1]
        kept = _means(stack.kept, every, seeds) / (every @ self.before)[:, None]
        points = []
        for index, one in enumerate(stack.settings):
            value = float(stack.kept[index].mean() / self.before.mean())
            points.append(
                Point(
                    arm=arm,
                    setting=one.setting,
                    rate=one.rate,
                    steps=one.steps,
                    n_seeds=stack.form.shape[1],
                    form=_interval(float(stack.form[index].mean()), form[:, index], stack.form.shape[2]),
                    kept=_interval(value, kept[:, index], len(self.before)),
                    plain=float(stack.plain[index].mean()),
                )
            )
        return tuple(points)

    def most_kept(self, arm: str, share: float = SHARE, *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> MostKept:
        """K of an arm: the most that is kept among its settings that reach `share` of the reference's form score."""
        stack, needed = self._stacks[arm], share * self.level
        means = stack.form.mean(axis=(1, 2))
        chosen: dict[str, int] = {}
        value = float(self._kept(arm, share, self._weights(None, seed), chosen)[0])
        drawn = self._kept(arm, share, self._weights(n_resamples, seed))
        known = np.isfinite(drawn)
        return MostKept(
            arm=arm,
            kept=_interval(value, drawn[known], len(self.before)) if np.isfinite(value) else None,
            needed=needed,
            best_form=float(means.max()) if len(means) else 0.0,
            tried=len({one.setting for one in self.readings if one.arm == arm}),
            reached=int((means >= needed - ROUNDING).sum()),
            settings=chosen,
            certainty=float(known.mean()),
        )

    def difference(
        self, a: str, b: str, share: float = SHARE, *, n_resamples: int = N_RESAMPLES, seed: int = 0
    ) -> Interval | None:
        """K of `a` less K of `b` at equal form; None where one of them does not reach it.

        Every resample draws the same items for both, and the same seeds where both have equally many.
        """
        value, drawn = (
            self._kept(a, share, weights) - self._kept(b, share, weights)
            for weights in (self._weights(None, seed), self._weights(n_resamples, seed))
        )
        if not np.isfinite(value[0]):
            return None
        return _interval(float(value[0]), drawn[np.isfinite(drawn)], len(self.before), bounds=(-1.0, 1.0))

    def _kept(
        self, arm: str, share: float, weights: _Weights, chosen: dict[str, int] | None = None
    ) -> Float[np.ndarray, " resamples"]:
        """K of an arm in each resample, not a number where no setting reaches the form; counts what is `chosen`."""
        stack, best = self._stacks[arm], self._stacks[self.reference]
        if not stack.settings:
            return np.full(len(weights.form), np.nan)
        seeds = weights.seeds[stack.form.shape[1]]
        form = _means(stack.form, weights.form, seeds)
        level = _means(best.form, weights.form, weights.seeds[best.form.shape[1]]).max(axis=1)
        reached = form >= share * level[:, None] - ROUNDING
        halves = [np.tensordot(half, stack.kept, (1, 2)) for half in weights.halves]
        kept = np.zeros(len(form))
        for index in range(seeds.shape[1]):
            others = _others(seeds, index)
            for chooser, counted in (halves, halves[::-1]):
                # Of settings that keep equally much, the one that is nearer to the form; of equal ones, the first.
                # Means are rounded, because their last digits differ between processors.
                score = np.einsum("nks,ns->nk", chooser, others).round(DIGITS) + ROUNDING * form.round(DIGITS)
                choice = np.where(reached, score, -np.inf).argmax(axis=1)
                kept += seeds[:, index] * counted[np.arange(len(form)), choice, index]
                if chosen is not None and reached[0].any():
                    name = stack.settings[choice[0]].setting
                    chosen[name] = chosen.get(name, 0) + 1
        before = (weights.halves[0] + weights.halves[1]) @ self.before
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(reached.any(axis=1), kept / before, np.nan)

    def _weights(self, n_resamples: int | None, seed: int) -> _Weights:
        """Equal weights, or those of `n_resamples` resamples: items within their halves, and seeds."""
        n_form, n = len(self.readings[0].form), len(self.before)
        counts = sorted({stack.form.shape[1] for stack in self._stacks.values()})
        generator = np.random.default_rng(seed)

        def drawn(size: int) -> Float[np.ndarray, "resamples size"]:
            even = np.full(size, 1 / size)
            return even[None] if n_resamples is None else generator.multinomial(size, even, size=n_resamples) / size

        form, halves = drawn(n_form), []
        for index in range(2):
            mine = np.arange(n) % 2 == index
            weights = np.zeros((len(form), n))
            weights[:, mine] = drawn(int(mine.sum())) * mine.mean()
            halves.append(weights)
        return _Weights(form, (halves[0], halves[1]), {count: drawn(count) for count in counts})

    def _stacked(self, arm: str) -> _Stack:
        its = [one for one in self.readings if one.arm == arm]
        seeds = sorted({one.seed for one in its})
        read = {(one.setting, one.seed): one for one in its}
        complete = [name for name in dict.fromkeys(one.setting for one in its) if all((name, s) in read for s in seeds)]

        def values(which: str, width: int) -> Float[np.ndarray, "settings seeds items"]:
            rows = [[getattr(read[name, seed], which) for seed in seeds] for name in complete]
            return np.array(rows, dtype=np.float64).reshape(len(complete), len(seeds), width)

        width = len(self.before)
        return _Stack(
            tuple(read[name, seeds[0]] for name in complete),
            values("form", len(its[0].form)),
            values("kept", width),
            values("plain", width),
        )


def _means(
    scores: Float[np.ndarray, "settings seeds items"],
    items: Float[np.ndarray, "resamples items"],
    seeds: Float[np.ndarray, "resamples seeds"],
) -> Float[np.ndarray, "resamples settings"]:
    """The weighted sum of each setting's scores in each resample."""
    return np.einsum("nks,ns->nk", np.tensordot(items, scores, (1, 2)), seeds)


def _others(seeds: Float[np.ndarray, "resamples seeds"], index: int) -> Float[np.ndarray, "resamples seeds"]:
    """The weights by which the setting is chosen that is counted for a seed: those of the other seeds.

    A single seed chooses for itself. Where a resample drew no other seed, all others count equally.
    """
    if seeds.shape[1] == 1:
        return np.ones_like(seeds)
    others = seeds.copy()
    others[:, index] = 0
    others[others.sum(axis=1) == 0] = 1
    others[:, index] = 0
    return others / others.sum(axis=1, keepdims=True)


def _interval(
    value: float, drawn: Float[np.ndarray, " resamples"], n_items: int, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """The percentile interval of what was drawn.

    Where every resample gives the same, it extends towards `bounds` as far as a share can be that did not occur in
    `n_items` items.
    """
    tails = np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    if not len(drawn):
        return Interval(value, *bounds, CONFIDENCE, True)
    if np.ptp(drawn) <= NOTHING:
        unseen = float(1 - tails[0] ** (1 / n_items))  # the rule of three, as in `mean_interval`
        low, high = (value + unseen * (bound - value) for bound in bounds)
        return Interval(value, min(low, value), max(high, value), CONFIDENCE, True)
    low, high = (0.0 if abs(bound) < NOTHING else float(bound) for bound in np.quantile(drawn, tails))
    return Interval(value, low, high, CONFIDENCE)
