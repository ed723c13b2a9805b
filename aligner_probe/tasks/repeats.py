"""Answers that repeat their prompt, as some published pairs do: the prompt would be trained twice.

TRL calls such a pair one with an explicit prompt whose chosen and rejected answers are whole transcripts.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from aligner_probe.tasks.task import Example, Preference

#: What is done with a repeated prompt: decided by the file ("auto"), always taken off, or always kept.
Repeated = Literal["auto", "strip", "keep"]
#: A prompt of fewer characters, white space aside, may stand at the start of an answer by chance ("cat": "cat cat").
SUBSTANTIAL = 8
WAY_ON = (
    "take the prompt off or leave it in by --repeated-prompt strip or --repeated-prompt keep (repeated_prompt= in "
    "Python)"
)


class Unclear(Exception):
    """A file that does not say whether its prompts were meant to be repeated, and the first line that shows it."""

    def __init__(self, line: int | None, said: str) -> None:
        super().__init__(said)
        self.line = line


def without_repeats(
    examples: Sequence[Example | Preference], asked: Sequence[str], how: Repeated
) -> tuple[list[Example | Preference], int]:
    """Examples whose answers no longer begin with their prompt, and how many of them did.

    `asked` are the prompts as they stand in the rows, which a template may have wrapped since. By default a pair loses
    the prompt where both of its answers begin with it, and a completion where all completions of the file do.

    Raises Unclear where some answers of a kind begin with their prompt and others do not,
    so that the file does not say whether that is meant.
    """
    if how == "keep":
        return list(examples), 0
    rests = [_rests(example, prompt) for example, prompt in zip(examples, asked, strict=True)]
    if how == "auto":
        rests = _meant(examples, asked, rests)
    found = [_with(example, rest) for example, rest in zip(examples, rests, strict=True)]
    return found, sum(any(part is not None for part in rest) for rest in rests)


def rest_of(answer: str, prompt: str) -> str | None:
    """What follows the prompt in an answer that begins with it, however it is spaced; None where it does not.

    A prompt in the middle of a word ("The cat" in "The category"), and an answer that is nothing but the prompt, are no
    repeats.
    """
    if not prompt.strip():
        return None
    if answer.startswith(prompt):
        end = len(prompt)
    else:
        end = _end_of(prompt.split(), answer)
        if end is None:
            return None
        if prompt[-1].isspace():
            end += len(answer[end:]) - len(answer[end:].lstrip())
    rest = answer[end:]
    if not rest.strip() or (_in_words(answer[end - 1]) and _in_words(rest[0])):
        return None
    return rest


def _end_of(words: Sequence[str], answer: str) -> int | None:
    """The index in an answer behind these words, if it begins with them and white space parts them; None if not.

    A loop and no pattern, since a pattern would have to be compiled for every row of a file.
    """
    end = 0
    for number, word in enumerate(words):
        start = end
        while start < len(answer) and answer[start].isspace():
            start += 1
        if (number > 0 and start == end) or not answer.startswith(word, start):
            return None
        end = start + len(word)
    return end


def _in_words(character: str) -> bool:
    """Whether a character is a digit or a letter of a script that has spaces between words."""
    return character.isdigit() or character.lower() != character.upper()


def _rests(example: Example | Preference, prompt: str) -> tuple[str | None, ...]:
    answers = (example.completion,) if isinstance(example, Example) else (example.chosen, example.rejected)
    found = []
    for answer in answers:
        # The longest of them, so that a wrapped prompt goes as a whole.
        texts = {prompt, example.prompt} if isinstance(example.prompt, str) else {prompt}
        rests = [rest for text in texts if (rest := rest_of(answer, text)) is not None]
        found.append(min(rests, key=len, default=None))
    return tuple(found)


def _meant(
    examples: Sequence[Example | Preference], asked: Sequence[str], rests: list[tuple[str | None, ...]]
) -> list[tuple[str | None, ...]]:
    """The repeats that the file as a whole shows to be meant as such."""
    nothing: list[tuple[str | None, ...]] = [tuple(None for _ in rest) for rest in rests]
    whole = [all(part is not None for part in rest) for rest in rests]
    clear = [_substantial(prompt) for prompt in asked]
    if isinstance(examples[0], Preference):
        everywhere = all(whole)
        for example, rest, is_whole, is_clear in zip(examples, rests, whole, clear, strict=True):
            if is_clear and not is_whole and any(part is not None for part in rest):
                which = "chosen" if rest[0] is not None else "rejected"
                raise Unclear(
                    example.line,
                    f"only the {which} answer begins with the whole prompt, so the pair answers "
                    f"two different prompts; expected both or neither. Mend it, or {WAY_ON}",
                )
        return [
            rest if is_whole and (is_clear or everywhere) else none
            for rest, none, is_whole, is_clear in zip(rests, nothing, whole, clear, strict=True)
        ]
    repeats = [is_whole and is_clear for is_whole, is_clear in zip(whole, clear, strict=True)]
    if not any(repeats):
        return nothing
    if all(whole):
        return rests
    first = repeats.index(True)
    raise Unclear(
        examples[first].line,
        f"the completion begins with the whole prompt, as {sum(repeats)} of {len(examples)} completions do and the "
        f"others do not; expected all or none, since the prompt would be trained twice. Mend it, or {WAY_ON}",
    )


def _substantial(prompt: str) -> bool:
    return len("".join(prompt.split())) >= SUBSTANTIAL


def _with(example: Example | Preference, rest: tuple[str | None, ...]) -> Example | Preference:
    if isinstance(example, Example):
        return example if rest[0] is None else replace(example, completion=rest[0])
    changes = {name: part for name, part in zip(("chosen", "rejected"), rest, strict=True) if part is not None}
    return replace(example, **changes) if changes else example
