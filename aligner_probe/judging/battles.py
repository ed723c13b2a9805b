"""Two answers to every question, judged in both orders: one battle each, won, lost or tied, and its rates.

The adjusted win rate is (wins + ties / 2) / n, as in Table 2 of arXiv 2312.05503. A battle has a result only where both
orders have a verdict. If the two verdicts differ, the battle is a tie. Battles without a result are counted and left
out, and bounds say what the rate could be if all of them were lost, or won.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import Interval, mean_interval
from aligner_probe.judging.asks import Answer, Ask
from aligner_probe.judging.given import categories_of
from aligner_probe.judging.prompts import JudgePrompts
from aligner_probe.judging.verdicts import verdict_of

WIN, TIE, LOSS = 1.0, 0.5, 0.0
_FIRST = {"[[A]]": WIN, "[[B]]": LOSS, "[[C]]": TIE}


@dataclass(frozen=True)
class Pair:
    """A question with the answer of ours and of theirs. `id` is its name in reports."""

    id: str
    question: str
    ours: str
    theirs: str
    category: str = ""
    reference: str | None = None

    @property
    def same(self) -> bool:
        """Whether both answers are the same text. Then the two orders are one prompt, and nothing is asked."""
        return self.ours == self.theirs


@dataclass(frozen=True)
class Battle:
    """What became of a pair: our value in the order ours-theirs and in the order theirs-ours (None: no verdict)."""

    pair: Pair
    values: tuple[float | None, float | None]

    @property
    def value(self) -> float | None:
        """1 a win, 1/2 a tie, 0 a loss; None where an order has no verdict. Orders that differ are a tie."""
        first, second = self.values
        if first is None or second is None:
            return None
        return first if first == second else TIE

    @property
    def depends_on_order(self) -> bool:
        """Whether both orders have a verdict, and not the same one."""
        return None not in self.values and self.values[0] != self.values[1]


@dataclass(frozen=True)
class Rates:
    """Counts of battles, and the adjusted win rate of those with a result.

    `bounds` is the rate if all battles without a result were lost, and if all were won. `rate` is None where no battle
    has a result.
    """

    wins: int
    losses: int
    ties: int
    order_dependent: int
    undecided: int
    rate: Interval | None
    bounds: tuple[float, float]

    @property
    def n(self) -> int:
        """The battles with a result."""
        return self.wins + self.losses + self.ties


def asks_of(pairs: Sequence[Pair], prompts: JudgePrompts, repeats: int = 1) -> list[Ask]:
    """What a judge is asked about pairs: both orders of each, `repeats` times. The same answer twice is not asked."""
    return [
        ask
        for repeat in range(repeats)
        for pair in pairs
        if not pair.same
        for ask in _both_orders(pair, prompts, repeat)
    ]


def battles_of(
    pairs: Sequence[Pair], answers: dict[Ask, Answer], prompts: JudgePrompts, repeat: int = 0
) -> list[Battle]:
    """The battles of one repeat."""
    battles = []
    for pair in pairs:
        if pair.same:
            battles.append(Battle(pair, (TIE, TIE)))
            continue
        verdicts = [verdict_of(ask, answers[ask]) for ask in _both_orders(pair, prompts, repeat)]
        first, second = (None if verdict is None else _FIRST[verdict] for verdict in verdicts)
        battles.append(Battle(pair, (first, None if second is None else WIN - second)))
    return battles


def rates_of(values: Sequence[float | None], order_dependent: int = 0) -> Rates:
    """Counts and rate of battles' values: 1, 1/2, 0, or None without a result.

    The interval is a 95 % bootstrap interval over battles; if all came out alike, it is widened by the rule of three.
    Raises AlignerProbeError where there is no battle.
    """
    if not values:
        raise AlignerProbeError("no battles; expected at least one")
    decided = np.array([value for value in values if value is not None])
    undecided = len(values) - len(decided)
    low, high = (float(decided.sum() + undecided * worth) / len(values) for worth in (LOSS, WIN))
    return Rates(
        wins=int((decided == WIN).sum()),
        losses=int((decided == LOSS).sum()),
        ties=int((decided == TIE).sum()),
        order_dependent=order_dependent,
        undecided=undecided,
        rate=mean_interval(decided) if len(decided) else None,
        bounds=(low, high),
    )


def rates_by_category(battles: Sequence[Battle]) -> dict[str, Rates]:
    """The rates of all battles, under "", and of each category, in their order of appearance."""
    groups = {
        name: [battle for battle in battles if name in ("", battle.pair.category)]
        for name in categories_of(battle.pair.category for battle in battles)
    }
    return {
        name: rates_of([battle.value for battle in group], sum(battle.depends_on_order for battle in group))
        for name, group in groups.items()
    }


def share_of_first(asks: Sequence[Ask], answers: Sequence[Answer]) -> float | None:
    """How often the answer that stood first was preferred, of all verdicts that prefer one; None without any."""
    counted = Counter(verdict_of(ask, answer) for ask, answer in zip(asks, answers, strict=True) if ask.kind == "pair")
    n = counted["[[A]]"] + counted["[[B]]"]
    return counted["[[A]]"] / n if n else None


def contradictions(asks: Sequence[Ask], answers: Sequence[Answer]) -> tuple[int, int]:
    """Of all questions that were asked several times: how many have different verdicts, and how many there are.

    Only questions of which at least two repeats have a verdict are counted.
    """
    verdicts: dict[tuple, list[str]] = {}
    for ask, answer in zip(asks, answers, strict=True):
        if (verdict := verdict_of(ask, answer)) is not None:
            verdicts.setdefault((ask.kind, ask.messages), []).append(verdict)
    several = [one for one in verdicts.values() if len(one) > 1]
    return sum(len(set(one)) > 1 for one in several), len(several)


def lengths_of(battles: Sequence[Battle]) -> Float[np.ndarray, " battles"]:
    """By how many characters our answer is longer than theirs, for battles with a result."""
    return np.array([float(len(b.pair.ours) - len(b.pair.theirs)) for b in battles if b.value is not None])


def _both_orders(pair: Pair, prompts: JudgePrompts, repeat: int) -> tuple[Ask, Ask]:
    options = {"reference": pair.reference, "repeat": repeat}
    return (
        prompts.ask("pair", pair.question, pair.ours, pair.theirs, **options),
        prompts.ask("pair", pair.question, pair.theirs, pair.ours, **options),
    )
