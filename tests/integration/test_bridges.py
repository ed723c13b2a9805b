"""What is remembered about a bridge lies beside it, lives as long as it does, and does not pass to its copies."""

import copy
import gc
import warnings
import weakref

import torch
from learning import Letters
from tiny import bridge, tokens

from aligner_probe.adapters import Aligner
from aligner_probe.adapters.adapter import attached_to
from aligner_probe.bridges import NOT_SEEN, _states, state_of
from aligner_probe.models import fingerprint
from aligner_probe.tokenizers import own_tokenizer


def test_nothing_is_written_into_the_bridge():
    base = bridge("llama_gqa")
    before = set(vars(base))
    base.tokenizer = Letters()
    assert own_tokenizer(base) is base.tokenizer
    fingerprint(base)
    adapter = Aligner(base, 1, 1)
    with adapter.attached():
        base(tokens())
        assert attached_to(base) == (adapter,)
        assert set(vars(base)) == before
    assert attached_to(base) == ()
    assert not [name for name in vars(base) if "aligner" in name.lower()]


def test_two_bridges_have_states_of_their_own():
    first, second = bridge("llama_gqa"), bridge("llama_gqa")
    assert state_of(first) is state_of(first)
    assert state_of(first) is not state_of(second)
    with Aligner(first, 1, 1).attached():
        assert attached_to(second) == ()


def test_a_state_goes_with_its_bridge():
    base = bridge("llama_gqa")
    fingerprint(base)
    with Aligner(base, 1, 1).attached():
        base(tokens())
    n, gone = len(_states), weakref.ref(base)
    del base
    gc.collect()
    assert gone() is None
    assert len(_states) < n


def test_a_copy_begins_with_a_state_of_its_own():
    base = bridge("llama_gqa")
    known = fingerprint(base)
    with Aligner(base, 1, 1).attached():
        other = copy.deepcopy(base)
    assert attached_to(other) == ()
    assert state_of(other).tokenizer is NOT_SEEN
    assert fingerprint(other) == known
    with torch.no_grad():
        next(other.original_model.parameters()).zero_()
    assert fingerprint(other) != known == fingerprint(base)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert own_tokenizer(other) is None
