"""The format score: whether a completion has the form of the expected answer, whatever its content is.

It exists where every completion holds its content, with more words around it: as the content is written, or all of
them in capital or all in small letters. The form is then the expected answer with anything in the place of its content,
in the same case. Form and content cannot be told apart where the form lies otherwise in the letters of the content
(spelling), or where there is nothing but content.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.content import occurrences, words
from aligner_probe.tasks.task import Example

ANYTHING = "(.+?)"
Case = Callable[[str], str]
#: How answers write their contents: as they are, in capital letters, or in small ones.
CASES: tuple[Case, ...] = (str, str.upper, str.lower)


def separable(examples: Sequence[Example]) -> bool:
    """Whether form and content of every example can be told apart."""
    return _case_of(examples) is not None


def _case_of(examples: Sequence[Example]) -> Case | None:
    """How all completions write their contents; None where form and content cannot be told apart."""
    return next((case for case in CASES if all(_is_separable(one, case) for one in examples)), None)


def _is_separable(example: Example, case: Case) -> bool:
    return (
        example.content is not None
        and len(_around(example, case)) > 1
        and len(words(example.completion)) > len(words(example.content)) > 0
    )


def has_format(completion: str, example: Example, case: Case = str) -> bool:
    """Whether a completion is the expected answer with any content in its place, written in `case`.

    White space around it is ignored.
    """
    pattern = ANYTHING.join(map(re.escape, _around(example, case)))
    found = re.fullmatch(pattern, unicodedata.normalize("NFC", completion).strip(), re.DOTALL)
    return found is not None and all(case(content) == content for content in found.groups())


def _around(example: Example, case: Case) -> list[str]:
    """The pieces of a completion before, between and after the occurrences of its content, as `case` writes it.

    A content inside another word ("A" in "Answer") is no occurrence. Characters are composed (NFC).
    """
    text = unicodedata.normalize("NFC", example.completion).strip()
    content = case(unicodedata.normalize("NFC", example.content or "").strip())
    parts, behind = [], 0
    for start, _ in occurrences(text, content):
        # An occurrence begins with a word, and a content may begin with a sign before its first word.
        start = text.rfind(content, behind, start + len(content))
        if start >= 0:
            parts.append(text[behind:start])
            behind = start + len(content)
    return [*parts, text[behind:]]


def format_scores(completions: Sequence[str], examples: Sequence[Example]) -> Float[np.ndarray, " items"]:
    """For each item 1 where the completion has the form, otherwise 0.

    Raises AlignerProbeError where form and content are not told apart, or there is not one completion an example.
    """
    case = _case_of(examples)
    if len(completions) != len(examples) or case is None:
        raise AlignerProbeError(
            f"{len(completions)} completions for {len(examples)} examples, some perhaps without a form of their own; "
            'expected one each, and a "content" that stands in every completion with other words around it'
        )
    scores = [has_format(text, example, case) for text, example in zip(completions, examples, strict=True)]
    return np.array(scores, dtype=np.float64)
