"""What is true in the micro-world, from one seed, and which part of it the model is never told.

160 people and 40 places have five attributes each. 40 strangers have five attributes too, but no text states them.
Two-hop chains ("the river of the home of X") are stated for three quarters of their entities. Operations on numbers
from 00 to 49 are shown for six sevenths of all operand pairs.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from aligner_probe.microworld import words

N_PEOPLE, N_PLACES, N_STRANGERS = 160, 40, 40
PERSON_ATTRIBUTES = ("home", "job", "pet", "color", "food")
PLACE_ATTRIBUTES = ("river", "dish", "craft", "tree", "mayor")
#: (second attribute, first attribute): "the river of the home of mira". The last two are never said as a chain.
CHAINS = (("river", "home"), ("craft", "home"), ("job", "mayor"))
WITHHELD_CHAINS = (("dish", "home"), ("tree", "home"))
#: A share of 1 / CHAIN_PART of the entities of a chain, and of 1 / PAIR_PART of operand pairs, is withheld.
CHAIN_PART, PAIR_PART = 4, 7
N_NUMBERS = 50


@dataclass(frozen=True, order=True)
class Fact:
    """The value of an attribute of an entity. For a chain, `attribute` is for instance "river of the home"."""

    entity: str
    attribute: str
    value: str


@dataclass(frozen=True)
class World:
    """Entities and facts: `people`, `places` and `strangers` are names; `values` is by (entity, attribute)."""

    seed: int
    people: tuple[str, ...]
    places: tuple[str, ...]
    strangers: tuple[str, ...]
    values: dict[tuple[str, str], str]

    @classmethod
    def from_seed(cls, seed: int = 0) -> "World":
        generator = random.Random(f"world {seed}")
        drawn = words.names(N_PEOPLE + N_PLACES + N_STRANGERS, generator)
        people = tuple(drawn[:N_PEOPLE])
        places = tuple(drawn[N_PEOPLE : N_PEOPLE + N_PLACES])
        strangers = tuple(drawn[N_PEOPLE + N_PLACES :])
        choices: dict[str, tuple[str, ...]] = {**words.VALUES, "home": places, "mayor": people}
        values = {}
        for entities, attributes in (
            (people, PERSON_ATTRIBUTES),
            (places, PLACE_ATTRIBUTES),
            (strangers, PERSON_ATTRIBUTES),
        ):
            for attribute in attributes:
                for entity, value in zip(entities, _spread(choices[attribute], len(entities), generator), strict=True):
                    values[entity, attribute] = value
        return cls(seed, people, places, strangers, values)

    def attributes_of(self, entity: str) -> tuple[str, ...]:
        return PLACE_ATTRIBUTES if entity in self.places else PERSON_ATTRIBUTES

    def fact(self, entity: str, attribute: str) -> Fact:
        return Fact(entity, attribute, self.values[entity, attribute])

    @property
    def facts(self) -> list[Fact]:
        """Stated facts: 200 entities, five each."""
        return [self.fact(e, a) for e in (*self.people, *self.places) for a in self.attributes_of(e)]

    @property
    def withheld_facts(self) -> list[Fact]:
        """The strangers' attributes: true, and never stated."""
        return [self.fact(e, a) for e in self.strangers for a in PERSON_ATTRIBUTES]

    def chain(self, entity: str, second: str, first: str) -> Fact:
        """The fact that two hops lead to."""
        return Fact(entity, f"{second} of the {first}", self.values[self.values[entity, first], second])

    def chains(self, *, stated: bool) -> list[Fact]:
        """Chains of the stated relations: those the corpus says, or the quarter it leaves out."""
        return [fact for fact in self._chains(CHAINS) if self._withheld(fact, CHAIN_PART) != stated]

    @property
    def withheld_chains(self) -> list[Fact]:
        """Chains of relations that the corpus never says as chains."""
        return list(self._chains(WITHHELD_CHAINS))

    def _chains(self, relations: tuple[tuple[str, str], ...]) -> Iterator[Fact]:
        for second, first in relations:
            for entity in self.people if first == "home" else self.places:
                yield self.chain(entity, second, first)

    def _withheld(self, fact: Fact, part: int) -> bool:
        return drawn(f"{self.seed} {fact.attribute} {fact.entity}", part)

    def is_withheld_pair(self, operation: str, a: int, b: int) -> bool:
        """Whether an operand pair, in either order, is left out of the corpus."""
        return drawn(f"{self.seed} {operation} {min(a, b)} {max(a, b)}", PAIR_PART)


def drawn(key: str, part: int) -> bool:
    """One in `part` keys, by hash: a draw that no other draw moves."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % part == 0


def _spread(choices: tuple[str, ...], n: int, generator: random.Random) -> list[str]:
    """`n` values, each choice as often as any other, in a random order."""
    rounds = [generator.sample(choices, len(choices)) for _ in range(-(-n // len(choices)))]
    values = [value for one in rounds for value in one][:n]
    generator.shuffle(values)
    return values
