"""The scores of a task's items, strict and content. There is one value per item, so items can be resampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from aligner_probe.errors import one_of
from aligner_probe.html import Shown

Which = Literal["strict", "content"]


@dataclass(frozen=True, eq=False)
class Scores(Shown):
    """The scores that a scorer gave, item by item: `strict` asks for form and content, `content` for the content alone.

    Attributes:
        scorer: The scorer, as text.
        strict: Strict scores from 0 to 1, shape (items,). Log-likelihoods are in nats per token.
        content: Content scores, in the same shape and unit.
        weights: Weights with mean 1. They make `mean` the scorer's own average, for instance the balanced accuracy.
        prompts: The prompts.
        references: The expected completions.
        completions: The answers that were scored; None if nothing was generated.
    """

    scorer: str
    strict: Float[np.ndarray, " items"]
    content: Float[np.ndarray, " items"]
    weights: Float[np.ndarray, " items"]
    prompts: tuple[str, ...]
    references: tuple[str, ...]
    completions: tuple[str, ...] | None = None

    def shown(self) -> dict[str, Any]:
        return {
            "scorer": self.scorer,
            "items": len(self),
            "strict": self.mean("strict"),
            "content": self.mean("content"),
        }

    def __len__(self) -> int:
        return len(self.strict)

    def values(self, which: Which | str = "strict") -> Float[np.ndarray, " items"]:
        """One value per item whose plain mean is the score. Raises AlignerProbeError for another kind of score."""
        return getattr(self, one_of(which, get_args(Which), "kind of score")) * self.weights

    def mean(self, which: Which | str = "strict") -> float:
        """The score of all items."""
        return float(self.values(which).mean())

    def to_frame(self) -> pd.DataFrame:
        """A table with one row per item."""
        columns: dict[str, Sequence] = {"prompt": self.prompts, "reference": self.references}
        if self.completions is not None:
            columns["completion"] = self.completions
        return pd.DataFrame(columns | {"strict": self.strict, "content": self.content, "weight": self.weights})

    def __repr__(self) -> str:
        return (
            f"Scores({self.scorer}, {len(self)} items, strict {self.mean('strict'):.3f}, "
            f"content {self.mean('content'):.3f})"
        )
