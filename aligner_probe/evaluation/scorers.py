"""Scorers of generated answers. Each gives an answer two scores from 0 to 1: strict (form and content), and content.

The content is compared leniently (`content.py`): case, punctuation and wrapping do not count. The expected content is
the `content` of the example, or else its whole completion. An answer that is right strictly is right in content. An
answer that lists every possible content would be right in content too, so stop the generation where answers end.
"""

import hashlib
import importlib
import inspect
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import regex
from jaxtyping import Float

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.content import content_of, means_the_same, occurrences, says
from aligner_probe.evaluation.numbers import answer_number, is_number, is_part_of_numbers
from aligner_probe.evaluation.scores import Scores
from aligner_probe.evaluation.scripts import is_mark
from aligner_probe.tasks.task import Example

#: Signs that do not tell one answer from another, a minus aside, which is part of its number.
PUNCTUATION = ".,;!?'\"“”‘’_-−"
#: Strict, content only; from 0 to 1.
Judgement = tuple[float, float]


class TextScorer(ABC):
    """Gives a generated answer its scores, compared with its example."""

    @abstractmethod
    def judge(self, completion: str, example: Example) -> Judgement:
        """The strict score and the content score of one answer."""

    def weights(self, examples: Sequence[Example]) -> Float[np.ndarray, " items"]:
        """The weight of each item; the mean of the weights is 1."""
        return np.ones(len(examples))

    def score(self, completions: Sequence[str], examples: Sequence[Example]) -> Scores:
        """The scores of answers, one answer per example and in the same order.

        Raises AlignerProbeError if there are no examples, or not as many answers as examples.
        """
        if not examples or len(completions) != len(examples):
            raise AlignerProbeError(
                f"got {len(completions)} completions for {len(examples)} examples; expected one each, and some"
            )
        judged = np.array([self.judge(c, e) for c, e in zip(completions, examples, strict=True)], dtype=np.float64)
        return Scores(
            scorer=repr(self),
            strict=judged[:, 0],
            content=judged[:, 1],
            weights=self.weights(examples),
            prompts=tuple(str(example.prompt) for example in examples),
            references=tuple(example.completion for example in examples),
            completions=tuple(completions),
        )


@dataclass(frozen=True)
class ExactMatch(TextScorer):
    """Strict: the answer is the expected completion, apart from space around it. Content: it says the content."""

    def judge(self, completion: str, example: Example) -> Judgement:
        strict = completion.strip() == example.completion.strip()
        return float(strict), float(strict or says(completion, content_of(example)))


@dataclass(frozen=True)
class Contains(TextScorer):
    """Strict: the expected completion stands in the answer, letter by letter. Content: the answer says the content.

    This scorer is for answers with free text around the part that counts. A text inside another word or number, or with
    an operator attached, does not count: "C++" does not contain "C", and "17" does not contain "7".
    """

    def judge(self, completion: str, example: Example) -> Judgement:
        reference = example.completion.strip()
        strict = reference in completion and says(completion, reference)
        return float(strict), float(strict or says(completion, content_of(example)))


@dataclass(frozen=True)
class Pattern(TextScorer):
    r"""A regular expression describes the form. Its first group, if it has one, is the content.

    Strict: the whole answer, apart from space around it, matches the pattern, and the group says the same as the group
    of the expected completion (or as the example's `content`), with the same signs except punctuation. Content: the
    pattern occurs anywhere, in upper or lower case, with the right group, or the answer says the content. Without a
    group only the pattern counts: on the whole answer for the strict score, anywhere for the content score.

    The expression has the syntax of Python's `re`, except that `\w` also matches vowel signs and accents (by the
    package `regex`). It is applied to composed characters (NFC). Raises AlignerProbeError if it is not a regular
    expression, or if the group is not in an expected completion.
    """

    pattern: str

    def __post_init__(self) -> None:
        try:
            self._expression()
        except regex.error as error:
            raise AlignerProbeError(
                f"{self.pattern!r} is no regular expression ({error}); expected one as Python's re takes it"
            ) from error

    def judge(self, completion: str, example: Example) -> Judgement:
        completion = unicodedata.normalize("NFC", completion)
        whole = self._expression().fullmatch(completion.strip())
        anywhere = self._expression(regex.IGNORECASE).search(completion)
        if not self._expression().groups:
            return float(whole is not None), float((whole or anywhere) is not None)
        wanted = self._wanted(example)
        strict = whole is not None and _same(whole[1] or "", wanted)
        lenient = (
            anywhere is not None
            and means_the_same(anywhere[1] or "", wanted)
            and says(anywhere[1] or "", wanted)
            and _is_whole(anywhere, wanted)
        )
        return float(strict), float(strict or lenient or says(completion, wanted))

    def _wanted(self, example: Example) -> str:
        if example.content is not None:
            return example.content
        found = self._expression().search(unicodedata.normalize("NFC", example.completion))
        if found is None or found[1] is None:
            raise AlignerProbeError(
                f"the pattern {self.pattern!r} does not find its group in the reference {example.completion[:60]!r}; "
                'expected one that fits every reference, or a "content" field in every example'
            )
        return found[1]

    def _expression(self, flags: int = 0) -> regex.Pattern:
        return regex.compile(unicodedata.normalize("NFC", self.pattern), regex.DOTALL | flags)


def _is_whole(found: regex.Match, wanted: str) -> bool:
    """Whether a group at the end of a match is not the beginning of a longer word ("A" of "Absolutely")."""
    if found.end(1) != found.end():
        return True
    return any(start < len(found[1]) for start, _ in occurrences(found.string[found.start(1) :], wanted))


def _same(one: str, other: str) -> bool:
    """Whether two texts have the same words, and the same signs in the same order. "C++" is not "C#", and ":)" is not
    ":(".
    """
    return means_the_same(one, other) and _signs(one) == _signs(other)


def _signs(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text)
    return "".join(c for c in plain if not (c.isalnum() or c.isspace() or is_mark(c) or c in PUNCTUATION))


@dataclass(frozen=True)
class LastNumber(TextScorer):
    """The last number of the answer is compared with that of the expected completion, for instance in GSM8K.

    `marker` is a text before the number, "####" in GSM8K. If an answer has the marker, the first number after the last
    marker counts ("#### 18 dollars per 2 days" is 18); otherwise the last number counts. `evaluation/numbers.py`
    defines what a number is. Numbers are compared exactly. Strict: the number is right and, if there is a marker,
    stands behind one. Without a marker, an expected completion that is only a number asks for an answer that is only a
    number. Content: the number is right. Raises AlignerProbeError if an expected completion has no number, or if the
    marker is itself a part of numbers, such as "." or "$".
    """

    marker: str | None = None

    def __post_init__(self) -> None:
        if self.marker and is_part_of_numbers(self.marker):
            raise AlignerProbeError(
                f"the marker {self.marker!r} is a part of how numbers are written; expected a text that announces "
                "them, for instance '####' or 'Answer:', or none: LastNumber()"
            )

    def judge(self, completion: str, example: Example) -> Judgement:
        reference, marker = content_of(example), self.marker or ""
        wanted, found = answer_number(reference, marker), answer_number(completion, marker)
        if wanted is None:
            raise AlignerProbeError(
                f"the reference {reference[:60]!r} has no number in it; expected one in every example, or another "
                "scorer, for instance ExactMatch()"
            )
        right = found is not None and found.same_as(wanted)
        formed = marker in completion if marker else not is_number(example.completion) or is_number(completion)
        return float(right and formed), float(right)


@dataclass(frozen=True)
class BalancedAccuracy(TextScorer):
    """The answer is one of few labels. The score is the mean of the labels' recalls, so every label counts the same.

    Strict: the answer is the label and nothing else. Content: the answer names the right label and no other one. A
    label inside a longer one ("safe" in "not safe", 合格 in 不合格) is not named. Raises AlignerProbeError if
    there are fewer than two labels, or if an expected completion is none of them.
    """

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len({label.strip() for label in self.labels}) < 2:
            raise AlignerProbeError(f"labels {self.labels!r}; expected at least two that differ")

    def judge(self, completion: str, example: Example) -> Judgement:
        wanted = self._label(example)
        strict = completion.strip() == wanted
        return float(strict), float(strict or self._named(completion) == {wanted})

    def weights(self, examples: Sequence[Example]) -> Float[np.ndarray, " items"]:
        """n / (number of labels x number of items with this label), over the labels that occur."""
        labels = [self._label(example) for example in examples]
        counts = Counter(labels)
        return np.array([len(labels) / (len(counts) * counts[label]) for label in labels])

    def _named(self, completion: str) -> set[str]:
        """The labels that an answer says outside of every longer label that it says."""
        places = [(place, label.strip()) for label in self.labels for place in occurrences(completion, label)]
        return {
            label
            for (start, end), label in places
            if not any(low <= start and end <= high and high - low > end - start for (low, high), _ in places)
        }

    def _label(self, example: Example) -> str:
        label = example.completion.strip()
        if label not in {known.strip() for known in self.labels}:
            raise AlignerProbeError(
                f"the reference {label[:60]!r} is none of the labels {listed(self.labels)}; expected one"
            )
        return label


def listed(labels: Sequence[str], most: int = 10) -> str:
    """The labels as a text for a message; of many labels only the first."""
    return ", ".join(map(repr, labels[:most])) + f" and {len(labels) - most} more" * (len(labels) > most)


@dataclass(frozen=True)
class UserFunction(TextScorer):
    """A function of the user, named as `package.module:function`. Its arguments are the answer and the example.

    It returns one value from 0 to 1 for both scores, or the pair (strict, content). True and false count as 1 and 0.
    Raises AlignerProbeError if the function cannot be imported, fails, or returns something else.
    """

    name: str

    def __post_init__(self) -> None:
        self._function()

    def judge(self, completion: str, example: Example) -> Judgement:
        try:
            found = self._function()(completion, example)
        except Exception as error:  # whatever a stranger's function raises
            raise AlignerProbeError(
                f"{self.name} failed on the completion {completion[:60]!r} of the prompt "
                f"{str(example.prompt)[-60:]!r}: {type(error).__name__}: {error}; expected a score of any text"
            ) from error
        pair = found if isinstance(found, tuple) else (found, found)
        if len(pair) != 2 or not all(isinstance(x, Real | np.bool_) and 0 <= float(x) <= 1 for x in pair):
            raise AlignerProbeError(
                f"{self.name} returned {found!r}; expected a number from 0 to 1, or two: (strict, content)"
            )
        return float(pair[0]), float(pair[1])

    @property
    def sha256(self) -> str:
        """The hash of the file of the function, or of its name if there is no file. It shows whether the function has
        changed.
        """
        module = inspect.getmodule(self._function())
        try:
            source = self.name if module is None else inspect.getsource(module)
        except (OSError, TypeError):
            source = self.name
        return hashlib.sha256(source.encode()).hexdigest()

    def _function(self) -> Callable:
        module, colon, attribute = self.name.partition(":")
        if not colon:
            module, _, attribute = self.name.rpartition(".")
        try:
            function = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise AlignerProbeError(
                f"cannot import {self.name!r} ({error}); expected package.module:function, importable from here"
            ) from error
        if not callable(function):
            raise AlignerProbeError(f"{self.name!r} is a {type(function).__name__}; expected a function")
        return function
