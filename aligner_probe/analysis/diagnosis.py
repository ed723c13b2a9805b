"""The signs by which equal parameters of two checkpoints are explained, and the rule that turns them into a diagnosis.

Each sign answers one question about a pair of checkpoints. `diagnose` asks the certain questions before the inferred
ones. The thresholds come from theory and were tightened on simulated runs whose origin is known, which the tests
repeat. No real pair of checkpoints was used to set them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import stats

from aligner_probe.analysis.equality import Equality, MagnitudeBand, PartEquality
from aligner_probe.checkpoints.prefix import PrefixCheckpoint, dtype_name

Diagnosis = Literal["shared_start_rounding", "continuation", "independent", "same_file", "undetermined"]
Start = Literal["same", "b_from_a", "a_from_b", "different", "not stored"]

#: Chance of seeing a sign where there is nothing.
P = 1e-6
#: Probability that an equal parameter is larger than an unequal one: 1/2 where magnitude does not matter.
LADDER = 0.8
#: Fewer parameters than this tell nothing.
FEWEST = 30
#: Share of trained gates equal to the last bit that two runs from zero do not reach; on one task and bfloat16's coarse
#: grid a few per cent can be.
EQUAL_GATES = 0.25
#: Or: gates correlate like this while the prefixes differ by no more than this part of their size.
SAME_GATES, SAME_PREFIX = 0.99, 0.1


@dataclass(frozen=True)
class Signs:
    """The answers to the questions about a pair.

    Attributes:
        start: What the stored initial tensors say.
        more_than_chance: More prefix values are equal than a random pairing, or two independent normal starts, would
            have.
        correlated: The prefixes correlate.
        ladder: The probability that an equal value is larger in magnitude than an unequal one (Mann-Whitney). None if
            all values or no values are equal.
        trained_alike: In words, how the gates show one trained state, or None.
        rounded: In words, that one checkpoint is the other in a coarser precision, or None.
        differs_in: In words, what distinguishes checkpoints with equal values (gate function, start layer), or empty.
    """

    same_sha256: bool
    same_numbers: bool
    start: Start
    more_than_chance: bool
    correlated: bool
    ladder: float | None
    ladder_p: float
    trained_alike: str | None
    rounded: str | None
    differs_in: str


def read_signs(a: PrefixCheckpoint, b: PrefixCheckpoint, equality: Equality) -> Signs:
    """Ask every question of a pair."""
    ladder, ladder_p = _ladder(equality.prefix)
    correlated = _correlated(equality.prefix)
    return Signs(
        same_sha256=a.sha256 == b.sha256,
        same_numbers=_same(a.prefix, b.prefix) and _same(a.gates, b.gates),
        start=_start(a, b),
        more_than_chance=_more_than_chance(equality.prefix, equality.chance_share),
        correlated=correlated,
        ladder=ladder,
        ladder_p=ladder_p,
        trained_alike=_trained_alike(a, b) if correlated else None,
        rounded=_rounded(a, b),
        differs_in=" and ".join(
            f"{name} {first} and {second}"
            for name, first, second in (
                ("gate function", a.gate_function, b.gate_function),
                ("start layer", a.start_layer, b.start_layer),
                ("method", a.method, b.method),
            )
            if first != second
        ),
    )


def diagnose(equality: Equality, signs: Signs) -> tuple[Diagnosis, str]:
    """The first verdict whose signs are all present, with the reason in words."""
    prefix = equality.prefix
    counted = f"{prefix.n_equal:,} of {prefix.n:,} prefix parameters are equal ({prefix.share_equal:.1%})"
    chance = f"{max(prefix.expected_by_chance / prefix.n, equality.chance_share):.2g}"
    against = f"{counted}, against a share of {chance} by chance"
    if signs.same_sha256 or signs.same_numbers:
        how = "are the same file" if signs.same_sha256 else "hold the same parameters in different files"
        but = f" But they use them with {signs.differs_in}, so they do different things." if signs.differs_in else ""
        return "same_file", f"The two {how}: there is nothing to compare.{but}"
    if signs.rounded:
        return "same_file", f"{signs.rounded}: the same parameters in two precisions, so there is nothing to compare."
    if signs.start in ("b_from_a", "a_from_b"):
        first, second = ("a", "b") if signs.start == "b_from_a" else ("b", "a")
        return "continuation", (
            f"{counted}. The stored start of {second} is the end of {first}: {second} goes on from {first}."
        )
    if signs.trained_alike:
        return "continuation", (
            f"{counted}, and the gates agree too: {signs.trained_alike}. Gates begin at zero in every run, so "
            "agreement like this comes from one trained state: one run goes on from the other, or both from a third. "
            "(Short runs from one start on the very same data can come as close; weights alone do not exclude that.)"
        )
    if prefix.n < FEWEST:
        return "undetermined", f"{counted}: too few parameters to tell anything; expected {FEWEST} or more."
    if prefix.correlation is None:
        return "undetermined", f"{counted}, but a prefix whose parameters are all one value tells nothing of its start."
    if not signs.more_than_chance:
        return _diagnose_without_equal_parameters(equality, signs, against)
    if signs.start == "different":
        why = (
            f"they correlate (r = {_signed(prefix.correlation)}), so one may go on from a state in between"
            if signs.correlated
            else "were some parameters set or frozen on purpose?"
        )
        return "undetermined", (
            f"{against}, yet the stored starts differ: neither chance nor rounding from a shared start explains that; "
            f"{why}"
        )
    if signs.ladder is None:
        return "undetermined", (
            f"{counted}: all, whatever their magnitude. Either the tokens were not trained (gates only), or every "
            "update rounded to nothing; their magnitudes cannot tell which."
        )
    if signs.ladder >= LADDER and signs.ladder_p > P:
        few = min(prefix.n_equal, prefix.n - prefix.n_equal)
        return "undetermined", (
            f"{against}. An equal parameter is larger than an unequal one with probability {signs.ladder:.2f}, as "
            f"rounding from a shared start would have it, but {few} of one kind are too few to be sure."
        )
    if signs.ladder < LADDER:
        return "undetermined", (
            f"{against}, but magnitude does not decide which: an equal parameter is larger than an unequal one "
            f"with probability {signs.ladder:.2f}, where rounding needs {LADDER} or more. Rounding does not explain "
            "them: were some parameters frozen, or copied?"
        )
    return "shared_start_rounding", _explain_rounding(equality, signs, against)


def _diagnose_without_equal_parameters(equality: Equality, signs: Signs, against: str) -> tuple[Diagnosis, str]:
    r = _signed(equality.prefix.correlation)
    if signs.start == "same" or signs.correlated:
        why = "the stored starts are the same" if signs.start == "same" else f"the prefixes correlate (r = {r})"
        fine = (
            f"one is stored in {equality.dtype_a}, the other in {equality.dtype_b}, so few are to be expected"
            if equality.dtype_a != equality.dtype_b
            else f"for updates of this size the grid of {equality.grid} is fine, so hardly one rounds to nothing"
        )
        return "undetermined", (
            f"{against}: there are no equal parameters to explain. The runs are not independent, for {why}; but {fine}."
        )
    starts = "their stored starts differ" if signs.start == "different" else f"the prefixes do not correlate (r = {r})"
    return "independent", f"{against}, and {starts}: two separate random starts."


def _explain_rounding(equality: Equality, signs: Signs, against: str) -> str:
    stayed, moved = _stayed(equality), _moved(equality)
    known = (
        "their stored starts are the same"
        if signs.start == "same"
        else f"their correlation is {_signed(equality.prefix.correlation)}, where separate starts give 0"
    )
    gates = equality.gates
    about_gates = (
        "Gates of different shapes are not compared."
        if gates is None
        else f"The gates, which begin at zero where the grid is fine, share {gates.n_equal} of {gates.n} values "
        f"(correlation {_signed(gates.correlation)})."
    )
    return (
        f"{against}. Both runs began from the same random numbers ({known}), and in {equality.grid} an update smaller "
        "than half a ULP rounds to nothing, so large parameters stayed and small ones moved: "
        f"{stayed.n_equal:,} of {stayed.n:,} equal from |{stayed.low:g}| up, where half a ULP is {stayed.half_ulp:.2g} "
        f"or more; {moved.n_equal:,} of {moved.n:,} under |{moved.high:g}|, where it is at most {moved.half_ulp:.2g}. "
        "An equal parameter "
        f"is larger than an unequal one with probability {signs.ladder:.2f}. {about_gates} The equality is a trace of "
        "storage precision and of the seed; it says nothing about the base model."
    )


def _stayed(equality: Equality) -> MagnitudeBand:
    """The upper bands in which nearly every parameter is equal, as one; at least the top one."""
    bands = [band for band in equality.bands if band.n]
    chosen = [bands.pop()]
    while bands and bands[-1].share_equal >= 0.99:
        chosen.insert(0, bands.pop())
    return _joined(chosen, chosen[0].half_ulp)


def _moved(equality: Equality) -> MagnitudeBand:
    """The lower bands in which nearly no parameter is equal, as one; at least the bottom one."""
    bands = [band for band in equality.bands if band.n]
    chosen = [bands.pop(0)]
    while bands and bands[0].share_equal <= 0.01:
        chosen.append(bands.pop(0))
    return _joined(chosen, chosen[-1].half_ulp)


def _joined(bands: list[MagnitudeBand], half_ulp: float) -> MagnitudeBand:
    n, n_equal = sum(band.n for band in bands), sum(band.n_equal for band in bands)
    return MagnitudeBand(bands[0].low, bands[-1].high, n, n_equal, half_ulp)


def _ladder(part: PartEquality) -> tuple[float | None, float]:
    """P(magnitude of an equal parameter > that of an unequal one), ties counted half, and its one-sided p-value."""
    n_equal, n_unequal = part.n_equal, part.n - part.n_equal
    if not n_equal or not n_unequal:
        return None, 1.0
    ranks = stats.rankdata(part.magnitudes)
    ladder = float((ranks[part.equal].sum() - n_equal * (n_equal + 1) / 2) / (n_equal * n_unequal))
    spread = np.sqrt((part.n + 1) / (12 * n_equal * n_unequal))
    return ladder, float(stats.norm.sf((ladder - 0.5) / spread))


def _more_than_chance(part: PartEquality, chance_share: float) -> bool:
    share = min(1.0, max(part.expected_by_chance / part.n, chance_share))
    return bool(stats.binom.sf(part.n_equal - 1, part.n, share) < P)


def _correlated(part: PartEquality) -> bool:
    """Pearson's r away from 0, by Fisher's z."""
    if part.correlation is None or part.n < FEWEST:
        return False
    z = np.arctanh(np.clip(part.correlation, -1 + 1e-12, 1 - 1e-12)) * np.sqrt(part.n - 3)
    return bool(2 * stats.norm.sf(abs(z)) < P)


def _trained_alike(a: PrefixCheckpoint, b: PrefixCheckpoint) -> str | None:
    """How the gates of both runs show one trained state; None if they do not.

    Gates that are zero in both do not count, because every run begins there. Gates that are all equal while the
    prefixes differ do not count either, because they were frozen. The question is asked only if the prefixes correlate.
    """
    if a.gates.shape != b.gates.shape:
        return None
    first, second = a.gates.double().numpy(), b.gates.double().numpy()
    trained = (first != 0) | (second != 0)
    first, second = first[trained], second[trained]
    n, n_equal = len(first), int((first == second).sum())
    if n < 10 or not np.ptp(first) or not np.ptp(second) or n_equal == n:
        return None
    if n_equal >= EQUAL_GATES * n:
        return f"{n_equal} of {n} trained ones are equal to the last bit"
    correlation = float(np.corrcoef(first, second)[0, 1])
    if correlation < SAME_GATES or a.gates.dtype != b.gates.dtype or a.prefix.shape != b.prefix.shape:
        return None
    size = float((a.prefix.double() - b.prefix.double()).norm() / a.prefix.double().norm())
    if size > SAME_PREFIX:
        return None
    return f"their correlation is {correlation:.4f}, while the prefixes differ by {size:.1%} of their size"


def _rounded(a: PrefixCheckpoint, b: PrefixCheckpoint) -> str | None:
    """Whether one checkpoint is the other, rounded to its precision."""
    for fine, coarse, names in ((a, b, ("b", "a")), (b, a, ("a", "b"))):
        if fine.prefix.dtype == coarse.prefix.dtype or fine.prefix.shape != coarse.prefix.shape:
            continue
        rounded = fine.prefix.to(coarse.prefix.dtype), fine.gates.to(coarse.gates.dtype)
        if _same(rounded[0], coarse.prefix) and _same(rounded[1], coarse.gates):
            return f"{names[0]} is {names[1]}, rounded to {dtype_name(coarse.dtype)}"
    return None


def _start(a: PrefixCheckpoint, b: PrefixCheckpoint) -> Start:
    """What the stored initial tensors say about where the two runs began."""
    if _goes_on(a, b):
        return "b_from_a"
    if _goes_on(b, a):
        return "a_from_b"
    if a.initial_prefix is None or b.initial_prefix is None:
        return "not stored"
    n = min(a.initial_prefix.numel(), b.initial_prefix.numel())
    return "same" if _same(a.initial_prefix.reshape(-1)[:n], b.initial_prefix.reshape(-1)[:n]) else "different"


def _goes_on(first: PrefixCheckpoint, second: PrefixCheckpoint) -> bool:
    """Whether run `second` began where run `first` ended."""
    if second.initial_prefix is None or not _same(first.prefix, second.initial_prefix):
        return False
    # Frozen tokens end where they began; then only gates can tell.
    if first.initial_prefix is not None and _same(first.prefix, first.initial_prefix):
        return second.initial_gates is not None and _same(first.gates, second.initial_gates)
    return second.initial_gates is None or _same(first.gates, second.initial_gates)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """The same parameters, whatever the precision they are stored in."""
    return a.shape == b.shape and torch.equal(a.double(), b.double())


def _signed(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
