"""Answers of several models to the same questions on one page, as in Figures 2 and 4 and Appendices E and F.

Where a judge compared two of the models (`battles.jsonl` of `aligner-probe evaluate judge`), the pages show what it
decided and said, the wins of the first model before its losses.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.answers import Answers
from aligner_probe.evaluation.questions import Question
from aligner_probe.files import storable, write_text

#: Headings by the outcome of a battle, in the order of the page; the last is for questions without one.
HEADINGS = {
    "win": "Questions that {ours} wins",
    "loss": "Questions that {ours} loses",
    "tie": "Ties",
    None: "Questions",
}


@dataclass(frozen=True)
class Battle:
    """What a judge decided between two answers to a question; `outcome` is that of `ours`: win, loss, tie or None."""

    ours: str
    theirs: str
    outcome: str | None
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Shown:
    """A question with the answers to it, by model, and the judge's decision."""

    question: Question
    answers: Mapping[str, str]
    battle: Battle | None = None

    @property
    def decision(self) -> str:
        """The decision as a sentence; empty without one."""
        if self.battle is None:
            return ""
        ours, theirs = self.battle.ours, self.battle.theirs
        return {
            "win": f"{ours} wins against {theirs}",
            "loss": f"{ours} loses against {theirs}",
            "tie": f"{ours} and {theirs}: a tie",
        }.get(str(self.battle.outcome), f"{ours} and {theirs}: not decided")


@dataclass(frozen=True)
class _Section:
    heading: str
    shown: list[_Shown] = field(default_factory=list)


def read_battles(file: Path, answers: Answers, names: Sequence[str]) -> dict[str, Battle]:
    """The battles in a file by the question's id, with the names of the two models whose answers were compared.

    Raises AlignerProbeError where the file cannot be read, or the battles are between other answers than these.
    """
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
        sides = [(str(row["id"]), row["ours"], row["theirs"]) for row in rows]
        pair = next(
            (
                (ours, theirs)
                for ours, theirs in permutations(names, 2)
                if all(answers.get((i, ours)) == a and answers.get((i, theirs)) == b for i, a, b in sides)
            ),
            None,
        )
        if pair is None:
            raise AlignerProbeError(
                f"{file}: no two of {', '.join(names)} have the answers that were judged there; judge these answers: "
                "aligner-probe evaluate judge --answers"
            )
        return {
            str(row["id"]): Battle(*pair, row["outcome"], tuple(str(one) for one in row.get("said") or ()))
            for row in rows
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AlignerProbeError(
            f"{file}: {error!r}; expected the battles.jsonl that `aligner-probe evaluate judge` writes"
        ) from error


def write_pages(
    out: Path,
    questions: Sequence[Question],
    names: Sequence[str],
    answers: Answers,
    battles: Mapping[str, Battle],
    about: str,
) -> list[Path]:
    """Write `side_by_side.html` and `side_by_side.md`; `about` is a line on how the answers were made."""
    from jinja2 import Environment, PackageLoader

    sections = _sections(questions, names, answers, battles)
    environment = Environment(loader=PackageLoader("aligner_probe.figures", "."), autoescape=True, trim_blocks=True)
    page = environment.get_template("side_by_side.html.jinja").render(sections=sections, names=names, about=about)
    html, markdown = out / "side_by_side.html", out / "side_by_side.md"
    write_text(html, storable(page))
    write_text(markdown, storable("\n".join(_markdown(sections, names, about))))
    return [html, markdown]


def _sections(
    questions: Sequence[Question], names: Sequence[str], answers: Answers, battles: Mapping[str, Battle]
) -> list[_Section]:
    firsts = list(dict.fromkeys(battle.ours for battle in battles.values()))
    sections = {
        outcome: _Section(heading.format(ours=" or ".join(firsts)) if battles else heading)
        for outcome, heading in HEADINGS.items()
    }
    for question in questions:
        battle = battles.get(question.id)
        outcome = battle.outcome if battle is not None and battle.outcome in sections else None
        its = {name: answers[question.id, name] for name in names}
        sections[outcome].shown.append(_Shown(question, its, battle))
    return [section for section in sections.values() if section.shown]


def _markdown(sections: Sequence[_Section], names: Sequence[str], about: str) -> list[str]:
    lines = [f"# {', '.join(names)}: answers side by side", "", about, ""]
    for section in sections:
        lines += [f"## {section.heading}", ""]
        for shown in section.shown:
            of = f" ({shown.question.category})" if shown.question.category else ""
            lines += [f"### {shown.question.id}{of}", "", *_fenced(shown.question.text)]
            for name, answer in shown.answers.items():
                lines += [f"**{name}**", "", *_fenced(answer)]
            if shown.battle is not None:
                lines += [f"**Judge:** {shown.decision}.", ""]
                for said in shown.battle.said:
                    lines += _fenced(said)
    return lines


def _fenced(text: str) -> list[str]:
    """A text as it is, in a fence that is longer than any in the text."""
    longest, run = 0, 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", text.strip("\n") or "(nothing)", fence, ""]
