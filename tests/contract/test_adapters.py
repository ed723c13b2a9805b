"""The contract that every adapter passes, on every family."""

import pytest
import torch
from conftest import small_model
from tiny import MODELS, bridge, frozen, plain, tokens
from tiny_adapters import ON_EVERY_FAMILY, ROWS, VARIANTS, WITHOUT_DRAWS, loss_of, opened, shaken

from aligner_probe.adapters import METHODS
from aligner_probe.adapters.adapter import hook_point
from aligner_probe.adapters.full import FullFineTune
from aligner_probe.adapters.houlsby import Houlsby
from aligner_probe.adapters.llama_adapter_v2 import LLaMAAdapterV2
from aligner_probe.adapters.lora import LoRA
from aligner_probe.adapters.output_bias import OutputBias
from aligner_probe.adapters.prefix import Aligner
from aligner_probe.adapters.prefix_tuning import PrefixTuning
from aligner_probe.adapters.prompt_tuning import PromptTuning
from aligner_probe.errors import AlignerProbeError
from aligner_probe.models import fingerprint, load_model

#: Every row on one family, and one row of each method on every family.
CASES = [("llama_gqa", name) for name in VARIANTS] + [
    (family, name) for family in MODELS if family != "llama_gqa" for name in ON_EVERY_FAMILY
]


def adapter_of(family, name, seed=0):
    return VARIANTS[name](frozen(family), seed)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_sandwich(family, name):
    """base = detached != attached = attached again; the base's numbers and hooks are as before."""
    adapter, ids = shaken(adapter_of(family, name)), tokens()
    model = adapter.model
    before, base = fingerprint(model), model(ids)
    with adapter.attached():
        adapted = model(ids)
    assert torch.equal(model(ids), base)
    assert (adapted - base).abs().max() > 1e-3
    assert adapted.shape == base.shape
    with adapter.attached():
        assert torch.equal(model(ids), adapted)
    assert fingerprint(model) == before
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize(("family", "name"), CASES)
def test_only_adapter_numbers_train_and_all_of_them_move(family, name):
    """Three steps, with an evaluation in between that must leave nothing behind (a cached prefix once froze there)."""
    adapter, ids = adapter_of(family, name), tokens()
    trained = [p for p in adapter.parameters() if p.requires_grad]
    frozen = {n: p.clone() for n, p in adapter.named_parameters() if not p.requires_grad}
    start = [p.detach().clone() for p in trained]
    optimiser = torch.optim.AdamW(trained, lr=0.05)
    losses = []
    with adapter.attached():
        for _ in range(3):
            loss = loss_of(adapter.model(ids), ids)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            with torch.no_grad():
                losses.append(loss_of(adapter.model(ids), ids).item())
    assert losses[-1] < losses[0]
    # LoRA's A and a prefix behind a zero gate get no gradient on the first step, but on the second
    moved = [bool((p != s).any()) for p, s in zip(trained, start, strict=True)]
    assert all(moved)
    assert all(torch.equal(p, frozen[n]) for n, p in adapter.named_parameters() if n in frozen)
    own = {id(p) for p in adapter.parameters()}
    assert all(p.grad is None for p in adapter.model.original_model.parameters() if id(p) not in own)


def test_every_registered_method_has_a_row():
    own = {name for name, cls in METHODS.items() if cls.__module__.startswith("aligner_probe.")}
    assert own == {method for method, _, _ in ROWS.values()}


@pytest.mark.parametrize("name", ROWS)
def test_parameter_counts(name):
    adapter = adapter_of("llama_gqa", name)
    whole = sum(parameter.numel() for parameter in adapter.model.original_model.parameters())
    assert adapter.n_parameters == (ROWS[name][2] or whole)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in WITHOUT_DRAWS])
def test_the_seed_is_wired(name):
    model = frozen("llama_gqa")
    first, again, other = (VARIANTS[name](model, seed) for seed in (0, 0, 1))
    numbers = [
        torch.cat([t.flatten() for t in a.state_dict(keep_vars=True).values()] + [b.flatten() for b in a.buffers()])
        for a in (first, again, other)
    ]
    assert torch.equal(numbers[0], numbers[1])
    assert not torch.equal(numbers[0], numbers[2])


def test_the_seed_leaves_the_callers_random_numbers_alone():
    model = frozen("llama_gqa")
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    for make in VARIANTS.values():
        make(model, 0)
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize("name", VARIANTS)
def test_users_own_hooks_and_caches_keep_working(name):
    adapter, ids = shaken(VARIANTS[name](bridge("llama_gqa"), 0)), tokens()  # caching leaves hooks of its own
    model, seen = adapter.model, []

    def count(tensor, hook):
        seen.append(tensor.shape)

    with adapter.attached():
        expected = model(ids)
        for _ in range(2):
            logits, cache = model.run_with_cache(ids)
            assert torch.equal(logits, expected)
        assert torch.equal(model.run_with_hooks(ids, fwd_hooks=[("blocks.2.attn.hook_z", count)]), expected)
        assert len(seen) == 1
        zeroed = model.run_with_hooks(ids, fwd_hooks=[("blocks.2.attn.hook_z", lambda z, hook: z * 0)])
        assert not torch.equal(zeroed, expected)
        assert torch.equal(model(ids), expected)
    assert "blocks.2.attn.hook_z" in cache


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("family", ["llama_gqa", "gpt2", "neox"])
def test_cached_generation_is_uncached(family, name):
    adapter, ids = shaken(adapter_of(family, name)), tokens(1, 5)
    model = adapter.model
    options = {"max_new_tokens": 8, "do_sample": False, "verbose": False, "stop_at_eos": False}
    base = model.generate(ids, use_past_kv_cache=True, **options)
    with torch.no_grad(), adapter.attached():
        cached = model.generate(ids, use_past_kv_cache=True, **options)
        plainly = model.generate(ids, use_past_kv_cache=False, **options)
        by_hand = ids
        for _ in range(8):
            by_hand = torch.cat([by_hand, model(by_hand)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(cached, plainly)
    assert torch.equal(cached, by_hand)
    assert torch.equal(model.generate(ids, use_past_kv_cache=True, **options), base)


@pytest.mark.parametrize("name", VARIANTS)
def test_left_padding_changes_nothing(name):
    adapter, ids = shaken(adapter_of("llama_gqa", name)), tokens(1, 6)
    model, pad = adapter.model, 3
    padded = torch.cat([torch.zeros(1, pad, dtype=torch.long), ids], dim=1)
    mask = (torch.arange(padded.shape[1]) >= pad).long()[None]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad(), adapter.attached():
        expected = model(ids)
        found = model(padded, attention_mask=mask, position_ids=positions)[:, pad:]
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max().clamp(min=1)


def test_prompt_tuning_is_a_longer_input():
    """Against the base on embeddings with the prompt written in front."""
    model, ids = frozen("llama_gqa"), tokens()
    adapter = shaken(PromptTuning(model, 4))
    base = plain("llama_gqa")
    embedded = torch.cat([adapter.prompt.expand(2, -1, -1), base.get_input_embeddings()(ids)], dim=1)
    expected = base(inputs_embeds=embedded).logits[:, 4:]
    with adapter.attached():
        assert (model(ids) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_random_subspace_is_orthonormal_and_from_the_seed():
    model = frozen("llama_gqa")
    first, other = OutputBias(model, 20, start_layer=1), OutputBias(model, 20, start_layer=1, seed=1)
    assert torch.allclose(first.basis.T @ first.basis, torch.eye(20), atol=1e-5)
    assert not torch.equal(first.basis, other.basis)
    assert "basis" not in first.state_dict()
    with torch.no_grad():
        first.z.normal_()
    assert torch.allclose(first.biases().flatten(), first.basis @ first.z)


def test_a_hook_that_never_fires_is_an_error():
    model, ids = frozen("llama_gqa"), tokens()
    adapter = Aligner(model, 2, 1)

    def run_without_hooks():
        with adapter.attached():
            model.reset_hooks(including_permanent=True)
            model(ids)

    with pytest.raises(AlignerProbeError, match="never fired in 1 runs"):
        run_without_hooks()
    assert not adapter.is_attached
    with adapter.attached():
        pass  # nothing ran: nothing to complain of


def test_errors_inside_the_block_come_through_and_clean_up():
    model, ids = frozen("llama_gqa"), tokens()
    base, adapter = model(ids), opened(Aligner(model, 2, 1))
    with pytest.raises(KeyError, match="mine"), adapter.attached():
        raise KeyError("mine")
    assert torch.equal(model(ids), base)
    assert not hook_point(model, "blocks.2.attn.hook_z").fwd_hooks


def test_what_does_not_stack_is_refused():
    model = frozen("llama_gqa")
    lora, full = LoRA(model), FullFineTune(model)
    with lora.attached(), pytest.raises(AlignerProbeError, match="full does not stack"), full.attached():
        pass
    with full.attached(), pytest.raises(AlignerProbeError, match="full does not stack"), lora.attached():
        pass
    with lora.attached(), pytest.raises(AlignerProbeError, match="attached already"), lora.attached():
        pass
    with lora.attached():
        pass


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda m: Aligner(m, 0, 1), "n_tokens 0"),
        (lambda m: Aligner(m, 1, 4), "start_layer 4 on a base of 4 layers"),
        (lambda m: Aligner(m, 1, -1), "start_layer -1"),
        (lambda m: Aligner(m), "try start_layer=1"),
        (lambda m: Aligner(m, 1, 1, train="tokens"), "initial_gate"),
        (lambda m: LoRA(m, 0), "r 0"),
        (lambda m: LoRA(m, targets=("q", "w")), "expected some of q, k, v, o, gate, up, down, or all-linear alone"),
        (lambda m: LoRA(m, targets=("all-linear", "q")), "or all-linear alone"),
        (lambda m: LoRA(m, targets=()), "or all-linear alone"),
        (lambda m: OutputBias(m, 10_000, start_layer=1), "no more parameters than there are"),
        (lambda m: PrefixTuning(m, 0), "n_tokens 0"),
        (lambda m: PrefixTuning(m, reparametrise=0), "reparametrise 0; expected 1 or more neurons, or None"),
        (lambda m: PrefixTuning(m, reparametrise=4, spread=0.1), "the network decides how keys and values begin"),
        (lambda m: Houlsby(m, 0), "bottleneck 0; expected 1 or more"),
        (lambda m: Houlsby(m, initial_scale=0), "initial_scale 0; expected more than 0"),
        (lambda m: LLaMAAdapterV2(m, start_layer=4), "start_layer 4 on a base of 4 layers"),
        (lambda m: LLaMAAdapterV2(m, -1), "n_tokens -1; expected 0 or more"),
        (lambda m: LLaMAAdapterV2(m, start_layer=2, prefix_layer=1), "prefix_layer 1 below start_layer 2"),
        (lambda m: PromptTuning(m, 0), "n_tokens 0"),
    ],
)
def test_options_that_do_not_fit(make, says):
    with pytest.raises(AlignerProbeError, match=says):
        make(frozen("llama_gqa"))


@pytest.mark.parametrize("family", MODELS)
def test_all_linear_is_every_projection_that_a_base_has(family):
    model = frozen(family)
    adapter = LoRA(model, 3, targets="all-linear")
    gate = () if family in ("gpt2", "neox") else ("gate",)
    assert adapter.config.targets == ("q", "k", "v", "o", *gate, "up", "down")
    assert adapter.config == LoRA(model, 3, targets=[f"{name}_proj" for name in adapter.config.targets]).config
    in_mlp = {"gate": "gate", "up": "in", "down": "out"}
    for layer, block in enumerate(model.blocks):
        for target in adapter.config.targets:
            part = getattr(block.mlp, in_mlp[target]) if target in in_mlp else getattr(block.attn, target)
            weight = part.weight
            if family == "gpt2" and target not in ("q", "k", "v"):  # Conv1D
                weight = weight.T
            assert adapter.B[f"{layer}_{target}"].shape[0] == weight.shape[0]
            assert adapter.A[f"{layer}_{target}"].shape[1] == weight.shape[1]
    if not gate:
        with pytest.raises(AlignerProbeError, match="has no gate projection; expected some of q, k, v, o, up, down"):
            LoRA(model, targets=("q", "gate"))


def test_adapters_per_gpu():
    adapter = Aligner(frozen("llama_gqa"), 1, 1)
    base = sum(p.numel() for p in adapter.model.original_model.parameters())
    assert adapter.adapters_per_gpu(2 * base + 2 * 60 * 7 + 1) == 7
    assert adapter.adapters_per_gpu(base) == 0
    assert adapter.adapters_per_gpu(24e9, as_published=True) == 1_250_000


def test_processed_bridges_and_unknown_families_are_refused(tmp_path):
    model = bridge("llama")
    model.enable_compatibility_mode()
    with pytest.raises(AlignerProbeError, match="no_processing=True"):
        Aligner(model, 1, 1)
    with pytest.raises(AlignerProbeError, match="load_model"):
        load_model(model)
    from transformers import OPTConfig, OPTForCausalLM

    opt = OPTForCausalLM(
        OPTConfig(hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    )
    with pytest.raises(AlignerProbeError, match="OPTForCausalLM is not supported"):
        load_model(opt)
    opt.save_pretrained(tmp_path)
    with pytest.raises(AlignerProbeError, match="OPTForCausalLM is not supported"):
        load_model(tmp_path)
    with pytest.raises(AlignerProbeError, match="cannot load a model from"):
        load_model(str(tmp_path / "nowhere"))


def test_load_model_from_a_folder_with_and_without_tokenizer(tmp_path):
    plain("llama_gqa").save_pretrained(tmp_path)
    model, ids = load_model(tmp_path), tokens()
    expected = plain("llama_gqa")(ids).logits
    assert (model(ids) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not any(p.requires_grad for p in model.parameters())
    assert fingerprint(model) == fingerprint(frozen("llama_gqa"))
    assert fingerprint(load_model(tmp_path, dtype=torch.bfloat16)) == fingerprint(model)
    assert fingerprint(frozen("llama")) != fingerprint(model)


@pytest.mark.parametrize(("name", "start_layer"), [("stories260K", 1), ("TinyStories-656K", 0)])
def test_real_models(name, start_layer):
    model = load_model(small_model(name))
    with pytest.raises(AlignerProbeError, match=f"try start_layer={start_layer}"):
        Aligner(model)
    ids = model.to_tokens("Once upon a time ")
    adapter = shaken(Aligner(model, 3, start_layer))
    base = model.generate(ids, max_new_tokens=10, do_sample=False, verbose=False)
    with adapter.attached():
        adapted = model.generate(ids, max_new_tokens=10, do_sample=False, verbose=False)
    assert model.to_string(base[0]).split("Once upon a time ")[1].isascii()
    assert not torch.equal(base, adapted)
