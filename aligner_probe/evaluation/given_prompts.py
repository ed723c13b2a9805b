"""Prompts as users give them: texts, conversations, or messages as dicts with a role and a content."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from aligner_probe.arguments import described, is_several, texts
from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks.chat import Conversation, Message, Prompt, Role


def prompts_given(value: Any, where: str) -> list[Prompt | Any]:
    """The prompts that were given: a task's, one text or several, one conversation or several.

    A conversation is also a list of dicts, as transformers take it. Items that are neither text nor conversation stay
    as they are: the function that works on them names a wrong one by its index. Raises AlignerProbeError for messages
    that are no conversation.
    """
    if isinstance(value, Conversation):
        return [value]
    if _are_messages(value):
        return [_conversation(value, where)]
    return [
        _conversation(one, f"{where} prompt {index}, from zero") if _are_messages(one) else one
        for index, one in enumerate(texts(value, where))
    ]


def _are_messages(value: Any) -> bool:
    """Whether a value is a list of dicts or messages."""
    if isinstance(value, Conversation) or not is_several(value) or not isinstance(value, Sequence):
        return False
    return bool(value) and all(isinstance(one, Mapping | Message) for one in value)


def _conversation(messages: Sequence[Mapping[str, Any] | Message], where: str) -> Conversation:
    made = []
    for index, message in enumerate(messages):
        if isinstance(message, Message):
            made.append(message)
            continue
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            wrong = "role" if not isinstance(role, str) else "content"
            raise AlignerProbeError(
                f"{where}: message {index + 1} has as its {wrong} {described(message.get(wrong))}; expected texts: "
                '{"role": "user", "content": "…"}'
            )
        if role not in get_args(Role):
            raise AlignerProbeError(
                f"{where}: message {index + 1} has the role {role!r}; expected one of {', '.join(get_args(Role))}"
            )
        made.append(Message(role, content))  # pyright: ignore[reportArgumentType]
    try:
        return Conversation(tuple(made))
    except AlignerProbeError as error:
        raise AlignerProbeError(f"{where}: {error}") from error
