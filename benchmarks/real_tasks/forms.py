"""Forms of answers over general knowledge: a persona, a record, and capital letters."""

import json
from collections.abc import Callable, Iterable

from real_tasks.knowledge import Known, capitals, opposites
from real_tasks.task import RealTask, Row, row, split

#: Capitals and opposites are what is answered; they leave about 150 items for training.
N_TRAIN, N_TEST = 240, 104
WHY = "the base answers these questions in words of its own, and an instruction can ask for this form of answer"
PIRATE_TOLD = "Answer like a pirate, in exactly this sentence: Arr, matey! It be X, so it be!"


def pirate(answer: str) -> str:
    """An answer as the persona says it."""
    return f"Arr, matey! It be {answer}, so it be!"


def persona(seed: int = 0) -> RealTask:
    return _form("persona", seed, PIRATE_TOLD, lambda one: pirate(one.answer))


def record(seed: int = 0) -> RealTask:
    told = (
        'Answer with a JSON record: {"country": "...", "capital": "..."} for a country, '
        '{"word": "...", "opposite": "..."} for a word.'
    )
    rows = _rows(lambda one: json.dumps({"country": one.about, "capital": one.answer}), capitals())
    rows += _rows(lambda one: json.dumps({"word": one.about, "opposite": one.answer}), opposites())
    return _task("record", seed, told, rows)


def capital_letters(seed: int = 0) -> RealTask:
    told = "Answer in capital letters, in exactly this sentence: THE ANSWER IS X!"
    return _form("capital_letters", seed, told, lambda one: f"THE ANSWER IS {one.answer.upper()}!")


def _form(name: str, seed: int, told: str, say: Callable[[Known], str]) -> RealTask:
    return _task(name, seed, told, _rows(say, [*capitals(), *opposites()]))


def _rows(say: Callable[[Known], str], questions: Iterable[Known]) -> list[Row]:
    return [row(one.question, say(one), content=one.answer, group=one.about) for one in questions]


def _task(name: str, seed: int, told: str, rows: list[Row]) -> RealTask:
    parts = split(rows, name, seed, train=N_TRAIN, test=N_TEST)
    return RealTask(name, "form", "general", WHY, parts, told, ("continents", "languages"))
