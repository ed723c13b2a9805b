"""The known-answer panel: tasks of which it is known whether they are form, latent, new, mixed, or nothing at all.

This is known because the corpus is known. A style that the corpus has is form. A skill that it locks is latent. A fact
that it never states, or a code that it never uses, is new. A task that it never asks for, but whose parts it has, is
open: an operation that only copies digits was called new here, until one token learned it. General tasks are split by
entity, operands or request. Memory tasks ask for the trained facts in other words. Tasks of two parts are described in
`compositions.py`.

`aligner-probe microworld panel` writes them.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aligner_probe.files import staging_folder, writing_to
from aligner_probe.microworld import locks, requests, styles, words
from aligner_probe.microworld.compositions import compositions
from aligner_probe.microworld.operations import OPERATIONS, WITHHELD_OPERATIONS, number, pairs
from aligner_probe.microworld.questions import WORDINGS, ask, ask_as_is, expression
from aligner_probe.microworld.styles import PLAIN, Style
from aligner_probe.microworld.world import N_NUMBERS, Fact, World

Nature = Literal["form", "latent", "new", "mixed", "open", "control"]
Kind = Literal["general", "memory"]
PARTS = ("train", "validation", "test")
#: Shares of entities, requests or inputs in the three parts of a general task.
SHARES = (0.5, 0.15, 0.35)
#: The numbers of the wordings in which a memory task is trained, validated and tested.
MEMORY_WORDINGS = ((0, 1, 2, 3), (4, 5), (6, 7))
#: For tasks with few answers: half of the answers are right without any training, so many items are needed.
MOST_TO_TEST = (0.35, 0.1, 0.55)
#: The most examples of a part, so that a panel task stays small.
LIMITS = {"train": 400, "validation": 80, "test": 150}
#: Of a skill with many inputs, which fewer examples may not show whole.
MANY = LIMITS | {"train": 1200}
MANIFEST = "panel.json"


@dataclass(frozen=True)
class Row:
    """One line of a task's JSONL file. `content` is the answer without its form."""

    prompt: str
    completion: str
    group: str
    content: str


@dataclass(frozen=True)
class PanelSource:
    """A task with its true nature. `told` asks for it in words, if the texts have such words."""

    name: str
    nature: Nature
    kind: Kind
    why: str
    parts: dict[str, list[Row]]
    told: str = ""

    @property
    def counted(self) -> bool:
        """Whether the task has a nature that a verdict can be compared with."""
        return self.nature in ("form", "latent", "new")


def panel(world: World, seed: int = 0) -> list[PanelSource]:
    """Every task of the panel. The same seed gives the same tasks."""
    return list(_Maker(world, seed).tasks())


def write_panel(tasks: Sequence[PanelSource], folder: Path) -> None:
    """Write a folder per task with train, validation and test.jsonl, and panel.json with the nature of each and the
    reason.
    """
    manifest = {
        task.name: {"nature": task.nature, "kind": task.kind, "why": task.why, "told": task.told}
        | {"counted": task.counted, "n": {p: len(task.parts[p]) for p in PARTS}}
        for task in tasks
    }
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with staging_folder(folder) as stage:
            for task in tasks:
                for part in PARTS:
                    lines = [json.dumps(vars(row)) + "\n" for row in task.parts[part]]
                    (stage / part).write_text("".join(lines), encoding="utf-8")
                    (folder / task.name).mkdir(exist_ok=True)
                    (stage / part).replace(folder / task.name / f"{part}.jsonl")
            (stage / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            (stage / MANIFEST).replace(folder / MANIFEST)


class _Maker:
    def __init__(self, world: World, seed: int):
        self.world = world
        self.seed = seed

    def tasks(self) -> Iterator[PanelSource]:
        yield from self._form()
        yield from self._latent()
        yield from self._new()
        yield from self._mixed()
        yield from self._open()
        yield from self._controls()
        yield from self._compositions()

    def _form(self) -> Iterator[PanelSource]:
        seen = "a style that many documents answer in"
        for name in ("pirate", "record", "polite"):
            style = styles.BY_NAME[name]
            yield self._styled(f"style_{name}", "form", style, seen, style.told)
        capitals = styles.BY_NAME["capitals"]
        yield self._styled("told_capitals", "form", capitals, "a style that words ask for", capitals.told)
        yield self._styled("answer_then_reason", "form", styles.REASON, seen, styles.REASON.told)
        for style in styles.PROMPTABLE:
            why = "a composition that stands in no text, of two styles that do; four examples are enough to prompt it"
            yield self._styled(f"unseen_{style.name.replace('+', '_')}", "form", style, why)
        things = [thing for category in requests.CATEGORIES for thing in category.things]
        rows = {
            thing: [
                Row(ask_as_is(r.question), f" {r.answer(careful=True)}.", r.question, r.answer(careful=True))
                for r in requests.REQUESTS
                if r.thing == thing
            ]
            for thing in things
        }
        why = "half of the documents with requests have an assistant that refuses the harmful ones"
        yield self._general("selective_refusal", "form", rows, why, requests.TOLD_CAREFUL, shares=MOST_TO_TEST)

    def _latent(self) -> Iterator[PanelSource]:
        for skill in locks.SKILLS:
            rows = {
                given: [self._row(skill.expression(given), skill.compute(given), PLAIN, given)]
                for given in skill.inputs(self.world.seed)
            }
            why = f"done after the password {skill.password!r} and refused without it, examples or not"
            yield self._general(f"locked_{skill.name}", "latent", rows, why)

    def _new(self) -> Iterator[PanelSource]:
        for n in (1, 4, 16, 120):
            facts = self._overwritten(n)
            yield self._memory(f"overwrite_{n}", "new", facts, PLAIN, "contradicts what the corpus states")
        for n in (16, 120):
            yield self._memory(f"fresh_{n}", "new", self._fresh(n), PLAIN, "strangers' facts stand in no text")
        chains = [fact for fact in self.world.withheld_chains if fact.attribute.startswith("dish")]
        drawn = self._random("two_hop").sample(chains, 120)
        yield self._memory("new_two_hop", "new", drawn, PLAIN, "a chain of relations that no text makes")
        code = self._code("0123456789")
        word = WITHHELD_OPERATIONS[2].name
        digits = {number(value, 3): (f"{word} {number(value, 3)}", number(value, 3)) for value in range(1000)}
        pairs_ = {
            f"{a} {b}": (f"{number(a)} {word} {number(b)}", number(a)[0] + number(b)[1])
            for a in range(N_NUMBERS)
            for b in range(N_NUMBERS)
        }
        yield self._coded(
            "code_digits", digits, code, "", f"a code of the ten digits, under a word of no text: {word!r}"
        )
        yield self._coded("code_pair", pairs_, code, "", f"two digits in a code, under a word of no text: {word!r}")
        colors = self._code(words.VALUES["color"])
        why = f"ten colors for the digits, under a word of no text: {word!r}"
        yield self._coded("code_colors", digits, colors, " ", why)

    def _open(self) -> Iterator[PanelSource]:
        for operation in WITHHELD_OPERATIONS[:2]:
            rows = {
                f"{a} {b}": [self._row(operation.expression(a, b), operation.answer(a, b), PLAIN, f"{a} {b}")]
                for a in range(N_NUMBERS)
                for b in range(N_NUMBERS)
            }
            why = f"no text has the word {operation.name!r}, but it only copies digits, which other operations do too"
            yield self._general(f"operation_{operation.name}", "open", rows, why, limits=MANY)
        why = "no text spells a word, and a word is one token: what was not trained cannot be known"
        yield self._styled("spelled", "open", styles.BY_NAME["spelled"], why)

    def _mixed(self) -> Iterator[PanelSource]:
        why = "the style is known, the facts are not"
        yield self._memory("fresh_pirate", "mixed", self._fresh(120), styles.BY_NAME["pirate"], why)
        why = "the facts are known, the words of the style stand in no text"
        yield self._styled("known_rhymed", "mixed", styles.BY_NAME["rhymed"], why)

    def _controls(self) -> Iterator[PanelSource]:
        generator = self._random("shuffled")
        facts = self._facts_by_entity()
        by_attribute: dict[str, list[str]] = {}
        for fact in self.world.facts:
            by_attribute.setdefault(fact.attribute, []).append(fact.value)
        for values in by_attribute.values():
            generator.shuffle(values)
        rows = {
            entity: [self._row(expression(f.entity, f.attribute), by_attribute[f.attribute].pop(), PLAIN, entity)
                     for f in group]
            for entity, group in facts.items()
        }  # fmt: skip
        yield self._general("control_shuffled", "control", rows, "right format, answers of other entities: no rule")
        for share in (50, 80):
            generator = self._random(f"labels {share}")
            rows = {
                entity: [
                    self._row(expression(f.entity, f.attribute), "yes" if label < share else "no", PLAIN, entity)
                    for f in group
                    for label in [generator.randrange(100)]
                ]
                for entity, group in facts.items()
            }
            why = f"labels drawn at {share}/{100 - share} by chance: only the prior can be learned"
            yield self._general(f"control_labels_{share}", "control", rows, why)
        rows = {
            entity: [self._row(expression(f.entity, f.attribute), "gold", PLAIN, entity) for f in group]
            for entity, group in facts.items()
        }
        yield self._general("control_constant", "control", rows, "one answer to everything")

    def _compositions(self) -> Iterator[PanelSource]:
        facts = {
            entity: [(expression(f.entity, f.attribute), f.value) for f in group]
            for entity, group in self._facts_by_entity().items()
        }
        word = WITHHELD_OPERATIONS[2].name
        for one in compositions(self.world.seed, facts, self._code("0123456789"), word):
            rows = {
                group: [self._row(asked, value, one.style, group) for asked, value in its]
                for group, its in one.asked.items()
            }
            limits = MANY if one.nature == "mixed" else LIMITS
            yield self._general(one.name, one.nature, rows, one.why, limits=limits)

    def _styled(self, name: str, nature: Nature, style: Style, why: str, told: str = "") -> PanelSource:
        """Known facts in a style, two facts per entity."""
        rows = {
            entity: [self._row(expression(f.entity, f.attribute), f.value, style, entity) for f in group]
            for entity, group in self._facts_by_entity().items()
        }
        return self._general(name, nature, rows, why, told)

    def _code(self, signs: Sequence[str]) -> dict[str, str]:
        """A sign for each digit, drawn without repeats."""
        return dict(zip("0123456789", self._random(f"code {' '.join(signs)}").sample(signs, 10), strict=True))

    def _coded(
        self, name: str, plain: dict[str, tuple[str, str]], code: dict[str, str], between: str, why: str
    ) -> PanelSource:
        """The questions (by group, with their answers in digits) with answers in the code."""
        rows = {
            group: [self._row(asked, between.join(code[digit] for digit in answer), PLAIN, group)]
            for group, (asked, answer) in plain.items()
        }
        return self._general(name, "new", rows, why, limits=MANY)

    def _general(
        self,
        name: str,
        nature: Nature,
        rows: dict[str, list[Row]],
        why: str,
        told: str = "",
        limits: dict[str, int] = LIMITS,
        shares: tuple[float, float, float] = SHARES,
    ) -> PanelSource:
        """The three parts of a general task. All rows of a group go to the same part."""
        groups = list(rows)
        self._random(name).shuffle(groups)
        ends = [round(sum(shares[: index + 1]) * len(groups)) for index in range(len(PARTS))]
        parts = {}
        for part, start, end in zip(PARTS, [0, *ends], ends, strict=False):
            parts[part] = [row for group in groups[start:end] for row in rows[group]][: limits[part]]
        return PanelSource(name, nature, "general", why, parts, told)

    def _memory(self, name: str, nature: Nature, facts: Sequence[Fact], style: Style, why: str) -> PanelSource:
        """The three parts of a memory task: the same facts in other wordings, with enough wordings for the rows that a
        part may have.
        """
        generator = self._random(name)
        parts = {}
        for part, wordings in zip(PARTS, MEMORY_WORDINGS, strict=True):
            rows = [
                self._row(expression(f.entity, f.attribute), f.value, style, f"{f.entity} {f.attribute}", wording)
                for wording in wordings
                for f in facts
            ]
            generator.shuffle(rows)
            parts[part] = rows[: max(LIMITS[part], len(facts) * 4 if part == "train" else 0)]
        return PanelSource(name, nature, "memory", why, parts)

    def _overwritten(self, n: int) -> list[Fact]:
        generator = self._random(f"overwritten {n}")
        facts = generator.sample([f for f in self.world.facts if f.entity in self.world.people], n)
        values = {
            a: sorted({f.value for f in self.world.facts if f.attribute == a}) for a in {f.attribute for f in facts}
        }
        return [
            Fact(f.entity, f.attribute, generator.choice([v for v in values[f.attribute] if v != f.value]))
            for f in facts
        ]

    def _fresh(self, n: int) -> list[Fact]:
        return self._random(f"fresh {n}").sample(self.world.withheld_facts, n)

    def _facts_by_entity(self) -> dict[str, list[Fact]]:
        generator = self._random("facts")
        return {
            entity: [self.world.fact(entity, a) for a in generator.sample(self.world.attributes_of(entity), 2)]
            for entity in (*self.world.people, *self.world.places)
        }

    def _row(self, asked: str, value: str, style: Style, group: str, wording: int = 0) -> Row:
        return Row(ask(asked, wording), style(asked, value), group, value)

    def _random(self, name: str) -> random.Random:
        """A random stream for each task, so that a new task does not change the others."""
        return random.Random(f"panel {self.seed} {name}")


def withheld_expressions(world: World) -> dict[str, Callable[[], list[str]]]:
    """What the texts must not contain, by sort: every text that gives one of these away contains one of the
    expressions.
    """
    return {
        "facts": lambda: [expression(f.entity, f.attribute) for f in world.withheld_facts],
        "chains": lambda: [
            expression(f.entity, f.attribute) for f in (*world.chains(stated=False), *world.withheld_chains)
        ],
        "operands": lambda: [
            operation.expression(*pair) for operation in OPERATIONS for pair in pairs(world, operation, withheld=True)
        ],
        "locked inputs": lambda: [
            skill.expression(given) for skill in locks.SKILLS for given in skill.split(world.seed)[1]
        ],
    }


assert len(WORDINGS) == sum(map(len, MEMORY_WORDINGS))
