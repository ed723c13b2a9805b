"""The token ids of examples, prompt and answers apart, before anything is cut to a length.

A prompt that is a text is tokenised by itself, and so is its answer. A conversation is tokenised as a whole, as the
chat template writes it with the answer, because a chat model has seen it so. The ids of its prompt are nearly always
the beginning of the whole's; where they are not (a token reaches over the boundary), prompt and rest are tokenised
apart, so that the base model learns on the ids that it is asked with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks.characters import token_ids
from aligner_probe.tasks.chat import Conversation, Message
from aligner_probe.tasks.chat_template import ChatTemplate
from aligner_probe.tasks.task import Example, Preference, Task
from aligner_probe.tasks.tokenizing import after_prompts, prompt_ids

#: Which turns of a conversation are trained: the last one of the assistant, or all of them.
TrainOn = Literal["last", "all"]


@dataclass(frozen=True)
class Row:
    """The token ids of an example.

    `answers` are those of the completion, or of the chosen and the rejected answer, with what ends them. `bare` are the
    same as far as they can be learned as an answer; none may be empty. `trained` says for each id of prompt and answer
    whether it is trained, for each answer; None where that is the whole answer. `apart` says whether prompt and rest of
    a conversation were tokenised apart.
    """

    prompt: list[int]
    answers: list[list[int]]
    bare: list[list[int]]
    trained: list[list[bool]] | None = None
    apart: bool = False


def place_of(task: Task, example: Example | Preference, index: int) -> str:
    """Where an example is from, for messages."""
    return f"{task.source or task.name}, " + (
        f"{task.unit} {example.line}" if example.line else f"example {index}, from zero"
    )


def text_rows(tokenizer: Any, task: Task, fields: Sequence[str], eos: list[int]) -> list[Row]:
    """The rows of examples whose prompts are texts; every answer ends with `eos`."""
    prompts = prompt_ids(tokenizer, task.prompts)
    answers = [
        token_ids(tokenizer, after_prompts(tokenizer, [getattr(example, field) for example in task.examples]))
        for field in fields
    ]
    return [
        Row(prompt, [with_end(ids, eos) for ids in own], list(own))
        for prompt, *own in zip(prompts, *answers, strict=True)
    ]


def chat_rows(
    template: ChatTemplate,
    task: Task,
    fields: Sequence[str],
    eos: list[int],
    *,
    train_on: TrainOn,
    ended: bool,
    after_end: bool,
) -> list[Row]:
    """The rows of examples whose prompts are conversations.

    An answer ends as the template ends the turn, with the end token and, with `after_end`, with what the template
    writes behind it. Without `ended` it ends before the end token. Where the template writes no end token, it ends with
    `eos`.

    Raises AlignerProbeError, naming the line, where the template refuses a conversation or changes what was before the
    answer; with `train_on` "all" also where it changes earlier turns.
    """
    tokenizer = template.tokenizer
    asked: list[str] = []
    wholes: list[list[str]] = []
    for index, example in enumerate(task.examples):
        where, conversation = place_of(task, example, index), _conversation(example)
        text = template.prompt_text(conversation, where)
        asked.append(text)
        wholes.append([template.whole_text(conversation, getattr(example, field), text, where) for field in fields])
    prompts = token_ids(tokenizer, asked)
    ids = iter(token_ids(tokenizer, [text for texts in wholes for text in texts]))
    rows = []
    for index, (example, prompt, text, texts) in enumerate(zip(task.examples, prompts, asked, wholes, strict=True)):
        whole = [next(ids) for _ in texts]
        apart = any(one[: len(prompt)] != prompt for one in whole)
        answers = [one[len(prompt) :] for one in whole]
        if apart:
            answers = token_ids(tokenizer, after_prompts(tokenizer, [one[len(text) :] for one in texts]))
        trained = None
        if train_on == "all":
            messages = (*_conversation(example).messages, Message("assistant", getattr(example, fields[0])))
            trained = [_all_turns(template, messages, prompt, answers[0], texts[0], place_of(task, example, index))]
        bare = [_until(one, template.end, with_it=False) for one in answers]
        if not ended:
            answers = bare
        elif template.end is None:
            answers = [with_end(one, eos) for one in answers]
        elif not after_end:
            answers = [_until(one, template.end, with_it=True) for one in answers]
        if trained is not None:
            # An end token that was put there is trained, too.
            trained = [
                (one + [True] * (len(prompt) + len(answer)))[: len(prompt) + len(answer)]
                for one, answer in zip(trained, answers, strict=True)
            ]
        rows.append(Row(prompt, answers, bare, trained, apart))
    return rows


def answer_offsets(template: ChatTemplate, example: Example) -> tuple[str, list[tuple[int, int]]]:
    """The text behind the prompt of a conversation with its answer, and where each of its tokens stands in it.

    The tokens are those of the row of `chat_rows`.
    """
    conversation, tokenizer = _conversation(example), template.tokenizer
    text = template.prompt_text(conversation)
    whole = template.whole_text(conversation, example.completion, text)
    [prompt] = token_ids(tokenizer, [text])
    said = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    rest = whole[len(text) :]
    if said["input_ids"][: len(prompt)] == prompt:
        return rest, [(start - len(text), end - len(text)) for start, end in said["offset_mapping"][len(prompt) :]]
    [rest] = after_prompts(tokenizer, [rest])
    return rest, tokenizer(rest, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]


def with_end(ids: list[int], eos: list[int]) -> list[int]:
    """Token ids with the end token behind them, unless they end with it already."""
    return ids if eos and ids[-1:] == eos else ids + eos


def _conversation(example: Example | Preference) -> Conversation:
    assert isinstance(example.prompt, Conversation), "rows of conversations are made of conversations"
    return example.prompt


def _until(ids: list[int], end: int | None, *, with_it: bool) -> list[int]:
    """Ids up to the first end token; all where there is none."""
    return ids[: ids.index(end) + with_it] if end in ids else ids


def _all_turns(
    template: ChatTemplate, messages: Sequence[Message], prompt: list[int], answer: list[int], text: str, where: str
) -> list[bool]:
    """Which ids of prompt and answer are said by the assistant: by the template's own marks, else by its prefixes."""
    ids = prompt + answer
    if template.has_marks and getattr(template.tokenizer, "is_fast", False):
        trained = _as_marked(*template.marked(messages), ids, len(prompt))
    else:
        trained = _by_prefixes(template, messages, ids, len(prompt), text, where)
    if not any(trained):
        raise AlignerProbeError(
            f"{where}: the chat template marks nothing as said by the assistant; expected {{% generation %}} around "
            "it. Give another template: --chat-template FILE, or --train-on last"
        )
    return trained


def _as_marked(whole: list[int], marks: list[bool], ids: list[int], n_prompt: int) -> list[bool]:
    """The marks of the whole conversation's ids, for `ids`.

    These are the same, unless prompt and rest were tokenised apart; then tokens that differ are trained behind the
    prompt.
    """
    same = common(whole, ids)
    behind = min(common(whole[::-1], ids[::-1]), len(whole) - same, len(ids) - same)
    between = [index >= n_prompt for index in range(same, len(ids) - behind)]
    return [*marks[:same], *between, *marks[len(whole) - behind :]]


def _by_prefixes(
    template: ChatTemplate, messages: Sequence[Message], ids: list[int], n_prompt: int, text: str, where: str
) -> list[bool]:
    """A turn of the assistant begins where the prompt before it ends, and ends where the conversation so far ends."""
    trained = [index >= n_prompt for index in range(len(ids))]
    for index, message in enumerate(messages[:-1]):
        if message.role != "assistant":
            continue
        before = template.rendered(messages[:index], where, add_generation_prompt=True)
        so_far = template.rendered(messages[: index + 1], where)
        start, end = (common(own, ids) for own in token_ids(template.tokenizer, [before, so_far]))
        if not text.startswith(before) or end <= start:
            raise AlignerProbeError(
                f"{where}: the chat template changes earlier turns (message {index + 1}, of the assistant), so they "
                "cannot be trained as they were said; expected a template that adds to what is there. Give --train-on "
                "last, or a template with {% generation %} marks: --chat-template FILE"
            )
        trained[start:end] = [True] * (end - start)
    return trained


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences share at their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
