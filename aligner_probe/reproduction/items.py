"""The questions of the reproduction, and how an answer is scored: strict, content and form, each 0 or 1 an item."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.content import last_number, says

KINDS = ("strict", "content", "form")


@dataclass(frozen=True)
class Item:
    """One question.

    Args:
        prompt: the text that is asked.
        reference: the whole expected answer.
        content: what the expected answer says, without its form.
        form: a regular expression that matches every answer of the expected form.
        category: what the question is about.
        final_number: whether the content is the last number of an answer, because answers may also name the operands.
    """

    prompt: str
    reference: str
    content: str
    form: str
    category: str
    final_number: bool = False

    def scores(self, completion: str) -> tuple[bool, bool, bool]:
        """Whether a completion is right: strictly, in its content, and in its form."""
        text = completion.strip()
        strict = text == self.reference.strip()
        content = last_number(text) == last_number(self.content) if self.final_number else says(text, self.content)
        return strict, strict or content, strict or re.fullmatch(self.form, text) is not None


def scores(items: Sequence[Item], completions: Sequence[str]) -> dict[str, Float[np.ndarray, " items"]]:
    """Score completions: by kind of score ("strict", "content", "form") one value, 0 or 1, for each item.

    Raises AlignerProbeError where there is not one completion an item.
    """
    if len(items) != len(completions) or not items:
        raise AlignerProbeError(f"{len(completions)} completions for {len(items)} items; expected one each, and some")
    table = np.array([item.scores(text) for item, text in zip(items, completions, strict=True)], dtype=np.float64)
    return {kind: table[:, column] for column, kind in enumerate(KINDS)}
