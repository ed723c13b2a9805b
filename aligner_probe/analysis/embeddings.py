"""Prefix tokens on a plane by t-SNE or UMAP, with what is needed to judge the picture.

These are Figures 6b, 15 and 12 to 14 of arXiv 2312.05503. A plane can show neighbourhoods, never distances; and for a
dozen points it cannot show neighbourhoods either. So every map comes with n, seed, perplexity and trustworthiness, and
with the distances between the tokens themselves.

    result = embed_tokens([one, ten], method="tsne", seed=0)
    result.to_frame(), result.trustworthiness, result.cosine_distance
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from aligner_probe.arguments import accepts
from aligner_probe.checkpoints.given import many_checkpoints
from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.errors import AlignerProbeError, one_of
from aligner_probe.html import Shown

#: Under this many points a map's neighbourhoods say next to nothing.
FEW_POINTS = 30
PERPLEXITY = 30.0
UMAP_NEIGHBOURS = 15
TRUST_NEIGHBOURS = 5
Method = Literal["tsne", "umap"]


@dataclass(frozen=True, repr=False)
class TokenMap(Shown):
    """Tokens of several checkpoints on a plane.

    `members` has one row per token: checkpoint, method, data set, base model, layer (-1: shared by all layers),
    position. `settings` are the options of the method; `caveats` say in words what the picture cannot show. Distances
    are between the tokens themselves, in d_model dimensions.
    """

    method: Method
    coordinates: Float[np.ndarray, "n 2"]
    members: pd.DataFrame
    seed: int
    settings: dict[str, Any]
    trustworthiness: float | None
    trust_neighbours: int | None
    cosine_distance: Float[np.ndarray, "n n"]
    euclidean_distance: Float[np.ndarray, "n n"]
    caveats: tuple[str, ...]

    def shown(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "map": self.summary,
            "caveats": self.caveats,
        }

    @property
    def n(self) -> int:
        """Tokens drawn."""
        return len(self.coordinates)

    @property
    def summary(self) -> str:
        """n, seed, settings and trustworthiness, for a caption."""
        settings = ", ".join(f"{key} {value:g}" for key, value in self.settings.items())
        trust = (
            "trustworthiness not defined"
            if self.trustworthiness is None
            else f"trustworthiness {self.trustworthiness:.2f} ({self.trust_neighbours} neighbours)"
        )
        return f"n = {self.n} tokens, seed {self.seed}, {settings}, {trust}"

    def to_frame(self) -> pd.DataFrame:
        """One row a token: `members` with coordinates x and y."""
        return self.members.assign(x=self.coordinates[:, 0], y=self.coordinates[:, 1])


@accepts(checkpoints=many_checkpoints)
def embed_tokens(
    checkpoints: Sequence[PrefixCheckpoint],
    *,
    method: Method | str = "tsne",
    perplexity: float | int | None = None,
    n_neighbors: int | None = None,
    seed: int = 0,
) -> TokenMap:
    """Map every token of every checkpoint onto a plane.

    The same seed gives the same map on one machine.

    Args:
        checkpoints: Prefix checkpoints of one d_model. Paths and prefix adapters do as well.
        method: "tsne" or "umap".
        perplexity: Of t-SNE; it must be smaller than the number of tokens. By default 30, or less for fewer than about
            a hundred tokens.
        n_neighbors: Of UMAP, by default 15.
        seed: Seed of the map.

    Returns:
        Coordinates of shape (tokens, 2), with what is needed to judge them.

    Raises:
        AlignerProbeError: The method is unknown, an option belongs to the other method, checkpoints differ in d_model,
            there are fewer than four tokens, or the perplexity is too large.
    """
    chosen_method: Method = one_of(method, get_args(Method), "method")
    theirs = {"tsne": ("n_neighbors", n_neighbors), "umap": ("perplexity", perplexity)}
    option, value = theirs[chosen_method]
    if value is not None:
        raise AlignerProbeError(f"method {method!r} takes no {option}; leave {option} out, or choose the other method")
    tokens, members = _gather(checkpoints)
    n = len(tokens)
    if n < 4:
        raise AlignerProbeError(f"{n} tokens in all; a map needs at least 4: add a checkpoint with more tokens")
    if chosen_method == "tsne":
        # A third of the other points is the most that leaves a neighbourhood smaller than everything.
        chosen = min(PERPLEXITY, (n - 1) / 3) if perplexity is None else perplexity
        if not 0 < chosen < n:
            raise AlignerProbeError(f"perplexity {chosen:g} with {n} tokens; expected more than 0 and less than {n}")
        coordinates, settings = _tsne(tokens, chosen, seed), {"perplexity": round(chosen, 2)}
    else:
        chosen = min(UMAP_NEIGHBOURS, n - 1) if n_neighbors is None else n_neighbors
        if not 2 <= chosen < n:
            raise AlignerProbeError(f"n_neighbors {chosen} with {n} tokens; expected 2 to {n - 1}")
        coordinates, settings = _umap(tokens, chosen, seed), {"n_neighbors": chosen}
    trust_neighbours = min(TRUST_NEIGHBOURS, (n - 1) // 2)
    return TokenMap(
        method=chosen_method,
        coordinates=coordinates,
        members=members,
        seed=seed,
        settings=settings,
        trustworthiness=_trustworthiness(tokens, coordinates, trust_neighbours),
        trust_neighbours=trust_neighbours,
        cosine_distance=_cosine_distance(tokens),
        euclidean_distance=_euclidean_distance(tokens),
        caveats=_caveats(n, members),
    )


def _gather(checkpoints: Sequence[PrefixCheckpoint]) -> tuple[Float[np.ndarray, "n d_model"], pd.DataFrame]:
    widths = sorted({checkpoint.d_model for checkpoint in checkpoints})
    if len(widths) != 1:
        raise AlignerProbeError(
            f"tokens of different d_model ({', '.join(map(str, widths)) or 'no checkpoint'}) share no space; "
            "expected checkpoints of one base model"
        )
    # Two runs of one kind (other seeds) have one label; number them.
    labels = [c.label for c in checkpoints]
    names = [f"{x} ({labels[:i].count(x) + 1})" if labels.count(x) > 1 else x for i, x in enumerate(labels)]
    rows = [
        {
            "checkpoint": name,
            "method": checkpoint.method,
            "method_label": checkpoint.method_label,
            "data_set": checkpoint.data_set,
            "base_model": checkpoint.base_model,
            "layer": -1 if checkpoint.method == "aligner" else checkpoint.start_layer + index // checkpoint.n_tokens,
            "position": index % checkpoint.n_tokens,
        }
        for name, checkpoint in zip(names, checkpoints, strict=True)
        for index in range(len(checkpoint.tokens))
    ]
    tokens = np.concatenate([checkpoint.tokens.double().numpy() for checkpoint in checkpoints])
    return tokens, pd.DataFrame(rows)


def _tsne(tokens: Float[np.ndarray, "n d_model"], perplexity: float | int, seed: int) -> Float[np.ndarray, "n 2"]:
    from sklearn.manifold import TSNE

    # Random start: PCA axes of a few nearly orthogonal vectors would only add an order that is not there.
    model = TSNE(n_components=2, perplexity=perplexity, init="random", random_state=seed)
    return np.asarray(model.fit_transform(tokens.astype(np.float32)), dtype=float)


def _umap(tokens: Float[np.ndarray, "n d_model"], n_neighbors: int, seed: int) -> Float[np.ndarray, "n 2"]:
    import torch
    from sklearn.neighbors import NearestNeighbors
    from umap import UMAP

    from aligner_probe.threads import exactly

    values = tokens.astype(np.float32)
    # Exact neighbours, which UMAP counts from the point itself; its own search would compile for half a minute first.
    distances, neighbours = NearestNeighbors(n_neighbors=n_neighbors).fit(values).kneighbors(values)
    # UMAP sets the threads of the OpenMP runtime, which torch uses too: a later training would differ in its last bits.
    with exactly(torch.get_num_threads()), warnings.catch_warnings():
        # A fixed seed makes UMAP run on one core; it says so each time.
        warnings.filterwarnings("ignore", message="n_jobs value")
        warnings.filterwarnings("ignore", message="precomputed_knn")
        model = UMAP(
            n_components=2,
            n_neighbors=n_neighbors,
            init="random",
            random_state=seed,
            precomputed_knn=(neighbours, distances, None),
        )
        return np.asarray(model.fit_transform(values), dtype=float)


def _trustworthiness(
    tokens: Float[np.ndarray, "n d_model"], coordinates: Float[np.ndarray, "n 2"], neighbours: int
) -> float | None:
    from sklearn.manifold import trustworthiness

    return float(trustworthiness(tokens, coordinates, n_neighbors=neighbours)) if neighbours else None


def _cosine_distance(tokens: Float[np.ndarray, "n d_model"]) -> Float[np.ndarray, "n n"]:
    norms = np.linalg.norm(tokens, axis=1, keepdims=True)
    directions = np.divide(tokens, norms, out=np.zeros_like(tokens), where=norms > 0)
    distance = 1 - directions @ directions.T
    np.fill_diagonal(distance, 0)
    return np.clip(distance, 0, 2)


def _euclidean_distance(tokens: Float[np.ndarray, "n d_model"]) -> Float[np.ndarray, "n n"]:
    from scipy.spatial.distance import pdist, squareform

    return squareform(pdist(tokens))


def _caveats(n: int, members: pd.DataFrame) -> tuple[str, ...]:
    caveats = ["distances and sizes of clusters on the map mean nothing; only who is whose neighbour may"]
    if n < FEW_POINTS:
        caveats.append(
            f"{n} points are too few for a neighbourhood to mean anything: their places are mostly the method's own "
            "repulsion, so neither a centre nor a cluster can be read from them; see the raw distances"
        )
    single = sorted(str(label) for label, count in members["checkpoint"].value_counts().items() if count == 1)
    if single:
        caveats.append(f"one point each stands for {', '.join(single)}: a single point has no spread to compare")
    return tuple(caveats)
