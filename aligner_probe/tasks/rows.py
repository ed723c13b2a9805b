"""What every task format needs to read a row: texts, the prompt by a template, and examples with something to learn."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aligner_probe.tasks import fields
from aligner_probe.tasks.chat import Prompt
from aligner_probe.tasks.task import Example, Preference
from aligner_probe.tasks.templates import fields_of, render

Row = Mapping[str, Any]
Preferred = Literal["safer", "better"]


class BadRow(Exception):
    """A row that has not the form of the others: the file is refused."""


class Unusable(Exception):
    """A row of the right form that teaches nothing: refused, or dropped and counted, as asked for."""


@dataclass(frozen=True)
class Options:
    """What a format's `read` needs besides the row.

    A `template` of None means the format's own, and with `as_chat` none, since the chat template wraps the question.
    """

    template: str | None = None
    completion_field: str | None = None
    only_safe_chosen: bool = False
    prefer: Preferred | None = None
    as_chat: bool = False
    system: str | None = None

    def usual(self, template: str, bare: str) -> str:
        """The template of a format, or the fields alone that it wraps."""
        return bare if self.as_chat else template


def json_type(value: object) -> str:
    """What JSON calls it."""
    names = {str: "text", bool: "true or false", int: "number", float: "number", list: "list", dict: "object"}
    return names.get(type(value), "null")


def names_of(row: Row) -> str:
    """The names of a row's fields, for a message."""
    names = [fields.shown_name(name) for name in list(row)[:12]]
    return ", ".join(names) + (f", and {len(row) - 12} more" if len(row) > 12 else "") if names else "none"


def text_in(row: Row, name: str, *, numbers: bool = False) -> str:
    """The text of a field. Raises BadRow where it is none; a finite number counts as text if `numbers` is set."""
    value = row.get(name)
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise BadRow(f"its {name} is {value}, which is no number; expected text or a finite number")
        return str(value)
    if not isinstance(value, str):
        raise BadRow(f"its {name} is a JSON {json_type(value)}; expected text")
    check_characters(value, name)
    return value


def check_characters(text: str, name: str) -> None:
    """Raise BadRow for a text that cannot be written as UTF-8; `name` says where it stands."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow(f"has half a character in {name} (a lone surrogate such as \\ud83d); expected valid text") from (
            error
        )


def group_in(row: Row) -> str | None:
    """What the row is about; None where it does not say."""
    value = row.get("group")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    # An empty group is no group: else all rows without one would be a single one.
    return None if value is None else text_in(row, "group") or None


def content_in(row: Row, options: Options) -> str | None:
    """What the completion says without its form; a field of that name that is prompt or completion is none."""
    named = options.completion_field, *(fields_of(options.template) if options.template is not None else ())
    if row.get("content") is None or "content" in named:
        return None
    return text_in(row, "content", numbers=True) or None


def refuse_contradiction(row: Row) -> None:
    """Scores of the two answers are honoured: the chosen one must not be worse than the rejected one."""
    if (why := fields.contradiction(row)) is not None:
        raise Unusable(why)


def new_example(row: Row, prompt: Prompt, completion: str, content: str | None = None) -> Example:
    """An example. Raises Unusable where its completion is empty."""
    if not completion.strip():
        raise Unusable("the completion is empty")
    return Example(prompt, completion, group_in(row), content=content)


def new_preference(row: Row, prompt: Prompt, chosen: str, rejected: str) -> Preference:
    """A preference. Raises Unusable where its answers are equal, or one is empty."""
    if chosen == rejected:
        raise Unusable("chosen and rejected are equal")
    if not chosen.strip() or not rejected.strip():
        raise Unusable("the chosen or the rejected completion is empty")
    return Preference(prompt, chosen, rejected, group_in(row))


def prompt_of(row: Row, options: Options, own: str | None, values: Mapping[str, str] | None = None) -> str:
    """The prompt by the given template or the format's own; other fields of the row may be named too."""
    template = options.template if options.template is not None else own
    known = dict(values or {})
    if template is None:
        return known["prompt"] if "prompt" in known else text_in(row, "prompt")
    for name in fields_of(template):
        if name not in known:
            if name not in row:
                raise BadRow(f"lacks {name}, which the prompt template names; found {names_of(row)}")
            known[name] = text_in(row, name, numbers=True)
    return render(template, known)
