"""Attention to a few prefix tokens, added to head outputs: softmax(q k^T) v with the same keys for every position.

The axes batch and position are treated as one long axis of queries, so the forward pass is two matrix products a head.
Scores have the axes (head, token, query). The softmax runs over the short axis of tokens, and the long axis of queries
fills the CPU's vector units. With ten keys this is several times faster than a fused attention kernel, which computes
in blocks of many keys.

For the backward pass, only the attention pattern is kept beside the query: n_tokens values for d_head values of the
query. With more tokens than d_head the fused kernel takes less memory, because it keeps its output instead.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def add_prefix_attention(
    z: Float[Tensor, "batch pos n_heads d_head"],
    q: Float[Tensor, "batch pos n_heads d_head"],
    k: Float[Tensor, "n_tokens n_heads d_head"],
    v: Float[Tensor, "n_tokens n_heads d_head"],
) -> Float[Tensor, "batch pos n_heads d_head"]:
    """Compute z + softmax(q k^T) v for each head, in the data type of the query; the keys are scaled already."""
    k, v = k.to(q.dtype).transpose(0, 1), v.to(q.dtype).transpose(0, 1)
    if k.shape[1] > k.shape[2]:
        mixed = F.scaled_dot_product_attention(_by_head(q)[None], k[None], v[None], scale=1.0)
        return z + _by_position(mixed[0], z)
    if torch.is_grad_enabled():
        return _AddPrefixAttention.apply(z, q, k, v)
    return _add(z, _pattern(q, k), v)


def add_prefix_attention_by_row(
    z: Float[Tensor, "batch pos n_heads d_head"],
    q: Float[Tensor, "batch pos n_heads d_head"],
    k: Float[Tensor, "rows n_tokens n_heads d_head"],
    v: Float[Tensor, "rows n_tokens n_heads d_head"],
) -> Float[Tensor, "batch pos n_heads d_head"]:
    """As `add_prefix_attention`, with keys and values of its own for each row; with one of them for all rows."""
    k, v = (x.to(q.dtype).transpose(1, 2).expand(len(q), -1, -1, -1) for x in (k, v))
    mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, scale=1.0)
    return z + mixed.transpose(1, 2)


def _by_head(x: Float[Tensor, "batch pos n_heads d_head"]) -> Float[Tensor, "n_heads query d_head"]:
    return x.flatten(0, 1).transpose(0, 1)


def _by_position(
    x: Float[Tensor, "n_heads query d_head"], like: Float[Tensor, "batch pos n_heads d_head"]
) -> Float[Tensor, "batch pos n_heads d_head"]:
    return x.transpose(0, 1).reshape(like.shape)


def _pattern(
    q: Float[Tensor, "batch pos n_heads d_head"], k: Float[Tensor, "n_heads n_tokens d_head"]
) -> Float[Tensor, "n_heads n_tokens query"]:
    return (k @ _by_head(q).mT).softmax(1)


def _add(
    z: Float[Tensor, "batch pos n_heads d_head"],
    pattern: Float[Tensor, "n_heads n_tokens query"],
    v: Float[Tensor, "n_heads n_tokens d_head"],
) -> Float[Tensor, "batch pos n_heads d_head"]:
    return _by_position(torch.baddbmm(_by_head(z), pattern.mT, v), z)


class _AddPrefixAttention(torch.autograd.Function):
    """`add_prefix_attention` with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pattern = _pattern(q, k)
        ctx.save_for_backward(q, k, v, pattern)
        return _add(z, pattern, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        q, k, v, pattern = ctx.saved_tensors
        by_head = _by_head(gradient)
        of_v = pattern @ by_head
        of_scores = (v @ by_head.mT).mul_(pattern)
        of_scores.addcmul_(pattern, of_scores.sum(1, keepdim=True), value=-1)
        of_k = of_scores @ _by_head(q)
        # The query of the first adapted layer depends on no trained parameter.
        of_q = _by_position(of_scores.mT @ k, q) if ctx.needs_input_grad[1] else None
        return gradient, of_q, of_k, of_v
