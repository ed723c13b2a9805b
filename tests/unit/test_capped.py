"""Attention with capped scores, in parts, against scores that are written out for the whole batch."""

import pytest
import torch

from aligner_probe import capped
from aligner_probe.capped import capped_attention

SCALING, CAP = 0.4, 2.0


def drawn(dtype=torch.float64, pos=5, keys=7, seed=0):
    """Queries of four heads, keys and values of two, and a mask that hides some keys from each query."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (3, 4, pos, 6), (3, 2, keys, 6), (3, 2, keys, 6)
    q, k, v = (3 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    hidden = torch.rand(3, 1, pos, keys, generator=generator) < 0.3
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
    return [t.to(dtype).requires_grad_() for t in (q, k, v)], mask


def written_out(q, k, v, mask):
    """By einsums, in the precision of the inputs."""
    k, v = (t.repeat_interleave(2, dim=1) for t in (k, v))
    scores = CAP * torch.tanh(SCALING * torch.einsum("bhpe,bhse->bhps", q, k) / CAP) + mask
    return torch.einsum("bhps,bhse->bphe", scores.softmax(-1), v)


def gradients(output, inputs):
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.autograd.grad((output * weights.to(output.dtype)).sum(), inputs)


@pytest.mark.parametrize("at_once", [1, 40, 10**6])
def test_outputs_and_gradients_are_those_of_scores_written_out(at_once, monkeypatch):
    """Whatever fits into one part: one key head, both of a row, or everything."""
    monkeypatch.setitem(capped.SCORES_AT_ONCE, "cpu", at_once)
    inputs, mask = drawn()
    found, expected = capped_attention(*inputs, mask, SCALING, CAP), written_out(*inputs, mask)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("blind", [False, True])
def test_keys_that_no_query_of_a_block_sees_are_left_out(window, blind, monkeypatch):
    """A causal mask with a window, and with a query that sees nothing: that one needs all keys."""
    monkeypatch.setattr(capped, "QUERIES_AT_ONCE", 4)
    inputs, _ = drawn(pos=11, keys=13)
    query, key = torch.arange(11)[:, None] + 2, torch.arange(13)
    seen = (key <= query) & (key > query - (window or 99))
    seen = seen.expand(3, 1, 11, 13).clone()
    seen[1, :, 5] &= not blind
    mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)
    blocks = [(part.stop - part.start, keys.stop - keys.start) for part, keys in capped._blocks(mask)]
    assert blocks == [(4, 6), (4, 13 if blind else 10 if window is None else 6), (3, 13 if window is None else 5)]
    found, expected = capped_attention(*inputs, mask, SCALING, CAP), written_out(*inputs, mask)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("wanted", range(3))
def test_only_the_gradients_that_are_asked_for(wanted):
    inputs, mask = drawn()
    given = [t if i == wanted else t.detach() for i, t in enumerate(inputs)]
    found, expected = capped_attention(*given, mask, SCALING, CAP), written_out(*inputs, mask)
    (ours,) = gradients(found, given[wanted])
    assert torch.allclose(ours, gradients(expected, inputs)[wanted], rtol=0, atol=1e-12)


def test_a_mask_of_each_heads_own():
    inputs, _ = drawn()
    mask = torch.where(torch.rand(3, 4, 5, 7, generator=torch.Generator().manual_seed(2)) < 0.3, -1e30, 0.0).double()
    found, expected = capped_attention(*inputs, mask, SCALING, CAP), written_out(*inputs, mask)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_bfloat16_is_no_further_from_float64_than_scores_written_out():
    inputs, mask = drawn(torch.bfloat16)
    exact = written_out(*(t.double() for t in inputs), mask.double())
    found = capped_attention(*inputs, mask, SCALING, CAP)
    assert found.dtype == torch.bfloat16
    distances = [(t.double() - exact).abs().max() for t in (found, written_out(*inputs, mask))]
    assert distances[0] <= 1.5 * distances[1]
    assert all(t.isfinite().all() and t.dtype == torch.bfloat16 for t in gradients(found, inputs))


def test_nothing_as_large_as_the_scores_is_kept():
    inputs, mask = drawn(torch.float32, pos=40, keys=40)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        capped_attention(*inputs, mask, SCALING, CAP)
    assert sorted(kept) == sorted([*(t.numel() for t in inputs), mask.numel()])
