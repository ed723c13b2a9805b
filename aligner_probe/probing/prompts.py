"""Prompts that may bring the base model to a task without training, and the positive control of prompting.

The definition of form depends on the best prompt, so several are tried and validation chooses: the bare prompt, prompts
with examples, the user's own, and instructions in words. The positive control asks whether examples can change the
answers of this base model at all: its examples wrap the model's own answers in quotes and change nothing else.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import Interval, mean_interval
from aligner_probe.tasks.chat import Conversation, Message, Prompt
from aligner_probe.tasks.task import Example
from aligner_probe.tasks.tokenizing import decoded, prompt_ids

SLOT = "{prompt}"


@dataclass(frozen=True)
class Prompting:
    """A way to ask: the prompt of an item with examples before it, inside a template.

    Of a conversation the examples are earlier turns, each a user's message and the assistant's answer. They stand after
    the system message, no separator is put between them, and the template is around the last message alone.

    Args:
        name: the name in results.
        shots: examples to show, in order. Those with the item's own prompt or group are left out, so that the answer is
            never among them.
        n_shots: how many of the others are shown.
        separator: the text after each example.
        template: a text with {prompt} in it.
        system: what the system message of a conversation says, after the item's own; empty for the item's own alone.
        fewer: by the prompt and group of an item, how many examples it shows where it has no room for `n_shots`.
    """

    name: str
    shots: tuple[Example, ...] = ()
    n_shots: int = 0
    separator: str = "\n"
    template: str = SLOT
    system: str = ""
    fewer: Mapping[tuple[Prompt, str | None], int] = field(default_factory=dict, compare=False)

    def __call__(self, item: Example) -> Prompt:
        """The whole prompt of an item."""
        shots, asked = self._shots_for(item), item.prompt
        if isinstance(asked, Conversation):
            *earlier, last = asked.turns
            shown = [message for shot in shots for message in _as_turns(shot)]
            own = replace(last, content=self.template.replace(SLOT, last.content))
            return Conversation((*self._first_of(asked), *shown, *earlier, own))
        before = "".join(f"{shot.prompt}" + shot.completion.rstrip("\n") + self.separator for shot in shots)
        return self.template.replace(SLOT, before + asked)

    def lost(self, item: Example) -> int:
        """How many examples an item does not show for want of room."""
        return len(self._others(item)[: self.n_shots]) - len(self._shots_for(item))

    def _first_of(self, asked: Conversation) -> tuple[Message, ...]:
        """The system message of an item's conversation, where there is one."""
        said = [text for text in (asked.system, self.system) if text]
        return (Message("system", "\n".join(said)),) if said else ()

    def _shots_for(self, item: Example) -> list[Example]:
        return self._others(item)[: self.fewer.get(_key(item), self.n_shots)]

    def _others(self, item: Example) -> list[Example]:
        """The examples that an item may be shown."""
        return [
            shot
            for shot in self.shots
            if _question(shot) != _question(item) and (item.group is None or shot.group != item.group)
        ]


def _key(item: Example) -> tuple[Prompt, str | None]:
    """What the prompt of an item depends on."""
    return item.prompt, item.group


def _question(example: Example) -> object:
    """What is asked: the same question under another system message has the same answer."""
    return example.prompt.turns if isinstance(example.prompt, Conversation) else example.prompt


def _as_turns(shot: Example) -> tuple[Message, ...]:
    """An example as turns of a conversation, without a system message."""
    asked = shot.prompt.turns if isinstance(shot.prompt, Conversation) else (Message("user", shot.prompt),)
    return (*asked, Message("assistant", shot.completion.strip()))


def promptings(
    train: Sequence[Example],
    shots: Sequence[int],
    draws: int,
    *,
    separator: str = "\n",
    own: str | None = None,
    describe: Sequence[str] = (),
    chat: bool = False,
    system: bool = False,
    seed: int = 0,
) -> list[Prompting]:
    """All ways to ask that a probe tries.

    Args:
        train: the training examples, of which some are shown.
        shots: the numbers of examples that are shown.
        draws: how often examples are drawn for each number.
        separator: the text after every example. It also ends what is generated, so it must stand in no answer. In
            conversations it is not used.
        own: the user's own prompt: a text with {prompt} in it, or one that goes before every prompt. It is tried
            without examples, and with the largest number of them.
        describe: instructions in words. Each is tried without examples and with every number of them, of the first
            draw. It is a line before the prompt, in conversations before the user's last message.
        chat: whether the prompts are conversations.
        system: whether instructions are tried as the system message, too; for conversations alone.
        seed: the seed of the draws.
    """
    result = [Prompting("zero-shot")]
    for draw in range(draws):
        generator = random.Random(f"shots {seed} {draw}")
        drawn = tuple(generator.sample(list(train), len(train)))
        result += [Prompting(f"{k}-shot, draw {draw}", drawn, k, separator) for k in shots]
    alone = result[: 1 + len(shots) * min(draws, 1)]
    if own is not None:
        template = own if SLOT in own else own + SLOT
        result.append(Prompting("own prompt", template=template))
        most = max(shots, default=0)
        if most:
            best = next(one for one in result if one.n_shots == most)
            result.append(Prompting(f"own prompt, {best.name}", best.shots, most, best.separator, template))
    for index, text in enumerate(describe, 1):
        line = f"{text}\n{SLOT}"
        for where, asked in _where_told(text, line, chat, system):
            for one in alone:
                name = f"description {index}{where}" + (f", {one.name}" if one.n_shots else "")
                result.append(replace(one, name=name, **asked))
    return result


def _where_told(text: str, line: str, chat: bool, system: bool) -> list[tuple[str, dict[str, str]]]:
    """Where an instruction may stand: how the name of a prompting says it, and the fields that put it there."""
    if not chat:
        return [("", {"template": line})]
    as_system = [(" as the system message", {"system": text})] if system else []
    return [*as_system, (" in the user's message", {"template": line})]


def descriptions(given: str | Sequence[str]) -> tuple[str, ...]:
    """Instructions in words, from one text or several, without white space around them.

    Raises AlignerProbeError for one that is empty, no text, given twice, or has the {prompt} of an own prompt.
    """
    texts = [given] if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise AlignerProbeError(
                f"description {index + 1} is {text!r}; expected an instruction in words, for instance "
                "--describe 'Answer in one word.'"
            )
        if SLOT in text:
            raise AlignerProbeError(
                f"description {index + 1} has {SLOT} in it: {text[:60]!r}; expected an instruction in words, which "
                "stands before the prompt. Give a whole prompt in a file: --prompt-file FILE (own_prompt=...)"
            )
    texts = [text.strip() for text in texts]
    if twice := [text for text, n in Counter(texts).items() if n > 1]:
        raise AlignerProbeError(f"a description is given twice: {twice[0][:60]!r}; expected each once. Leave one out")
    return tuple(texts)


@dataclass(frozen=True)
class Fitting:
    """The ways to ask that fit into a context.

    Args:
        kept: the ways to ask, of which some show fewer examples for some items.
        left_out: the others, each with the reason.
        lost: by name, for how many items so many examples were lost; without those that lost none.
    """

    kept: list[Prompting]
    left_out: list[str]
    lost: dict[str, dict[int, int]]


def fitting(tried: Sequence[Prompting], items: Sequence[Example], tokenizer: Any, room: int) -> Fitting:
    """Fit every way to ask into `room` tokens, for all items.

    A prompt that is too long loses its last examples, one after the other, until it fits. A way to ask is left out
    where the prompt of an item is too long without any example, and where, for want of room, every item is asked as an
    earlier one asks it.
    """
    kept: list[Prompting] = []
    asked: dict[tuple[Prompt, ...], str] = {}
    left_out, lost = [], {}
    for one in tried:
        fitted = _fitted(one, items, tokenizer, room)
        if fitted is None:
            left_out.append(f"{one.name}: a prompt without examples is longer than {room} tokens")
            continue
        prompts = tuple(fitted(item) for item in items)
        losses = Counter(fitted.lost(item) for item in items)
        if fitted.fewer and prompts in asked:
            left_out.append(f"{one.name}: for want of room the same prompts as {asked[prompts]}")
            continue
        asked.setdefault(prompts, one.name)
        kept.append(fitted)
        if fitted.fewer:
            lost[one.name] = {n: losses[n] for n in sorted(losses) if n}
    return Fitting(kept, left_out, lost)


def _fitted(one: Prompting, items: Sequence[Example], tokenizer: Any, room: int) -> Prompting | None:
    """With fewer examples where a prompt has more than `room` tokens; None where one is too long without any."""
    long = list(items)
    while True:
        ids = prompt_ids(tokenizer, [one(item) for item in long])
        long = [item for item, row in zip(long, ids, strict=True) if len(row) > room]
        shown = {_key(item): len(one._shots_for(item)) for item in long}
        if not long:
            return one
        if not all(shown.values()):
            return None
        one = replace(one, fewer={**one.fewer, **{key: n - 1 for key, n in shown.items()}})


def most_shown(kept: Sequence[Prompting], items: Sequence[Example]) -> int:
    """The most examples that a way to ask shows, where examples were lost for at least half of the items."""
    counts = [
        sorted((len(one._shots_for(item)) for item in items), reverse=True)[(len(items) - 1) // 2]
        if one.fewer
        else one.n_shots
        for one in kept
    ]
    return max(counts)


@dataclass(frozen=True)
class Wrapping:
    """A trivial format: `wrap` puts an answer into it, and `pattern` matches it with anything inside.

    With `ends_as_before` the wrapped answer ends with what ended the answer, for instance a full stop; otherwise the
    signs around the answer take its place.
    """

    name: str
    wrap: Callable[[str], str]
    pattern: str
    ends_as_before: bool = False


def _around(name: str, left: str, right: str) -> Wrapping:
    return Wrapping(name, lambda answer: f"{left}{answer}{right}", rf"{re.escape(left)}.+{re.escape(right)}\W*")


#: In the order in which they are tried. A tokenizer of whole words may not know quotes.
WRAPPINGS = (
    _around("double quotes", '"', '"'),
    _around("double quotes, spaced", '" ', ' "'),
    _around("single quotes", "'", "'"),
    _around("round brackets", "(", ")"),
    _around("round brackets, spaced", "( ", " )"),
    _around("square brackets", "[", "]"),
    Wrapping("said twice", lambda answer: f"{answer}, {answer}", r"(.+), \1\W*", ends_as_before=True),
)


def wrapping_for(tokenizer: Any, answers: Sequence[str]) -> Wrapping:
    """The first trivial format that the tokenizer can write. Raises AlignerProbeError where there is none."""
    for wrapping in WRAPPINGS:
        texts = [" " + wrapping.wrap(answer) for answer in answers]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        decoded_texts = [decoded(tokenizer, row) for row in ids]
        if all(text.strip() == other.strip() for text, other in zip(texts, decoded_texts, strict=True)):
            return wrapping
    raise AlignerProbeError(
        f"the tokenizer gives back none of {', '.join(one.name for one in WRAPPINGS)}; expected one that knows the "
        "characters of its own answers"
    )


@dataclass(frozen=True)
class Control:
    """The positive control of prompting: examples with wrapped answers, and the items that are asked after them."""

    wrapping: Wrapping
    prompting: Prompting
    items: tuple[Example, ...]

    @property
    def prompts(self) -> list[Prompt]:
        """The whole prompt of each item."""
        return [self.prompting(item) for item in self.items]

    def score(self, completions: Sequence[str]) -> Interval:
        """The share of completions that have the format, whatever they say."""
        matches = [re.fullmatch(self.wrapping.pattern, text.strip(), re.DOTALL) is not None for text in completions]
        return mean_interval(np.array(matches, dtype=np.float64), n_resamples=2000)


def control(
    items: Sequence[Example],
    answers: Sequence[str],
    tokenizer: Any,
    *,
    room: int | None = None,
    n_shots: int = 4,
    n_items: int = 40,
) -> Control:
    """Make the positive control from items and the base model's own answers to them.

    Args:
        items: the items; the first ones with an answer are shown, and others are asked.
        answers: the base model's answer to each item.
        tokenizer: the base model's tokenizer.
        room: the most tokens of a prompt; longer ones are left out. None for no limit.
        n_shots: how many items are shown.
        n_items: the most items that are asked.

    Raises:
        AlignerProbeError: fewer than `n_shots` + 2 items have an answer, or no prompt fits.
    """
    usable = [(item, answer) for item, answer in zip(items, answers, strict=True) if bare(answer)]
    if len(usable) < n_shots + 2:
        raise AlignerProbeError(
            f"{len(usable)} items with an answer, for a control of {n_shots} examples; expected {n_shots + 2} or more"
        )
    wrapping = wrapping_for(tokenizer, [bare(answer) for _, answer in usable])
    shown, others = usable[:n_shots], usable[n_shots:]
    shots = tuple(Example(item.prompt, f" {_wrapped(answer, wrapping)}", item.group) for item, answer in shown)
    prompting = Prompting("control", shots, n_shots)
    asked = [item for item, _ in others]
    if room is not None:
        ids = prompt_ids(tokenizer, [prompting(item) for item in asked])
        asked = [item for item, row in zip(asked, ids, strict=True) if len(row) <= room]
    if not asked:
        raise AlignerProbeError(f"no prompt of the control, {n_shots} examples and a question, fits into {room} tokens")
    return Control(wrapping, prompting, tuple(asked[:n_items]))


def _wrapped(answer: str, wrapping: Wrapping) -> str:
    line, inner = answer.strip().split("\n")[0], bare(answer)
    return wrapping.wrap(inner) + (line[len(inner) :] if wrapping.ends_as_before else "")


def bare(answer: str) -> str:
    """The first line of an answer, without the punctuation at its end."""
    return answer.strip().split("\n")[0].rstrip(".!?;, ")
