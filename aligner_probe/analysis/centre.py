"""Is the one token of Aligner-1 the centre of the tokens of Aligner-N?

The paper (arXiv 2312.05503, section 5.1, Figure 12) sees the one token in the middle of the others on a t-SNE plane.
This module compares the distance between the one token and the centroid of the others with three controls:

- **Leave one out:** how far each of the N tokens lies from the centroid of the other N - 1. The one token is measured
  from the same N centroids of N - 1 tokens, because a centroid of more points is nearer to everything.
- **Random directions** with the length of the one token, measured in the same way.
- **Without the twin:** runs with the same seed have the same random start. So the one token may be, except for the
  training, one of the N tokens, and then it is near a centroid that contains itself. The twin is the token with the
  largest cosine to the one token.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from aligner_probe.arguments import accepts
from aligner_probe.checkpoints.given import one_checkpoint
from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.errors import AlignerProbeError
from aligner_probe.html import Shown

RANDOM_VECTORS = 1000
#: Chance that some token is called a twin where all are independent.
P_TWIN = 1e-6


@dataclass(frozen=True, repr=False)
class CentreTest(Shown):
    """Euclidean distances to centroids, in the units of the tokens' values.

    Attributes:
        distance: From the one token to the centroid of all N tokens, as the paper shows it.
        matched: The mean distance from the one token to the N centroids that leave one token out.
        leave_one_out: From each token to the centroid of the other tokens, shape (N,). Compare it with `matched`.
        random: From random directions to those centroids, in turn.
        twin: The index of the token that is most similar to the one token.
        twin_cosine: The cosine between the one token and its twin.
        twin_threshold: The cosine above which a token counts as a twin.
        distance_without_twin: As `matched`, when the twin is left out.
        leave_one_out_without_twin: As `leave_one_out`, when the twin is left out, shape (N - 1,).
    """

    label_one: str
    label_many: str
    n_tokens: int
    distance: float
    matched: float
    leave_one_out: Float[np.ndarray, " n"]
    random: Float[np.ndarray, " n_random"]
    twin: int
    twin_cosine: float
    twin_threshold: float
    distance_without_twin: float
    leave_one_out_without_twin: Float[np.ndarray, " m"]
    seed: int

    def shown(self) -> dict[str, Any]:
        return {
            "one": self.label_one,
            "many": self.label_many,
            "distance to the centroid": self.distance,
            "finding": self.explanation,
        }

    @property
    def has_twin(self) -> bool:
        """Whether the one token shares its start with one of the others."""
        return self.twin_cosine > self.twin_threshold

    @property
    def share_nearer(self) -> float:
        """The share of the N tokens that lie nearer to the centroid of the others than the one token does (matched)."""
        return float(np.mean(self.leave_one_out < self.matched))

    @property
    def share_nearer_without_twin(self) -> float:
        """The same without the twin. It is near 1/2 for a token like any other, and 0 for a centre."""
        return float(np.mean(self.leave_one_out_without_twin < self.distance_without_twin))

    @property
    def explanation(self) -> str:
        """The finding in words, with its numbers."""
        text = (
            f"{self.label_one} lies {self.matched:.1f} from the centroid of the {self.n_tokens} tokens of "
            f"{self.label_many} (leaving out one at a time); each of those lies {self.leave_one_out.mean():.1f} from "
            f"the centroid of the others, random directions {self.random.mean():.1f}."
        )
        if self.has_twin:
            text += (
                f" But it is nearly token {self.twin} of them (cosine {self.twin_cosine:.3f}): both runs began from "
                f"the same random numbers. Without that twin it lies {self.distance_without_twin:.1f} from the "
                f"centroid, the others {self.leave_one_out_without_twin.mean():.1f}: no centre, one more token."
                if self.share_nearer_without_twin > 0.05
                else f" It is nearly token {self.twin} of them (cosine {self.twin_cosine:.3f}), yet also without that "
                f"twin it lies nearer to the centroid ({self.distance_without_twin:.1f}) than the others do "
                f"({self.leave_one_out_without_twin.mean():.1f})."
            )
        elif self.share_nearer > 0.05:
            text += f" {self.share_nearer:.0%} of the tokens lie nearer than it: no centre."
        else:
            text += (
                f" It lies nearer than {1 - self.share_nearer:.0%} of the others; a token like any other would lie "
                f"nearer than all of them once in {self.n_tokens + 1} times."
            )
        return text

    def to_frame(self) -> pd.DataFrame:
        """One row a distance, named by what it belongs to."""
        parts = {
            "the one": [self.distance],
            "the one, matched": [self.matched],
            "leave one out": self.leave_one_out,
            "random direction": self.random,
            "the one, without twin": [self.distance_without_twin],
            "leave one out, without twin": self.leave_one_out_without_twin,
        }
        rows = [{"what": what, "distance": float(value)} for what, values in parts.items() for value in values]
        return pd.DataFrame(rows).assign(one=self.label_one, many=self.label_many)


@accepts(pair=("one", "many"), one=one_checkpoint, many=one_checkpoint)
def centre_test(one: PrefixCheckpoint, many: PrefixCheckpoint, *, seed: int = 0) -> CentreTest:
    """Test whether the token of `one` is the centre of the tokens of `many`.

    Args:
        one: A checkpoint with one token. A path or a prefix adapter does as well.
        many: A checkpoint with at least three tokens of the same d_model.
        seed: Seed of the random directions.

    Returns:
        The distances and their controls; `explanation` says in words what they show.

    Raises:
        AlignerProbeError: The numbers of tokens or d_model do not fit.

    Source:
        Section 5.1 and Figure 12 of arXiv 2312.05503.
    """
    token, tokens = one.tokens.double().numpy(), many.tokens.double().numpy()
    if len(token) != 1 or len(tokens) < 3 or one.d_model != many.d_model:
        raise AlignerProbeError(
            f"{one.label} has {len(token)} tokens of d_model {one.d_model}, {many.label} {len(tokens)} of "
            f"{many.d_model}; expected one token, and at least three of the same d_model"
        )
    token = token[0]
    directions = np.random.default_rng(seed).standard_normal((RANDOM_VECTORS, len(token)))
    directions *= np.linalg.norm(token) / np.linalg.norm(directions, axis=1, keepdims=True)
    centroid = tokens.mean(axis=0)
    norms = np.linalg.norm(tokens, axis=1) * np.linalg.norm(token)
    cosine = np.divide(tokens @ token, norms, out=np.zeros(len(tokens)), where=norms > 0)
    twin = int(np.argmax(cosine))
    loo = _others_centroids(tokens)
    others = np.delete(tokens, twin, axis=0)
    # The one against the centroids of N - 2 of the others, as each of the N - 1 others is.
    return CentreTest(
        label_one=one.label,
        label_many=many.label,
        n_tokens=len(tokens),
        distance=float(np.linalg.norm(token - centroid)),
        matched=float(np.linalg.norm(token - loo, axis=1).mean()),
        leave_one_out=np.linalg.norm(tokens - loo, axis=1),
        random=np.linalg.norm(directions - loo[np.arange(RANDOM_VECTORS) % len(loo)], axis=1),
        twin=twin,
        twin_cosine=float(cosine[twin]),
        twin_threshold=_twin_threshold(*tokens.shape),
        distance_without_twin=float(np.linalg.norm(token - _others_centroids(others), axis=1).mean()),
        leave_one_out_without_twin=np.linalg.norm(others - _others_centroids(others), axis=1),
        seed=seed,
    )


def _twin_threshold(n_tokens: int, d_model: int) -> float:
    """Cosine that the nearest of n independent directions exceeds with probability P_TWIN.

    The squared cosine of two independent directions is Beta(1/2, (d - 1) / 2).
    """
    if d_model < 2:
        return 1.0
    return float(np.sqrt(stats.beta.isf(2 * P_TWIN / n_tokens, 0.5, (d_model - 1) / 2)))


def _others_centroids(tokens: Float[np.ndarray, "n d_model"]) -> Float[np.ndarray, "n d_model"]:
    """For each token the centroid of all others."""
    return (tokens.sum(axis=0) - tokens) / (len(tokens) - 1)
