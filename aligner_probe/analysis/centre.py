"""Is the one token of Aligner-1 the centre of the tokens of Aligner-N?

The paper (arXiv 2312.05503, section 5.1, Figure 12) sees the one token in the middle of the others on a t-SNE plane.
Here the distance from the one to the others' centroid is set against what a centre would have to beat:

- **leave-one-out:** how far each of the N lies from the centroid of the other N - 1. The one is measured from the
  same N centroids of N - 1 tokens, since a centroid of more points is nearer to everything.
- **random directions** of the one token's length, likewise.
- **without the twin:** runs with one seed share their random start, so the one token may be, but for training, one of
  the N; it is then near a centroid that contains itself. The twin is the token of the largest cosine.
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
    """Euclidean distances to centroids, in units of the tokens' numbers.

    `distance` is from the one to the centroid of all N, as the paper pictures it; `matched` is its mean distance to
    the N centroids that leave one token out, to be compared with `leave_one_out`, each token's to the centroid of the
    others. `random` are distances of random directions to those centroids, in turn. `twin` is the position of the token
    most like the one, `twin_cosine` how like; `distance_without_twin` and `leave_one_out_without_twin` are what is left
    without it.
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
        """Share of the N that lie nearer to the others' centroid than the one (matched)."""
        return float(np.mean(self.leave_one_out < self.matched))

    @property
    def share_nearer_without_twin(self) -> float:
        """The same once the twin is left out; near 1/2 for a token like any other, 0 for a centre."""
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

    Raises AlignerProbeError unless `one` has one token, `many` at least three, in spaces of one d_model.
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
