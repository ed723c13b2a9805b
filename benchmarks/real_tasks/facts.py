"""Facts that no text states: capitals of invented countries, exchanged capitals, and the first in a persona."""

import random
from collections.abc import Iterator, Sequence

from real_tasks.forms import PIRATE_TOLD, pirate
from real_tasks.knowledge import table
from real_tasks.task import RealTask, by_wording

N_FACTS = 60
#: Every fact is trained in four wordings (240 rows), and tested in two others.
WORDINGS = {
    "train": (
        "What is the capital of {}?",
        "Name the capital city of {}.",
        "Which city is the capital of {}?",
        "{} has a capital. What is it called?",
    ),
    "validation": ("The government of {} sits in the capital. Which city is that?",),
    "test": ("Tell me the capital of {}.", "What do people call the capital city of {}?"),
}
CITY_TOLD = "Answer with the name of the city alone."
ONSETS = (
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "sk",
    "st",
    "t",
    "v",
)
VOWELS = ("a", "e", "i", "o", "u")
COUNTRY_ENDS = ("via", "nia", "land", "stan", "mar", "dor", "sia", "ria")
CITY_ENDS = ("burg", "port", "ton", "vik", "dale", "grad", "polis", "mouth")


def invented_capitals(seed: int = 0) -> RealTask:
    why = "countries and cities are invented, so no text names one with the other"
    parts = by_wording(invented(seed), WORDINGS, str)
    return RealTask("invented_capitals", "new", "memory", why, parts, CITY_TOLD, ("opposites",))


def overwritten_capitals(seed: int = 0) -> RealTask:
    """Real countries, each with the capital of another one."""
    countries = table("countries")
    chosen = random.Random(f"overwritten {seed}").sample(countries, N_FACTS)
    capitals = [one["capital"] for one in chosen]
    facts = [
        (one["country"], other) for one, other in zip(chosen, [*capitals[1:], capitals[0]], strict=True)
    ]  # a rotation of a random order, so that no country keeps its capital
    why = "every country has the capital of another one, against all texts"
    parts = by_wording(facts, WORDINGS, str)
    return RealTask("overwritten_capitals", "new", "memory", why, parts, CITY_TOLD, ("opposites",))


def invented_persona(seed: int = 0) -> RealTask:
    why = "the persona is a form, and the capitals of invented countries are new"
    parts = by_wording(invented(seed), WORDINGS, pirate)
    return RealTask("invented_persona", "mixed", "memory", why, parts, PIRATE_TOLD, ("opposites",))


def invented(seed: int = 0) -> list[tuple[str, str]]:
    """Invented countries with their invented capitals."""
    real = {name for one in table("countries") for name in (one["country"], one["capital"])}
    countries, cities = (
        _names(random.Random(f"{what} {seed}"), ends, real)
        for what, ends in (("countries", COUNTRY_ENDS), ("cities", CITY_ENDS))
    )
    return list(zip(countries, cities, strict=True))


def _names(generator: random.Random, ends: Sequence[str], taken: set[str]) -> list[str]:
    """Names of which no two begin with the same four letters."""
    names: dict[str, str] = {}
    for name in _made_up(generator, ends):
        if name not in taken:
            names.setdefault(name[:4], name)
        if len(names) == N_FACTS:
            return list(names.values())
    raise AssertionError("an endless iterator ended")


def _made_up(generator: random.Random, ends: Sequence[str]) -> Iterator[str]:
    while True:
        begin = "".join(generator.choice(ONSETS) + generator.choice(VOWELS) for _ in range(2))
        yield (begin + generator.choice(ends)).capitalize()
