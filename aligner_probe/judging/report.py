"""What an evaluation by a judge found, as report.json, report.md and, for pairs, battles.jsonl."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aligner_probe.evaluation.intervals import Interval
from aligner_probe.files import storable, write_text
from aligner_probe.judging.asks import Kind
from aligner_probe.judging.battles import TIE, WIN, Rates
from aligner_probe.judging.calibration import Accuracy
from aligner_probe.judging.evaluate import Asked, PairsResult, PointsResult, SafetyResult, Setting
from aligner_probe.judging.safety import Share
from aligner_probe.markdown import table

NONE = "–"
#: What a judge is not shown to be right about, where a report has more than one table.
ABOUT: dict[Kind, str] = {"harm": " about harm", "refusal": " about refusals"}
LENGTH_NOTE = (
    "The length-controlled rate is the minimal form: a logistic regression of the verdicts on a constant and tanh of "
    "the standardised length difference, read at equal lengths. Difficulties of questions and effects of categories "
    "cannot be estimated from so few battles, so they are not in it."
)
UNDECIDED_NOTE = (
    "Battles in which an order has no verdict are left out of the rate; the bounds say what it could be if all of them "
    "were lost, or won."
)


def pairs_lines(result: PairsResult, setting: Setting, ours: str, theirs: str) -> list[str]:
    """The result of pairs in Markdown."""
    right = _short(result.accuracy)
    header = ("category", "win / loss / tie", "adjusted win rate", "bounds", "no result", "judge right")
    rows = [
        (
            category or "**all**",
            f"{rates.wins} / {rates.losses} / {rates.ties}",
            _shown(rates.rate),
            f"{rates.bounds[0]:.3f} to {rates.bounds[1]:.3f}",
            str(rates.undecided),
            right,
        )
        for category, rates in result.rates.items()
    ]
    whole = result.rates[""]
    lines = [
        f"# {ours} against {theirs}",
        "",
        *_about({"pair": result.accuracy}, result.asked, setting),
        "",
        *table(header, rows),
    ]
    lines += ["", f"Length-controlled win rate: {_shown(result.length_controlled)} (judge right: {right})."]
    lines += [LENGTH_NOTE]
    if result.length_controlled is None:
        lines += [
            "There is none here, because all battles have the same result, all answers differ by the same length, or "
            "fewer than two battles have a result."
        ]
    lines += ["", f"Both orders are one battle. In {whole.order_dependent} of {whole.n} battles they disagreed: a tie."]
    same = sum(battle.pair.same for battle in result.battles)
    lines += [f"{same} pairs are the same text twice: a tie, for which nothing is asked."] if same else []
    if result.first_preferred is not None:
        lines += [f"The answer that stood first was preferred in {result.first_preferred:.1%} of decisions."]
    if setting.repeats > 1:
        lines += [f"Win rate of each repeat: {', '.join(_number(rate) for rate in result.of_repeats)}."]
    lines += [UNDECIDED_NOTE] if whole.undecided else []
    return lines


def points_lines(result: PointsResult, setting: Setting) -> list[str]:
    """The result of single answers in Markdown."""
    names = list(result.means)
    right = _short(result.accuracy)
    header = ("category", *(f"{name}, of 10" for name in names), "no points", "judge right")
    no_points = sum(point is None for own in result.points.values() for point in own)
    rows = [
        (
            category or "**all**",
            *(_shown(result.means[name][category], 2) for name in names),
            str(no_points) if not category else "",
            right,
        )
        for category in result.means[names[0]]
    ]
    lines = [f"# Points of {' and '.join(names)}", "", *_about({"single": result.accuracy}, result.asked, setting), ""]
    lines += table(header, rows)
    if len(names) == 2:
        lines += [
            "",
            f"{names[0]} minus {names[1]}, same questions: {_shown(result.difference, 2)} (judge right: {right}).",
        ]
    return lines


def safety_lines(result: SafetyResult, setting: Setting, name: str) -> list[str]:
    """The result of safety in Markdown."""
    lines = [f"# Safety of {name}", "", *_about(result.accuracies, result.asked, setting)]
    tables: list[tuple[Kind, str, dict[str, Share]]] = [
        ("harm", "harmful answers to harmful requests", result.harmful),
        ("refusal", "refusals of harmless requests (over-refusal)", result.refused),
    ]
    for kind, title, shares in tables:
        if not shares:
            lines += ["", f"No {title.split(' (')[0]} were counted, because no such answers were given."]
            continue
        header = ("category", title, "share", "bounds", "no verdict", "judge right")
        rows = [
            (
                category or "**all**",
                f"{share.counted} of {share.n}",
                _shown(share.interval),
                f"{share.bounds[0]:.3f} to {share.bounds[1]:.3f}",
                str(share.undecided),
                _short(result.accuracies[kind]),
            )
            for category, share in shares.items()
        ]
        lines += ["", *table(header, rows)]
    return lines


def write_report(out: Path, lines: Sequence[str], fields: dict[str, Any], battles: Sequence[dict] = ()) -> None:
    """Write report.md, report.json and, where there are battles, battles.jsonl into the folder `out`."""
    write_text(out / "report.md", "\n".join(lines) + "\n")
    write_text(out / "report.json", json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    if battles:
        rows = "".join(json.dumps(battle, ensure_ascii=False) + "\n" for battle in battles)
        write_text(out / "battles.jsonl", storable(rows))


def pairs_fields(result: PairsResult, setting: Setting) -> dict[str, Any]:
    """The result of pairs as JSON."""
    return _fields(result.asked, setting) | {
        "calibration": _accuracy(result.accuracy),
        "rates": {category or "all": _rates(rates) for category, rates in result.rates.items()},
        "length_controlled": _interval(result.length_controlled),
        "first_preferred": result.first_preferred,
        "win_rate_of_repeats": list(result.of_repeats),
    }


def points_fields(result: PointsResult, setting: Setting) -> dict[str, Any]:
    """The result of single answers as JSON."""
    return _fields(result.asked, setting) | {
        "calibration": _accuracy(result.accuracy),
        "means": {
            name: {category or "all": _interval(mean) for category, mean in means.items()}
            for name, means in result.means.items()
        },
        "points": {name: list(own) for name, own in result.points.items()},
        "difference": _interval(result.difference),
    }


def safety_fields(result: SafetyResult, setting: Setting) -> dict[str, Any]:
    """The result of safety as JSON."""
    calibrations = {kind: _accuracy(accuracy) for kind, accuracy in result.accuracies.items()}
    shares = {
        name: {category or "all": _share(share) for category, share in shares.items()}
        for name, shares in (("harmful", result.harmful), ("refused", result.refused))
    }
    return _fields(result.asked, setting) | {"calibration": calibrations} | shares


def battle_rows(result: PairsResult) -> list[dict[str, Any]]:
    """Each battle with its answers, its outcome and what the judge said in both orders."""
    names = {WIN: "win", TIE: "tie", None: None}
    return [
        {
            "id": battle.pair.id,
            "category": battle.pair.category,
            "question": battle.pair.question,
            "ours": battle.pair.ours,
            "theirs": battle.pair.theirs,
            "outcome": names.get(battle.value, "loss"),
            "depends_on_order": battle.depends_on_order,
            "said": list(result.reasons.get(battle.pair.id, ())),
        }
        for battle in result.battles
    ]


def _about(accuracies: Mapping[Kind, Accuracy], asked: Asked, setting: Setting) -> list[str]:
    counts = ", ".join(f"{name} {n}" for name, n in sorted(asked.outcomes.items(), key=lambda item: -item[1]))
    lines = [f"Judge: {setting.judge.name}, prompts: {_prompts(asked)}."]
    for kind, accuracy in accuracies.items():
        lines += [f"Calibration: {accuracy}."]
        if not accuracy.enough:
            about = ABOUT.get(kind, "")
            lines += [
                f"**This judge is not shown to be right more often than not, so what follows{about} says little.**"
            ]
    lines += [f"Answers of the judge: {counts or 'none were needed'}. Only a verdict counts; nothing is guessed."]
    if asked.models:
        more = " **More than one: its verdicts are not all of one judge.**" if len(asked.models) > 1 else ""
        lines += [f"Models that answered: {', '.join(asked.models)}.{more}"]
    if asked.contradicted[1]:
        different, several = asked.contradicted
        lines += [f"Asked again, the judge contradicted itself on {different} of {several} questions."]
    for reason in asked.reasons[:3]:
        lines += [f"Missing: {reason}."]
    return lines


def _fields(asked: Asked, setting: Setting) -> dict[str, Any]:
    return {
        "judge": {"name": setting.judge.name, **setting.judge.identity},
        "prompts": _prompts(asked),
        "answers": asked.outcomes,
        "models": list(asked.models),
        "asked_by": asked.ways,
        "contradicted": list(asked.contradicted),
        "repeats": setting.repeats,
    }


def _prompts(asked: Asked) -> str:
    return ", ".join(asked.prompts) or "none were needed"


def _accuracy(accuracy: Accuracy) -> dict[str, Any]:
    return {
        "right": accuracy.right,
        "n": accuracy.n,
        "undecided": accuracy.undecided,
        "missing": accuracy.n_missing,
        "accuracy": _interval(accuracy.interval),
        "by_kind": {kind: list(counts) for kind, counts in accuracy.by_kind.items()},
    }


def _rates(rates: Rates) -> dict[str, Any]:
    counts = {"wins": rates.wins, "losses": rates.losses, "ties": rates.ties, "undecided": rates.undecided}
    rate = {"adjusted_win_rate": _interval(rates.rate), "bounds": list(rates.bounds)}
    return counts | {"order_dependent": rates.order_dependent} | rate


def _share(share: Share) -> dict[str, Any]:
    counts = {"counted": share.counted, "n": share.n, "undecided": share.undecided}
    return counts | {"share": _interval(share.interval), "bounds": list(share.bounds)}


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else {"value": interval.value, "low": interval.low, "high": interval.high}


def _shown(interval: Interval | None, digits: int = 3) -> str:
    if interval is None:
        return NONE
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _short(accuracy: Accuracy) -> str:
    return f"{accuracy.right}/{accuracy.n} ({accuracy.interval.value:.2f})"
