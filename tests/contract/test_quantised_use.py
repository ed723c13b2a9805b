"""Base models in four and eight bits: what is refused, other families, and the probe, the pages and the commands."""

import json
import shutil
import sys

import packed_bases
import pytest
import torch
import transformers
from conftest import ROOT
from learning import task
from packed_bases import SIZES, by_transformers, made, needs, saved
from tiny import plain, save_tokenizer, tokens
from tiny_adapters import MAKERS, loss_of

import aligner_probe as ap
from aligner_probe import models, quantised
from aligner_probe.adapters import Aligner
from aligner_probe.commands import export, train
from aligner_probe.commands.probe import parser as probe_parser
from aligner_probe.errors import AlignerProbeError, AlignerProbeWarning
from aligner_probe.probing.probe import new_probe, with_batches
from aligner_probe.quantised import QUANTIZATIONS
from aligner_probe.study import Bench

quantization, load = packed_bases.quantization, packed_bases.load


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
