"""Rows that hold conversations, as lists of messages: TRL's conversational forms, and ShareGPT's.

Whatever the form, a row becomes a `Conversation`, which is everything before the assistant's last message, and the text
of that message, which is the completion. A pair has one conversation and two such texts. No chat template is applied
here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aligner_probe.tasks import fields
from aligner_probe.tasks.chat import Conversation, Message, Role, check_turns
from aligner_probe.tasks.rows import (
    BadRow,
    Options,
    Row,
    Unusable,
    check_characters,
    content_in,
    json_type,
    new_example,
    new_preference,
    refuse_contradiction,
)
from aligner_probe.tasks.task import Example, Preference, as_read

#: Fields that hold a whole conversation with its answer. Only the first is TRL's, only the second ShareGPT's.
WHOLE = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue")
#: What tools call who speaks, in small letters. "developer" is what newer models of OpenAI call the system message.
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
}
TOOLS = frozenset((
    "tool", "tools", "tool_call", "tool_calls", "tool_response", "tool_result", "function", "function_call",
    "function_response", "observation", "ipython", "environment",
))  # fmt: skip
#: Fields of a message that a template may render, or that say how it is trained. None of them is honoured.
CALLS = frozenset(("tool_call", "tool_calls", "tool_call_id", "function_call", "tool_plan"))
THOUGHTS = frozenset(("reasoning", "reasoning_content", "thinking", "thoughts"))
TRAINED = frozenset(("train", "trained", "trainable", "training", "loss"))
#: The two names that a message's fields have: those of TRL, and those of ShareGPT.
SPEAKER, SAID = ("role", "from"), ("content", "value")
#: Parts of a message that are text, in the two notations of OpenAI.
TEXT_PARTS = ("text", "input_text", "output_text")


def is_listed(value: Any) -> bool:
    """Whether the value of a field is a list of messages, as far as its type says: a list of objects."""
    return isinstance(value, list) and all(isinstance(turn, dict) for turn in value)


def is_whole(value: Any) -> bool:
    """The same of a field that can hold nothing else; a table has such a list as JSON text."""
    return is_listed(value if not isinstance(value, str) else _from_text(value))


def _from_text(value: str) -> Any:
    """The list that a text of JSON holds; None where it holds none."""
    if not value.lstrip().startswith("["):
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def read_whole(row: Row, options: Options) -> Example:
    """An example from one list of messages, of which the last is the assistant's and is learned."""
    names = [name for name in WHOLE if row.get(name) is not None]
    if len(names) != 1:
        which = f"has {' and '.join(names)}" if names else f"has no list of messages in {WHOLE[0]}"
        raise BadRow(f"{which}; expected one conversation. {_leave_out(names[-1]) if names else 'Mend it'}")
    messages = _with_system(row, _messages_in(row, names[0]))
    prompt, completion = asked_and_answered(messages)
    _check_copy(row, prompt)
    return new_example(row, prompt, completion, content_in(row, options))


def read_completed(row: Row, options: Options) -> Example:
    """An example from a list of messages that is the prompt, and one that ends with the assistant's answer.

    The answer may also be the text alone, as in `Task.to_frame`.
    """
    prompt = _messages_in(row, "prompt")
    messages = _with_system(row, _joined(prompt, _answer_in(row, "completion")))
    return new_example(row, *asked_and_answered(messages), content_in(row, options))


def read_pair(row: Row, options: Options) -> Preference:
    """A preference from two lists of messages, which share everything but their last message.

    What they share is the prompt. It may also stand in a list of its own. A prompt that is a text is a copy of one of
    the user's messages, as in data sets of the alignment handbook.
    """
    refuse_contradiction(row)
    start = _messages_in(row, "prompt") if is_listed(row.get("prompt")) else []
    read = _answer_in if start else _messages_in
    both = [_with_system(row, _joined(start, read(row, name))) for name in ("chosen", "rejected")]
    (prompt, chosen), (other, rejected) = map(asked_and_answered, both)
    if prompt != other:
        raise Unusable("chosen and rejected do not share their prompt")
    if not start:
        _check_copy(row, prompt)
    _check_whole_copy(row, both[0])
    return new_preference(row, prompt, chosen, rejected)


def asked_and_answered(messages: Sequence[Message]) -> tuple[Conversation, str]:
    """The conversation before the assistant's last message, and the text of that message, which may be empty.

    Raises AlignerProbeError where the roles have another order or an earlier message is empty, and Unusable where
    nothing is answered.
    """
    if not messages:
        raise Unusable("the conversation has no messages")
    last = messages[-1]
    # An empty answer is told by `new_example`, as that of a text is.
    check_turns([*messages[:-1], last if last.content.strip() else replace(last, content="-")])
    if last.role != "assistant":
        raise Unusable(f"the conversation ends with a message of the {last.role}, so that it has no answer to learn")
    return Conversation(tuple(messages[:-1])), last.content


def unread_names(row: Row, lists: Sequence[str]) -> list[str]:
    """The fields of messages that are not read, for instance "messages.id"; `lists` are the fields of the messages."""
    values = ((name, row.get(name)) for name in lists)
    turns = ((name, turn) for name, value in values if isinstance(value, list) for turn in value)
    names = (f"{name}.{key}" for name, turn in turns if isinstance(turn, dict) for key in turn if key not in _READ)
    return list(dict.fromkeys(names))


_READ = {*SPEAKER, *SAID}


def _joined(start: list[Message], more: list[Message]) -> list[Message]:
    """A conversation and how it goes on, which may begin with the conversation once more if the user spoke last."""
    repeats = bool(start) and start[-1].role == "user" and more[: len(start)] == start
    return more if repeats else start + more


def _with_system(row: Row, messages: list[Message]) -> list[Message]:
    """Messages with the text of the row's own field for a system message at the start, if it has one."""
    system = system_in(row)
    if system is None:
        return messages
    if messages and messages[0].role == "system":
        if messages[0].content == system:
            return messages
        raise BadRow(
            "has a system message and another one in a field of its own; expected one. "
            f"{_leave_out(next(name for name in row if fields.normalised(name) in fields.SYSTEM))}"
        )
    return [Message("system", system), *messages]


def system_in(row: Row) -> str | None:
    """The text of the row's field for a system message (`fields.SYSTEM`); None where it has none, or an empty one."""
    named = {
        name: value
        for name, value in row.items()
        if fields.normalised(name) in fields.SYSTEM and not fields.is_empty(value)
    }
    for name, value in named.items():
        if not isinstance(value, str):
            raise BadRow(f"its {name} is a JSON {json_type(value)}; expected the text of the system message")
        check_characters(value, name)
    if len(set(named.values())) > 1:
        raise BadRow(f"has different texts in {' and '.join(named)}; expected one system message")
    return next(iter(named.values()), None)


def _check_copy(row: Row, prompt: Conversation) -> None:
    """Raise BadRow where a `prompt` beside a conversation is not the text of one of its user's messages."""
    said = row.get("prompt")
    if fields.is_empty(said):
        return
    users = {as_read(message.content) for message in prompt.messages if message.role == "user"}
    if not isinstance(said, str) or as_read(said) not in users:
        raise BadRow(
            "has a prompt that is none of the messages of the user; expected a conversation alone, or a prompt that "
            f"repeats one of its messages. {_leave_out('prompt')}"
        )


def _check_whole_copy(row: Row, chosen: list[Message]) -> None:
    """Raise BadRow where `messages` beside a pair are not the chosen conversation."""
    if not fields.is_empty(row.get("messages")) and _with_system(row, _messages_in(row, "messages")) != chosen:
        raise BadRow(
            f"has messages that are not its chosen conversation; expected a pair alone. {_leave_out('messages')}"
        )


def _leave_out(name: str) -> str:
    said = fields.consent(name)
    return said[0].upper() + said[1:]


def _answer_in(row: Row, name: str) -> list[Message]:
    """The messages of an answer to a list of messages; a text is what the assistant says."""
    value = row.get(name)
    if not isinstance(value, str):
        return _messages_in(row, name)
    check_characters(value, name)
    return [Message("assistant", value)]


def _messages_in(row: Row, name: str) -> list[Message]:
    value = row.get(name)
    turns = _from_text(value) if isinstance(value, str) and name in WHOLE else value
    if not isinstance(turns, list):
        raise BadRow(f"its {name} is a JSON {json_type(value)}; expected a list of messages, as in the rows before it")
    return [_message(turn, f"message {number} of its {name}") for number, turn in enumerate(turns, start=1)]


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRow(f"{where} is a JSON {json_type(turn)}; expected an object with role and content")
    speaker, said = (_one(turn, names, where) for names in (SPEAKER, SAID))
    role = _role(turn, speaker, where)
    _refuse_more(turn, where)
    if said not in turn:
        raise BadRow(f"{where} lacks {SAID[0]}, or {SAID[1]}; expected the text that is said")
    content = turn[said]
    if isinstance(content, list):
        content = " ".join(_part(part, where) for part in content)
    if content is None:
        content = ""
    if not isinstance(content, str):
        raise BadRow(f"the {said} of {where} is a JSON {json_type(content)}; expected text")
    check_characters(content, where)
    return Message(role, content)


def _one(turn: Mapping[str, Any], names: tuple[str, str], where: str) -> str:
    """Which of two names of the same field a message uses; the first where it uses none."""
    used = [name for name in names if turn.get(name) is not None]
    if len(used) > 1:
        raise BadRow(f"{where} has both {names[0]} and {names[1]}; expected one of them")
    return used[0] if used else next((name for name in names if name in turn), names[0])


def _role(turn: Mapping[str, Any], name: str, where: str) -> Role:
    value = turn.get(name)
    if value is None:
        raise BadRow(f"{where} lacks {SPEAKER[0]}, or {SPEAKER[1]}; expected who speaks: system, user or assistant")
    known = fields.normalised(value) if isinstance(value, str) else ""
    if known in TOOLS:
        raise BadRow(f"{where} is one of a tool ({fields.shown_name(value)}), {_NO_TOOLS}")
    if known not in ROLES:
        shown = fields.shown_name(value) if isinstance(value, str) else json_type(value)
        raise BadRow(f"{where} has the {name} {shown!r}; expected system, user or assistant, or human and gpt")
    return ROLES[known]


_NO_TOOLS = "which is not read; expected messages of system, user and assistant alone. Leave out conversations of tools"


def _refuse_more(turn: Mapping[str, Any], where: str) -> None:
    """Raise BadRow for a further field of a message that would change what is read or trained."""
    for name, value in turn.items():
        known = fields.normalised(name)
        # False and 0 say something here, which is empty elsewhere.
        if known in fields.WEIGHTS and fields.changes(value, 1.0):
            raise BadRow(f"{where} has the {name} {fields.shown(value)}, and every message counts once here")
        if known in TRAINED and fields.changes(value, 1.0):
            raise BadRow(f"{where} has {name} {fields.shown(value)}; which messages are trained is --train-on here")
        if fields.is_empty(value):
            continue
        if known in CALLS:
            raise BadRow(f"{where} has {name}, {_NO_TOOLS}")
        if known in fields.MEDIA:
            raise BadRow(f"{where} has {name}, which a model of texts cannot read; expected text alone")
        if known in THOUGHTS:
            raise BadRow(
                f"{where} has {name}, which chat templates render in their own ways and is not read; expected all that "
                "is said in one text"
            )
        if known in fields.MASKS:
            raise BadRow(f"{where} has {name}; which messages are trained is --train-on here")


def _part(part: Any, where: str) -> str:
    """The text of one part of a message. transformers joins such parts with a space."""
    if isinstance(part, Mapping) and part.get("type") in TEXT_PARTS and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, Mapping) else None
    what = f"a part of type {fields.shown_name(kind)}" if isinstance(kind, str) else f"a JSON {json_type(part)} as part"
    raise BadRow(f"{where} has {what}, which a model of texts cannot read; expected text alone")
