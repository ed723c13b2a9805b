"""In how many forward passes a batch goes through the model: the cheapest number, and one where all rows are alike."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_probe.training.passes import MOST_PASSES, fastest_number
from aligner_probe.training.sequences import of_like_length

LENGTHS = st.lists(st.integers(10, 300), min_size=1, max_size=40)


def cost(lengths, n_passes, a_pass, n_shared):
    """Tokens of one training's passes, padding among them, and what each pass costs, counted in parts."""
    parts = of_like_length(sorted(lengths), math.ceil(len(lengths) / n_passes), int)
    padded = sum(len(part) * (max(part) - n_shared) for part in parts)
    return padded + n_passes * (a_pass + n_shared)


@given(LENGTHS, st.floats(1, 200), st.integers(0, 9))
def test_the_number_is_the_cheapest_of_all_that_are_tried(lengths, a_pass, n_shared):
    tried = [n for n in (1, 2, 4, 8, 16) if n <= len(lengths)]
    costs = {n: cost(lengths, n, a_pass, n_shared) for n in tried}
    chosen = fastest_number([lengths], a_pass, n_shared)
    assert costs[chosen] == pytest.approx(min(costs.values()))


@given(st.integers(1, 300), st.integers(1, 40), st.floats(0.01, 100))
def test_rows_of_one_length_go_together(length, n, a_pass):
    assert fastest_number([[length] * n], a_pass) == 1


@given(st.lists(LENGTHS, min_size=1, max_size=3), st.floats(1, 200), st.floats(1, 200))
def test_a_dearer_pass_never_leads_to_more_of_them(batches, a, b):
    cheap, dear = sorted((a, b))
    assert fastest_number(batches, dear) <= fastest_number(batches, cheap)


def test_trainings_together_have_the_number_that_suits_all():
    varied, even = [10, 12, 11, 13, 200, 210, 205, 220], [15] * 8
    assert fastest_number([varied], 40.0) == 2
    assert fastest_number([varied, varied], 40.0) == 2
    # The even rows would be padded to the long ones, or not.
    assert fastest_number([even, varied], 40.0) == 2
    assert fastest_number([range(10, 10_000)], 0.001) == MOST_PASSES
