"""The format score: whether a completion has the form of the expected answer, whatever its content is.

It exists where every completion holds its content word for word, with more words around it. The form is then the
expected answer with anything in the place of its content. Form and content cannot be told apart where the form lies in
the letters of the content (capitals, spelling), or where there is nothing but content.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.content import occurrences, words
from aligner_probe.tasks.task import Example

ANYTHING = "(?:.+?)"


def separable(examples: Sequence[Example]) -> bool:
    """Whether form and content of every example can be told apart."""
    return all(
        example.content is not None
        and len(_around(example)) > 1
        and len(words(example.completion)) > len(words(example.content)) > 0
        for example in examples
    )


def has_format(completion: str, example: Example) -> bool:
    """Whether a completion is the expected answer with any content in its place; outer white space is ignored."""
    pattern = ANYTHING.join(map(re.escape, _around(example)))
    return re.fullmatch(pattern, unicodedata.normalize("NFC", completion).strip(), re.DOTALL) is not None


def _around(example: Example) -> list[str]:
    """The pieces of a completion before, between and after the occurrences of its content.

    A content inside another word ("A" in "Answer") is no occurrence. Characters are composed (NFC).
    """
    text = unicodedata.normalize("NFC", example.completion).strip()
    content = unicodedata.normalize("NFC", example.content or "").strip()
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
    if len(completions) != len(examples) or not separable(examples):
        raise AlignerProbeError(
            f"{len(completions)} completions for {len(examples)} examples, some perhaps without a form of their own; "
            'expected one each, and a "content" that stands in every completion with other words around it'
        )
    scores = [has_format(text, example) for text, example in zip(completions, examples, strict=True)]
    return np.array(scores, dtype=np.float64)
