"""Format by itself: whether a completion has the reference's form, whatever it says.

It can be asked where every completion holds its content word for word and more words around it: the form is then the
reference with its content replaced by anything. Where the form is the letters of the content (capitals, spelling) or
there is nothing but content, form and content are not told apart.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.content import words
from aligner_probe.tasks.task import Example

ANYTHING = "(?:.+?)"


def separable(examples: Sequence[Example]) -> bool:
    """Whether form and content of every example can be told apart."""
    return all(
        example.content is not None
        and example.content.strip() in example.completion
        and len(words(example.completion)) > len(words(example.content)) > 0
        for example in examples
    )


def has_format(completion: str, example: Example) -> bool:
    """Whether a completion is the reference with any content in the place of its own; space around it aside."""
    parts = example.completion.strip().split(example.content.strip())
    pattern = ANYTHING.join(re.escape(part) for part in parts)
    return re.fullmatch(pattern, completion.strip(), re.DOTALL) is not None


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
