"""Tokens that are drawn: where a random number falls in the cumulated probabilities, by a plain loop."""

import math
from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner_probe.evaluation.sampling import sampling_for

LOGITS = st.lists(st.floats(-8, 8), min_size=1, max_size=12)


def by_a_loop(logits, uniform, temperature, top_k, top_p):
    """The token; the options of Hugging Face's `generate` by their definitions."""
    weights = [math.exp(x / temperature) for x in logits]
    total = sum(weights)
    likely = sorted(range(len(logits)), key=lambda i: -weights[i])
    if top_k is not None:
        likely = likely[:top_k]
    kept, mass = [], 0.0
    whole = sum(weights[i] for i in likely)
    for i in likely:
        if mass < top_p * whole:
            kept.append(i)
        mass += weights[i]
    if top_k is None or top_k >= len(logits):
        kept = kept if top_p < 1 else sorted(kept)
    total = sum(weights[i] for i in kept)
    reached = 0.0
    for i in kept:
        reached += weights[i]
        if reached > uniform * total:
            return i
    return kept[-1]


@settings(max_examples=200, deadline=None)
@given(
    LOGITS.filter(lambda x: all(abs(a - b) > 1e-2 for i, a in enumerate(x) for b in x[:i])),
    st.floats(0.001, 0.999),
    st.floats(0.3, 3),
    st.none() | st.integers(1, 15),
    st.sampled_from([0.31, 0.77, 1.0]),
)
def test_the_token_is_where_the_number_falls(logits, uniform, temperature, top_k, top_p):
    sampling = sampling_for(1, temperature=temperature, top_k=top_k, top_p=top_p, seed=0)
    token = int(sampling.drawn(torch.tensor([logits]), torch.tensor([uniform], dtype=torch.float64)))
    nearby = {
        by_a_loop(logits, uniform + e, temperature, top_k, top_p + f) for e in (-1e-4, 0, 1e-4) for f in (-1e-5, 0)
    }
    assert token in nearby


def test_shares_are_the_probabilities():
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]]).expand(4000, -1)
    sampling = sampling_for(4000, temperature=1.0, top_k=None, top_p=1.0, seed=3)
    tokens = Counter(sampling.picker(range(4000), 1)(logits, range(4000), 0).tolist())
    for token, probability in enumerate(logits[0].softmax(-1).tolist()):
        spread = math.sqrt(probability * (1 - probability) / 4000)
        assert abs(tokens[token] / 4000 - probability) < 5 * spread


@settings(deadline=None)
@given(st.integers(0, 2**63), st.integers(1, 6), st.randoms())
def test_a_row_draws_the_same_whoever_is_in_the_batch(seed, n, chance):
    sampling = sampling_for(n, temperature=0.8, top_k=None, top_p=1.0, seed=seed)
    logits = torch.linspace(-1, 1, 50).expand(n, -1)
    whole = sampling.picker(range(n), 4)(logits, range(n), 2)
    some = chance.sample(range(n), chance.randint(1, n))
    assert sampling.picker(some, 4)(logits[some], range(len(some)), 2).tolist() == whole[some].tolist()
    one = sampling_for(1, temperature=0.8, top_k=None, top_p=1.0, seed=[seed])
    assert one.picker([0], 4)(logits[:1], [0], 2).tolist() == whole[:1].tolist()


def test_without_a_temperature_nothing_is_drawn():
    assert sampling_for(3, temperature=0.0, top_k=None, top_p=1.0, seed=0) is None
