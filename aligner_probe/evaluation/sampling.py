"""Tokens drawn at random, so that an answer depends on its seed and not on the prompts that it was generated with.

Each row has a stream of random numbers of its own, one number a token. The token is where the number falls in the
cumulated probabilities.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aligner_probe.arguments import is_several, refuse, several
from aligner_probe.errors import AlignerProbeError

#: Told the logits of the rows that are present, which rows of the batch these are, and the step: their next tokens.
Picker = Callable[[Tensor, Sequence[int], int], Tensor]
#: The largest number of a stream. Times a sum of probabilities, a larger one could be rounded up to that sum.
BELOW_ONE = 1 - 2.0**-50


def greedy(logits: Float[Tensor, "row d_vocab"], present: Sequence[int], step: int) -> Int[Tensor, " row"]:
    """The most likely token of each row."""
    return logits.argmax(-1)


def seeds_given(value: Any, where: str) -> int | list[int]:
    """A seed, or a seed for each prompt. Raises ArgumentError for anything but whole numbers from 0 up."""
    given = value.tolist() if hasattr(value, "tolist") else value
    items = several(given) if is_several(given) else [given]
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in items):
        raise refuse(value, where, "a whole number from 0 up, or one for each prompt")
    return given if isinstance(given, int) else items


def sampling_for(
    n_prompts: int, *, temperature: float, top_k: int | None, top_p: float, seed: int | Sequence[int]
) -> "Sampling | None":
    """How tokens are drawn; None where they are greedy. Raises AlignerProbeError for options that do not fit."""
    wrong = {
        "temperature": (temperature, 0 <= temperature < float("inf"), "0 for greedy answers, or more"),
        "top_k": (top_k, top_k is None or top_k >= 1, "1 or more, or None"),
        "top_p": (top_p, 0 < top_p <= 1, "more than 0, at most 1"),
    }
    for name, (value, is_right, expected) in wrong.items():
        if not is_right:
            raise AlignerProbeError(f"{name} {value}; expected {expected}")
    if temperature == 0:
        if top_k is not None or top_p != 1:
            raise AlignerProbeError(
                "top_k and top_p say what is drawn from, and with temperature 0 nothing is drawn; give a temperature, "
                "for instance 0.8"
            )
        return None
    if isinstance(seed, int):
        streams = tuple((seed, index) for index in range(n_prompts))
    else:
        streams = tuple((one, 0) for one in seed)
        if len(streams) != n_prompts:
            raise AlignerProbeError(f"{n_prompts} prompts and {len(streams)} seeds; expected one seed, or one for each")
    return Sampling(temperature, top_k, top_p, streams)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `streams` has for each prompt what its random numbers follow from."""

    temperature: float
    top_k: int | None
    top_p: float
    streams: tuple[tuple[int, int], ...]

    def picker(self, prompts: Sequence[int], max_new_tokens: int) -> Picker:
        """What picks the next tokens of a batch of these prompts."""
        uniform = torch.from_numpy(
            np.stack([np.random.default_rng(self.streams[index]).random(max_new_tokens) for index in prompts])
        ).clamp(max=BELOW_ONE)

        def pick(logits: Float[Tensor, "row d_vocab"], present: Sequence[int], step: int) -> Int[Tensor, " row"]:
            return self.drawn(logits, uniform[list(present), step])

        return pick

    def drawn(self, logits: Float[Tensor, "row d_vocab"], uniform: Float[Tensor, " row"]) -> Int[Tensor, " row"]:
        """One token of each row; `uniform` has a number from 0 up to 1 for each."""
        # Apple's GPUs have no float64.
        dtype = torch.float32 if logits.device.type == "mps" else torch.float64
        probabilities, ids = (logits.float() / self.temperature).softmax(-1).to(dtype), None
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            probabilities, ids = probabilities.topk(self.top_k)
        elif self.top_p < 1:
            probabilities, ids = probabilities.sort(descending=True, stable=True)
        if self.top_p < 1:
            total = probabilities.sum(-1, keepdim=True)
            before = probabilities.cumsum(-1) - probabilities
            # The most likely token has nothing before it, so one token at least is left.
            probabilities = probabilities.masked_fill(before >= self.top_p * total, 0)
        cumulated = probabilities.cumsum(-1)
        wanted = uniform.to(logits.device, dtype)[:, None] * cumulated[:, -1:]
        index = torch.searchsorted(cumulated, wanted, right=True).clamp(max=cumulated.shape[-1] - 1)
        return (index if ids is None else ids.gather(-1, index))[:, 0]
