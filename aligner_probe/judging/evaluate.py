"""The three evaluations by a judge: pairs, single answers, and safety. Each begins with the judge's calibration."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aligner_probe.evaluation.intervals import Interval
from aligner_probe.judging import calibration
from aligner_probe.judging.asking import ask_all, n_missing
from aligner_probe.judging.asks import Answer, Ask, Judge, Kind
from aligner_probe.judging.battles import (
    Battle,
    Pair,
    Rates,
    asks_of,
    battles_of,
    contradictions,
    lengths_of,
    rates_by_category,
    rates_of,
    share_of_first,
)
from aligner_probe.judging.calibration import N_PAIRS, Accuracy
from aligner_probe.judging.given import Question, categories_of
from aligner_probe.judging.lengths import length_controlled_rate
from aligner_probe.judging.points import mean_points, points_difference
from aligner_probe.judging.prompts import JudgePrompts
from aligner_probe.judging.safety import Share, safety_asks, shares_by_category
from aligner_probe.judging.store import AnswerStore
from aligner_probe.judging.verdicts import explanation_of, verdict_of


@dataclass(frozen=True)
class Setting:
    """Who judges, in which words, where answers are kept, how often everything is asked, on how many known answers."""

    judge: Judge
    prompts: JudgePrompts
    store: AnswerStore
    repeats: int = 1
    n_known: int = N_PAIRS
    show_progress: bool = False

    @classmethod
    def of(cls, judge: Judge, prompts: JudgePrompts, cache: Path, **options: Any) -> "Setting":
        """A setting whose answers are kept in the folder `cache`."""
        return cls(judge, prompts, AnswerStore(cache, judge.identity), **options)


@dataclass(frozen=True)
class Asked:
    """What was asked and what came back.

    `outcomes` counts "verdict", "unparsed" (complete, but without a verdict that can be read), "cut off", "refused",
    "unreadable" and "missing". `models` are those that answered. `ways` counts answers by how the verdict was asked
    for: "schema" or "pattern". `contradicted` is (questions with different verdicts, questions asked several times).
    `reasons` are the reasons of missing answers, each once, and `prompts` the names of the prompts that were used.
    """

    outcomes: dict[str, int]
    models: tuple[str, ...]
    ways: dict[str, int]
    contradicted: tuple[int, int]
    reasons: tuple[str, ...]
    prompts: tuple[str, ...]

    @property
    def n_missing(self) -> int:
        return self.outcomes.get("missing", 0)


@dataclass(frozen=True)
class PairsResult:
    """Rates by category ("" is all), the length-controlled rate, and how the judge behaved.

    `first_preferred` is the share of decisions in which the answer that stood first was preferred. `of_repeats` is the
    win rate of each repeat, the first one first; it is the reported one. `reasons` has what the judge said of each pair
    in both orders, by the pair's id.
    """

    accuracy: Accuracy
    asked: Asked
    battles: tuple[Battle, ...]
    rates: dict[str, Rates]
    length_controlled: Interval | None
    first_preferred: float | None
    of_repeats: tuple[float | None, ...]
    reasons: dict[str, tuple[str, str]]

    @property
    def n_missing(self) -> int:
        """Answers of the judge that never came, those of its calibration too."""
        return self.asked.n_missing + self.accuracy.n_missing


@dataclass(frozen=True)
class PointsResult:
    """Mean points of 10 by category ("" is all), of ours and theirs; `difference` is over the same questions."""

    accuracy: Accuracy
    asked: Asked
    points: dict[str, tuple[float | None, ...]]
    means: dict[str, dict[str, Interval | None]]
    difference: Interval | None

    @property
    def n_missing(self) -> int:
        """Answers of the judge that never came, those of its calibration too."""
        return self.asked.n_missing + self.accuracy.n_missing


@dataclass(frozen=True)
class SafetyResult:
    """Harmful answers by category, and refusals of harmless requests by category; "" is all. Either may be empty.

    `accuracies` has the judge's accuracy on "harm" and on "refusal", each only where there were such answers.
    """

    accuracies: dict[Kind, Accuracy]
    asked: Asked
    harmful: dict[str, Share]
    refused: dict[str, Share]

    @property
    def n_missing(self) -> int:
        """Answers of the judge that never came, those of its calibrations too."""
        return self.asked.n_missing + sum(accuracy.n_missing for accuracy in self.accuracies.values())


def judge_pairs(pairs: Sequence[Pair], setting: Setting) -> PairsResult:
    """Calibrate the judge, then ask it about all pairs in both orders."""
    accuracy = calibration.calibrate_pairs(
        setting.judge, setting.store, setting.prompts, n=setting.n_known, show_progress=setting.show_progress
    )
    asks = asks_of(pairs, setting.prompts, setting.repeats)
    answers, asked = _ask(asks, setting)
    battles = battles_of(pairs, answers, setting.prompts)
    decided = np.array([battle.value for battle in battles if battle.value is not None])
    rates = rates_by_category(battles)
    others = [battles_of(pairs, answers, setting.prompts, repeat) for repeat in range(1, setting.repeats)]
    of_repeats = [rates[""].rate, *(rates_of([battle.value for battle in one]).rate for one in others)]
    first = asks_of(pairs, setting.prompts)
    return PairsResult(
        accuracy=accuracy,
        asked=asked,
        battles=tuple(battles),
        rates=rates,
        length_controlled=length_controlled_rate(decided, lengths_of(battles)),
        first_preferred=share_of_first(first, [answers[ask] for ask in first]),
        of_repeats=tuple(None if rate is None else rate.value for rate in of_repeats),
        reasons=_reasons(pairs, answers, setting.prompts),
    )


def judge_points(questions: Sequence[Question], given: Mapping[str, Sequence[str]], setting: Setting) -> PointsResult:
    """Calibrate the judge, then ask it for points of 10 for each answer; `given` has the answers by their name."""
    accuracy = calibration.calibrate_points(
        setting.judge, setting.store, setting.prompts, n=setting.n_known, show_progress=setting.show_progress
    )
    asks = {name: points_asks(questions, answers, setting) for name, answers in given.items()}
    answers, asked = _ask([ask for own in asks.values() for ask in own], setting)
    points = {name: tuple(_points(ask, answers[ask]) for ask in own[: len(questions)]) for name, own in asks.items()}
    categories = categories_of(question.category for question in questions)
    means = {
        name: {
            category: mean_points([p for p, q in zip(own, questions, strict=True) if category in ("", q.category)])
            for category in categories
        }
        for name, own in points.items()
    }
    difference = points_difference(*points.values()) if len(points) == 2 else None
    return PointsResult(accuracy, asked, points, means, difference)


def judge_safety(harmful: Sequence[Question], harmless: Sequence[Question], setting: Setting) -> SafetyResult:
    """Calibrate the judge for what is given, then ask it about harmful and harmless requests; either may be empty."""
    given: list[tuple[Kind, Sequence[Question]]] = [("harm", harmful), ("refusal", harmless)]
    accuracies: dict[Kind, Accuracy] = {
        kind: calibration.calibrate_requests(
            kind,
            setting.judge,
            setting.store,
            setting.prompts,
            n=setting.n_known,
            show_progress=setting.show_progress,
        )
        for kind, rows in given
        if rows
    }
    asks = [ask for kind, rows in given for ask in safety_asks(rows, kind, setting.prompts, setting.repeats)]
    answers, asked = _ask(asks, setting)
    shares = [shares_by_category(rows, answers, kind, setting.prompts) if rows else {} for kind, rows in given]
    return SafetyResult(accuracies, asked, *shares)


def points_asks(questions: Sequence[Question], answers: Sequence[str], setting: Setting) -> list[Ask]:
    """What a judge is asked about single answers."""
    return [
        setting.prompts.ask("single", question.text, answer, reference=question.reference, repeat=repeat)
        for repeat in range(setting.repeats)
        for question, answer in zip(questions, answers, strict=True)
    ]


def calls(asks: Sequence[Ask], setting: Setting) -> tuple[int, int]:
    """How many different answers are needed, and how many of them are not on disk."""
    return len(dict.fromkeys(asks)), n_missing(asks, setting.store)


def _ask(asks: Sequence[Ask], setting: Setting) -> tuple[dict[Ask, Answer], Asked]:
    answers = ask_all(asks, setting.judge, setting.store, show_progress=setting.show_progress)
    by_ask = dict(zip(asks, answers, strict=True))
    outcomes = Counter(_outcome(ask, answer) for ask, answer in by_ask.items())
    came = [answer for answer in by_ask.values() if answer.status != "missing"]
    models = {" ".join(filter(None, (answer.model, answer.version))) for answer in came}
    return by_ask, Asked(
        outcomes=dict(outcomes),
        models=tuple(sorted(models - {""})),
        ways=dict(Counter(answer.way for answer in came)),
        contradicted=contradictions(list(by_ask), list(by_ask.values())),
        reasons=tuple(dict.fromkeys(answer.text for answer in by_ask.values() if answer.status == "missing")),
        prompts=tuple(dict.fromkeys(ask.prompt for ask in by_ask)),
    )


def _outcome(ask: Ask, answer: Answer) -> str:
    if answer.status != "complete":
        return answer.status
    return "unparsed" if verdict_of(ask, answer) is None else "verdict"


def _reasons(pairs: Sequence[Pair], answers: dict[Ask, Answer], prompts: JudgePrompts) -> dict[str, tuple[str, str]]:
    """What the judge said of each pair, in both orders, by the pair's id."""
    said = {}
    for pair in pairs:
        if asks := asks_of([pair], prompts):
            said[pair.id] = (explanation_of(answers[asks[0]]), explanation_of(answers[asks[1]]))
    return said


def _points(ask: Ask, answer: Answer) -> float | None:
    verdict = verdict_of(ask, answer)
    return None if verdict is None else float(verdict)
