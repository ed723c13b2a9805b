"""Excess description length: a closed form, laws of the definition, and which batches are fresh."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner_probe.errors import AlignerProbeError
from aligner_probe.probing.description_length import description_length, fresh_batches

LOSSES = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 60)), min_size=1, max_size=20)


def columns(rows):
    losses, n_labels = zip(*rows, strict=True)
    return np.array(losses), np.array(n_labels)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_a_counting_model_of_coins_has_its_closed_form(coins):
    """Laplace's rule of succession codes k heads in n throws in log2((n + 1) C(n, k)) bits, whatever their order."""
    losses, heads = [], 0
    for n_seen, coin in enumerate(coins):
        probability = (heads + 1) / (n_seen + 2)
        losses.append(-math.log(probability if coin else 1 - probability))
        heads += coin
    found = description_length(np.array(losses), np.ones(len(coins), dtype=int), len(coins), math.log(2))
    expected = math.log2(len(coins) + 1) + math.log2(math.comb(len(coins), heads))
    assert found.first_pass == pytest.approx(expected, abs=1e-6)
    assert found.excess == pytest.approx(expected - len(coins), abs=1e-6)
    assert found.n_labels == found.n_examples == len(coins)


@given(LOSSES, st.integers(2, 50_000))
def test_what_stays_as_it_was_has_none(rows, d_vocab):
    """Random labels: the loss is that of a uniform guess, at the start and at the end."""
    _, n_labels = columns(rows)
    uniform = math.log(d_vocab)
    found = description_length(np.full(len(rows), uniform), n_labels, len(rows), uniform)
    assert found.first_pass == pytest.approx(n_labels.sum() * math.log2(d_vocab))
    assert found.excess == pytest.approx(0, abs=1e-9 * found.first_pass)


@given(LOSSES, st.floats(0, 20), st.floats(0, 5))
def test_a_loss_that_every_label_has_to_the_end_changes_nothing(rows, test, more):
    losses, n_labels = columns(rows)
    before = description_length(losses, n_labels, 1, test)
    after = description_length(losses + more, n_labels, 1, test + more)
    assert after.excess == pytest.approx(before.excess, abs=1e-6)


@given(LOSSES, LOSSES, st.floats(0, 20))
def test_parts_of_a_pass_add_up(one, other, test):
    parts = [description_length(*columns(rows), len(rows), test).excess for rows in (one, other)]
    whole = description_length(*columns([*one, *other]), len(one) + len(other), test)
    assert whole.excess == pytest.approx(sum(parts), abs=1e-6)
    assert whole.to_dict()["an_example"] == pytest.approx(whole.excess / (len(one) + len(other)))


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), max_size=12))
@settings(max_examples=200)
def test_a_batch_is_fresh_where_nothing_in_it_was_seen(batches):
    for index, batch in enumerate(batches):
        before = [example for other in batches[:index] for example in other]
        fresh = all(batch.count(example) == 1 and example not in before for example in batch)
        assert (index in fresh_batches(batches)) == fresh


def test_only_the_first_epoch_is_fresh():
    from aligner_probe.training import recipe
    from aligner_probe.training.order import Order

    for replacement in (False, True):
        order = Order(recipe("corrected", lr=1e-3, batch_size=8, steps=12, replacement=replacement), 20)
        fresh = fresh_batches([order(step) for step in range(1, 13)])
        assert (fresh == [0, 1, 2]) != replacement
        drawn = [example for index in fresh for example in order(index + 1)]
        assert len(drawn) == len(set(drawn))


def test_no_batch_is_refused():
    with pytest.raises(AlignerProbeError, match="expected the loss of one batch"):
        description_length(np.array([]), np.array([], dtype=int), 1, 0.5)


def test_more_that_has_to_be_taught_costs_more_bits():
    """An exact table of answers: what repeats costs bits once, and what is drawn anew costs the same at the end."""
    bits = {}
    for taught in (4, 64):
        generator, table, losses = random.Random(0), {}, []
        for _ in range(2000):
            key = generator.randrange(taught)
            losses.append(0.0 if key in table else math.log(1000))
            table[key] = True
        bits[taught] = description_length(np.array(losses), np.ones(2000, dtype=int), 2000, 0.0).excess
    assert bits[4] == pytest.approx(4 * math.log2(1000))
    assert bits[64] == pytest.approx(64 * math.log2(1000))
