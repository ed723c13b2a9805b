"""Which scorer fits a task: guessed from the completions, with a sentence that gives the reason, or given by name."""

import statistics
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aligner_probe.arguments import accepts
from aligner_probe.errors import AlignerProbeError, did_you_mean
from aligner_probe.evaluation.choices import choices_of, is_label
from aligner_probe.evaluation.likelihood import MeanLogLikelihood, MultipleChoice
from aligner_probe.evaluation.numbers import can_mark, is_number, is_whole_number, last_number, numbers
from aligner_probe.evaluation.scorers import (
    BalancedAccuracy,
    Contains,
    ExactMatch,
    LastNumber,
    Pattern,
    TextScorer,
    UserFunction,
)
from aligner_probe.html import Shown
from aligner_probe.tasks.given import one_task
from aligner_probe.tasks.task import Example, Task

Scorer = TextScorer | MeanLogLikelihood | MultipleChoice

#: Most labels that count as few, and items a label at least, on average.
MOST_LABELS, FEWEST_A_LABEL = 10, 5
#: Words (median over completions) up to which an answer can be asked for to the letter.
LONGEST_EXACT = 20
GSM8K = "####"


@dataclass(frozen=True, repr=False)
class Guess(Shown):
    """A scorer, and why it fits."""

    scorer: Scorer
    reason: str

    def shown(self) -> dict[str, Any]:
        return {
            "scorer": self.scorer,
            "reason": self.reason,
        }


@accepts(task=one_task)
def guess_scorer(task: Task) -> Guess:
    """Choose the scorer that fits the completions of a task.

    Args:
        task: A task of prompts with completions.

    Returns:
        The scorer, and the reason in a sentence.

    Raises:
        AlignerProbeError: The task holds preferences, for which no scorer exists.
    """
    examples = sft_examples(task)
    completions = [example.completion.strip() for example in examples]
    labels, median = Counter(completions), statistics.median(len(text.split()) for text in completions)
    n = len(completions)
    if all(GSM8K in text and last_number(text, GSM8K) is not None for text in completions):
        return Guess(LastNumber(GSM8K), f"every completion ends on {GSM8K} and a number, as GSM8K's do")
    if (marker := _common_marker(completions)) is not None:
        return Guess(LastNumber(marker), f"every completion ends on {marker!r} and a number")
    if all(map(is_label, examples)):
        scorer = _multiple_choice(examples)
        which = f"the choices {', '.join(map(str.strip, scorer.choices))}" if scorer.choices else "its own choices"
        return Guess(scorer, f"every prompt lists {which} and every completion is one")
    all_numbers = all(map(is_number, completions))
    # Amounts such as .25 or $5 are no labels, however few there are.
    are_names = not all_numbers or all(map(is_whole_number, labels))
    if 2 <= len(labels) <= MOST_LABELS and n >= FEWEST_A_LABEL * len(labels) and are_names:
        named = tuple(sorted(labels))
        return Guess(
            BalancedAccuracy(_labels(examples)),
            f"the {n} completions are only {len(named)} labels, {', '.join(map(repr, named))}",
        )
    if all_numbers:
        return Guess(LastNumber(), "every completion is a number")
    if median <= LONGEST_EXACT:
        return Guess(ExactMatch(), f"completions are short ({median:g} words, median), so they can be compared exactly")
    return Guess(
        MeanLogLikelihood(),
        f"completions are long texts ({median:g} words, median) that no two writers would put alike",
    )


def scorer_named(name: str, task: Task) -> Scorer:
    """A scorer by name: exact, contains, regex:PATTERN, last_number[:MARKER], balanced_accuracy[:LABEL,LABEL,...],
    multiple_choice[:CHOICE,CHOICE,...], log_likelihood, python:package.module:function.

    Labels are by default the task's completions and, where completions are labels of options that their prompts list,
    those of all options. Choices are by default the options that each prompt lists. Raises AlignerProbeError for any
    other name, and where a prompt lists no choices or the completion is none of them.
    """
    kind, _, option = name.partition(":")
    examples = sft_examples(task)
    given = tuple(dict.fromkeys(each.strip() for each in option.split(",") if each.strip()))
    made: dict[str, Callable[[], Scorer]] = {
        "exact": ExactMatch,
        "contains": Contains,
        "regex": lambda: Pattern(option),
        "last_number": lambda: LastNumber(option or None),
        "balanced_accuracy": lambda: BalancedAccuracy(given or _labels(examples)),
        "multiple_choice": lambda: _multiple_choice(examples, given),
        "log_likelihood": MeanLogLikelihood,
        "python": lambda: UserFunction(option),
    }
    takes_option = {"regex", "last_number", "balanced_accuracy", "multiple_choice", "python"}
    if kind not in made or (option and kind not in takes_option) or (not option and kind in ("regex", "python")):
        hint = did_you_mean(kind, set(made) - {kind})
        raise AlignerProbeError(
            f"no scorer is named {name!r}; {hint}expected one of exact, contains, regex:PATTERN, last_number[:MARKER], "
            "balanced_accuracy[:LABEL,...], multiple_choice[:CHOICE,...], log_likelihood, "
            "python:package.module:function"
        )
    return made[kind]()


def _multiple_choice(examples: Sequence[Example], given: tuple[str, ...] = ()) -> MultipleChoice:
    """The choices in the form of the completions where all items share them; else each item has its own."""
    scorer = MultipleChoice(given)
    shared = {scorer.choices_of(example) for example in examples}
    return MultipleChoice(shared.pop()) if len(shared) == 1 else scorer


def _labels(examples: Sequence[Example]) -> tuple[str, ...]:
    """The completions that occur and, if every completion is an option of its prompt, all options of the prompts."""
    found = {example.completion.strip() for example in examples}
    listed = [choices for example in examples if (choices := choices_of(example)) is not None]
    if len(listed) == len(examples):
        found |= {choice.strip() for choices in listed for choice in choices}
    return tuple(sorted(found))


def sft_examples(task: Task) -> tuple[Example, ...]:
    """A task's examples. Raises AlignerProbeError where it holds preferences, which have no one right completion."""
    examples = tuple(example for example in task.examples if isinstance(example, Example))
    if len(examples) < len(task.examples):
        raise AlignerProbeError(
            f"task {task.name!r} holds preferences, which have no one right completion; expected prompts with "
            "completions"
        )
    return examples


def _common_marker(completions: list[str]) -> str | None:
    """The text between the start of the last line and the number at its end, if it is the same in all completions.

    None if it is empty, a part of the number (a point, a sign, a currency), or only punctuation.
    """
    markers = set()
    for text in completions:
        line = unicodedata.normalize("NFC", text).rpartition("\n")[2]
        last = next(iter(deque(numbers(line), maxlen=1)), None)
        if last is None or last.value is None or line[last.end :].strip(".! \t\r"):
            return None
        markers.add(line[: last.start].strip())
    [marker] = markers if len(markers) == 1 else [""]
    return marker if can_mark(marker) else None
