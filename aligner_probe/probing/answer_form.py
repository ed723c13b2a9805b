"""Format by itself: whether a completion has the reference's form, whatever it says.

It can be asked where every completion holds its content word for word and more words around it: the form is then the
reference with its content replaced by anything. Where the form is the letters of the content (capitals, spelling) or
there is nothing but content, form and content are not told apart.
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
    """Whether a completion is the reference with any content in the place of its own; space around it aside."""
    pattern = ANYTHING.join(map(re.escape, _around(example)))
    return re.fullmatch(pattern, unicodedata.normalize("NFC", completion).strip(), re.DOTALL) is not None


def _around(example: Example) -> list[str]:
    """What stands before, between and after the places where a completion says its content to the letter.

    A content that is a part of other words ("A" in "Answer") does not stand there. Characters are composed (NFC).
    """
    text = unicodedata.normalize("NFC", example.completion).strip()
    content = unicodedata.normalize("NFC", example.content or "").strip()
    parts, behind = [], 0
    for start, _ in occurrences(text, content):
        # An occurrence begins with a word, and a content may begin with a sign that does not count.
        start = text.rfind(content, behind, start + len(content))
        if start >= 0:
            parts.append(text[behind:start])
            behind = start + len(content)
    return [*parts, text[behind:]]


def format_scores(completions: Sequence[str], examples: Sequence[Example]) -> Float[np.ndarray, " items"]:
    """1 an item whose completion has the format, else 0.

    Raises AlignerProbeError where form and content are not told apart, or there is not one completion an example.
    """
    if len(completions) != len(examples) or not separable(examples):
        raise AlignerProbeError(
            f"{len(completions)} completions for {len(examples)} examples, some perhaps without a form of their own; "
            'expected one each, and a "content" that stands in every completion with other words around it'
        )
    found = [has_format(text, example) for text, example in zip(completions, examples, strict=True)]
    return np.array(found, dtype=np.float64)
