"""Prefix attention and its written-out backward against plain einsums in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner_probe.adapters.prefix_attention import add_prefix_attention


def made(batch, pos, heads, tokens, d_head, seed=0):
    """z, q, k and v; z and q laid out by position or by head, as models of different kinds give them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    z = draw(batch, pos, heads, d_head)
    q = draw(batch, heads, pos, d_head).transpose(1, 2) if seed % 2 else draw(batch, pos, heads, d_head)
    return [x.requires_grad_() for x in (z, q, draw(tokens, heads, d_head), draw(tokens, heads, d_head))]


def defined(z, q, k, v):
    pattern = torch.einsum("bphd,nhd->bhpn", q, k).softmax(-1)
    return z + torch.einsum("bhpn,nhd->bphd", pattern, v)


size = st.integers(1, 5)


@settings(max_examples=40, deadline=None)
@given(size, size, size, st.integers(1, 9), st.integers(1, 6), st.integers(0, 9), st.booleans())
def test_against_its_definition(batch, pos, heads, tokens, d_head, seed, query_trains):
    """Fewer tokens than d_head and more, which go two ways."""
    inputs = made(batch, pos, heads, tokens, d_head, seed)
    inputs[1].requires_grad_(query_trains)
    wanted = [x for x in inputs if x.requires_grad]
    weights = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(seed), dtype=inputs[0].dtype)
    found, expected = (f(*inputs) for f in (add_prefix_attention, defined))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(add_prefix_attention(*inputs), expected, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad((y * weights).sum(), wanted) for y in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("tokens", [3, 8])
def test_inputs_stay_as_they_were(tokens):
    inputs = made(2, 3, 2, tokens, 4)
    before = [x.detach().clone() for x in inputs]
    add_prefix_attention(*inputs).sum().backward()
    assert all(torch.equal(x, was) for x, was in zip(inputs, before, strict=True))


def test_kept_for_backward_is_the_smaller_of_two():
    """The pattern with few tokens; beside the query, which the layer's own attention keeps anyway."""
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    inputs = made(2, 50, 2, 3, 8)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        add_prefix_attention(*inputs)
    query, scaled, values = inputs[1].numel(), inputs[2].numel(), inputs[3].numel()
    storages = {t.untyped_storage().data_ptr(): t.numel() for t in kept}
    assert sum(storages.values()) <= query + 2 * scaled + values + 2 * 50 * 2 * 3
