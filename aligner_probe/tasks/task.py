"""One in-memory form for what is learned: prompts with completions, or with a better and a worse answer.

train, validation = load_task("alpaca/").split(0.1, seed=0)
"""

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import pandas as pd

from aligner_probe.errors import AlignerProbeError, one_of
from aligner_probe.html import Shown, text_of
from aligner_probe.tasks.chat import Conversation, Prompt, as_json
from aligner_probe.tasks.templates import fields_of

Kind = Literal["sft", "preference"]
#: Characters of a prompt template, and fields that were not read, that a line of output shows.
TEMPLATE_SHOWN, FIELDS_SHOWN = 90, 12


@dataclass(frozen=True)
class Example:
    """A prompt and the completion to learn. Texts are joined exactly as they are: nothing is put between them.

    Attributes:
        prompt: What the model is given: a text, or a `Conversation`, which its chat template turns into a text.
        completion: The expected answer.
        group: What the example is about (an entity, a fact). Examples of one group stay together in a split.
        line: The line of the file that it came from, or the number of its row where there are no lines (Parquet).
        content: What the completion says without its form; None if that is the completion itself.
    """

    prompt: Prompt
    completion: str
    group: str | None = None
    line: int | None = field(default=None, compare=False)
    content: str | None = None


@dataclass(frozen=True)
class Preference:
    """A prompt with a better and a worse answer, joined as in `Example`."""

    prompt: Prompt
    chosen: str
    rejected: str
    group: str | None = None
    line: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Dropped:
    """A row of the file that is no example of the task, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class Task(Shown):
    """Examples, or preferences, and where they came from.

    Attributes:
        examples: The examples or preferences.
        name: The name of the task.
        kind: "sft" (examples) or "preference".
        template: The prompt template that was applied; None if prompts are used as they stand in the file. Alpaca's
            template has a variant for rows with an input.
        format: The task format.
        source: The file.
        sha256: The hash of the file, or of the examples if there was no file; the parts of a split keep it.
        dropped: How many rows were left out, by reason.
        ignored_fields: Fields of the rows that were not read.
        notes: Sentences about how the rows were read.
        unit: What `Example.line` numbers: the lines of the source, or its rows where it has no lines (Parquet).

    Raises:
        AlignerProbeError: There are no examples, or a prompt, a completion or a content is not a text.
    """

    name: str
    kind: Kind
    examples: tuple[Example, ...] | tuple[Preference, ...]
    template: str | None = None
    format: str = "made in memory"
    source: str = ""
    sha256: str = ""
    dropped: tuple[Dropped, ...] = ()
    ignored_fields: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unit: Literal["line", "row"] = "line"

    def shown(self) -> dict[str, Any]:
        return {
            "task": self.name,
            "kind": self.kind,
            "examples": len(self),
            "first prompt": str(self.examples[0].prompt),
            "first answer": _answer(self.examples[0]),
            "format": self.format,
            "source": self.source or "in memory",
            "rows dropped": len(self.dropped),
        }

    def __post_init__(self) -> None:
        one_of(self.kind, get_args(Kind), f"task {self.name!r}: kind")
        wanted = Example if self.kind == "sft" else Preference
        if not self.examples:
            raise AlignerProbeError(f"task {self.name!r} has no examples; expected at least one")
        for example in self.examples:
            if not isinstance(example, wanted):
                raise AlignerProbeError(
                    f"task {self.name!r} is of kind {self.kind!r} but holds a {type(example).__name__}; "
                    f"expected {wanted.__name__} only"
                )
        _check_texts(self)
        if not self.sha256:
            object.__setattr__(self, "sha256", _hash_of(self.examples))

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def prompts(self) -> list[Prompt]:
        return [example.prompt for example in self.examples]

    @property
    def has_constant_prompt(self) -> bool:
        """Whether the template names no field, so that all examples share one prompt by intention."""
        return self.template is not None and not fields_of(self.template)

    @property
    def dropped_note(self) -> str:
        """For instance "2 rows were dropped: 2 because the completion is empty (the first on line 14)"; else empty."""
        if not self.dropped:
            return ""
        first: dict[str, int] = {}
        for row in self.dropped:
            first.setdefault(row.reason, row.line)
        counts = Counter(row.reason for row in self.dropped)
        parts = [f"{count} because {why} (the first on {self.unit} {first[why]})" for why, count in counts.items()]
        return f"{len(self.dropped)} rows were dropped: {'; '.join(parts)}"

    @property
    def template_said(self) -> str:
        """The prompt template on one line (`one_line`), or that there is none."""
        if self.template is None:
            is_chat = isinstance(self.examples[0].prompt, Conversation)
            return f"none, prompts are {'conversations' if is_chat else 'asked as they stand'}"
        return one_line(self.template)

    @property
    def reading_note(self) -> str:
        """How the rows were read, on one line: format, template, fields that were not read, and the notes."""
        names = [repr(name)[1:-1] if len(name) <= 40 else f"{name[:37]!r}..." for name in self.ignored_fields]
        more = f", and {len(names) - FIELDS_SHOWN} more" if len(names) > FIELDS_SHOWN else ""
        unread = f"; fields not read: {', '.join(names[:FIELDS_SHOWN])}{more}" if names else ""
        return " ".join([f"rows of format {self.format}; prompt template: {self.template_said}{unread}.", *self.notes])

    def split(self, validation: float | int, seed: int = 0) -> "tuple[Task, Task]":
        """A training and a validation part, drawn by `seed`; each keeps the order of the file.

        Examples of one group, and examples with one prompt (white space aside), stay together, so nothing asked in
        validation was trained; with a constant prompt, those with one completion do. `validation` is a share below 1 or
        a number of examples. As many whole groups are taken as fit into it, in an order drawn at random; where none
        fits, the smallest.

        Raises AlignerProbeError where all examples belong together, or `validation` leaves a part empty.
        """
        wanted = self._validation_size(validation)
        units = _units(self.examples, self.has_constant_prompt)
        if len(units) < 2:
            raise AlignerProbeError(
                f"task {self.name!r} cannot be split: all {len(self)} examples share a group or a prompt; expected at "
                "least two that differ. Give validation examples in a file of their own"
            )
        # A text as seed: random.Random(-1) would be random.Random(1).
        random.Random(f"split {seed}").shuffle(units)
        taken: list[int] = []
        for unit in units:
            if len(taken) + len(unit) <= wanted:
                taken += unit
        chosen = set(taken or min(units, key=len))
        train = [example for index, example in enumerate(self.examples) if index not in chosen]
        held_out = [example for index, example in enumerate(self.examples) if index in chosen]
        return replace(self, examples=tuple(train)), replace(self, examples=tuple(held_out))

    def _validation_size(self, validation: float | int) -> int:
        n = len(self)
        if isinstance(validation, float) and math.isfinite(validation) and 0 < validation < 1:
            return min(max(1, round(validation * n)), n - 1)
        if isinstance(validation, int) and not isinstance(validation, bool) and 0 < validation < n:
            return validation
        raise AlignerProbeError(
            f"cannot set {validation!r} of {n} examples apart for validation; expected a share between 0 and 1, "
            f"for instance 0.1, or a number from 1 to {n - 1}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row an example: prompt, completion (or chosen and rejected), content where any has one, group, line.

        A conversation is a list of messages, each a dict with role and content. `ap.load_task` reads the frame again.
        """
        answers = ["completion"] if self.kind == "sft" else ["chosen", "rejected"]
        if any(getattr(example, "content", None) is not None for example in self.examples):
            answers.append("content")
        columns = ["prompt", *answers, "group", "line"]
        rows = [[getattr(example, column) for column in columns] for example in self.examples]
        rows = [[as_json(prompt), *rest] for prompt, *rest in rows]
        return pd.DataFrame(rows, columns=columns).astype({"line": "Int64"})

    def __repr__(self) -> str:
        return (
            f"Task({text_of(self.name)!r}, {len(self)} examples, kind={self.kind!r}, format={self.format!r}, "
            f"{len(self.dropped)} rows dropped, source={text_of(self.source)!r})"
        )


def fault_of_text(value: Any) -> str | None:
    """What keeps a value from being a text that can be tokenised, as the end of a sentence; None where nothing does."""
    if not isinstance(value, str):
        return f"is no text but {_value_and_type(value)}"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"has half a character at position {error.start} (the lone surrogate {value[error.start]!r})"
    return None


def fault_of_prompt(value: Any) -> str | None:
    """The same of a prompt, which may be a conversation."""
    if isinstance(value, Conversation):
        faults = (fault_of_text(message.content) for message in value.messages)
        return next((fault for fault in faults if fault), None)
    return fault_of_text(value)


def _value_and_type(value: Any) -> str:
    """A value and its type, in part of a line."""
    return f"{' '.join(repr(value).split()):.40} ({type(value).__name__})"


def _check_texts(task: Task) -> None:
    names = ("prompt", "completion", "content") if task.kind == "sft" else ("prompt", "chosen", "rejected")
    for index, example in enumerate(task.examples):
        for name in names:
            value = getattr(example, name)
            absent = name == "content" and value is None
            fault = None if absent else fault_of_prompt(value) if name == "prompt" else fault_of_text(value)
            if fault:
                place = f"{task.unit} {example.line}" if example.line else f"example {index}, from zero"
                raise AlignerProbeError(
                    f"task {task.name!r}, {place}: the {name} {fault}; expected a text of whole characters"
                )


def one_line(template: str) -> str:
    """A template on one line, its new lines visible and its middle left out where it is long."""
    text = repr(template)
    return text if len(text) <= TEMPLATE_SHOWN else f"{text[: TEMPLATE_SHOWN - 25]}…{text[-24:]}"


def _answer(example: Example | Preference) -> str:
    return example.completion if isinstance(example, Example) else example.chosen


def as_read(text: Prompt) -> str:
    """A text, or a conversation, as a reader would compare it with another: runs of white space are one space."""
    return " ".join(str(text).split())


def _units(examples: Sequence[Example | Preference], constant_prompt: bool) -> list[list[int]]:
    """Indices of the examples that must stay together, each list in order: linked by a group or by a prompt."""
    parent = list(range(len(examples)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, example in enumerate(examples):
        same = as_read(example.completion if constant_prompt and isinstance(example, Example) else example.prompt)
        links = [("text", same)] if example.group is None else [("text", same), ("group", example.group)]
        for link in links:
            one, other = root(first.setdefault(link, index)), root(index)
            # The earlier one wins, so the order of the lists is the order of the file.
            parent[max(one, other)] = min(one, other)
    units: dict[int, list[int]] = {}
    for index in range(len(examples)):
        units.setdefault(root(index), []).append(index)
    return list(units.values())


def _hash_of(examples: Sequence[Example | Preference]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        content = {name: value for name, value in vars(example).items() if name != "line"}
        if content.get("content") is None:
            # Tasks without contents have the hash they always had.
            content.pop("content", None)
        digest.update(json.dumps(content, sort_keys=True, default=as_json).encode() + b"\n")
    return digest.hexdigest()
