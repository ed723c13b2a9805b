"""Which scorer fits a task: guessed from its completions, with the reason in a sentence, or given by name."""

import re
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aligner_probe.arguments import accepts
from aligner_probe.errors import AlignerProbeError, did_you_mean
from aligner_probe.evaluation.content import NUMBER, is_number
from aligner_probe.evaluation.likelihood import MeanLogLikelihood, MultipleChoice
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
    """The scorer that fits the completions of a task. Raises AlignerProbeError for preferences, which have none."""
    examples = sft_examples(task)
    completions = [example.completion.strip() for example in examples]
    labels, median = Counter(completions), statistics.median(len(text.split()) for text in completions)
    n = len(completions)
    if all(GSM8K in text and NUMBER.search(text.rpartition(GSM8K)[2]) for text in completions):
        return Guess(LastNumber(GSM8K), f"every completion ends on {GSM8K} and a number, as GSM8K's do")
    if (marker := _common_marker(completions)) is not None:
        return Guess(LastNumber(marker), f"every completion ends on {marker!r} and a number")
    if 2 <= len(labels) <= MOST_LABELS and n >= FEWEST_A_LABEL * len(labels):
        named = tuple(sorted(labels))
        if all(len(label) == 1 for label in named) and all(_lists(example.prompt, named) for example in examples):
            # As they stand in the file, since they are scored as completions.
            stored = tuple(sorted({example.completion for example in examples}))
            return Guess(
                MultipleChoice(stored), f"every prompt lists the choices {', '.join(named)} and every completion is one"
            )
        return Guess(
            BalancedAccuracy(named), f"the {n} completions are only {len(named)} labels, {', '.join(map(repr, named))}"
        )
    if all(map(is_number, completions)):
        return Guess(LastNumber(), "every completion is a number")
    if median <= LONGEST_EXACT:
        return Guess(ExactMatch(), f"completions are short ({median:g} words, median), so they can be compared exactly")
    return Guess(
        MeanLogLikelihood(),
        f"completions are long texts ({median:g} words, median) that no two writers would put alike",
    )


def scorer_named(name: str, task: Task) -> Scorer:
    """A scorer by name: exact, contains, regex:PATTERN, last_number[:MARKER], balanced_accuracy and multiple_choice (of
    the task's own completions), log_likelihood, python:package.module:function.

    Raises AlignerProbeError for any other name.
    """
    kind, _, option = name.partition(":")
    distinct = tuple(sorted({example.completion for example in sft_examples(task)}))
    made: dict[str, Callable[[], Scorer]] = {
        "exact": ExactMatch,
        "contains": Contains,
        "regex": lambda: Pattern(option),
        "last_number": lambda: LastNumber(option or None),
        "balanced_accuracy": lambda: BalancedAccuracy(tuple(sorted({label.strip() for label in distinct}))),
        "multiple_choice": lambda: MultipleChoice(distinct),
        "log_likelihood": MeanLogLikelihood,
        "python": lambda: UserFunction(option),
    }
    takes_option = {"regex", "last_number", "python"}
    if kind not in made or (option and kind not in takes_option) or (not option and kind in ("regex", "python")):
        hint = did_you_mean(kind, set(made) - {kind})
        raise AlignerProbeError(
            f"no scorer is named {name!r}; {hint}expected one of exact, contains, regex:PATTERN, last_number[:MARKER], "
            "balanced_accuracy, multiple_choice, log_likelihood, python:package.module:function"
        )
    return made[kind]()


def sft_examples(task: Task) -> tuple[Example, ...]:
    """A task's examples. Raises AlignerProbeError where it holds preferences, which have no one right completion."""
    if task.kind != "sft":
        raise AlignerProbeError(
            f"task {task.name!r} holds preferences, which have no one right completion; expected prompts with "
            "completions"
        )
    return task.examples


def _common_marker(completions: list[str]) -> str | None:
    """What stands between the start of the last line and the number that ends it, where that is one text throughout."""
    ends = [re.search(rf"(?:^|\n)([^\n]*?)({NUMBER.pattern})[.!$\s]*$", text) for text in completions]
    markers = {None if end is None else end[1].strip() for end in ends}
    [marker] = markers if len(markers) == 1 else [None]
    return marker or None


def _lists(prompt: str, labels: tuple[str, ...]) -> bool:
    """Whether a prompt has each label as a choice, as in "A. Paris" or "(A) Paris"."""
    return all(re.search(rf"(?:^|[\s(]){re.escape(label)}[.):]", prompt) for label in labels)
