"""What a run is asked and how an answer is scored: strictly, for its content, and for its form, each 0 or 1 an item."""

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
    """A question. `reference` is the whole right answer, `content` what it says, `form` a pattern of its form.

    `final_number`: the content is the last number said, since operands are numbers too. `category` is what it is about.
    """

    prompt: str
    reference: str
    content: str
    form: str
    category: str
    final_number: bool = False

    def scores(self, completion: str) -> tuple[bool, bool, bool]:
        """Strict, content and form."""
        said = completion.strip()
        strict = said == self.reference.strip()
        numbers = self.final_number
        content = last_number(said) == last_number(self.content) if numbers else says(said, self.content)
        return strict, strict or content, strict or re.fullmatch(self.form, said) is not None


def scores(items: Sequence[Item], completions: Sequence[str]) -> dict[str, Float[np.ndarray, " items"]]:
    """Scores of completions by kind ("strict", "content", "form"), one number an item.

    Raises AlignerProbeError where there is not one completion an item.
    """
    if len(items) != len(completions) or not items:
        raise AlignerProbeError(f"{len(completions)} completions for {len(items)} items; expected one each, and some")
    found = np.array([item.scores(text) for item, text in zip(items, completions, strict=True)], dtype=np.float64)
    return {kind: found[:, place] for place, kind in enumerate(KINDS)}
