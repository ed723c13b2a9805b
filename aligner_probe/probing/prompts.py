"""Prompts that could bring a base to a task without training: none, examples, the user's own; and the control of it.

The best prompt is part of what form means, so several are tried, and validation chooses. The positive control asks
whether examples can change this base's answers at all: they wrap its own answers in quotes, and nothing else.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import Interval, mean_interval
from aligner_probe.tasks.encoding import decoded, prompt_ids
from aligner_probe.tasks.task import Example

SLOT = "{prompt}"


@dataclass(frozen=True)
class Prompting:
    """A way to ask. `shots` come before each prompt, new lines after each as `separator` has them; `template` holds
    {prompt}.

    Shots of the item's own group are left out, so the answer is never among them.
    """

    name: str
    shots: tuple[Example, ...] = ()
    n_shots: int = 0
    separator: str = "\n"
    template: str = SLOT

    def __call__(self, item: Example) -> str:
        """The whole prompt of an item."""
        shots = self._shots_for(item)
        before = "".join(shot.prompt + shot.completion.rstrip("\n") + self.separator for shot in shots)
        return self.template.replace(SLOT, before + item.prompt)

    def _shots_for(self, item: Example) -> list[Example]:
        others = [
            shot
            for shot in self.shots
            if shot.prompt != item.prompt and (item.group is None or shot.group != item.group)
        ]
        return others[: self.n_shots]


def promptings(
    train: Sequence[Example],
    shots: Sequence[int],
    draws: int,
    *,
    separator: str = "\n",
    own: str | None = None,
    seed: int = 0,
) -> list[Prompting]:
    """Zero-shot, k examples of the training part in `draws` draws for each k, and the user's own, with and without.

    `separator` stands after every example and ends what is generated, so it must stand in no answer. `own` is a text
    with {prompt} in it, or one that goes before every prompt.
    """
    found = [Prompting("zero-shot")]
    for draw in range(draws):
        generator = random.Random(f"shots {seed} {draw}")
        drawn = tuple(generator.sample(list(train), len(train)))
        found += [Prompting(f"{k}-shot, draw {draw}", drawn, k, separator) for k in shots]
    if own is not None:
        template = own if SLOT in own else own + SLOT
        found.append(Prompting("own prompt", template=template))
        most = max(shots, default=0)
        if most:
            best = next(one for one in found if one.n_shots == most)
            found.append(Prompting(f"own prompt, {best.name}", best.shots, most, best.separator, template))
    return found


def that_fit(found: Sequence[Prompting], items: Sequence[Example], tokenizer: Any, room: int) -> list[Prompting]:
    """Those whose longest prompt has at most `room` tokens."""
    kept = []
    for prompting in found:
        ids = prompt_ids(tokenizer, [prompting(item) for item in items])
        if max(map(len, ids)) <= room:
            kept.append(prompting)
    return kept


@dataclass(frozen=True)
class Wrapping:
    """A trivial format: `wrap` puts an answer into it, `pattern` recognises it with anything inside.

    `ends_as_before`: what ended the answer ends it still; signs around an answer take its place.
    """

    name: str
    wrap: Callable[[str], str]
    pattern: str
    ends_as_before: bool = False


def _around(name: str, left: str, right: str) -> Wrapping:
    return Wrapping(name, lambda answer: f"{left}{answer}{right}", rf"{re.escape(left)}.+{re.escape(right)}\W*")


#: In the order they are tried: the first that the tokenizer can write. A word-level one may know no quotes.
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
    """The first trivial format whose signs the tokenizer gives back. Raises AlignerProbeError where there is none."""
    for wrapping in WRAPPINGS:
        texts = [" " + wrapping.wrap(answer) for answer in answers]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        back = [decoded(tokenizer, row) for row in ids]
        if all(text.strip() == said.strip() for text, said in zip(texts, back, strict=True)):
            return wrapping
    raise AlignerProbeError(
        f"the tokenizer gives back none of {', '.join(one.name for one in WRAPPINGS)}; expected one that knows the "
        "characters of its own answers"
    )


@dataclass(frozen=True)
class Control:
    """The positive control: examples whose answers are wrapped, and the items that are then asked."""

    wrapping: Wrapping
    prompting: Prompting
    items: tuple[Example, ...]

    @property
    def prompts(self) -> list[str]:
        return [self.prompting(item) for item in self.items]

    def score(self, completions: Sequence[str]) -> Interval:
        """Share of completions in the format, whatever they say."""
        found = [re.fullmatch(self.wrapping.pattern, text.strip(), re.DOTALL) is not None for text in completions]
        return mean_interval(np.array(found, dtype=np.float64), n_resamples=2000)


def control(
    items: Sequence[Example],
    answers: Sequence[str],
    tokenizer: Any,
    *,
    room: int | None = None,
    n_shots: int = 4,
    n_items: int = 40,
) -> Control:
    """The control on items that the base gives these answers to: some are shown wrapped, others are asked.

    `room` is the most tokens that a prompt may have; longer ones are left out. Raises AlignerProbeError for fewer than
    two more items than are shown, or where no prompt fits.
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
    asked = [item for item, _ in others if room is None or that_fit([prompting], [item], tokenizer, room)]
    if not asked:
        raise AlignerProbeError(f"no prompt of the control, {n_shots} examples and a question, fits into {room} tokens")
    return Control(wrapping, prompting, tuple(asked[:n_items]))


def _wrapped(answer: str, wrapping: Wrapping) -> str:
    line, inner = answer.strip().split("\n")[0], bare(answer)
    return wrapping.wrap(inner) + (line[len(inner) :] if wrapping.ends_as_before else "")


def bare(answer: str) -> str:
    """The first line of an answer without what ends it."""
    return answer.strip().split("\n")[0].rstrip(".!?;, ")
