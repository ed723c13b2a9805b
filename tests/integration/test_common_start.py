"""What all rows of a batch begin with is computed once; losses, gradients and answers are those of whole rows."""

import pytest
import tiny
import torch
from generating import plainly, prompts
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adapters import MAKERS, moved, opened

from aligner_probe.adapters import Aligner
from aligner_probe.adapters.pool import AdapterPool
from aligner_probe.evaluation import generate_ids
from aligner_probe.tasks.encoding import IGNORED, Tokens
from aligner_probe.training import common_start
from aligner_probe.training.losses import sft_loss
from aligner_probe.training.lower_layers import LowerLayers
from aligner_probe.training.objective import SAVES_MORE, Forward
from aligner_probe.training.sequences import Sequences

START = prompts([9], seed=8)[0]
FAMILIES = [
    name if name in ("llama_gqa", "gpt2", "neox") else pytest.param(name, marks=pytest.mark.slow)
    for name in (*tiny.MODELS, *tiny.WINDOWED)
]


@pytest.fixture
def always(monkeypatch):
    """A common start is computed once however little that saves."""
    monkeypatch.setattr(common_start, "FEWEST_SAVED", 1)
    monkeypatch.setattr(common_start, "WORTH_A_PASS", 0)


def begun(lengths):
    """Random prompts of these lengths behind one common start."""
    return [START + row for row in prompts(lengths)]


def sequences():
    """Four sequences behind one start; the labels begin at the third token behind it, or later."""
    rows = []
    for row, prompt in zip(begun([6, 4, 9, 5]), (2, 3, 5, 2), strict=True):
        ids = torch.tensor(row)
        labels = torch.where(torch.arange(len(ids)) < len(START) + prompt, IGNORED, ids)
        rows.append(Tokens(ids, labels, n_prompt=len(START) + prompt))
    return Sequences(rows, 0)


def loss_and_gradients(model, adapter, forward):
    adapter.zero_grad(set_to_none=True)
    with adapter.attached():
        loss = sft_loss(forward([0, 1, 2, 3]))
        loss.backward()
    return [loss.detach(), *(p.grad for p in adapter.parameters() if p.requires_grad)]


def passes(monkeypatch):
    """The numbers of positions in the common starts that are computed from now on."""
    made, plain = [], common_start.start_for_all

    def start(model, ids, n_rows):
        made.append(len(ids))
        return plain(model, ids, n_rows)

    for module in ("aligner_probe.training.objective", "aligner_probe.evaluation.generation"):
        monkeypatch.setattr(f"{module}.start_for_all", start)
    return made


@pytest.mark.parametrize("method", MAKERS)
def test_gradients_of_every_method_are_those_of_whole_rows(method, always, monkeypatch):
    model = tiny.bridge("llama_gqa").to(torch.float64)
    adapter = opened(MAKERS[method](model).to(torch.float64), size=0.3)
    made = passes(monkeypatch)
    shared = loss_and_gradients(model, adapter, Forward(model, sequences()))
    assert made == [len(START)]
    monkeypatch.setattr(common_start, "FEWEST_SAVED", 10**9)
    whole = loss_and_gradients(model, adapter, Forward(model, sequences()))
    assert len(made) == 1
    # Norms and rotary angles are computed in float32, whatever the precision of the base model.
    torch.testing.assert_close(shared, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, always, monkeypatch):
    """With a sliding window nothing is shared."""
    model, made = tiny.bridge(family), passes(monkeypatch)
    adapter = moved(Aligner(model, start_layer=1, initial_gate=0.3))
    with adapter.attached():
        rows = begun([6, 2, 9, 9, 1])
        assert generate_ids(model, rows, max_new_tokens=6) == [plainly(model, row, 6) for row in rows]
    sliding = any(common_start.new_cache(model).is_sliding)
    assert made == ([] if sliding else [len(START)])


@pytest.mark.parametrize("method", MAKERS)
def test_answers_of_every_method(method, always, monkeypatch):
    model, made = tiny.frozen("llama_gqa"), passes(monkeypatch)
    with moved(MAKERS[method](model)).attached():
        rows = begun([6, 3, 3, 8, 1])
        assert generate_ids(model, rows, max_new_tokens=7) == [plainly(model, row, 7) for row in rows]
    assert made == [len(START)]


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=7), st.integers(1, 20), st.integers(1, 7), st.integers(0, 9))
def test_no_token_depends_on_what_is_shared(lengths, common, batch_size, seed):
    """One row may be the start of another, and each keeps a token of its own for its first new one."""
    model, start = tiny.frozen("llama_gqa"), prompts([common], seed)[0]
    rows = [start + row for row in prompts(lengths, seed + 1)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(common_start, "FEWEST_SAVED", 1)
        patched.setattr(common_start, "WORTH_A_PASS", 0)
        shared = generate_ids(model, rows, max_new_tokens=4, batch_size=batch_size)
    assert shared == [plainly(model, row, 4) for row in rows]


def test_rows_with_adapters_of_their_own_share_nothing(always, monkeypatch):
    model, made = tiny.frozen("llama_gqa"), passes(monkeypatch)
    one, other = (opened(Aligner(model, start_layer=1, seed=seed), seed=seed) for seed in (1, 2))
    pool = AdapterPool([one, other])
    with pool.attached(), pool.rows([0, 1, None]):
        generate_ids(model, begun([3, 4, 5]), max_new_tokens=2)
    assert made == []


@pytest.mark.parametrize("hooked", ["point", "whole", "every"])
def test_a_users_hook_sees_whole_rows(hooked, always, monkeypatch):
    model, made, seen = tiny.bridge("llama_gqa"), passes(monkeypatch), []
    rows = begun([6, 2, 9])
    if hooked == "point":
        model.add_hook("blocks.1.hook_resid_pre", lambda tensor, hook: seen.append(tensor.shape[1]))
    elif hooked == "whole":
        model.original_model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(len(args and args[0][0])), with_kwargs=True
        )
    else:
        handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        generate_ids(model, rows, max_new_tokens=1)
    finally:
        if hooked == "every":
            handle.remove()
    assert made == []
    assert hooked == "every" or seen == [len(START) + 9]


def test_what_saves_little_is_not_shared(monkeypatch):
    """A small model computes so few tokens in less time than another forward pass takes."""
    model, made = tiny.frozen("llama_gqa"), passes(monkeypatch)
    generate_ids(model, begun([3] * 20), max_new_tokens=1)
    assert made == []
    monkeypatch.setattr(common_start, "WORTH_A_PASS", 19 * len(START) * model.cfg.d_model**2)
    generate_ids(model, begun([3] * 20), max_new_tokens=1)
    assert made == [len(START)]


@pytest.mark.parametrize("shares", [True, False])
def test_kept_layers_are_used_where_they_save_more(shares, always, monkeypatch):
    model, made = tiny.frozen("llama_gqa"), passes(monkeypatch)
    adapter = opened(Aligner(model, start_layer=1 if shares else 3, seed=1))
    its = sequences()
    forward = Forward(model, its, LowerLayers(model, its, adapter.layers.start))
    kept = loss_and_gradients(model, adapter, forward)
    assert made == ([len(START)] if shares else [])
    assert forward.set_aside == (SAVES_MORE if shares else None)
    monkeypatch.setattr(common_start, "FEWEST_SAVED", 10**9)
    torch.testing.assert_close(kept, loss_and_gradients(model, adapter, Forward(model, its)), rtol=1e-4, atol=1e-6)
