"""A user's hooks, wherever they are: training with kept lower layers or checkpoints gives the losses of plain training.

Plain training runs every hook once in every forward pass, so it says what is right.
"""

from contextlib import contextmanager

import pytest
import torch
from learning import model, quick, task
from torch.nn.utils import parametrize

from aligner_probe.adapters import Aligner
from aligner_probe.errors import AlignerProbeError
from aligner_probe.training import Callback, Training, fit, fit_together
from aligner_probe.training.lower_layers import plan_cache

START = 2


class Noise:
    """Adds noise of its own generator, drawn anew in every call, and counts its calls."""

    def __init__(self, scale=0.3):
        self.generator, self.scale, self.calls = torch.Generator().manual_seed(7), scale, 0

    def __call__(self, tensor):
        self.calls += 1
        noise = torch.randn(tensor.shape, generator=self.generator)
        return tensor + self.scale * noise.to(tensor.dtype)

    def on_point(self, tensor, hook):
        return self(tensor)

    def after(self, module, args, output):
        return self(output)

    def before(self, module, args):
        return (self(args[0]), *args[1:])


def hooked_point(name):
    def put(base, noise):
        base.add_hook(name, noise.on_point)

    return put


def torch_hook(of, kind="after"):
    def put(base, noise):
        module = of(base)
        if kind == "after":
            module.register_forward_hook(noise.after)
        else:
            module.register_forward_pre_hook(noise.before)

    return put


def other_ids(base, noise):
    """A pre-hook of the whole model that replaces some tokens by others."""

    def swap(module, args, kwargs):
        noise.calls += 1
        ids = args[0] if args else kwargs["input_ids"]
        drawn = torch.randint(2, 27, ids.shape, generator=noise.generator)
        keep = torch.rand(ids.shape, generator=noise.generator) < 0.7
        return (), kwargs | {"input_ids": torch.where(keep, ids, drawn)}

    base.original_model.register_forward_pre_hook(swap, with_kwargs=True)


def parametrized(base, noise):
    class Noisy(torch.nn.Module):
        def forward(self, weight):
            return noise(weight)

    linear = base.blocks[0].mlp.gate.original_component
    parametrize.register_parametrization(linear, "weight", Noisy(), unsafe=True)


def replaced_forward(base, noise):
    module = base.blocks[1].mlp.original_component
    forward = module.forward
    module.forward = lambda *args, **kwargs: noise(forward(*args, **kwargs))


#: Where a hook is, and whether lower layers can be kept all the same.
PLACES = {
    "the entrance": ("llama_gqa", hooked_point(f"blocks.{START}.hook_resid_pre"), True),
    "the entrance, by its other name": ("llama_gqa", hooked_point(f"blocks.{START}.hook_in"), True),
    "the entrance of gpt2": ("gpt2", hooked_point(f"blocks.{START}.hook_resid_pre"), True),
    "the entrance, by torch": ("llama_gqa", torch_hook(lambda base: base.blocks[START], "before"), True),
    "above": ("llama_gqa", hooked_point(f"blocks.{START}.attn.hook_z"), True),
    "the last layer's end": ("llama_gqa", hooked_point("blocks.3.hook_resid_post"), True),
    "the final norm": ("llama_gqa", torch_hook(lambda base: base.ln_final), True),
    "the logits": ("llama_gqa", hooked_point("unembed.hook_out"), True),
    "below the entrance": ("llama_gqa", hooked_point(f"blocks.{START - 1}.hook_resid_post"), False),
    "the embeddings": ("llama_gqa", hooked_point("hook_embed"), False),
    "the embedding's output": ("gpt2", hooked_point("embed.hook_out"), False),
    "the position embeddings": ("gpt2", hooked_point("hook_pos_embed"), False),
    "rotary's cosines": ("llama_gqa", hooked_point("rotary_emb.hook_cos"), False),
    "a module of Hugging Face": ("llama_gqa", torch_hook(lambda base: base.original_model.model.layers[0].mlp), False),
    "a module inside a bridge": (
        "llama_gqa",
        torch_hook(lambda base: base.blocks[1].original_component.mlp.original_component, "before"),
        False,
    ),
    "the embedding of Hugging Face": (
        "llama_gqa",
        torch_hook(lambda base: base.original_model.model.embed_tokens._original_component),
        False,
    ),
    "gpt2's dropout of embeddings": ("gpt2", torch_hook(lambda base: base.original_model.transformer.drop), False),
    "the whole model": ("llama_gqa", other_ids, False),
    "a weight": ("qwen3", parametrized, False),
    "a forward method": ("qwen3", replaced_forward, False),
}


def losses(run):
    return torch.tensor([*run.loss.dropna(), *run.validation_loss])


def trained(base, **options):
    train, validation = task(24).split(0.25, seed=0)
    how = {"recipe": quick(steps=5, evaluate_every=3), "show_progress": False} | options
    return fit(base, Aligner(base, 2, START), train, validation=validation, **how)


#: One of each kind; `make test-all` tries every place.
QUICK = ("the entrance, by torch", "above", "the embeddings", "rotary's cosines", "the whole model", "a weight")
TRIED = [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in PLACES]


@pytest.mark.parametrize("place", TRIED)
def test_a_random_hook_is_applied_once_in_every_forward_pass(place):
    family, put, stays_kept = PLACES[place]
    found, calls = {}, {}
    for cache in ("auto", False):
        base, noise = model(family), Noise()
        put(base, noise)
        run = trained(base, cache=cache)
        found[cache], calls[cache] = losses(run), noise.calls
        assert ("computed once" in run.lower_layers) == (stays_kept and cache == "auto")
    assert calls["auto"] == calls[False] > 0
    assert torch.allclose(found["auto"], found[False], rtol=1e-5, atol=1e-7)
    assert not torch.allclose(found[False], losses(trained(model(family), cache=False)), rtol=1e-3)
    base = model(family)
    put(base, Noise())
    if not stays_kept:
        with pytest.raises(AlignerProbeError, match="lower layers cannot be kept"):
            trained(base, cache=True)
    else:
        assert "computed once" in trained(base, cache=True).lower_layers


def test_nothing_of_the_libraries_own_switches_keeping_off():
    for family in ("llama_gqa", "gpt2", "qwen3", "gemma2"):
        base = model(family)
        ids = torch.tensor([[5, 6, 7]])
        base.run_with_cache(ids)  # for which transformers leaves hooks behind
        base.run_with_hooks(ids, fwd_hooks=[("hook_embed", lambda tensor, hook: tensor * 2)])
        adapter = Aligner(base, 2, START)
        assert plan_cache(adapter, 1000, 9.0, "auto").kept
        with adapter.attached():
            base(ids)
        assert plan_cache(adapter, 1000, 9.0, "auto").kept


@contextmanager
def global_hook(noise):
    def after(module, args, output):
        return noise(output) if type(module).__name__ == "LlamaRMSNorm" else None

    handle = torch.nn.modules.module.register_module_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def test_a_hook_on_every_module_switches_keeping_off():
    found = []
    for cache in ("auto", False):
        base, noise = model(), Noise()
        with global_hook(noise):
            run = trained(base, cache=cache)
            assert "computed once" not in run.lower_layers
        found.append(losses(run))
    assert torch.allclose(*found, rtol=1e-5)


def test_dropout_below_the_entrance_is_drawn_anew_in_every_step():
    found = {}
    for cache in ("auto", False):
        base = model("gpt2")
        base.train()
        torch.manual_seed(3)
        run = trained(base, cache=cache)
        assert "computed once" not in run.lower_layers
        found[cache] = losses(run)
    assert torch.allclose(found["auto"], found[False], rtol=1e-5)
    base.eval()
    for block in list(base.blocks)[START:]:
        block.train()
    torch.manual_seed(3)
    above = trained(base, cache="auto")
    assert "computed once" in above.lower_layers
    torch.manual_seed(3)
    assert torch.allclose(losses(above), losses(trained(base, cache=False)), rtol=1e-5)


class At(Callback):
    """Does something to the base at one moment of the training, and something else at a later one."""

    def __init__(self, moment, first, later=None):
        self.moment, self.first, self.later = moment, first, later

    def started(self, start):
        if self.moment == "started":
            self.first()

    def stepped(self, row):
        if row["step"] == self.moment:
            self.first()
        if self.later is not None and row["step"] == 4:
            self.later()


@pytest.mark.parametrize("moment", ["started", 0, 2])
@pytest.mark.parametrize("removed", [False, True])
def test_a_hook_that_a_callback_adds_counts_from_then_on(moment, removed):
    found, calls, said = {}, {}, {}
    for cache in ("auto", False):
        base, noise = model(), Noise()
        callback = At(
            moment,
            lambda base=base, noise=noise: base.add_hook("blocks.1.hook_out", noise.on_point),
            (lambda base=base: base.reset_hooks()) if removed else None,
        )
        run = trained(base, cache=cache, callbacks=[callback])
        found[cache], calls[cache], said[cache] = losses(run), noise.calls, run.lower_layers
    assert calls["auto"] == calls[False] > 0
    assert torch.allclose(found["auto"], found[False], rtol=1e-5, atol=1e-7)
    assert "hooked to blocks.1.hook_out" in said["auto"]
    assert said[False] == "switched off"


def test_a_weight_that_a_callback_changes_counts_from_then_on():
    found = {}
    for cache in ("auto", False):
        base = model()

        def change(base=base):
            with torch.no_grad():
                base.blocks[1].mlp.gate.original_component.weight.mul_(1.5)

        run = trained(base, cache=cache, callbacks=[At(2, change)])
        found[cache] = losses(run)
    assert torch.allclose(found["auto"], found[False], rtol=1e-5, atol=1e-7)


def test_runs_that_share_a_batch_meet_a_hook_once_too():
    found = {}
    for cache in ("auto", False):
        base, noise = model(), Noise()
        base.add_hook(f"blocks.{START}.hook_resid_pre", noise.on_point)
        runs = fit_together(
            base,
            [Training(adapter=Aligner(base, n, START), task=task(16), recipe=quick()) for n in (1, 3)],
            cache=cache,
            show_progress=False,
        )
        found[cache] = torch.cat([losses(run) for run in runs])
    assert torch.allclose(found["auto"], found[False], rtol=1e-5)


#: One below and one at the entrance of the adapted layers; `make test-all` tries three more above it.
CHECKPOINTED = [
    "the entrance",
    "the embeddings",
    *(pytest.param(one, marks=pytest.mark.slow) for one in ("above", "the last layer's end", "the final norm")),
]


@pytest.mark.parametrize("place", CHECKPOINTED)
@pytest.mark.parametrize("cache", ["auto", False])
def test_checkpointed_layers_apply_a_random_hook_once(place, cache):
    _, put, _ = PLACES[place]
    found, calls = [], []
    for checkpoint in (True, False):
        base, noise = model(), Noise()
        put(base, noise)
        run = trained(base, cache=cache, checkpoint_activations=checkpoint)
        found.append(losses(run))
        calls.append(noise.calls)
    assert calls[0] == calls[1]
    assert torch.allclose(*found, rtol=1e-5, atol=1e-7)


def test_checkpointed_layers_draw_the_same_dropout_in_both_runs():
    found = []
    for checkpoint in (True, False):
        base = model("gpt2")
        base.train()
        torch.manual_seed(3)
        found.append(losses(trained(base, checkpoint_activations=checkpoint)))
    assert torch.allclose(*found, rtol=1e-5, atol=1e-7)
