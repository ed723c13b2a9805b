"""Maps by what they preserve, never by coordinates; the centre test by planted centres and twins."""

import numpy as np
import pytest
import torch
from builders import checkpoint
from scipy.spatial.distance import cdist

from aligner_probe.analysis.centre import centre_test
from aligner_probe.analysis.embeddings import embed_tokens
from aligner_probe.errors import AlignerProbeError


def clusters(seed=0, n_tokens=40, spread=0.05):
    """Tokens of three tight clusters."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 64, generator=generator)
    tokens = centres[torch.arange(n_tokens) % 3] + spread * torch.randn(n_tokens, 64, generator=generator)
    return checkpoint(prefix=tokens[None], dtype=torch.float32)


@pytest.mark.parametrize("method", ["tsne", pytest.param("umap", marks=pytest.mark.slow)])
def test_clusters_stay_together(method):
    made = clusters()
    result = embed_tokens([made], method=method)
    assert result.trustworthiness > 0.9
    nearest = cdist(result.coordinates, result.coordinates)
    np.fill_diagonal(nearest, np.inf)
    assert (nearest.argmin(axis=1) % 3 == np.arange(40) % 3).mean() > 0.9


def test_the_seed_is_wired_and_reported():
    made = clusters()
    first, again, other = (embed_tokens([made], seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.coordinates, again.coordinates)
    assert not np.array_equal(first.coordinates, other.coordinates)
    assert "seed 1" in other.summary
    assert "n = 40" in other.summary


@pytest.mark.parametrize("n_tokens", [3, 10, 35])
def test_perplexity_stays_below_n_and_few_points_are_warned_of(n_tokens):
    one, many = checkpoint(n_tokens=1, seed=1), checkpoint(n_tokens=n_tokens)
    result = embed_tokens([one, many])
    assert 0 < result.settings["perplexity"] < result.n == n_tokens + 1
    assert any("too few" in caveat for caveat in result.caveats) == (n_tokens < 29)
    assert any("no spread" in caveat for caveat in result.caveats)
    with pytest.raises(AlignerProbeError, match=f"less than {result.n}"):
        embed_tokens([one, many], perplexity=n_tokens + 1)


def test_distances_are_those_of_the_tokens():
    a, b = checkpoint(n_tokens=4, dtype=torch.float32), checkpoint(n_tokens=3, seed=1, dtype=torch.float32)
    result = embed_tokens([a, b])
    tokens = torch.cat([a.tokens, b.tokens]).double().numpy()
    assert np.allclose(result.euclidean_distance, cdist(tokens, tokens))
    assert np.allclose(result.cosine_distance, cdist(tokens, tokens, "cosine"), atol=1e-12)


def test_members_know_layer_and_position():
    aligner, adapter = checkpoint(n_tokens=2), checkpoint(method="llama_adapter", n_tokens=3, seed=1)
    frame = embed_tokens([aligner, adapter]).to_frame()
    ours, theirs = frame[frame["method"] == "aligner"], frame[frame["method"] == "llama_adapter"]
    assert (ours["layer"] == -1).all()
    assert theirs["layer"].tolist() == [layer for layer in range(2, 8) for _ in range(3)]
    assert theirs["position"].tolist() == [0, 1, 2] * 6
    # two runs of one kind stay apart
    assert (
        embed_tokens([checkpoint(n_tokens=3), checkpoint(n_tokens=3, seed=2)]).to_frame()["checkpoint"].nunique() == 2
    )


def test_bad_input():
    with pytest.raises(AlignerProbeError, match="different d_model"):
        embed_tokens([checkpoint(d_model=8), checkpoint(d_model=9)])
    with pytest.raises(AlignerProbeError, match="at least 4"):
        embed_tokens([checkpoint(n_tokens=3)])
    with pytest.raises(AlignerProbeError, match="n_neighbors"):
        embed_tokens([checkpoint(n_tokens=6)], method="umap", n_neighbors=6)


def many(seed=0, n_tokens=10):
    return checkpoint(n_tokens=n_tokens, d_model=1024, dtype=torch.float32, seed=seed)


def one(token):
    return checkpoint(prefix=token.reshape(1, 1, -1).float(), dtype=torch.float32)


def test_a_token_like_any_other_is_no_centre():
    tokens = many()
    stranger = torch.randn(1024, generator=torch.Generator().manual_seed(99))
    result = centre_test(one(stranger), tokens)
    expected = (1024 * (1 + 1 / 10)) ** 0.5  # two independent parts: the one, and the mean of ten
    assert result.distance == pytest.approx(expected, rel=0.05)
    assert not result.has_twin
    assert 0.05 < (result.random < result.matched).mean() < 0.95
    assert "no centre" in result.explanation


def test_a_twin_is_found_and_taken_out():
    tokens = many()
    token = tokens.tokens[3] + 0.2 * torch.randn(1024, generator=torch.Generator().manual_seed(5))
    result = centre_test(one(token), tokens)
    assert (result.twin, result.has_twin) == (3, True)
    assert result.share_nearer == 0  # what the paper saw
    assert "no centre, one more token" in result.explanation
    assert result.distance_without_twin > result.leave_one_out_without_twin.min()


def test_a_true_centre_is_called_one():
    tokens = many()
    result = centre_test(one(tokens.tokens.mean(dim=0)), tokens)
    assert result.distance == pytest.approx(0, abs=1e-4)
    assert result.share_nearer == result.share_nearer_without_twin == 0
    assert "nearer" in result.explanation
    assert "no centre" not in result.explanation


def test_leave_one_out_against_a_loop():
    tokens = many(n_tokens=5)
    result = centre_test(one(torch.ones(1024)), tokens)
    rows = tokens.tokens.double().numpy()
    loop = [np.linalg.norm(rows[i] - np.delete(rows, i, axis=0).mean(axis=0)) for i in range(5)]
    assert np.allclose(result.leave_one_out, loop)
    matched = [np.linalg.norm(1 - np.delete(rows, i, axis=0).mean(axis=0)) for i in range(5)]
    assert result.matched == pytest.approx(np.mean(matched))


def test_authors_one_token_is_token_0(authors):
    for name in ("metamath-10-7b", "metamath-100-7b"):
        for single in ("alpaca-1-7b", "metamath-1-7b"):
            result = centre_test(authors[single], authors[name])
            assert (result.twin, result.has_twin) == (0, True)
            assert "no centre, one more token" in result.explanation


def test_centre_bad_input():
    with pytest.raises(AlignerProbeError, match="expected one token"):
        centre_test(many(), many())
