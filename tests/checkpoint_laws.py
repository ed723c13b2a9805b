"""What hypothesis draws checkpoints from, and what it means that two checkpoints are the same."""

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

#: Keywords of `builders.checkpoint`, except the number of heads: some formats fix it.
SHAPES = {
    "n_tokens": st.integers(1, 4),
    "d_model": st.integers(1, 9),
    "n_layers": st.integers(1, 5),
    "start_layer": st.integers(0, 3),
    "dtype": st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
    "seed": st.integers(0, 1000),
}
HEADS = st.integers(1, 6)
LAWS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_same(found, expected, *, format_name):
    """The same method and layers, the same parameters to the bit, and `format_name` in the format that was read."""
    assert found.method == expected.method
    assert found.start_layer == expected.start_layer
    assert found.gate_function == expected.gate_function
    assert format_name in found.format
    for ours, theirs in ((found.prefix, expected.prefix), (found.gates, expected.gates)):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
