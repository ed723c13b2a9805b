"""Conversations: a prompt that is a list of messages instead of one text.

A conversation is kept as messages until it is tokenised. Only then the chat template of the base model's tokenizer
turns it into text, so that one file serves every chat model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from aligner_probe.arguments import accepts
from aligner_probe.errors import AlignerProbeError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: Who speaks: "system", "user" or "assistant".
        content: The text.
    """

    role: Role
    content: str


@accepts()
@dataclass(frozen=True, init=False)
class Conversation:
    """The messages before an answer: at most one system message, then user and assistant in turn, a user's at the end.

    `str(conversation)` is a text for readers and for comparing prompts: the content alone where there is one message,
    otherwise a line for each message that begins with its role. It is not what the base model sees.

    Attributes:
        messages: The messages, the earliest first. They may be given as dicts with `role` and `content`.

    Raises:
        AlignerProbeError: The roles have another order, or a message is empty or no text.
    """

    messages: tuple[Message, ...]

    def __init__(self, messages: Sequence[Any]) -> None:
        if isinstance(messages, str):
            raise AlignerProbeError(
                f"a conversation is the text {messages!r:.40}; expected a list of messages, for instance "
                'ap.Conversation([{"role": "user", "content": "Name a pet."}])'
            )
        object.__setattr__(self, "messages", tuple(map(_as_message, messages)))
        check_turns(self.messages)
        if not self.messages or self.messages[-1].role != "user":
            last = f"ends with a message of the {self.messages[-1].role}" if self.messages else "has no messages"
            raise AlignerProbeError(f"the conversation {last}; expected a user's message at the end, to be answered")

    def __str__(self) -> str:
        if len(self.messages) == 1:
            return self.messages[0].content
        return "\n".join(f"{message.role}: {message.content}" for message in self.messages)

    @property
    def system(self) -> str | None:
        """The system message, or None."""
        first = self.messages[0]
        return first.content if first.role == "system" else None

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages without the system message."""
        return self.messages[1:] if self.system is not None else self.messages


def _as_message(value: Any) -> Message:
    if isinstance(value, Message):
        return value
    if isinstance(value, Mapping) and set(value) == {"role", "content"}:
        if value["role"] not in get_args(Role) or not isinstance(value["content"], str):
            raise AlignerProbeError(
                f"a message is {value!r:.60}; expected a role of system, user or assistant, and a text as content"
            )
        return Message(value["role"], value["content"])
    raise AlignerProbeError(
        f"a message is {value!r:.60}; expected an ap.Message, or a dict with role and content and nothing else"
    )


#: What a base model is asked: a text, or a conversation that its chat template turns into one.
Prompt = str | Conversation


def as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as templates, transformers and JSON take them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def as_json(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as JSON has it: a text, or a list of messages."""
    return prompt if isinstance(prompt, str) else as_dicts(prompt.messages)


def check_turns(messages: Sequence[Message]) -> None:
    """Raise AlignerProbeError, with the number of the message, if roles do not take turns or a message is empty."""
    for index, message in enumerate(messages):
        if message.role not in get_args(Role):
            raise AlignerProbeError(
                f"message {index + 1} has the role {message.role!r}; expected system, user or assistant"
            )
        if not message.content.strip():
            raise AlignerProbeError(f"message {index + 1}, of the {message.role}, is empty; expected a text")
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    before = len(messages) - len(turns)
    for index, message in enumerate(turns):
        wanted = "assistant" if index % 2 else "user"
        if message.role != wanted:
            raise AlignerProbeError(
                f"message {before + index + 1} is of the {message.role}; expected one of the {wanted}: a system "
                "message first if there is one, then user and assistant in turn"
            )
