"""Base models in four and eight bits: the numbers are those of transformers and of the weights unpacked by hand."""

import functools
import importlib.util
import json
import shutil
import sys
import warnings

import pytest
import torch
import transformers
from conftest import ROOT
from learning import Letters, quick, task
from peaks import peak_of
from tiny import plain, save_tokenizer, tokens
from tiny_adapters import MAKERS, VARIANTS, loss_of, shaken

import aligner_probe as ap
from aligner_probe import models, quantised
from aligner_probe.adapters import Aligner, LoRA, OutputBias
from aligner_probe.adapters.constant import constant_shifts
from aligner_probe.checkpoints.exporting import export_adapter
from aligner_probe.commands import export, train
from aligner_probe.commands.probe import parser as probe_parser
from aligner_probe.errors import AlignerProbeError, AlignerProbeWarning
from aligner_probe.fingerprints import base_record, fingerprint
from aligner_probe.hooks import project
from aligner_probe.packed import has_packed_weight, numel_of, unpacked
from aligner_probe.probing.probe import new_probe, with_batches
from aligner_probe.quantised import QUANTIZATIONS
from aligner_probe.study import Bench
from aligner_probe.tasks.encoding import Tokens
from aligner_probe.training import Callback, fit, recipe
from aligner_probe.training.losses import sft_loss
from aligner_probe.training.memory import BaseSizes, estimate_memory
from aligner_probe.training.objective import Forward
from aligner_probe.training.sequences import Sequences

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 61,
    "max_position_embeddings": 64,
}
#: One adapter of each method; the other rows of the contract are slow here.
ADAPTERS_OF_METHODS = ("aligner-5", "llama_adapter", "lora", "output bias", "prefix tuning", "prompt tuning")
#: The values of the sixteen codes of nf4: table 8 of the QLoRA paper (arXiv 2305.14314).
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
ADAPTERS = [
    name if name in ADAPTERS_OF_METHODS else pytest.param(name, marks=pytest.mark.slow)
    for name in VARIANTS
    if name != "full"
]


def needs(quantization):
    package = QUANTIZATIONS[quantization]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'{package} is missing: pip install "aligner-probe[quantised]"')
    return quantization


@pytest.fixture(params=list(QUANTIZATIONS))
def quantization(request):
    return needs(request.param)


def made(seed=0, **changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**SIZES | changes)).eval()
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, std=0.12)
            if "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A function that loads the base with a quantisation (None for none); a fresh bridge each time."""
    path = tmp_path_factory.mktemp("base")
    made().save_pretrained(path)

    def load(quantization=None, **options):
        base = ap.load_model(path, quantization=quantization, **options)
        base.tokenizer = Letters()
        return base

    load.path = path
    load.shared = functools.cache(load)
    load.unpacked = functools.cache(lambda quantization: unquantised(load.shared(quantization)))
    return load


def by_hand(projection):
    """The weight of a projection, unpacked from its stored bytes without the package that packed them."""
    weight = projection.weight
    if hasattr(weight, "qdata"):
        return weight.qdata.float() * weight.scale
    state, stored = weight.quant_state, weight.data.flatten()
    codes = torch.stack([stored >> 4, stored & 15], dim=1).flatten().long()
    values = torch.tensor(NF4)[codes].view(-1, 64) * state.absmax[:, None]
    return values.view(state.shape)


def unquantised(base):
    """A plain bridge with the weights that a quantised one computes with."""
    model = made()
    for name, module in base.original_model.named_modules():
        if has_packed_weight(module):
            model.get_submodule(name.replace("._original_component", "")).weight.data = by_hand(module)
    bridge = ap.load_model(model)
    bridge.tokenizer = Letters()
    return bridge


def by_transformers(path, quantization):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

    if quantization == "nf4":
        how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    else:
        from torchao.quantization import Int8WeightOnlyConfig

        how = TorchAoConfig(Int8WeightOnlyConfig())
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, quantization_config=how)


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


class Stops(Callback):
    def stepped(self, row):
        if row["step"] == 2:
            raise KeyboardInterrupt


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
        run("killed", callbacks=[Stops()])
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
        fit(base, Aligner(base, 1, 1), task(), callbacks=[Stops()], **how)
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


def saved(base, path, n_tokens=1):
    return ap.save_adapter(shaken(Aligner(base, n_tokens, 1)), path)


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
    assert merged.merge.max_logit_difference < 1e-3
    by_transformers(load.path, quantization).save_pretrained(tmp_path / "stored")
    with pytest.raises(AlignerProbeError, match="the base is quantised; name the plain model"):
        export_adapter(path, "merged", tmp_path / "more", model=tmp_path / "stored")


def test_full_fine_tuning_is_refused(load, quantization):
    with pytest.raises(AlignerProbeError, match=f"base in {quantization}: packed weights have no gradients"):
        MAKERS["full"](load.shared(quantization))


REFUSED = {
    "a name": ({"quantization": "nf5"}, {}, "did you mean nf4"),
    "another name": ({"quantization": "gptq"}, {}, "expected one of nf4, int8"),
    "float64": ({"quantization": "nf4", "dtype": "float64"}, {}, "cannot compute in float64; expected float32"),
    "sizes": (
        {"quantization": "nf4"},
        {"intermediate_size": 96},
        "intermediate_size 96; expected sizes divisible by 64",
    ),
    "fp4": (
        {},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}},
        r"'bitsandbytes' of 4 bits \(fp4\).*supported are nf4",
    ),
    "LLM.int8": (
        {"quantization": "int8"},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        "'bitsandbytes' of 8 bits.*supported are nf4",
    ),
    "int4": (
        {},
        {"quantization_config": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4Weight"}}}},
        "'torchao'.*supported are nf4",
    ),
    "gptq": ({"quantization": "nf4"}, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "'gptq'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_line_before_a_weight_is_read(load, tmp_path, what, monkeypatch):
    options, changes, message = REFUSED[what]
    folder = shutil.copytree(load.path, tmp_path / "copy")
    content = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(content))
    monkeypatch.setattr(models, "load_plain", None)
    with pytest.raises(AlignerProbeError, match=message) as caught:
        ap.load_model(folder, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gpt2", "phi3", "neox"])
def test_fused_projections_are_refused(tmp_path, name, quantization, monkeypatch):
    plain(name).save_pretrained(tmp_path)
    monkeypatch.setattr(models, "load_plain", None)
    with pytest.raises(AlignerProbeError, match="one fused projection"):
        ap.load_model(tmp_path, quantization=quantization)


def test_a_model_object_with_a_packed_fused_projection_is_refused(tmp_path, quantization):
    plain("phi3").save_pretrained(tmp_path)
    with pytest.raises(AlignerProbeError, match="this model cannot be a quantised base: Phi3ForCausalLM"):
        ap.load_model(by_transformers(tmp_path, quantization))


@pytest.mark.parametrize("missing", QUANTIZATIONS)
def test_a_missing_package_is_named_before_a_weight_is_read(load, missing, monkeypatch):
    monkeypatch.setitem(sys.modules, QUANTIZATIONS[missing], None)
    monkeypatch.setattr(models, "load_plain", None)
    with pytest.raises(AlignerProbeError, match=r'not installed; pip install "aligner-probe\[quantised\]"'):
        ap.load_model(load.path, quantization=missing)


OTHERS = {
    "Mistral": {"head_dim": 16},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Gemma": {"head_dim": 16},
    "Gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "Gemma3": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 4},
    "SmolLM3": {"pad_token_id": 0},
    "Olmo2": {"pad_token_id": 0},
}


@pytest.mark.parametrize(
    "family", [name if name == "Qwen3" else pytest.param(name, marks=pytest.mark.slow) for name in OTHERS]
)
def test_other_families(tmp_path, quantization, family):
    model_class = getattr(transformers, f"{family}ForCausalLM")
    model_class(model_class.config_class(**SIZES | OTHERS[family])).save_pretrained(tmp_path)
    base, ids = ap.load_model(tmp_path, quantization=quantization), tokens()
    with torch.no_grad():
        theirs = by_transformers(tmp_path, quantization).train()(ids).logits
        torch.testing.assert_close(base(ids), theirs, atol=1e-5, rtol=1e-4)
    adapter = Aligner(base, 2, 1, initial_gate=0.5)
    with adapter.attached():
        loss_of(base(ids), ids).backward()
    assert adapter.prefix.grad.abs().max() > 0


def test_sizes_that_nf4_does_not_take_are_fine_in_int8(tmp_path):
    made(intermediate_size=96).save_pretrained(tmp_path)
    base = ap.load_model(tmp_path, quantization=needs("int8"))
    assert torch.isfinite(base(tokens())).all()


def test_a_model_in_memory_is_not_quantised(load):
    for given in (made(), load.shared()):
        with pytest.raises(AlignerProbeError, match="in memory that is plain"):
            ap.load_model(given, quantization="nf4")
    with pytest.raises(AlignerProbeError, match="in memory that is plain"):
        new_probe(load.shared(), task(), quantization="nf4")
    with pytest.raises(AlignerProbeError, match="did you mean int8"):
        new_probe(str(load.path), task(), quantization="int4")


def test_a_probe_leaves_full_fine_tuning_out(load):
    for base, tried in ((load.shared(), True), (load.shared(needs("nf4")), False)):
        planned = with_batches(new_probe(base, task(40), scorer="exact", budget="standard", ending=""))
        assert ("full" in planned.plan.budget.arms) is tried
        assert any(cell.arm == "full" for cell in planned.plan.cells) is tried
        assert planned.bench.budget == planned.plan.budget


def test_the_bench_of_a_study_loads_it(load):
    bench = Bench(load.path, quantization=needs("nf4"))
    assert models.quantization_in(bench.model) == "nf4"
    assert bench.changed(quantization=None).model is not bench.model


def test_a_plain_base_has_no_quantisation(load):
    assert models.precision_in_words(load.shared()) == "float32"
    assert quantised.quantization_of(made()) is None


def test_the_page_measures_the_drop(load, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "bases_and_files.md").read_text(encoding="utf-8")
    code = page.split("```py\n")[1].split("```")[0]
    shutil.copytree(load.path, tmp_path / "M")
    save_tokenizer(tmp_path / "M")
    rows = [{"prompt": f"w{i} w2", "completion": " w3"} for i in range(4)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    saved(load.shared(needs("nf4")), tmp_path / "out" / "adapter")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(AlignerProbeWarning, match="trained on this base in nf4, and here the base is in float32"):
        exec(compile(code, "bases_and_files.md", "exec"), {})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["nf4", "None"]


def test_the_commands_take_it(load, tmp_path, capsys):
    shutil.copytree(load.path, tmp_path / "M")
    save_tokenizer(tmp_path / "M")
    rows = [{"prompt": f"w{i} w{i % 3}", "completion": f" w{i % 5}"} for i in range(20)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = ["--model", str(tmp_path / "M"), "--quantization", needs("nf4")]
    words = ["--task", str(tmp_path / "task.jsonl"), "--out", str(tmp_path / "run"), "--start-layer", "1"]
    train.main([*named, *words, "--steps", "2", "--batch-size", "4"])
    said = capsys.readouterr().out
    assert "in nf4, computing in float32" in said
    source = [str(tmp_path / "run" / "adapter"), "--out", str(tmp_path / "vectors"), "--to", "steering"]
    export.main([*source, *named])
    assert (tmp_path / "vectors").exists()
    options = probe_parser().parse_args(["run", "--task", "panel:style_pirate", *named])
    assert options.quantization == "nf4"
