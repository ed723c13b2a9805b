"""Texts as conversations: the prompt of a file without messages becomes what a user says to a chat model.

A turn of a conversation begins and ends without white space, since the chat template puts its own around it. So the
white space that parts prompt and answer in a file of texts (" A cat.") is taken off.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks.chat import Conversation, Message
from aligner_probe.tasks.rows import BadRow, Unusable
from aligner_probe.tasks.task import Example, Preference, Task

ALREADY = "The rows are conversations already, so that as_chat changes nothing."
#: How HH-RLHF writes a conversation as one text.
SPOKEN = re.compile(r"\n\n(Human|Assistant):")


def as_conversation(
    example: Example | Preference, *systems: str | None, transcript: bool = False
) -> Example | Preference:
    """The example with its prompt as the user's message, after a system message if there is one.

    `systems` are what the row and the user give as the system message; None stands for none. With `transcript`, the
    prompt is a conversation that HH-RLHF wrote as one text, and each of its turns becomes a message. White space at the
    ends of prompt and answers is taken off.

    Raises AlignerProbeError where a message would be empty or the turns have another order, BadRow where system
    messages differ, and Unusable where the answers of a pair differ in white space alone.
    """
    asked = example.prompt
    is_chat = isinstance(asked, Conversation)
    prompt = asked if is_chat else Conversation(_turns(asked) if transcript else _question(asked))
    for system in systems:
        prompt = _with_system(prompt, system)
    if is_chat:
        return replace(example, prompt=prompt)
    if isinstance(example, Example):
        return replace(example, prompt=prompt, completion=example.completion.strip())
    chosen, rejected = example.chosen.strip(), example.rejected.strip()
    if chosen == rejected:
        raise Unusable("chosen and rejected differ in white space alone, which a chat does not have")
    return replace(example, prompt=prompt, chosen=chosen, rejected=rejected)


def _with_system(conversation: Conversation, system: str | None) -> Conversation:
    """The conversation after this system message. Raises BadRow where it has another one."""
    if system is None or conversation.system == system:
        return conversation
    if conversation.system is not None:
        raise BadRow(
            f"has the system message {conversation.system[:40]!r}, and another one is given for all rows; expected one "
            "of them. Leave out --system (system=), or the field of the row with --ignore-field"
        )
    return Conversation((Message("system", system), *conversation.messages))


def note_on(before: Sequence[Example | Preference], after: Sequence[Example | Preference], system: str | None) -> str:
    """What became of the rows, in a sentence for `Task.notes`."""
    n = sum(_has_space(example) for example in before)
    said = f", after the system message {system[:40]!r}" if system is not None else ""
    rows = "" if n == 0 else f"; in {n} of {len(before)} rows white space at the ends of prompt or answer was taken off"
    return f"Each prompt became a message of the user (as_chat){said}{rows}." if len(after) else ""


def task_as_chat(task: Task, system: str | None) -> Task:
    """The same of a task in memory. Raises AlignerProbeError where a prompt template wrapped its prompts already."""
    if all(isinstance(example.prompt, Conversation) for example in task.examples) and system is None:
        return task
    if task.template is not None:
        raise AlignerProbeError(
            f"task {task.name!r} has prompts that the template {task.template_said} made; expected prompts as a user "
            "says them. Give as_chat=True where its rows are read: ap.load_task(PATH, as_chat=True)"
        )
    examples = []
    for index, example in enumerate(task.examples):
        try:
            examples.append(as_conversation(example, system))
        except (AlignerProbeError, BadRow, Unusable) as error:
            where = f"{task.unit} {example.line}" if example.line else f"example {index}, from zero"
            raise AlignerProbeError(f"task {task.name!r}, {where}: {error}") from error
    note = note_on(task.examples, examples, system)
    return replace(task, examples=tuple(examples), sha256="", notes=(*task.notes, note))


def _question(text: str) -> list[Message]:
    if not text.strip():
        raise AlignerProbeError("has an empty prompt; expected what a user says, since it is read as a conversation")
    return [Message("user", text.strip())]


def _turns(transcript: str) -> list[Message]:
    before, *rest = SPOKEN.split(transcript)
    if before.strip():
        raise AlignerProbeError(f"has the text {before[:40]!r} before the first turn; expected none")
    turns = [
        Message("user" if who == "Human" else "assistant", said.strip())
        for who, said in zip(rest[::2], rest[1::2], strict=True)
    ]
    # The last one is where the answers begin.
    return turns[:-1]


def _has_space(example: Example | Preference) -> bool:
    answers = (example.completion,) if isinstance(example, Example) else (example.chosen, example.rejected)
    texts = [*answers, example.prompt] if isinstance(example.prompt, str) else answers
    return any(text != text.strip() for text in texts)
