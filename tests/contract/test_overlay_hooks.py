"""The hook points of the fast overlay: what is cached there, and what is edited, is as in TransformerLens's own."""

import pytest
import torch
from overlays import EACH, assert_close, pair, refuse_written_out, shared_pair
from tiny import tokens


@pytest.mark.parametrize("family", EACH)
def test_run_with_cache_gives_the_same_keys_and_values(family):
    fast, own = pair(family)
    ids = tokens()
    logits, found = fast.run_with_cache(ids)
    _, expected = own.run_with_cache(ids)
    assert set(found) == set(expected)
    for name in expected:
        seen, own_value = found[name], expected[name]
        shown = own_value > -1e30  # all but masked scores
        assert torch.equal(shown, seen > -1e30)
        assert_close(seen[shown], own_value[shown])
    assert torch.equal(logits, fast(ids))


def test_run_with_cache_backward_goes_through_scores_and_pattern():
    fast, own = pair("llama_gqa")
    ids = tokens()
    caches = [
        model.requires_grad_(True).run_with_cache(ids, return_type="loss", incl_bwd=True)[1] for model in (own, fast)
    ]
    names = [name for name in caches[0] if name.endswith("_grad")]
    assert any("hook_pattern" in name for name in names)
    assert set(caches[0]) == set(caches[1])
    for name in names:
        assert_close(caches[1][name], caches[0][name])


@pytest.mark.parametrize("place", ["hook_attn_scores", "hook_pattern"])
@pytest.mark.parametrize("in_place", [False, True])
def test_edits_of_scores_and_pattern_have_their_effect(place, in_place):
    """And where the hook only looks, not one bit changes."""
    fast, own = pair("llama_gqa")
    ids, seen = tokens(), []

    def edit(tensor, hook):
        if in_place:
            with torch.no_grad():
                tensor[..., 0] = tensor[..., 0] * 0.5
            return None
        return tensor * 0.5

    def look(tensor, hook):
        seen.append(tensor.shape)

    name = f"blocks.2.attn.{place}"
    base = fast(ids)
    assert torch.equal(fast.run_with_hooks(ids, fwd_hooks=[(name, look)]), base)
    assert seen == [(2, 4, 9, 9)]
    edited, expected = (model.run_with_hooks(ids, fwd_hooks=[(name, edit)]) for model in (fast, own))
    assert_close(edited, expected)
    assert (edited - base).abs().max() > 1e-3
    with torch.inference_mode():
        edited = fast.run_with_hooks(ids, fwd_hooks=[(name, edit)])
    assert_close(edited, expected)


#: Hook points of an attention layer but for scores and pattern.
POINTS = [f"hook_{name}" for name in ("q", "k", "v", "z", "cos", "sin", "rot_q", "rot_k", "in", "out")]
NORMED = ["hook_q_normed", "hook_k_normed", "q_norm.hook_in", "k_norm.hook_out"]
#: Layers in which the hook points are tried. SmolLM3 has no rotary position embedding in the first of these two.
LAYERS = {"smollm3": (1, 2)}
#: Hook points that never fire in TransformerLens's own layer, by family and layer.
SILENT = {("phi3", 1): {"hook_rot_q", "hook_rot_k"}, ("smollm3", 1): {"hook_cos", "hook_sin"}}


@pytest.mark.parametrize("family", EACH)
def test_users_hooks_have_the_same_effect(family, monkeypatch):
    """An edit at each hook point: the same shape there, the same logits, and no attention written out."""
    fast, own = shared_pair(family)
    ids, results = tokens(), {}
    points = POINTS + NORMED * (family in ("qwen3", "gemma3", "olmo2")) + ["hook_hidden_states"] * (family == "phi3")
    base = own(ids)
    for model in (own, fast):
        if model is fast:
            refuse_written_out(monkeypatch)
        for layer in LAYERS.get(family, (1,)):
            for name in points:
                shapes = []

                def edit(tensor, hook, shapes=shapes):
                    shapes.append(tensor.shape)
                    return tensor * 1.5 + 0.1

                logits = model.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.attn.{name}", edit)])
                results.setdefault((layer, name), []).append((logits, shapes))
    silent: dict = {}
    for (layer, name), ((expected, expected_shapes), (found, shapes)) in results.items():
        assert shapes == expected_shapes
        assert_close(found, expected)
        if shapes:
            assert (found - base).abs().max() > 1e-3, name
        else:
            silent.setdefault((family, layer), set()).add(name)
    assert silent == {key: names for key, names in SILENT.items() if key[0] == family}


@pytest.mark.parametrize("place", ["hook_scale", "hook_normalized"])
def test_users_hooks_on_norms_have_the_same_effect(place):
    fast, own = pair("gemma")
    ids, base = tokens(), own(tokens())
    hooks = [(f"blocks.1.ln2.{place}", lambda tensor, hook: tensor * 1.5)]
    found, expected = (model.run_with_hooks(ids, fwd_hooks=hooks) for model in (fast, own))
    assert_close(found, expected)
    assert (found - base).abs().max() > 1e-3


@pytest.mark.parametrize("how", ["in place", "replaced", "hook on logits"])
def test_the_unembedding_adds_a_bias_that_is_not_zero(how):
    fast, own = pair("llama_gqa")
    ids, base = tokens(), own(tokens())
    for model in (fast, own):
        linear = model.unembed.original_component
        if how == "in place":
            linear.bias += torch.arange(61)
        elif how == "replaced":
            linear.bias = torch.arange(61.0)
        else:
            model.unembed.hook_out.add_hook(lambda logits, hook: logits + torch.arange(61))
    assert_close(fast(ids), own(ids))
    assert_close(fast(ids), base + torch.arange(61))
