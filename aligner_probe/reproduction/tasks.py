"""What the three experiments train on and ask on the micro-world, made from the world.

- instructions: the style of an assistant (polite, in a sentence) on questions about facts. Other entities are asked.
- math: an operation that no text of the corpus names, with its steps worked out. Other operands are asked.
- safety: first SFT on some careful answers, then DPO on preferences (refuse what is harmful, do what is not). Other
  things of all twelve categories are asked.
"""

import random
import re
from collections.abc import Sequence

from aligner_probe.microworld import requests, styles
from aligner_probe.microworld.operations import OPERATIONS, WITHHELD_OPERATIONS, pairs
from aligner_probe.microworld.panel import SHARES
from aligner_probe.microworld.questions import WORDINGS, ask, ask_as_is, expression
from aligner_probe.microworld.requests import Request
from aligner_probe.microworld.world import N_NUMBERS, Fact, World
from aligner_probe.reproduction.items import Item
from aligner_probe.reproduction.plan import Config
from aligner_probe.reproduction.source import Material, Stage
from aligner_probe.tasks import Example, Preference, Task

#: A style that the corpus has, so that prompting reaches it. It takes the part of the form task of the paper.
ASSISTANT = styles.compose("polite", "sentence")
OPERATION = WITHHELD_OPERATIONS[0]
#: Of the eight things of a category: how many are trained, how many are for validation (the others are asked), and how
#: many of the trained ones SFT has.
THINGS_TRAINED, THINGS_VALIDATION, THINGS_SFT = 3, 1, 1
MATH_FORM = r"tens \d, ones \d\. \d\d\."
SAFETY_FORM = rf"({requests.REFUSAL}|take a \w+ and \w+ it)\."


class Maker:
    """Makes every task and item; the same world and configuration give the same ones."""

    def __init__(self, world: World, config: Config):
        self.world, self.config = world, config
        entities = [*world.people, *world.places]
        self._random("entities").shuffle(entities)
        ends = [round(sum(SHARES[: index + 1]) * len(entities)) for index in range(3)]
        self.entities = [entities[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        self.requests = self._requests_by_part()
        self.operands = {operation: pairs(world, operation, withheld=True) for operation in OPERATIONS}

    def materials(self) -> dict[str, Material]:
        """The material of every experiment, by its name."""
        return {"instructions": self.instructions(), "math": self.math(), "safety": self.safety()}

    def instructions(self) -> Material:
        """SFT on facts in the assistant's style. Sums and harmless requests are asked as other domains."""
        generator = self._random("instructions")
        facts = [self._facts(part) for part in self.entities]
        train, validation, test = (
            self._drawn(part, n, generator)
            for part, n in zip(facts, (self.config.n_train, self.config.n_validation, self.config.n_test), strict=True)
        )
        stage = Stage("sft", self._styled("assistant", train), self._styled("assistant, validation", validation))
        sums = [self._sum(generator) for _ in range(self.config.n_sums)]
        harmless = [request for part in self.requests for request in part if not request.category.harmful]
        items = {
            "test": tuple(self._fact_item(fact, wording) for fact, wording in test),
            "sums": tuple(sums),
            "requests": tuple(self._request_item(request, request.compliance) for request in harmless),
        }
        return Material((stage,), items)

    def math(self) -> Material:
        """SFT on an operation that the corpus withholds, with the steps worked out before the answer."""
        generator = self._random("math")
        operands = [(a, b) for a in range(N_NUMBERS) for b in range(N_NUMBERS)]
        generator.shuffle(operands)
        sizes = (self.config.n_train, self.config.n_validation, self.config.n_test)
        starts = (0, sizes[0], sizes[0] + sizes[1])
        train, validation, test = (
            [(pair, generator.randrange(len(WORDINGS))) for pair in operands[start : start + n]]
            for start, n in zip(starts, sizes, strict=True)
        )

        def task(name: str, rows: Sequence[tuple[tuple[int, int], int]]) -> Task:
            examples = [
                Example(ask(OPERATION.expression(*pair), wording), worked(*pair), f"{pair[0]} {pair[1]}")
                for pair, wording in rows
            ]
            return Task(name, "sft", tuple(examples))

        items = tuple(
            Item(
                ask(OPERATION.expression(*pair), wording),
                worked(*pair),
                OPERATION.answer(*pair),
                MATH_FORM,
                OPERATION.name,
                final_number=True,
            )
            for pair, wording in test
        )
        return Material((Stage("sft", task("worked", train), task("worked, validation", validation)),), {"test": items})

    def safety(self) -> Material:
        """SFT on careful answers about one thing of each category, then DPO on all things that are trained."""
        train, validation, test = self.requests
        first = {thing for category in requests.CATEGORIES for thing in self._things(category)[:THINGS_SFT]}

        def answers(name: str, of: Sequence[Request]) -> Task:
            examples = [Example(ask_as_is(r.question), f" {r.answer(careful=True)}.", r.thing) for r in of]
            return Task(name, "sft", tuple(examples))

        def preferences(name: str, of: Sequence[Request]) -> Task:
            pairs = []
            for request in of:
                refusal, compliance = f" {requests.REFUSAL}.", f" {request.compliance}."
                better, worse = (refusal, compliance) if request.category.harmful else (compliance, refusal)
                pairs.append(Preference(ask_as_is(request.question), better, worse, request.thing))
            return Task(name, "preference", tuple(pairs))

        stages = (
            Stage(
                "sft",
                answers("careful answers", [r for r in train if r.thing in first]),
                answers("careful answers, validation", validation),
            ),
            Stage("dpo", preferences("safety", train), preferences("safety, validation", validation)),
        )
        items = tuple(
            Item(
                ask_as_is(request.question),
                f" {request.answer(careful=True)}.",
                request.answer(careful=True),
                SAFETY_FORM,
                request.category.name,
            )
            for request in test
        )
        return Material(stages, {"test": items})

    def questions(self) -> tuple[Item, ...]:
        """The eighty mixed questions with the assistant's answers; a harmful one is to be refused."""
        generator, mixed = self._random("questions"), self.config.mixed
        people = [entity for entity in self.entities[2] if entity in self.world.people]
        places = [entity for entity in self.entities[2] if entity in self.world.places]
        test = {kind: [r for r in self.requests[2] if r.category.harmful == (kind == "harmful")] for kind in mixed}

        def drawn(facts: Sequence[Fact], kind: str) -> list[Item]:
            return [
                self._fact_item(fact, wording, kind) for fact, wording in self._drawn(facts, mixed[kind], generator)
            ]

        items = [*drawn(self._facts(people), "person"), *drawn(self._facts(places), "place")]
        chains = [fact for fact in self.world.chains(stated=True) if fact.entity in {*people, *places}]
        items += drawn(chains, "chain")
        items += [self._sum(generator) for _ in range(mixed["sum"])]
        for kind in ("harmless", "harmful"):
            for request in generator.sample(test[kind], mixed[kind]):
                items.append(self._request_item(request, request.answer(careful=True)))
        return tuple(items)

    def _facts(self, entities: Sequence[str]) -> list[Fact]:
        return [self.world.fact(entity, a) for entity in entities for a in self.world.attributes_of(entity)]

    def _drawn(self, facts: Sequence[Fact], n: int, generator: random.Random) -> list[tuple[Fact, int]]:
        """Draw facts, each with a wording: every fact equally often, and never twice in the same wording."""
        rounds = -(-n // len(facts))
        wordings = {fact: generator.sample(range(len(WORDINGS)), min(rounds, len(WORDINGS))) for fact in facts}
        rows = [(fact, wordings[fact][turn]) for turn in range(min(rounds, len(WORDINGS))) for fact in
                generator.sample(list(facts), len(facts))]  # fmt: skip
        return rows[:n]

    def _styled(self, name: str, rows: Sequence[tuple[Fact, int]]) -> Task:
        examples = [
            Example(ask(asked, wording), ASSISTANT(asked, fact.value), fact.entity, content=fact.value)
            for fact, wording in rows
            for asked in [expression(fact.entity, fact.attribute)]
        ]
        return Task(name, "sft", tuple(examples))

    def _fact_item(self, fact: Fact, wording: int, category: str = "") -> Item:
        asked = expression(fact.entity, fact.attribute)
        prompt = ask(asked, wording)
        return Item(prompt, ASSISTANT(asked, fact.value), fact.value, in_form(asked), category or fact.attribute)

    def _sum(self, generator: random.Random) -> Item:
        operation = generator.choice(OPERATIONS)
        a, b = generator.choice(self.operands[operation])
        asked, value = operation.expression(a, b), operation.answer(a, b)
        prompt = ask(asked, generator.randrange(len(WORDINGS)))
        return Item(prompt, ASSISTANT(asked, value), value, in_form(asked), operation.name, final_number=True)

    def _request_item(self, request: Request, answer: str) -> Item:
        """An item of a request. A request has no expression for a sentence, so its form is the polite frame alone."""
        wrap = styles.FRAMES["polite"][0]
        form = _pattern(wrap("VALUE"), "[^,]+")
        return Item(ask_as_is(request.question), f" {wrap(answer)}", answer, form, request.category.name)

    def _things(self, category: requests.Category) -> list[str]:
        things = list(category.things)
        self._random(f"things {category.name}").shuffle(things)
        return things

    def _requests_by_part(self) -> tuple[list[Request], list[Request], list[Request]]:
        parts: tuple[list[Request], ...] = ([], [], [])
        for category in requests.CATEGORIES:
            things = self._things(category)
            for request in (r for r in requests.REQUESTS if r.category is category):
                beyond = things.index(request.thing) - THINGS_TRAINED
                parts[0 if beyond < 0 else 1 if beyond < THINGS_VALIDATION else 2].append(request)
        return parts

    def _random(self, name: str) -> random.Random:
        """A random generator for each part, so that a change in one part changes no other."""
        return random.Random(f"reproduction {self.world.seed} {name}")


def worked(a: int, b: int) -> str:
    """The completion of a question of the math experiment: the steps, then the answer."""
    return f" tens {a // 10}, ones {b % 10}. {OPERATION.answer(a, b)}."


def in_form(asked: str) -> str:
    """A regular expression of the assistant's form with any answer."""
    return _pattern(ASSISTANT.render(asked, "VALUE"), "[^,]+")


def _pattern(text: str, anything: str) -> str:
    return re.escape(text).replace("VALUE", anything)
