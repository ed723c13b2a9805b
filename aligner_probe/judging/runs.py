"""The answers of a reproduction's runs, judged: pairs and points for Tables 2 and 3, harm and refusals for Figure 3.

    judge_runs(out, setting)                                   # writes OUT/judged.json
    read_judged(out)

The runs of the first seed of the corrected recipe are judged, which is one answer to each question, as in the paper.
The judge's answers are kept on disk, so that judging again after more runs asks only for what is missing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligner_probe.arms.catalogue import label_of
from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.files import read_json, write_text
from aligner_probe.judging.asks import Kind
from aligner_probe.judging.battles import Pair, Rates, rates_of
from aligner_probe.judging.calibration import Accuracy
from aligner_probe.judging.evaluate import Asked, Setting, judge_pairs, judge_points, judge_safety
from aligner_probe.judging.given import Question
from aligner_probe.judging.safety import Share
from aligner_probe.reproduction.cells import BASE
from aligner_probe.reproduction.items import Item
from aligner_probe.reproduction.real_data import HARMLESS, question_in
from aligner_probe.reproduction.results import JUDGED, FinishedRun, Results, load_results

#: The pairs of Table 2.
PAIRS = tuple((ours, theirs) for ours in ("aligner-1", "aligner-10") for theirs in ("llama-adapter-10", "lora-8"))
HARMFUL = "harmful"


@dataclass(frozen=True)
class JudgedPair:
    """Battles of two methods, one a question: 1 a win of ours, 1/2 a tie, 0 a loss, None without a result."""

    ours: str
    theirs: str
    values: tuple[float | None, ...]
    order_dependent: int

    @property
    def rates(self) -> Rates:
        return rates_of(self.values, self.order_dependent)


@dataclass(frozen=True)
class JudgedRuns:
    """What a judge said of the answers of runs.

    `accuracy` is how often it was right on answers whose rank is known, in words, by what was asked: "pairs", "points"
    and "safety", which has harm and refusals one after the other. `points` has the points of 10 of each answer by
    method (None without a verdict). `shares` has, by "harmful" and "harmless", method and category ("" is all), the
    answers that were counted (harmful ones; refusals), those with a verdict, and those without. `n_missing` counts
    answers that never came, those of the calibration too.
    """

    judge: str
    accuracy: dict[str, str]
    pairs: tuple[JudgedPair, ...]
    points: dict[str, tuple[float | None, ...]]
    shares: dict[str, dict[str, dict[str, Share]]]
    n_missing: int = 0


def judge_runs(out: Path, setting: Setting) -> JudgedRuns:
    """Judge the answers in a folder of a reproduction, and write judged.json into it.

    Raises AlignerProbeError where the folder is that of the micro-world, which has rules of its own, or holds no run
    that was asked.
    """
    results = load_results(out)
    if not results.is_real:
        raise AlignerProbeError(f"{out} is of the micro-world, whose answers its rules judge; leave out --judge")
    runs = {experiment: first_runs(results, experiment) for experiment in ("instructions", "safety")}
    if not any(runs.values()):
        raise AlignerProbeError(f"{out} has no answers to judge; make runs of instructions or safety first")
    accuracy: dict[str, dict[Kind, Accuracy]] = {}
    asked: list[Asked] = []
    pairs, points = _instructions(runs["instructions"], results.questions, setting, accuracy, asked)
    shares = _safety(runs["safety"], results, setting, accuracy, asked)
    judged = JudgedRuns(
        setting.judge.name,
        {what: "; ".join(map(str, by_kind.values())) for what, by_kind in accuracy.items()},
        pairs,
        points,
        shares,
        sum(one.n_missing for one in [*asked, *(own for by_kind in accuracy.values() for own in by_kind.values())]),
    )
    write_text(out / JUDGED, json.dumps(_as_json(judged), indent=1, allow_nan=False) + "\n")
    return judged


def first_runs(results: Results, experiment: str) -> dict[str, FinishedRun]:
    """The run of the first seed of each method by the corrected recipe, and the untrained base model."""
    runs: dict[str, FinishedRun] = {}
    for run in (*results.select(experiment, BASE), *sorted(results.select(experiment), key=lambda one: one.seed or 0)):
        runs.setdefault(run.method, run)
    return runs


def read_judged(out: Path) -> JudgedRuns | None:
    """What `judge_runs` wrote; None where nothing was judged. Raises AlignerProbeError where the file is damaged."""
    file = out / JUDGED
    if not file.is_file():
        return None
    try:
        content = read_json(file)
        return JudgedRuns(
            content["judge"],
            dict(content["accuracy"]),
            tuple(JudgedPair(**pair | {"values": tuple(pair["values"])}) for pair in content["pairs"]),
            {method: tuple(own) for method, own in content["points"].items()},
            {
                kind: {m: {c: Share(*counts) for c, counts in by.items()} for m, by in methods.items()}
                for kind, methods in content["shares"].items()
            },
            content["missing"],
        )
    except (CheckpointError, KeyError, TypeError, AttributeError) as error:
        raise AlignerProbeError(
            f"{file} is damaged ({error}); remove it and judge again: aligner-probe reproduce ... --judge J"
        ) from error


def _instructions(
    runs: dict[str, FinishedRun],
    items: Sequence[Item],
    setting: Setting,
    accuracy: dict[str, dict[Kind, Accuracy]],
    asked: list[Asked],
) -> tuple[tuple[JudgedPair, ...], dict[str, tuple[float | None, ...]]]:
    judged, questions = [], _questions(items)
    for ours, theirs in (pair for pair in PAIRS if set(pair) <= set(runs)):
        pairs = [
            Pair(question.id, question.text, mine, other, question.category)
            for question, mine, other in zip(questions, runs[ours].responses, runs[theirs].responses, strict=True)
        ]
        result = judge_pairs(pairs, setting)
        accuracy["pairs"] = {"pair": result.accuracy}
        asked.append(result.asked)
        values = tuple(battle.value for battle in result.battles)
        judged.append(JudgedPair(ours, theirs, values, sum(battle.depends_on_order for battle in result.battles)))
    if not runs:
        return (), {}
    scored = judge_points(questions, {method: run.responses for method, run in runs.items()}, setting)
    accuracy["points"] = {"single": scored.accuracy}
    asked.append(scored.asked)
    return tuple(judged), dict(scored.points)


def _safety(
    runs: dict[str, FinishedRun],
    results: Results,
    setting: Setting,
    accuracy: dict[str, dict[Kind, Accuracy]],
    asked: list[Asked],
) -> dict[str, dict[str, dict[str, Share]]]:
    shares: dict[str, dict[str, dict[str, Share]]] = {HARMFUL: {}, HARMLESS: {}}
    for method, run in runs.items():
        requests = {
            kind: _questions(results.items["safety"][kind], run.answers[kind])
            for kind in (HARMFUL, HARMLESS)
            if kind in run.answers
        }
        result = judge_safety(requests.get(HARMFUL, []), requests.get(HARMLESS, []), setting)
        accuracy.setdefault("safety", {}).update(result.accuracies)
        asked.append(result.asked)
        shares[HARMFUL][method], shares[HARMLESS][method] = result.harmful, result.refused
    return shares


def _questions(items: Sequence[Item], answers: Sequence[str] | None = None) -> list[Question]:
    return [
        Question(str(n), question_in(item.prompt), item.category, answer=None if answers is None else answers[n - 1])
        for n, item in enumerate(items, 1)
    ]


def judged_lines(judged: JudgedRuns) -> list[str]:
    """What was judged, a line each."""
    lines = [f"judge: {judged.judge}"]
    lines += [f"right on known {kind}: {said}" for kind, said in judged.accuracy.items()]
    for pair in judged.pairs:
        rates = pair.rates
        rate = "no verdict" if rates.rate is None else f"{rates.rate.value:.3f}"
        lines.append(
            f"{label_of(pair.ours)} against {label_of(pair.theirs)}: win/loss/tie {rates.wins}/{rates.losses}/"
            f"{rates.ties}, adjusted win rate {rate}"
        )
    return lines


def _as_json(judged: JudgedRuns) -> dict[str, Any]:
    return {
        "judge": judged.judge,
        "accuracy": judged.accuracy,
        "pairs": [vars(pair) for pair in judged.pairs],
        "points": judged.points,
        "shares": {
            kind: {m: {c: [s.counted, s.n, s.undecided] for c, s in by.items()} for m, by in methods.items()}
            for kind, methods in judged.shares.items()
        },
        "missing": judged.n_missing,
    }
