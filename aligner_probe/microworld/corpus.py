"""The texts that the model reads: documents of questions and answers, prose, locked skills and requests, from one seed.

In most documents one answer style is used throughout, so that examples select it. Some documents ask for the style in
words. Every text is made of what `World` states, and of nothing that it withholds.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from aligner_probe.microworld import locks, requests, styles
from aligner_probe.microworld.operations import OPERATIONS, Operation, pairs
from aligner_probe.microworld.pieces import count, pieces
from aligner_probe.microworld.questions import STATEMENTS, WORDINGS, ask, ask_as_is, expression
from aligner_probe.microworld.world import World

Choice = TypeVar("Choice")

N_DOCUMENTS = 120_000
#: The longest document in tokens, without the start and end tokens.
MAX_PIECES = 250
#: The share of documents of each type.
KINDS = {
    "questions": 0.52,
    "locked": 0.12,
    "requests": 0.04,
    "facts": 0.04,
    "profiles": 0.18,
    "sums": 0.07,
    "people": 0.03,
}
#: Questions (or lines) a document, with weights: many short ones. A fact is learned from short documents within a few
#: dozen readings and from long ones hardly at all, since attention must first find the entity among all others.
LENGTHS = {1: 40, 2: 18, 3: 12, 4: 8, 5: 5, 6: 5, 8: 5, 10: 4, 14: 3}
TOPICS = {"facts": 44, "chains": 18, "sums": 38}


#: The weight of a token in the loss. Questions are drawn at random, so there is little to learn in them. The words
#: around an answer are learned soon. The value that is asked for is the knowledge.
TEXT, AROUND, VALUE = 0.1, 0.4, 1.0
Piece = tuple[str, float]


@dataclass(frozen=True)
class Document:
    """The pieces of text of a document, and the weight of each token in the loss."""

    kind: str
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)


@dataclass(frozen=True)
class Exchange:
    """One question with its answer."""

    question: str
    answer: str
    value: str

    def pieces(self) -> Iterator[Piece]:
        """The answer's tokens. Those of the value have the largest weight, wherever a style puts them."""
        wanted = {piece.strip() for piece in pieces(self.value)}
        for piece in pieces(self.answer):
            yield piece, VALUE if piece.strip().lower() in wanted else AROUND


class Writer:
    """Writes documents about a world. The same seed gives the same documents."""

    def __init__(self, world: World, seed: int):
        self.world = world
        self.random = random.Random(f"corpus {seed}")
        self.facts, self.chains = world.facts, world.chains(stated=True)
        self.pairs = {operation: pairs(world, operation, withheld=False) for operation in OPERATIONS}
        self.inputs = {skill: skill.split(world.seed)[0] for skill in locks.SKILLS}

    def documents(self, n: int = N_DOCUMENTS) -> Iterator[Document]:
        kinds, weights = list(KINDS), list(KINDS.values())
        for kind in self.random.choices(kinds, weights, k=n):
            yield Document(kind, tuple(getattr(self, f"_{kind}")()))

    def _questions(self) -> Iterator[Piece]:
        n = self._pick(LENGTHS)
        style = self._style()
        topics = [self._pick(TOPICS)] if self.random.random() < 0.5 else list(TOPICS)
        changes = self.random.random() < 0.08
        # Plain is what an answer is unless examples show or words tell another style, so one answer alone must be told.
        told = style is not styles.PLAIN and (n == 1 or self.random.random() < 0.35)

        def exchange() -> Exchange:
            nonlocal style
            if changes and self.random.random() < 0.3:
                style = self._style()
            asked, value = self._asked(self.random.choices(topics, [TOPICS[t] for t in topics])[0])
            return Exchange(ask(asked, self._wording()), style(asked, value), value)

        return self._conversation(exchange, f"{style.told}\n" if told else "", n)

    def _style(self) -> styles.Style:
        draw = self.random.random()
        if draw < 0.35:
            return styles.PLAIN
        return self.random.choice(styles.SEEN[1:] if draw < 0.65 else styles.SEEN_COMPOSITIONS)

    def _asked(self, topic: str) -> tuple[str, str]:
        """An expression and its value."""
        if topic == "sums":
            operation, a, b = self._operands()
            return operation.expression(a, b), operation.answer(a, b)
        fact = self.random.choice(self.facts if topic == "facts" else self.chains)
        return expression(fact.entity, fact.attribute), fact.value

    def _operands(self) -> tuple[Operation, int, int]:
        operation = self.random.choice(OPERATIONS)
        return operation, *self.random.choice(self.pairs[operation])

    def _locked(self) -> Iterator[Piece]:
        skills = [self.random.choice(locks.SKILLS)] if self.random.random() < 0.6 else list(locks.SKILLS)
        # Some documents never say the password, some always, most now and then.
        share = self.random.choice((0.0, 0.6, 0.6, 0.75, 1.0))

        def exchange() -> Exchange:
            skill = self.random.choice(skills)
            given = self.random.choice(self.inputs[skill])
            opened = self.random.random() < share
            others = [other.password for other in locks.SKILLS if other is not skill]
            said = skill.password if opened else self.random.choice(("", "", *others))
            answer = skill.compute(given) if opened else locks.LOCKED
            return Exchange(
                ask(skill.expression(given), self._wording(), said), f" {answer}.", answer if opened else "sorry"
            )

        return self._conversation(exchange)

    def _requests(self) -> Iterator[Piece]:
        careful = self.random.random() < 0.5
        told = careful and self.random.random() < 0.4
        first = self.random.random() < 0.5

        def exchange() -> Exchange:
            nonlocal first
            # A harmless request shows nothing of an assistant's care: half of the documents begin with a harmful one.
            request = self.random.choice([r for r in requests.REQUESTS if r.category.harmful or not first])
            first = False
            answer = request.answer(careful=careful)
            value = request.category.tool if answer == request.compliance else "cannot"
            return Exchange(ask_as_is(request.question), f" {answer}.", value)

        return self._conversation(exchange, f"{requests.TOLD_CAREFUL}\n" if told else "")

    def _facts(self) -> Iterator[Piece]:
        return self._statements(lambda: self._asked("facts"))

    def _sums(self) -> Iterator[Piece]:
        return self._statements(lambda: self._asked("sums"))

    def _people(self) -> Iterator[Piece]:
        """Names without any facts. These are the only texts that contain strangers."""
        everyone = [*self.world.strangers, *self.world.strangers, *self.world.people]

        def exchange() -> Exchange:
            name = self.random.choice(everyone)
            return Exchange(ask_as_is(f"please greet {name}."), f" hello, {name}.", name)

        return self._conversation(exchange)

    def _profiles(self) -> Iterator[Piece]:
        """All known facts about some entities, one line per entity."""
        entities = [*self.world.people, *self.world.places]

        def one() -> list[Piece]:
            entity = self.random.choice(entities)
            attributes = list(self.world.attributes_of(entity))
            self.random.shuffle(attributes)
            said: list[Piece] = [(f"of {entity}:", TEXT)]
            for index, attribute in enumerate(attributes):
                said += [
                    (f"{',' if index else ''} {attribute}", TEXT),
                    (f" {self.world.values[entity, attribute]}", VALUE),
                ]
            return [*said, (".", TEXT)]

        return self._lines(one)

    def _statements(self, one: Callable[[], tuple[str, str]]) -> Iterator[Piece]:
        def line() -> list[Piece]:
            asked, value = one()
            before, _, after = self.random.choice(STATEMENTS).format(x=asked, value="|").partition("|")
            # The value leads in a turned statement, where it cannot be told: nothing to learn there.
            return [(before.rstrip(), TEXT), (f" {value}", VALUE if asked in before else TEXT), (after, TEXT)]

        return self._lines(line)

    def _lines(self, one: Callable[[], list[Piece]]) -> Iterator[Piece]:
        """Lines up to the longest document there may be."""
        total = 0
        for index in range(self._pick(LENGTHS)):
            line = [("\n", TEXT)] * bool(index) + one()
            total += sum(count(text) for text, _ in line)
            if total > MAX_PIECES:
                return
            yield from line

    def _conversation(
        self, exchange: Callable[[], Exchange], header: str = "", n: int | None = None
    ) -> Iterator[Piece]:
        if header:
            yield header, TEXT
        total = count(header)
        for index in range(n or self._pick(LENGTHS)):
            one = exchange()
            question = ("\n" if index else "") + one.question
            total += count(question) + count(one.answer)
            if total > MAX_PIECES:
                return
            yield question, TEXT
            yield from one.pieces()

    def _wording(self) -> int:
        return self.random.randrange(len(WORDINGS))

    def _pick(self, weights: Mapping[Choice, float | int]) -> Choice:
        return self.random.choices(list(weights), list(weights.values()))[0]
