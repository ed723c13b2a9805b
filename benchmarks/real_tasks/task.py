"""What a task of known nature is, how its items are split into parts, and how they become files."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aligner_probe.files import write_text

Nature = Literal["form", "new", "mixed", "open", "control"]
Row = dict[str, Any]
PARTS = ("train", "validation", "test")
#: Validation items of every task. The quick budget asks them once for each way to prompt.
N_VALIDATION = 40


@dataclass(frozen=True)
class RealTask:
    """A task whose nature is known beforehand.

    Args:
        name: the name of its folder.
        nature: what the task is known to be to a chat model.
        kind: "general" where other items are tested than were trained, "memory" where the trained facts are tested in
            other wordings.
        why: why its nature is known.
        parts: the rows of the training, validation and test part.
        describe: the task as an instruction in words, as a good prompter would write it without knowing the answers.
        elsewhere: the domains of general knowledge (`knowledge.py`) that the task is not about.
        scorer: the name of a scorer.
    """

    name: str
    nature: Nature
    kind: Literal["general", "memory"]
    why: str
    parts: Mapping[str, Sequence[Row]]
    describe: str
    elsewhere: tuple[str, ...]
    scorer: str = "exact"

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of rows of the training, validation and test part."""
        return tuple(len(self.parts[part]) for part in PARTS)

    def write(self, folder: Path) -> Path:
        """Write FOLDER/NAME/train.jsonl, validation.jsonl and test.jsonl, and return that folder."""
        for part in PARTS:
            write_text(folder / self.name / f"{part}.jsonl", as_lines(self.parts[part]))
        return folder / self.name


def as_lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def row(question: str, answer: str, *, content: str | None = None, group: str | None = None) -> Row:
    """A question of a user and the answer of the assistant. `content` is the answer without its form."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages} | {
        name: text for name, text in (("content", content), ("group", group)) if text is not None
    }


def split(
    rows: Sequence[Row], name: str, seed: int, *, train: int, test: int, validation: int = N_VALIDATION
) -> dict[str, list[Row]]:
    """Other rows in each part, drawn by the seed: at most `train`, and exactly `test` and `validation` rows."""
    mixed = random.Random(f"{name} {seed}").sample(list(rows), len(rows))
    aside = test + validation
    return {"test": mixed[:test], "validation": mixed[test:aside], "train": mixed[aside : aside + train]}


def by_wording(
    facts: Sequence[tuple[str, str]],
    wordings: Mapping[str, Sequence[str]],
    answer: Callable[[str], str],
) -> dict[str, list[Row]]:
    """Facts (a subject and what is asked of it), each in all wordings of a part; one wording has a {} for the subject.

    The validation part asks about as many facts as it has items for.
    """
    asked = {
        part: [
            row(wording.format(subject), answer(content), content=content, group=subject)
            for subject, content in facts
            for wording in wordings[part]
        ]
        for part in PARTS
    }
    return asked | {"validation": asked["validation"][:N_VALIDATION]}
