"""Gate statistics against plain numpy and scipy, and on the authors' files."""

import numpy as np
import pytest
import torch
from builders import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from aligner_probe.analysis.gates import gate_statistics
from aligner_probe.errors import AlignerProbeError

PUBLISHED = {
    "alpaca-1-7b": (0.693, -0.42),
    "metamath-1-7b": (0.954, 0.86),
    "metamath-10-7b": (0.914, 0.64),
    "metamath-100-7b": (0.893, 0.67),
}


@given(n_layers=st.integers(3, 12), n_heads=st.integers(2, 9), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_against_plain_formulas(n_layers, n_heads, seed):
    made = checkpoint(n_layers=n_layers, n_heads=n_heads, seed=seed, dtype=torch.float32)
    result = gate_statistics(made, resamples=50)
    gates = made.gates.double()
    assert np.allclose(result.std_by_layer, gates.std(dim=1))  # torch divides by n - 1
    assert np.allclose(result.std_by_head, gates.std(dim=0))
    assert np.allclose(result.mean_by_layer, gates.mean(dim=1))
    assert np.allclose(result.mean_by_head, gates.mean(dim=0))
    assert np.array_equal(result.flat, gates.flatten())
    assert result.spearman.rho == pytest.approx(spearmanr(range(n_layers), result.std_by_layer)[0])
    half = n_layers // 2
    upper = result.std_by_layer[n_layers - half :]
    if half >= 3:
        assert result.spearman_upper.rho == pytest.approx(spearmanr(range(half), upper)[0])
    else:
        assert np.isnan(result.spearman_upper.rho)
    assert not result.spearman.low > result.spearman.rho
    assert not result.spearman.high < result.spearman.rho


def test_intervals_of_head_positions_draw_layers():
    """Turned around, layers are heads: the same gates in the other order have the same intervals, layer by head."""
    made = checkpoint(n_layers=6, n_heads=8, start_layer=0)
    turned = checkpoint(n_layers=8, n_heads=6, start_layer=0, gates=made.gates.T)
    by_head, by_layer = gate_statistics(made), gate_statistics(turned)
    assert np.array_equal(by_head.std_by_head_interval, by_layer.std_by_layer_interval)
    assert np.array_equal(by_head.mean_by_head_interval, by_layer.mean_by_layer_interval)
    low, high = by_head.mean_by_head_interval
    assert (low < by_head.mean_by_head).all()
    assert (by_head.mean_by_head < high).all()
    frame = by_head.heads_to_frame()
    assert np.array_equal(frame[["std_low", "std_high"]].to_numpy().T, by_head.std_by_head_interval)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_spearman(authors, name):
    result = gate_statistics(authors[name])
    whole, upper = PUBLISHED[name]
    assert round(result.spearman.rho, 3) == whole
    assert round(result.spearman_upper.rho, 2) == upper
    assert (result.spearman.n_layers, result.spearman_upper.n_layers) == (30, 15)
    assert result.spearman.low < whole < result.spearman.high


def test_gauge_is_for_one_shared_token_only():
    one = checkpoint(n_tokens=1, dtype=torch.float64)
    factor = gate_statistics(one).gauge
    assert factor == pytest.approx(float(one.prefix.norm()) / 8)
    # (p, beta) -> (c p, beta / c): the stored spread changes, the gauge-fixed one does not
    scaled = checkpoint(prefix=one.prefix * 3, gates=one.gates / 3)
    first, second = gate_statistics(one).to_frame(), gate_statistics(scaled).to_frame()
    assert not np.allclose(first["std"], second["std"])
    assert np.allclose(first["std_gauge_fixed"], second["std_gauge_fixed"])
    assert gate_statistics(checkpoint(n_tokens=2)).gauge is None
    assert gate_statistics(checkpoint(method="llama_adapter")).gauge is None
    assert "std_gauge_fixed" not in gate_statistics(checkpoint(n_tokens=2)).to_frame()


def test_intervals_cover_the_truth():
    """Of spreads that all are 1, about 95 % of intervals hold 1."""
    gates = torch.randn(200, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = gate_statistics(checkpoint(gates=gates), resamples=500)
    low, high = result.std_by_layer_interval
    assert 0.88 < np.mean((low < 1) & (high > 1)) <= 1
    low, high = result.mean_by_layer_interval
    assert 0.88 < np.mean((low < 0) & (high > 0)) <= 1


def test_the_seed_is_wired():
    made = checkpoint()
    first, again, other = (gate_statistics(made, seed=seed) for seed in (0, 0, 1))
    assert first.spearman == again.spearman
    assert first.spearman.rho == other.spearman.rho
    assert first.spearman.low != other.spearman.low
    assert np.array_equal(first.std_by_layer_interval, again.std_by_layer_interval)
    assert not np.array_equal(first.std_by_layer_interval, other.std_by_layer_interval)


def test_a_perfect_rise_and_equal_gates():
    rise = torch.linspace(1, 2, 6)[:, None] * torch.tensor([-1.0, 1.0, 3.0])
    result = gate_statistics(checkpoint(gates=rise))
    assert result.spearman.rho == pytest.approx(1)
    assert result.spearman.high == pytest.approx(1)
    flat = gate_statistics(checkpoint(gates=torch.ones(6, 8)))
    assert np.isnan(flat.spearman.rho)
    assert np.array_equal(flat.std_by_layer_interval, np.zeros((2, 6)))


def test_one_gate_a_layer_has_no_spread():
    result = gate_statistics(checkpoint(method="llama_adapter", n_heads=1))
    assert result.one_gate_a_layer
    assert np.isnan(result.std_by_layer).all()
    assert np.isnan(result.spearman.rho)
    assert np.isfinite(result.mean_by_layer).all()
    assert len(result.to_frame()) == 6


def test_gates_at_powers_of_two(authors):
    made = checkpoint(gates=torch.tensor([[0.25, -0.125, 0.3, 0.0]] * 6).bfloat16())
    result = gate_statistics(made)
    assert result.at_powers_of_two == 12
    smooth = checkpoint(gates=torch.exp(torch.randn(300, 100, generator=torch.Generator().manual_seed(0))).bfloat16())
    result = gate_statistics(smooth, resamples=10)
    assert abs(result.at_powers_of_two - result.expected_at_powers_of_two) < 5 * result.expected_at_powers_of_two**0.5
    assert gate_statistics(authors["alpaca-1-7b"]).at_powers_of_two == 60


@pytest.mark.parametrize("options", [{"seed": -1}, {"resamples": 0}, {"resamples": 1}])
def test_options_that_mean_nothing_are_one_line(options):
    with pytest.raises(AlignerProbeError, match="expected 0 or more, and 2 or more"):
        gate_statistics(checkpoint(), **options)
