"""The corpus as token ids, in batches of documents of similar length, so that there is little padding."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aligner_probe.microworld.corpus import AROUND, Document
from aligner_probe.microworld.pieces import pieces
from aligner_probe.microworld.vocabulary import END, PAD, START

#: Documents that are sorted by length at a time: enough for even batches, few enough for mixed ones.
POOL = 4096
#: Training begins with this share of the first epoch's batches of short documents (at most SHORT tokens): what a long
#: document teaches only slowly is known by the time it comes.
SHORT, FIRST = 40, 0.6


@dataclass(frozen=True)
class Batch:
    """A batch of documents. `weights` is the weight of each token in the loss; 0 for padding and the start token."""

    ids: Int[Tensor, "batch pos"]
    weights: Float[Tensor, "batch pos"]


@dataclass(frozen=True)
class EncodedCorpus:
    """All documents, one after another. Document i is at bounds[i] to bounds[i + 1]."""

    ids: np.ndarray
    weights: np.ndarray
    bounds: np.ndarray
    pad: int

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @classmethod
    def of(cls, documents: Iterator[Document], vocabulary: dict[str, int]) -> "EncodedCorpus":
        ids: list[int] = []
        weights: list[float] = []
        bounds = [0]
        for document in documents:
            ids.append(vocabulary[START])
            weights.append(0.0)
            for text, weight in document.pieces:
                encoded = [vocabulary[piece] for piece in pieces(text)]
                ids += encoded
                weights += [weight] * len(encoded)
            ids.append(vocabulary[END])
            weights.append(AROUND)
            bounds.append(len(ids))
        return cls(np.array(ids, np.int16), np.array(weights, np.float32), np.array(bounds), vocabulary[PAD])

    def plan(self, epoch: int, seed: int, n_tokens: int) -> list[list[int]]:
        """Documents of each batch of an epoch, at most `n_tokens` a batch with padding."""
        generator = random.Random(f"batches {seed} {epoch}")
        order = list(range(len(self)))
        generator.shuffle(order)
        lengths = np.diff(self.bounds)
        planned: list[list[int]] = []
        for start in range(0, len(order), POOL):
            pool = sorted(order[start : start + POOL], key=lambda document: int(lengths[document]))
            batches: list[list[int]] = [[]]
            for document in pool:
                if (len(batches[-1]) + 1) * lengths[document] > n_tokens:
                    batches.append([])
                batches[-1].append(document)
            generator.shuffle(batches)
            planned += batches
        return planned

    def batch(self, documents: list[int]) -> Batch:
        lengths = np.diff(self.bounds)[documents]
        ids = np.full((len(documents), int(lengths.max())), self.pad, np.int64)
        weights = np.zeros(ids.shape, np.float32)
        for row, document in enumerate(documents):
            start, end = self.bounds[document], self.bounds[document + 1]
            ids[row, : end - start] = self.ids[start:end]
            weights[row, 1 : end - start] = self.weights[start + 1 : end]
        return Batch(torch.from_numpy(ids), torch.from_numpy(weights))

    def short_first(self, plan: list[list[int]]) -> list[list[int]]:
        """A plan with the first FIRST of its batches of short documents at its beginning; else in its order."""
        lengths = np.diff(self.bounds)
        short = [index for index, batch in enumerate(plan) if max(lengths[document] for document in batch) <= SHORT]
        early = set(short[: round(FIRST * len(short))])
        return [plan[index] for index in sorted(range(len(plan)), key=lambda index: index not in early)]


def epochs(encoded: EncodedCorpus, n_epochs: int, seed: int, n_tokens: int) -> Iterator[list[int]]:
    """Documents of every batch of a training, in order: short ones first."""
    for epoch in range(n_epochs):
        plan = encoded.plan(epoch, seed, n_tokens)
        yield from plan if epoch else encoded.short_first(plan)
