"""Equality counts against plain loops."""

import numpy as np
import pytest
import torch
from builders import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner_probe.analysis.equality import compare_numbers

SHAPE = {"n_tokens": st.integers(1, 4), "d_model": st.integers(1, 40), "n_heads": st.integers(1, 4)}


def twins(kept, seed, **shape):
    """Two checkpoints that share about `kept` of their numbers."""
    a, b = checkpoint(seed=seed, **shape), checkpoint(seed=seed + 1, **shape)
    mask = torch.rand(a.prefix.shape, generator=torch.Generator().manual_seed(seed)) < kept
    return a, checkpoint(prefix=torch.where(mask, a.prefix, b.prefix), gates=b.gates, seed=seed + 2)


@given(kept=st.floats(0, 1), seed=st.integers(0, 1000), method=st.sampled_from(["aligner", "llama_adapter"]), **SHAPE)
@settings(max_examples=40, deadline=None)
def test_counts_add_up_and_match_a_loop(kept, seed, method, **shape):
    a, b = twins(kept, seed, method=method, **shape)
    result = compare_numbers(a, b)
    x, y = a.prefix.double().flatten().tolist(), b.prefix.double().flatten().tolist()
    assert result.n_equal == sum(p == q for p, q in zip(x, y, strict=True))
    assert result.n_equal == sum(result.equal_per_token) == sum(band.n_equal for band in result.bands)
    assert result.prefix.n == len(x) == sum(band.n for band in result.bands)
    assert len(result.equal_per_token) == len(a.tokens)
    for band in result.bands:
        inside = [p == q for p, q in zip(x, y, strict=True) if band.low <= min(abs(p), abs(q)) < band.high]
        assert (band.n, band.n_equal) == (len(inside), sum(inside))
    assert np.array_equal(result.prefix.differences == 0, result.prefix.equal)
    assert np.array_equal(result.prefix.ulps == 0, result.prefix.equal)


@given(seed=st.integers(0, 1000), kept=st.floats(0, 1), **SHAPE)
@settings(max_examples=25, deadline=None)
def test_order_does_not_matter(seed, kept, **shape):
    a, b = twins(kept, seed, **shape)
    there, back = compare_numbers(a, b), compare_numbers(b, a)
    assert there.n_equal == back.n_equal
    assert there.bands == back.bands
    assert there.prefix.mean_abs_difference == back.prefix.mean_abs_difference
    assert compare_numbers(a, a).share_equal == 1


def test_per_token_as_the_paper_prints():
    a, b = twins(0.5, 3, method="llama_adapter", n_tokens=10, d_model=64)
    per = compare_numbers(a, b).per_token
    counts = (a.tokens == b.tokens).sum(dim=1).double()
    assert per == {
        "mean": pytest.approx(counts.mean().item()),
        "sd": pytest.approx(counts.std().item()),
        "min": counts.min().item(),
        "max": counts.max().item(),
    }


def test_gates_of_other_shapes_are_left_out():
    a = checkpoint(n_layers=4)
    b = checkpoint(n_layers=5, seed=1)
    assert compare_numbers(a, b).gates is None


def test_constant_sides_have_no_correlation():
    zeros = torch.zeros(6, 8, dtype=torch.bfloat16)
    result = compare_numbers(checkpoint(gates=zeros), checkpoint(gates=zeros, seed=1))
    assert (result.gates.correlation, result.gates.n_equal) == (None, 48)


def test_common_prefix_takes_the_first_numbers():
    a, b = checkpoint(d_model=64), checkpoint(d_model=80, n_tokens=3, seed=1)
    b.prefix[0, 0, :10] = a.prefix[0, 0, :10]
    result = compare_numbers(a, b, common_prefix=True)
    assert (result.prefix.n, result.common_prefix) == (64, True)
    assert result.prefix.equal[:10].all()


def test_frame_has_a_row_a_band():
    a, b = twins(0.5, 1)
    frame = compare_numbers(a, b).to_frame()
    assert frame["n"].sum() == 64
    assert (frame["half_ulp"].diff().dropna() > 0).all()
