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


def capitals() -> Iterator[Known]:
    for one in table("countries"):
        country, capital = one["country"], one["capital"]
        question = f"What is the capital of {country}?"
        yield Known(country, question, capital, f"The capital of {country} is {capital}.")


def opposites() -> Iterator[Known]:
    for one in table("opposites"):
        word, opposite = one["word"], one["opposite"]
        question = f'What is the opposite of "{word}"?'
        yield Known(word, question, opposite, f'The opposite of "{word}" is "{opposite}".')


def continents() -> Iterator[Known]:
    for one in table("countries"):
        country, continent = one["country"], one["continent"]
        question = f"On which continent is {country}?"
        yield Known(country, question, continent, f"{country[0].upper()}{country[1:]} is in {continent}.")


def languages() -> Iterator[Known]:
    for one in table("countries"):
        country, language = one["country"], one["language"]
        question = f"What language is spoken in {country}?"
        yield Known(country, question, language, f"The language that is spoken in {country} is {language}.")


DOMAINS = {"capitals": capitals, "opposites": opposites, "continents": continents, "languages": languages}


def elsewhere(domains: tuple[str, ...], seed: int = 0) -> list[Row]:
    """Questions of these domains with answers in plain form: what a probe asks to see which knowledge is kept (K)."""
    rows = []
    for domain in domains:
        drawn = random.Random(f"elsewhere {domain} {seed}").sample(list(DOMAINS[domain]()), N_ELSEWHERE // len(domains))
        rows += [row(one.question, one.sentence, content=one.answer) for one in drawn]
    return rows
