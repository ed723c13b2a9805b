"""A base that tests share is compared with what it was after each of them."""

import pytest
import tiny
import torch
from learning import Letters

from aligner_probe.adapters import Aligner

CHANGES = {
    "parameters": lambda model: model.blocks[2].attn.q.weight.data[0, 0].add_(1),
    "gradients": lambda model: setattr(next(model.parameters()), "grad", torch.zeros_like(next(model.parameters()))),
    "trained parameters": lambda model: next(model.parameters()).requires_grad_(),
    "modules in training mode": lambda model: model.blocks[1].train(),
    "PyTorch hooks": lambda model: model.original_model.register_forward_hook(lambda *_: None),
    "hooks": lambda model: model.add_hook("blocks.1.hook_out", lambda tensor, hook: None),
    "replaced methods": lambda model: setattr(model.blocks[1].mlp, "forward", lambda *args, **kwargs: None),
    "configuration": lambda model: setattr(model.original_model.config, "_attn_implementation", "eager"),
    "tokenizer": lambda model: setattr(model, "tokenizer", Letters()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_test_leaves_behind_is_found_and_the_base_made_anew(what):
    model = tiny.frozen("llama")
    CHANGES[what](model)
    with pytest.raises(AssertionError, match=f"llama: .*{what}"):
        tiny.check_frozen()
    assert tiny.frozen("llama") is not model
    tiny.check_frozen()


def test_a_test_that_leaves_nothing_behind_shares_its_base():
    model = tiny.frozen("gpt2")
    with Aligner(model, 1, 1).attached():
        model(tiny.tokens())
    tiny.check_frozen()
    assert tiny.frozen("gpt2") is model
