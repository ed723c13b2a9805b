"""Questions that several models are to answer, from a file: rows of JSONL, JSON, CSV or Parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.given_prompts import prompts_given
from aligner_probe.tasks.chat import Conversation, Prompt
from aligner_probe.tasks.sources import Source, open_source
from aligner_probe.tasks.templates import BARE_WITH_INPUT, fields_of, render

#: Fields that hold a question; the first that a row has is taken. Those of the Vicuna questions are among them.
ASKS = ("question", "prompt", "text", "instruction")
#: Alpaca's second field: what an instruction is about.
ABOUT = "input"
#: What FastChat's questions have instead: what the user says in each turn. The first turn is the question.
TURNS = "turns"
MESSAGES = "messages"
IDENTITY = ("question_id", "id")


@dataclass(frozen=True)
class Question:
    """A question as it is shown, and the prompt by which the base model is asked.

    `id` is the row's `question_id` or `id`, else its number from 1.
    """

    id: str
    text: str
    category: str
    prompt: Prompt


def read_questions(
    source: str, *, template: str | None = None, as_chat: bool = False, system: str | None = None
) -> list[Question]:
    """The questions of a file, or of "hub:NAME".

    Args:
        source: A file whose rows have a question (see `text_of`), or `messages` that end with a user's.
        template: A prompt template with field names in braces; the prompt is the question itself by default.
        as_chat: Ask each question as what a user says to a chat model.
        system: A system message for all questions that are asked so.

    Raises:
        AlignerProbeError: The file cannot be read, a row has no question, or two rows have one id.
    """
    if system is not None and not as_chat:
        raise AlignerProbeError("a system message is for questions that are asked as a chat; give --as-chat with it")
    if template is not None:
        fields_of(template)
    opened = open_source(source)
    questions = [_question(row, number, opened, template, as_chat, system) for number, row in opened.rows]
    if not questions:
        raise AlignerProbeError(f"{opened.said}: has no rows; expected at least one question")
    check_ids([question.id for question in questions], opened.said)
    return questions


def check_ids(ids: Sequence[str], source: str) -> None:
    """Raise AlignerProbeError where two questions of a source have one id."""
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise AlignerProbeError(f"{source}: the id {twice!r} stands twice; expected one row a question")


def first_of(row: dict[str, Any], names: Sequence[str]) -> Any:
    """The first of these members that a row has; None where it has none of them."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def text_of(row: dict[str, Any]) -> str | None:
    """The text of a row's question; None where it has none.

    It is the first text named in `ASKS`, an Alpaca instruction together with its input, or the first of FastChat's
    turns.
    """
    text = next((row[name] for name in ASKS if isinstance(row.get(name), str) and row[name].strip()), None)
    about, turns = row.get(ABOUT), row.get(TURNS)
    if text is not None and text == row.get("instruction") and isinstance(about, str) and about.strip():
        return render(BARE_WITH_INPUT, {"instruction": text, "input": about})
    if text is None and isinstance(turns, list) and turns and isinstance(turns[0], str) and turns[0].strip():
        return turns[0]
    return text


def _question(
    row: dict[str, Any], number: int, source: Source, template: str | None, as_chat: bool, system: str | None
) -> Question:
    named = first_of(row, IDENTITY)
    identity, category = str(number if named is None else named), str(row.get("category") or "")
    if isinstance(row.get(MESSAGES), list) and template is None:
        try:
            [prompt] = prompts_given(row[MESSAGES], f"{source.said}, {source.unit} {number}: {MESSAGES}")
        except (AlignerProbeError, ValueError) as error:
            raise source.error(number, f"{error}; expected messages that end with a user's") from error
        if not isinstance(prompt, Conversation):
            raise source.error(number, f"has no conversation in {MESSAGES}; expected roles and contents")
        return Question(identity, str(prompt), category, prompt)
    text = text_of(row)
    if text is None:
        raise source.error(
            number, f"has no text named {', '.join(ASKS)}, and no {TURNS} or {MESSAGES}; add one of them"
        )
    asked = text
    if template is not None:
        values = {name: value for name, value in row.items() if isinstance(value, str)}
        missing = [name for name in fields_of(template) if name not in values]
        if missing:
            raise source.error(number, f"has no text named {missing[0]}, which the prompt template asks for")
        asked = render(template, values)
    if not as_chat:
        return Question(identity, text, category, asked)
    first = [] if system is None else [{"role": "system", "content": system}]
    return Question(identity, text, category, Conversation([*first, {"role": "user", "content": asked}]))
