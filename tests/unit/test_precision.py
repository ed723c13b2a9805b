"""Grids of stored numbers against numpy's own, and chance equality against simulation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aligner_probe.analysis.precision import Grid, chance_equality, coarsest_grid, expected_equal, ulp_distance

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
LISTS = st.lists(st.tuples(FLOATS, FLOATS, FLOATS), min_size=1, max_size=20)


def test_half_ulp_against_numpy_spacing():
    for dtype, numpy_dtype in ((torch.float16, np.float16), (torch.float32, np.float32), (torch.float64, np.float64)):
        for magnitude in (0.0, 2.0**-14, 0.3, 0.5, 1.0, 1.999, 2.0, 1000.0):
            spacing = float(np.spacing(numpy_dtype(magnitude)))
            assert Grid(dtype).half_ulp(magnitude) == spacing / 2, (dtype, magnitude)


def test_half_ulp_of_bfloat16_is_where_updates_vanish():
    for magnitude in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0):
        half = Grid(torch.bfloat16).half_ulp(magnitude)
        start = torch.tensor(magnitude, dtype=torch.bfloat16)
        assert (start.float() + 0.99 * half).bfloat16() == start
        assert (start.float() + 1.01 * half).bfloat16() != start


@given(LISTS, st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]))
def test_ulp_distance_is_a_distance(rows, dtype):
    a, b, c = (torch.tensor(column, dtype=torch.float64).to(dtype) for column in zip(*rows, strict=True))
    finite = torch.isfinite(a) & torch.isfinite(b) & torch.isfinite(c)
    a, b, c = a[finite], b[finite], c[finite]
    ab = ulp_distance(a, b)
    assert np.array_equal(ab == 0, (a == b).numpy())
    assert np.array_equal(ab, ulp_distance(b, a))
    # float64 distances reach 2^64, so the sum is taken in Python's integers
    ac, cb = ulp_distance(a, c), ulp_distance(c, b)
    assert all(int(x) <= int(y) + int(z) for x, y, z in zip(ab, ac, cb, strict=True))


@given(st.lists(FLOATS, min_size=1, max_size=20), st.booleans())
def test_neighbours_are_one_ulp_apart(values, up):
    a = torch.tensor(values, dtype=torch.float32)
    b = torch.nextafter(a, torch.tensor(math.inf if up else -math.inf))
    keep = torch.isfinite(b)
    assert (ulp_distance(a[keep], b[keep]) == 1).all()


def test_ulp_distance_across_the_whole_range():
    top = torch.tensor([torch.finfo(torch.float64).max], dtype=torch.float64)
    below = torch.tensor([0.0], dtype=torch.float64)
    assert int(ulp_distance(top, -top)[0]) == 2 * int(ulp_distance(top, below)[0])
    assert int(ulp_distance(torch.tensor([0.0]), torch.tensor([-0.0]))[0]) == 0


def test_ulp_distance_refuses_mixed_precisions():
    with pytest.raises(ValueError, match="bfloat16 and float32"):
        ulp_distance(torch.ones(2, dtype=torch.bfloat16), torch.ones(2))


@pytest.mark.parametrize(("dtype", "n"), [(torch.bfloat16, 4_000_000), (torch.float16, 20_000_000)])
def test_chance_equality_against_simulation(dtype, n):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, generator=generator).to(dtype) for _ in range(2))
    expected = chance_equality(dtype) * n
    assert abs(int((a == b).sum()) - expected) < 5 * math.sqrt(expected)


def test_chance_equality_closed_form_meets_the_sum():
    # float32 uses the integral; scaled by its step it must agree with the sum over bfloat16's grid.
    ratio = chance_equality(torch.bfloat16) / chance_equality(torch.float32)
    assert ratio == pytest.approx(2**16, rel=2e-3)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_expected_equal_is_the_mean_over_all_shifts(values, random):
    a = np.array(values, dtype=float)
    b = np.array(random.sample(values, len(values)), dtype=float)
    # every rotation is as likely as any: their mean is the mean over random pairings
    mean = np.mean([(a == np.roll(b, shift)).sum() for shift in range(len(a))])
    assert expected_equal(a, b) == pytest.approx(mean)


def test_coarsest_grid_sees_through_a_cast():
    values = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert coarsest_grid(values).dtype == torch.float32
    assert coarsest_grid(values.bfloat16().float()).dtype == torch.bfloat16
    assert coarsest_grid(values.half().double()).dtype == torch.float16
    assert coarsest_grid(values.bfloat16()).dtype == torch.bfloat16
