"""Base models in four and eight bits: the numbers are those of transformers and of the weights unpacked by hand."""

import json
import warnings

import packed_bases
import pytest
import torch
from learning import Stops, quick, task
from packed_bases import by_hand, by_transformers, made, needs, saved
from peaks import peak_of
from tiny import tokens
from tiny_adapters import VARIANTS, loss_of, shaken

import aligner_probe as ap
from aligner_probe import models
from aligner_probe.adapters import Aligner, LoRA, OutputBias
from aligner_probe.adapters.constant import constant_shifts
from aligner_probe.checkpoints.exporting import export_adapter
from aligner_probe.errors import AlignerProbeError, AlignerProbeWarning
from aligner_probe.fingerprints import base_record, fingerprint
from aligner_probe.hooks import project
from aligner_probe.packed import has_packed_weight, numel_of, unpacked
from aligner_probe.quantised import QUANTIZATIONS
from aligner_probe.tasks.encoding import Tokens
from aligner_probe.training import fit, recipe
from aligner_probe.training.losses import sft_loss
from aligner_probe.training.memory import BaseSizes, estimate_memory
from aligner_probe.training.objective import Forward
from aligner_probe.training.sequences import Sequences

#: One adapter of each method; the other rows of the contract are slow here.
OF_METHODS = ("aligner-5", "llama_adapter", "lora", "lora all linear", "output bias", "prefix tuning", "prompt tuning")
ADAPTERS = [
    name if name in OF_METHODS else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS if name != "full"
]


quantization, load = packed_bases.quantization, packed_bases.load


def test_logits_are_those_of_transformers_and_of_the_weights_unpacked_by_hand(load, quantization):
    base, ids = load.shared(quantization), tokens()
    # In training mode, since bitsandbytes computes in bfloat16 otherwise on some processors; no dropout is configured.
    theirs = by_transformers(load.path, quantization).train()
    with torch.no_grad():
        ours = base(ids)
        torch.testing.assert_close(ours, theirs(ids).logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours, load.unpacked(quantization)(ids), atol=1e-4, rtol=1e-4)
        assert (ours - load.shared()(ids)).abs().max() > 1e-2  # it is quantised
    packed = {name for name, module in base.original_model.named_modules() if has_packed_weight(module)}
    assert len(packed) == 4 * 7
    for name in packed:
        module = base.original_model.get_submodule(name)
        torch.testing.assert_close(unpacked(module), by_hand(module), atol=1e-6, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in base.parameters())


@pytest.mark.parametrize("n_tokens", [1, 4])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_gradients_are_those_on_the_unpacked_weights(load, quantization, n_tokens, checkpoint):
    """PEFT #600. A pass without gradients comes first: it once took all gradients of later ones away (nf4, CPU)."""
    grads = []
    packed = load.shared(quantization)
    rows = [Tokens(row, row.clone(), 0) for row in tokens()]
    for base in (packed, load.unpacked(quantization)):
        with torch.no_grad():
            before = base(tokens())
        adapter = Aligner(base, n_tokens, 1, seed=1, initial_gate=0.5)
        forward = Forward(base, Sequences(rows, 0), None, adapter.layers.start if checkpoint else None)
        with adapter.attached():
            sft_loss(forward(range(len(rows)))).backward()
        grads.append([adapter.prefix.grad, adapter.gates.grad])
        with torch.no_grad():
            assert torch.equal(base(tokens()), before)
    for ours, theirs in zip(*grads, strict=True):
        assert torch.isfinite(ours).all()
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_trains_is_saved_loaded_scored_and_generates(load, quantization, name, tmp_path):
    base, ids = load.shared(quantization), tokens()
    adapter = shaken(VARIANTS[name](base, 0))
    optimiser = torch.optim.Adam([p for p in adapter.parameters() if p.requires_grad], lr=0.02)
    losses = []
    with adapter.attached():
        for _ in range(4):
            loss = loss_of(base(ids), ids)
            losses.append(float(loss.detach()))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            logits = base(ids)
        answers = ap.generate(base, ["abc", "de"], max_new_tokens=4)
        scores = ap.score_task(base, task(3), scorer="exact")
    assert losses[-1] < losses[0]
    assert len(answers) == 2
    assert len(scores.values("strict")) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error", AlignerProbeWarning)
        again = ap.load_adapter(ap.save_adapter(adapter, tmp_path / "saved"), base)
    with again.attached(), torch.no_grad():
        assert torch.equal(base(ids), logits)


@pytest.mark.parametrize(
    ("make", "checkpoint"),
    [
        (lambda base: Aligner(base, 2, 1), False),
        (lambda base: LoRA(base, 2), True),
        pytest.param(lambda base: Aligner(base, 2, 1), True, marks=pytest.mark.slow),
        pytest.param(lambda base: LoRA(base, 2), False, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_numbers(load, quantization, make, checkpoint, tmp_path):
    base = load.shared(quantization)
    train, validation = task(24).split(0.25, seed=0)

    def run(out, **options):
        how = {"recipe": quick(steps=4), "save_every": 1, "show_progress": False, "resume": True}
        how["checkpoint_activations"] = checkpoint
        return fit(base, make(base), train, validation=validation, out=tmp_path / out, **how | options)

    with pytest.raises(KeyboardInterrupt):
        run("killed", callbacks=[Stops(2)])
    whole, resumed = run("whole"), run("killed")
    for ours, theirs in zip(resumed.adapter.parameters(), whole.adapter.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert resumed.loss.dropna().to_dict() == whole.loss.dropna().to_dict()
    assert whole.best_validation_loss < whole.validation_loss.iloc[0]
    assert whole.provenance["base"]["quantization"] == quantization


def test_a_run_is_not_resumed_on_another_quantisation(load, tmp_path):
    how = {"recipe": quick(steps=3), "save_every": 1, "show_progress": False, "out": tmp_path / "run"}
    base = load.shared(needs("nf4"))
    with pytest.raises(KeyboardInterrupt):
        fit(base, Aligner(base, 1, 1), task(), callbacks=[Stops(2)], **how)
    with pytest.raises(AlignerProbeError, match="was begun with base"):
        fit(load.shared(), Aligner(load.shared(), 1, 1), task(), resume=True, **how)


def test_counts_and_bytes(load, quantization):
    """TransformerLens #1276: parameters are counted unpacked. Bytes are counted by hand."""
    base, known = load.shared(quantization), load.shared()
    assert models.n_base_parameters(base) == models.n_base_parameters(known)
    assert Aligner(base, 1, 1).adapters_per_gpu(1e9) == Aligner(known, 1, 1).adapters_per_gpu(1e9)
    assert BaseSizes.of(known).n_bytes is None
    projections = 4 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    rows = 4 * (64 + 32 + 32 + 64 + 128 + 128 + 64)
    left = 4 * (models.n_base_parameters(base) - projections)
    # nf4: half a byte a value, a float32 for 64 of them, and a table of 16 values for each projection. int8: a byte a
    # value, and for each row a float32 and a zero point of one byte.
    stored = projections // 2 + 4 * projections // 64 + 28 * 16 * 4 if quantization == "nf4" else projections + 5 * rows
    assert BaseSizes.of(base).n_bytes == left + stored
    assert BaseSizes.of(base).unpacked == 4 * 64 * 128
    assert sum(numel_of(module.weight) for module in base.original_model.modules() if has_packed_weight(module)) == (
        projections
    )


@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_memory_estimate_against_the_allocator(tmp_path, quantization, checkpoint):
    sizes = {"hidden_size": 128, "intermediate_size": 320, "vocab_size": 200}
    made(**sizes).save_pretrained(tmp_path)
    base = ap.load_model(tmp_path, quantization=quantization)
    ids = torch.randint(0, 200, (8, 48), generator=torch.Generator().manual_seed(0))
    adapter = Aligner(base, 4, 1)
    forward = Forward(base, Sequences([Tokens(row, row.clone(), 0) for row in ids], 0), None, 1 if checkpoint else None)
    with adapter.attached():
        measured = peak_of(adapter, lambda: sft_loss(forward(range(8))).backward(), times=1)
    estimate = estimate_memory(adapter, recipe(batch_size=8), 48, checkpoint=checkpoint)
    assert 0.85 < estimate.activations / measured < 1.35
    assert estimate.base == BaseSizes.of(base).n_bytes


def test_the_fingerprint_tells_precisions_apart_and_the_record_knows_the_source(load):
    bases = {name: load.shared(name and needs(name)) for name in (None, *QUANTIZATIONS)}
    assert len({fingerprint(base) for base in bases.values()}) == 3
    assert {base_record(base)["source"] for base in bases.values()} == {fingerprint(bases[None])}
    assert [base_record(base)["quantization"] for base in bases.values()] == [None, "nf4", "int8"]


def test_the_fingerprint_follows_a_changed_scale(load, quantization):
    base = load(quantization)
    before = fingerprint(base)
    assert fingerprint(load.shared(quantization)) == before
    weight = base.blocks[2].mlp.gate.original_component.weight
    scale = weight.scale if hasattr(weight, "scale") else weight.quant_state.absmax
    scale.mul_(1.5)
    assert fingerprint(base) != before
    assert base_record(base)["source"] is None  # no longer what was made of it


def test_an_adapter_says_when_its_base_has_another_precision(load, quantization, tmp_path):
    """unsloth #871; the drop can be measured, since the adapter is attached."""
    base, known = load.shared(quantization), load.shared()
    path = saved(base, tmp_path / "packed")
    with pytest.warns(AlignerProbeWarning, match=f"this base in {quantization}, and here the base is in float32"):
        on_plain = ap.load_adapter(path, known)
    back = saved(known, tmp_path / "plain")
    with pytest.warns(AlignerProbeWarning, match=f"plain weights, and here the base is in {quantization}, computing"):
        on_packed = ap.load_adapter(back, base)
    assert torch.equal(on_packed.prefix, on_plain.prefix)
    with on_plain.attached():
        there = ap.score_task(known, task(4), scorer="log_likelihood").values("strict")
    with on_packed.attached():
        here = ap.score_task(base, task(4), scorer="log_likelihood").values("strict")
    assert 0 < abs(there - here).max() < 5
    other = ap.load_model(made(seed=1))
    for one in (path, back):
        with pytest.raises(AlignerProbeError, match="another base"):
            ap.load_adapter(one, other)


def test_a_record_of_an_older_version_is_known_as_well(load, tmp_path):
    path = saved(load.shared(), tmp_path / "plain")
    file = path / "provenance.json"
    content = json.loads(file.read_text())
    content["base"] = {key: content["base"][key] for key in ("architecture", "fingerprint")}
    file.write_text(json.dumps(content))
    ap.load_adapter(path, load.shared())
    with pytest.warns(AlignerProbeWarning, match="plain weights"):
        ap.load_adapter(path, load.shared(needs("nf4")))


def test_a_folder_that_was_saved_quantised(load, quantization, tmp_path):
    by_transformers(load.path, quantization).save_pretrained(tmp_path / "stored")
    stored, base, ids = ap.load_model(tmp_path / "stored"), load.shared(quantization), tokens()
    assert torch.equal(stored(ids), base(ids))
    assert fingerprint(stored) == fingerprint(base)
    assert base_record(stored)["source"] is None
    config = tmp_path / "stored" / "config.json"
    config.write_text(config.read_text().replace('compute_dtype": "float32"', 'compute_dtype": "bfloat16"'))
    assert torch.equal(ap.load_model(tmp_path / "stored", quantization=quantization)(ids), base(ids))
    path = saved(stored, tmp_path / "adapter")
    ap.load_adapter(path, base)
    with pytest.warns(AlignerProbeWarning, match=f"this base in {quantization}"):
        ap.load_adapter(path, load.shared())
    with pytest.raises(AlignerProbeError, match="another base"):
        ap.load_adapter(path, ap.load_model(made(seed=1)))
    other = next(name for name in QUANTIZATIONS if name != quantization)
    with pytest.raises(AlignerProbeError, match=f"stored as {quantization}, and {other} was asked for"):
        ap.load_model(tmp_path / "stored", quantization=other)


def test_a_quantised_model_object_is_wrapped(load, quantization):
    theirs, ids = by_transformers(load.path, quantization).eval(), tokens()
    with torch.no_grad():
        theirs(ids)  # here bitsandbytes packs the weights anew, on processors with AVX512_BF16
    base = ap.load_model(theirs)
    assert models.quantization_in(base) == quantization
    # The scales were rounded to bfloat16 by that.
    torch.testing.assert_close(base(ids), load.shared(quantization)(ids), atol=0.1, rtol=0.1)
    adapter = Aligner(base, 1, 1, initial_gate=0.5)
    with adapter.attached():
        loss_of(base(ids), ids).backward()
    assert adapter.prefix.grad.abs().max() > 1e-3
    assert ap.load_model(base, quantization=quantization) is base


def test_projections_fire_no_hooks_and_take_a_precision(load, quantization):
    base = load.shared(quantization)
    prefix = torch.randn(3, 64)
    fired = []
    for which in ("k", "v"):
        with base.hooks(
            fwd_hooks=[
                (f"blocks.2.attn.{name}", lambda t, hook: fired.append(hook.name))
                for name in ("hook_k", "hook_v", "k.hook_in", "v.hook_in")
            ]
        ):
            found = project(base, 2, which, prefix)
        weight = by_hand(getattr(base.blocks[2].attn, which).original_component)
        expected = (prefix.double() @ weight.double().T).view(3, 2, 16).repeat_interleave(2, dim=1)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
        exact = project(base, 2, which, prefix, torch.float64)
        torch.testing.assert_close(exact, expected, atol=1e-6, rtol=1e-6)
    assert not fired


def test_a_base_that_computes_in_bfloat16(load, quantization):
    base, ids = load(quantization, dtype="bfloat16"), tokens()
    assert models.precision_in_words(base) == f"{quantization}, computing in bfloat16"
    adapter = Aligner(base, 4, 1, initial_gate=0.5)
    with adapter.attached():
        logits = base(ids)
        loss_of(logits.float(), ids).backward()
    assert logits.dtype == torch.bfloat16
    assert torch.isfinite(adapter.prefix.grad).all()


def test_exports_of_an_adapter_on_a_quantised_base(load, quantization, tmp_path):
    base = load.shared(quantization)
    one = shaken(Aligner(base, 1, 1))
    bias = shaken(OutputBias(base, start_layer=1))
    per_layer, lora = shaken(Aligner(base, 2, 1, gate_per="layer")), shaken(LoRA(base, 2))
    for source, to in ((one, "native"), (one, "lit-llama"), (per_layer, "peft"), (lora, "peft"), (lora, "native")):
        assert export_adapter(source, to, tmp_path / f"{source.method}-{to}").path.exists()
    # The vectors are those of the weights that the base computes with.
    on_plain = Aligner(load.unpacked(quantization), 1, 1)
    on_plain.load_state_dict(one.state_dict())
    theirs = constant_shifts(on_plain)
    for layer, vector in constant_shifts(one).items():
        torch.testing.assert_close(vector, theirs[layer], atol=1e-6, rtol=1e-5)
    path = ap.save_adapter(one, tmp_path / "saved")
    vectors = []
    for how in ({"source": one}, {"source": path, "model": load.path, "quantization": quantization}):
        done = export_adapter(to="steering", out=tmp_path / f"vectors{len(vectors)}", **how)
        vectors.append(done.notes[0])
    assert vectors[0] == vectors[1]
    for adapter in (one, bias):
        with pytest.raises(AlignerProbeError, match=f"not merged into a base in {quantization}: save it"):
            export_adapter(adapter, "merged", tmp_path / "merged", model=load.path)
    with pytest.raises(AlignerProbeError, match="leave quantization out"):
        export_adapter(path, "merged", tmp_path / "merged", model=load.path, quantization=quantization)
    with pytest.raises(AlignerProbeError, match="is for a base model that is read"):
        export_adapter(one, "steering", tmp_path / "more", quantization=quantization)
    with pytest.warns(AlignerProbeWarning, match=f"on this base in {quantization}"):
        merged = export_adapter(path, "merged", tmp_path / "merged", model=load.path)
    assert merged.checks.max_logit_difference < 1e-3
    by_transformers(load.path, quantization).save_pretrained(tmp_path / "stored")
    with pytest.raises(AlignerProbeError, match="the base is quantised; name the plain model"):
        export_adapter(path, "merged", tmp_path / "more", model=tmp_path / "stored")
