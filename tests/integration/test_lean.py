"""Components without their cost per call: what is registered with them still runs, and nothing else does."""

import inspect
from functools import partial

import accelerate.utils
import pytest
import torch
from tiny import plain, tokens
from torch.nn.modules.module import register_module_forward_hook
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.generalized_components import BlockBridge

from aligner_probe.lean import Lean
from aligner_probe.models import load_model


def pair(family="llama_gqa"):
    """The same base with lean components and with TransformerLens's own."""
    return load_model(plain(family)), load_model(plain(family), fast=False)


def lean_of(model):
    return {name: module for name, module in model.original_model.named_modules() if isinstance(module, Lean)}


def test_an_unhooked_call_pays_for_nothing(monkeypatch):
    """No signature is asked for, no offloading looked for, no hook point called, no block of TransformerLens's own."""
    model, ids = load_model(plain("llama")), tokens()
    model(ids)

    def refuse(*args, **kwargs):
        raise AssertionError("paid for")

    monkeypatch.setattr(inspect, "signature", refuse)
    monkeypatch.setattr(accelerate.utils.modeling, "has_offloaded_params", refuse)
    monkeypatch.setattr(BlockBridge, "forward", refuse)
    calls = []
    monkeypatch.setattr(HookPoint, "forward", lambda self, x: calls.append(self.name) or x)
    blocks = list(model.blocks)
    x = blocks[0].original_component.input_layernorm.weight.new_ones(1, 3, 48)
    rotary = (torch.ones(1, 3, 12), torch.zeros(1, 3, 12))
    for block in blocks:
        x = block(x, attention_mask=None, position_embeddings=rotary)
    assert not calls
    assert x.isfinite().all()


@pytest.mark.parametrize("family", ["llama_gqa", "gemma3", "olmo2", "phi3", "smollm3"])
def test_every_hook_point_fires_in_the_order_of_transformer_lens(family):
    orders = []
    for model in pair(family):
        order = []

        def note(tensor, hook, name, order=order):
            order.append((name, tuple(tensor.shape)))

        for name, point in model.hook_dict.items():
            point.add_hook(partial(note, name=name))
        model(tokens())
        orders.append(order)
    assert orders[0] == orders[1]
    assert len(orders[0]) > 100


@pytest.mark.parametrize("which", ["component", "inside", "everywhere"])
def test_what_is_registered_with_modules_runs(which):
    """PyTorch's own hooks, on the bridge's components, on what they wrap, and on all modules."""
    model, ids = load_model(plain("llama")), tokens()
    expected, seen = model(ids), []
    components = lean_of(model)

    def note(module, inputs, output):
        seen.append(module)

    if which == "everywhere":
        handles = [register_module_forward_hook(note)]
    else:
        attention = {n for n in components if n.endswith("self_attn")}  # its insides are computed here
        modules = [c if which == "component" else c.original_component for n, c in components.items()]
        modules = [m for n, m in zip(components, modules, strict=True) if which == "component" or n not in attention]
        handles = [module.register_forward_hook(note) for module in modules]
    try:
        assert torch.equal(model(ids), expected)
    finally:
        for handle in handles:
            handle.remove()
    wanted = components.values() if which == "everywhere" else modules
    assert {id(m) for m in wanted} <= {id(m) for m in seen}


def test_a_replaced_forward_is_called():
    model, ids = load_model(plain("llama")), tokens()
    block = model.blocks[1]
    block.__dict__["forward"] = lambda x, **kwargs: x
    without = model(ids)
    del block.__dict__["forward"]
    assert (model(ids) - without).abs().max() > 0.01


def test_stopping_and_starting_in_the_middle_and_lean_again():
    fast, own = pair()
    ids = tokens()
    stopped = [model(ids, stop_at_layer=2) for model in (fast, own)]
    torch.testing.assert_close(*stopped, rtol=1e-5, atol=1e-5)
    started = [model(stopped[0], start_at_layer=2) for model in (fast, own)]
    torch.testing.assert_close(*started, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast(ids), own(ids), rtol=1e-4, atol=1e-5)
    assert not any(block._capture_hooks_wired for block in fast.blocks)


@pytest.mark.parametrize("switch", ["set_use_hook_mlp_in", "set_use_split_qkv_input", "set_use_attn_result"])
def test_switches_have_their_effect_and_leave_no_trace(switch):
    results, ids = [], tokens()
    for model in pair():
        getattr(model, switch)(True)
        logits, cache = model.run_with_cache(ids)
        getattr(model, switch)(False)
        results.append((set(cache.keys()), logits, model(ids)))
    assert results[0][0] == results[1][0]
    for fast, own in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(fast, own, rtol=1e-4, atol=1e-5)


def test_edits_at_a_blocks_output_and_an_mlps_insides():
    for name in ("blocks.1.hook_out", "blocks.1.mlp.hook_in", "blocks.1.mlp.gate.hook_out", "embed.hook_out"):
        found = [model.run_with_hooks(tokens(), fwd_hooks=[(name, lambda t, hook: t * 1.5)]) for model in pair("qwen2")]
        torch.testing.assert_close(*found, rtol=1e-4, atol=2e-5)
