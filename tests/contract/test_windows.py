"""Adapters under a sliding attention window: a row of a padded batch gives what it gives alone, cached or not.

The window counts positions of the batch, padding included, so whatever stands before the padding is out of its reach.
"""

import pytest
import tiny
import torch
from generating import plainly, prompts
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adapters import MAKERS, moved
from transformers import DynamicCache

from aligner_probe.adapters import PromptTuning
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import generate_ids

METHODS = ["prompt_tuning", "prefix_tuning", "aligner"]
#: Shorter than the window of 4, as long, and longer.
LENGTHS = [9, 2, 6, 1, 4]


def padded(rows, side):
    """Ids and mask of rows, padded on one side."""
    width = max(map(len, rows))
    ids, mask = (torch.zeros(len(rows), width, dtype=torch.int64) for _ in range(2))
    for place, row in enumerate(rows):
        there = slice(width - len(row), None) if side == "left" else slice(len(row))
        ids[place, there] = torch.tensor(row)
        mask[place, there] = 1
    return ids, mask


def close(found, expected):
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", [*tiny.WINDOWED, "llama_gqa", "gpt2"])
@pytest.mark.parametrize("side", ["left", pytest.param("right", marks=pytest.mark.slow)])
def test_a_row_of_a_padded_batch_gives_what_it_gives_alone(family, method, side):
    model, rows = tiny.frozen(family), prompts(LENGTHS)
    ids, mask = padded(rows, side)
    with torch.no_grad(), moved(MAKERS[method](model)).attached():
        together = model(ids, attention_mask=mask)
        alone = [model(torch.tensor([row]))[0] for row in rows]
        last = model(ids, attention_mask=mask, logits_to_keep=1)
    assert together.shape[:2] == ids.shape
    for found, there, expected in zip(together, mask.bool(), alone, strict=True):
        assert close(found[there], expected)
    if side == "left":
        assert close(last[:, -1], torch.stack([expected[-1] for expected in alone]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", tiny.WINDOWED)
def test_padded_cached_decoding_gives_the_tokens_of_one_row_at_a_time(family, method):
    model, rows = tiny.frozen(family), prompts(LENGTHS)
    base = generate_ids(model, rows, max_new_tokens=8)
    with moved(MAKERS[method](model)).attached():
        found = generate_ids(model, rows, max_new_tokens=8)
        assert found == [plainly(model, row, 8) for row in rows]
    assert found != base


@pytest.mark.parametrize("family", [*tiny.WINDOWED, "gpt2"])
def test_cached_logits_are_those_without_a_cache(family):
    model, rows = tiny.frozen(family), prompts(LENGTHS)
    ids, mask = padded(rows, "left")
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad(), moved(PromptTuning(model, 3, seed=1)).attached():
        cache = DynamicCache(config=model.original_model.config)
        for step in range(7):
            new = {"attention_mask": mask, "position_ids": positions[:, -1 if step else 0 :]}
            found = model(ids[:, -1 if step else 0 :], past_key_values=cache, use_cache=True, **new)[:, -1]
            assert close(found, model(ids, attention_mask=mask, use_cache=False)[:, -1])
            ids = torch.cat([ids, found.argmax(-1, keepdim=True)], dim=1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions = torch.cat([positions, positions[:, -1:] + 1], dim=1)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 9))
def test_any_lengths_and_any_number_of_soft_tokens(lengths, n_tokens, seed):
    model, rows = tiny.frozen("mistral_window"), prompts(lengths, seed)
    with moved(PromptTuning(model, n_tokens, seed=seed)).attached():
        assert generate_ids(model, rows, max_new_tokens=4) == [plainly(model, row, 4) for row in rows]


def test_soft_tokens_stand_right_before_the_first_token_of_each_row():
    model = tiny.bridge("llama")
    adapter, seen = PromptTuning(model, 2), {}
    ids, mask = padded(prompts([3, 1]), "left")
    model.original_model.model.register_forward_pre_hook(lambda m, a, kw: seen.update(kw), with_kwargs=True)
    with torch.no_grad(), adapter.attached():
        model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
    assert seen["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert seen["position_ids"][1, 2:].tolist() == [0, 1, 2]
    assert torch.equal(seen["inputs_embeds"][1, 2:4], adapter.prompt)
    assert torch.equal(seen["inputs_embeds"][0, :2], adapter.prompt)


def test_gradients_of_soft_tokens_do_not_depend_on_padding():
    model, rows = tiny.frozen("mistral_window"), prompts([6, 2])
    found = []
    for side in ("left", "right"):
        ids, mask = padded(rows, side)
        adapter = PromptTuning(model, 3, seed=1)
        with adapter.attached():
            model(ids, attention_mask=mask)[mask.bool()].square().mean().backward()
        found.append(adapter.prompt.grad)
    assert close(*found)


def test_a_mask_of_another_shape_is_one_line():
    model = tiny.bridge("llama")
    adapter = PromptTuning(model, 2)
    with adapter.attached(), pytest.raises(AlignerProbeError, match=r"mask .*\(1, 1, 4, 4\).*expected \(batch, pos\)"):
        model(torch.tensor([[1, 2, 3, 4]]), attention_mask=torch.ones(1, 1, 4, 4))
