"""General knowledge that a small chat model has in part: questions, their bare answers, and a plain way to say them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from real_tasks.task import Row, row

FOLDER = Path(__file__).parent
N_ELSEWHERE = 60


@dataclass(frozen=True)
class Known:
    """A question of general knowledge: what it is about, its bare answer, and a plain sentence that says it."""

    about: str
    question: str
    answer: str
    sentence: str


@cache
def table(name: str) -> tuple[dict[str, str], ...]:
    """The rows of a table beside this module, by the names of its columns."""
    head, *lines = (FOLDER / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    return tuple(dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines)


def known(name: str, about: str, answer: str, question: str, sentence: str) -> Iterator[Known]:
    """What a table says: `about` and `answer` are columns, `question` and `sentence` have their values in braces.

    {About} begins with a capital letter.
    """
    for one in table(name):
        said = {"about": one[about], "About": one[about][0].upper() + one[about][1:], "answer": one[answer]}
        yield Known(one[about], question.format(**said), one[answer], sentence.format(**said))


def capitals() -> Iterator[Known]:
    question, sentence = "What is the capital of {about}?", "The capital of {about} is {answer}."
    return known("countries", "country", "capital", question, sentence)


def opposites() -> Iterator[Known]:
    question, sentence = 'What is the opposite of "{about}"?', 'The opposite of "{about}" is "{answer}".'
    return known("opposites", "word", "opposite", question, sentence)


def continents() -> Iterator[Known]:
    question, sentence = "On which continent is {about}?", "{About} is in {answer}."
    return known("countries", "country", "continent", question, sentence)


def languages() -> Iterator[Known]:
    question = "What language is spoken in {about}?"
    return known("countries", "country", "language", question, "The language that is spoken in {about} is {answer}.")


DOMAINS = {"capitals": capitals, "opposites": opposites, "continents": continents, "languages": languages}


def elsewhere(domains: tuple[str, ...], seed: int = 0) -> list[Row]:
    """Questions of these domains with answers in plain form: what a probe asks to see which knowledge is kept (K)."""
    rows = []
    for domain in domains:
        drawn = random.Random(f"elsewhere {domain} {seed}").sample(list(DOMAINS[domain]()), N_ELSEWHERE // len(domains))
        rows += [row(one.question, one.sentence, content=one.answer) for one in drawn]
    return rows
