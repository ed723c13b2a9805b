"""Attention with capped scores, as Gemma 2 has it, in parts that fit into a processor's cache.

A cap c turns a score s into c tanh(s / c) before the softmax. No kernel of `F.scaled_dot_product_attention` does that,
so plain Hugging Face writes scores and pattern out for the whole batch, and keeps both for the backward pass.
`capped_attention` computes the same for a few heads and queries at a time, leaves out keys that the mask hides from all
of them, keeps queries, keys and values only, and computes scores and pattern again in the backward pass.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

#: How many scores one part has at most, unless a block of queries of a single key head has more: what a core's cache
#: takes on a CPU, and what keeps a GPU busy.
SCORES_AT_ONCE = {"cpu": 2**19, "cuda": 2**24}
#: How many queries a part has on a CPU, where keys that none of them sees are left out.
QUERIES_AT_ONCE = 64
#: Bytes of all temporary tensors for one score in the backward pass, in float32.
BYTES_A_SCORE = 16


def scores_at_once(device: torch.device) -> int:
    """How many scores one part of the batch has at most on this device."""
    return SCORES_AT_ONCE.get(device.type, SCORES_AT_ONCE["cuda"])


def capped_attention(
    q: Float[Tensor, "batch n_heads pos d_head"],
    k: Float[Tensor, "batch n_kv_heads keys d_head"],
    v: Float[Tensor, "batch n_kv_heads keys d_head"],
    mask: Float[Tensor, "#batch #n_heads pos keys"],
    scaling: float,
    cap: float,
) -> Float[Tensor, "batch pos n_heads d_head"]:
    """Head outputs softmax(cap tanh(scaling q k^T / cap) + mask) v, with gradients of queries, keys and values.

    The softmax is taken in float32, or in float64 where the inputs are.
    """
    return _Capped.apply(q, k, v, mask, scaling, cap)


class _Capped(torch.autograd.Function):
    """`capped_attention`; its backward pass cannot be differentiated again."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float, cap: float
    ) -> Float[Tensor, "batch pos n_heads d_head"]:
        ctx.save_for_backward(q, k, v, mask)
        ctx.factors = scaling, cap
        z = q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1])
        grouped_z = _by_key_head(z.transpose(1, 2), k)
        for of_queries, of_keys, q_part, mask_part in _parts(q, k, mask):
            pattern = _pattern(_tanh(q_part, k[of_keys], scaling, cap), mask_part, cap).to(q.dtype)
            _write(grouped_z, of_queries, pattern @ v[of_keys])
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        q, k, v, mask = ctx.saved_tensors
        scaling, cap = ctx.factors
        of_z = _by_key_head(grad_outputs[0].transpose(1, 2), k)
        for_q, for_k, for_v = ctx.needs_input_grad[:3]
        # Laid out as queries and keys are, which are projections seen by heads.
        of_q = torch.empty_like(q) if for_q else None
        # Sums over queries, in the precision of the softmax.
        precise = torch.promote_types(q.dtype, torch.float32)
        of_k, of_v = (torch.zeros_like(t, dtype=precise) if wanted else None for t, wanted in ((k, for_k), (v, for_v)))
        for of_queries, of_keys, q_part, mask_part in _parts(q, k, mask):
            of_z_part = of_z[of_queries].flatten(2, 3)
            tanh = _tanh(q_part, k[of_keys], scaling, cap)
            pattern = _pattern(tanh, mask_part, cap)
            if of_v is not None:
                of_v[of_keys] += pattern.to(q.dtype).mT @ of_z_part
            if of_q is None and of_k is None:
                continue
            of_pattern = (of_z_part @ v[of_keys].mT).to(pattern.dtype)
            of_scores = torch.ops.aten._softmax_backward_data(of_pattern, pattern, -1, pattern.dtype).to(q.dtype)
            of_scores *= tanh.square_().neg_().add_(1).mul_(scaling)
            if of_q is not None:
                _write(_by_key_head(of_q, k), of_queries, of_scores @ k[of_keys])
            if of_k is not None:
                of_k[of_keys] += of_scores.mT @ q_part
        of_k, of_v = (None if t is None else t.to(q.dtype) for t in (of_k, of_v))
        return of_q, of_k, of_v, None, None, None


def _by_key_head(heads: Tensor, k: Tensor) -> Float[Tensor, "batch n_kv_heads heads_per_key pos d_head"]:
    """What each query head has, by the key head that it shares."""
    return heads.unflatten(1, (k.shape[1], -1))


def _write(grouped: Tensor, part: tuple[slice, ...], rows: Float[Tensor, "batch n_kv_heads rows d_head"]) -> None:
    """Write what was computed for a part's queries, the heads of a key head below each other."""
    there = grouped[part]
    there.copy_(rows.unflatten(2, there.shape[2:4]))


def _parts(
    q: Tensor, k: Tensor, mask: Tensor
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], Tensor, Float[Tensor, "batch kv_heads heads queries keys"]]]:
    """Parts of the batch, of the key heads and of the queries.

    Of each: where its queries are in a tensor by key heads, where its keys are, the queries (batch, key heads, heads a
    key x queries, d_head), and the mask.
    """
    batch, n_heads, pos, _ = q.shape
    n_kv_heads, keys = k.shape[1], k.shape[2]
    grouped = _by_key_head(q, k)
    masks = _by_key_head(mask.expand(batch, n_heads, pos, keys), k)
    blocks = _blocks(mask)
    largest = max((b.stop - b.start) * (seen.stop - seen.start) for b, seen in blocks)
    at_once = max(1, scores_at_once(q.device) // max(1, largest * n_heads // n_kv_heads))
    rows, heads = max(1, at_once // n_kv_heads), min(at_once, n_kv_heads)
    for row in range(0, batch, rows):
        for head in range(0, n_kv_heads, heads):
            there = slice(row, row + rows), slice(head, head + heads)
            for block, seen in blocks:
                of_queries = (*there, slice(None), block)
                yield of_queries, (*there, seen), grouped[of_queries].flatten(2, 3), masks[(*of_queries, seen)]


def _blocks(mask: Float[Tensor, "#batch #n_heads pos keys"]) -> list[tuple[slice, slice]]:
    """Blocks of queries, each with the keys from the first to the last that one of them sees in any row and head.

    A query that sees no key at all has the same score for each of them, and so needs all. On a GPU there is one block:
    to read there what is seen would wait for the device.
    """
    pos, keys = mask.shape[2:]
    everything = slice(0, keys)
    if mask.device.type != "cpu" or pos <= QUERIES_AT_ONCE:
        return [(slice(0, pos), everything)]
    seen = mask > torch.finfo(mask.dtype).min / 2
    blind = ~seen.any(-1).all(0).all(0)
    columns = seen.any(0).any(0)
    blocks = []
    for start in range(0, pos, QUERIES_AT_ONCE):
        block = slice(start, min(start + QUERIES_AT_ONCE, pos))
        by_key = columns[block].any(0).nonzero()
        some = everything if blind[block].any() else slice(int(by_key[0]), int(by_key[-1]) + 1)
        blocks.append((block, some))
    return blocks


def _tanh(q: Tensor, k: Tensor, scaling: float, cap: float) -> Tensor:
    """tanh(scaling q k^T / cap), rounded as Hugging Face rounds it."""
    return (q @ k.mT).mul_(scaling).div_(cap).tanh_()


def _pattern(tanh: Tensor, mask: Tensor, cap: float) -> Tensor:
    scores = (tanh * cap).unflatten(2, mask.shape[2:4]).add_(mask)
    return scores.flatten(2, 3).softmax(-1, dtype=torch.promote_types(tanh.dtype, torch.float32))
