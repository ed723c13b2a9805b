"""PEFT folders of every kind, made by PEFT itself: taken exactly, or refused by name; and whose base they are for."""

import json
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from tiny import frozen, plain, tokens

import aligner_probe as ap
from aligner_probe.errors import AlignerProbeError, AlignerProbeWarning, CheckpointError

peft = pytest.importorskip("peft")


def made(folder, family, config, *, named=None, spread=0.5):
    """Write a PEFT folder whose trained parameters are random, and return the PEFT model to compare logits with."""
    base = plain(family)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = peft.get_peft_model(base, config).eval()
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=spread)
    if named is not None:
        theirs.peft_config["default"].base_model_name_or_path = named
    theirs.save_pretrained(folder)
    return peft.PeftModel.from_pretrained(plain(family), folder).eval()


def attached_logits(adapter, ids):
    with torch.no_grad():
        base = adapter.model(ids)
        with adapter.attached():
            found = adapter.model(ids)
    assert (found - base).abs().max() > 0.05, "the adapter does nothing"
    return found


def assert_same_logits(adapter, theirs, ids):
    with torch.no_grad():
        expected = theirs(ids).logits[:, -ids.shape[1] :]
    found = attached_logits(adapter, ids)
    assert (found - expected).abs().max() < 2e-5 * max(1.0, float(expected.abs().max()))


PREFIXES = {
    "plain": {},
    "projection": {"prefix_projection": True, "encoder_hidden_size": 20},
    "one token": {"num_virtual_tokens": 1},
}


@pytest.mark.parametrize("options", PREFIXES)
@pytest.mark.parametrize("family", ["llama", "llama_gqa", "mistral", "qwen2", "neox", "phi3"])
def test_prefix_tuning_has_pefts_logits(tmp_path, family, options):
    config = peft.PrefixTuningConfig(**({"task_type": "CAUSAL_LM", "num_virtual_tokens": 3} | PREFIXES[options]))
    theirs = made(tmp_path / "peft", family, config)
    adapter = ap.load_adapter(tmp_path / "peft", frozen(family))
    assert isinstance(adapter, ap.PrefixTuning)
    assert_same_logits(adapter, theirs, tokens(2, 17))


@pytest.mark.parametrize("family", ["llama_gqa", "gpt2", "gemma", "gemma2", "qwen3", "neox", "phi3"])
@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PromptEncoderConfig"])
def test_prompt_tuning_and_p_tuning_have_pefts_logits(tmp_path, family, kind):
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3)
    theirs = made(tmp_path / "peft", family, config)
    adapter = ap.load_adapter(tmp_path / "peft", frozen(family))
    assert isinstance(adapter, ap.PromptTuning)
    assert_same_logits(adapter, theirs, tokens(2, 9))


def test_what_was_taken_can_be_saved_and_loaded(tmp_path):
    made(tmp_path / "peft", "llama_gqa", peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    model = frozen("llama_gqa")
    adapter = ap.load_adapter(tmp_path / "peft", model)
    again = ap.load_adapter(ap.save_adapter(adapter, tmp_path / "own"), model)
    assert torch.equal(again.keys, adapter.keys)
    assert adapter.loaded_from["source"] == str(tmp_path / "peft")


def test_method_of_a_folder(tmp_path):
    from aligner_probe.checkpoints.adapters import method_of

    made(tmp_path / "a", "llama_gqa", peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    made(tmp_path / "b", "llama_gqa", peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert [method_of(tmp_path / name) for name in "ab"] == ["prefix_tuning", "prompt_tuning"]


def test_prefix_tuning_with_no_equal_is_refused_with_the_reason(tmp_path):
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    made(tmp_path / "gpt2", "gpt2", config)
    with pytest.raises(CheckpointError, match="positions are added to the embeddings"):
        ap.load_adapter(tmp_path / "gpt2", frozen("gpt2"))
    made(tmp_path / "llama", "llama_gqa", config)
    windowed = plain("mistral")
    windowed.config.sliding_window = 8
    with pytest.raises(CheckpointError, match="window of 8 positions hides"):
        ap.load_adapter(tmp_path / "llama", ap.load_model(windowed))
    growing = plain("llama_gqa")
    growing.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(CheckpointError, match="dynamic"):
        ap.load_adapter(tmp_path / "llama", ap.load_model(growing))
    with pytest.raises(CheckpointError, match="other sizes"):
        ap.load_adapter(tmp_path / "llama", frozen("llama"))


SOFT = {
    "modules saved": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "another kind of task": ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
    "two stacks": ({"num_transformer_submodules": 2}, "one decoder"),
    "another number of tokens": ({"num_virtual_tokens": 4}, "num_virtual_tokens 4"),
    "an unknown option": ({"of_2099": True}, "of_2099"),
}


@pytest.mark.parametrize("what", SOFT)
def test_a_soft_prompt_that_says_more_is_refused(tmp_path, what):
    changes, expected = SOFT[what]
    made(tmp_path / "peft", "llama_gqa", peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    changed(tmp_path / "peft", **changes)
    with pytest.raises(CheckpointError, match=expected):
        ap.load_adapter(tmp_path / "peft", frozen("llama_gqa"))


def changed(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


OTHERS = {
    "IA3": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "ADALORA": lambda: peft.AdaLoraConfig(target_modules=["q_proj"], total_step=10),
    "LOHA": lambda: peft.LoHaConfig(target_modules=["q_proj"], r=2),
    "LOKR": lambda: peft.LoKrConfig(target_modules=["q_proj"], r=2),
    "VERA": lambda: peft.VeraConfig(target_modules=["q_proj"], r=2),
    "OFT": lambda: peft.OFTConfig(target_modules=["q_proj"], oft_block_size=4),
    "LN_TUNING": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_methods_are_refused_by_name(tmp_path, kind):
    theirs = peft.get_peft_model(plain("llama_gqa"), OTHERS[kind]())
    theirs.save_pretrained(tmp_path / "peft")
    for call in (
        lambda: ap.load_adapter(tmp_path / "peft", frozen("llama_gqa")),
        lambda: ap.load_checkpoint(tmp_path / "peft"),
        lambda: ap.load_lora(tmp_path / "peft"),
    ):
        with pytest.raises(CheckpointError, match=f"is (a )?PEFT {kind}( adapter)?, ") as caught:
            call()
        assert "no prefix tokens" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"])
def test_soft_prompts_are_said_to_be_what_they_are(tmp_path, kind):
    configs = {"PREFIX_TUNING": "PrefixTuningConfig", "PROMPT_TUNING": "PromptTuningConfig"}
    config = getattr(peft, configs.get(kind, "PromptEncoderConfig"))
    made(tmp_path / "peft", "llama_gqa", config(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(CheckpointError, match=f"is a PEFT {kind} adapter, .*ap.load_adapter attaches it"):
        ap.load_checkpoint(tmp_path / "peft")


LORAS = {
    "DoRA": ({"use_dora": True}, "is a DoRA"),
    "biases": ({"bias": "lora_only"}, "trained biases"),
    "own biases": ({"lora_bias": True}, "biases of its own"),
    "modules": ({"modules_to_save": ["lm_head"]}, "whole modules"),
    "ranks": ({"rank_pattern": {"q_proj": 4}}, "several ranks"),
    "scales": ({"alpha_pattern": {"q_proj": 4}}, "several scales"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "trained embeddings"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "changes the base"),
    "embeddings": ({"target_modules": ["embed_tokens"]}, "an embedding's"),
}


# A warning of PEFT's own class would make pytest-xdist's first process import PEFT, and with it torch, for seconds.
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("what", LORAS)
def test_variants_of_lora_are_refused_by_name(tmp_path, what):
    options, expected = LORAS[what]
    config = peft.LoraConfig(**({"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "r": 2} | options))
    peft.get_peft_model(plain("llama_gqa"), config).save_pretrained(tmp_path / "peft")
    with pytest.raises(CheckpointError, match=expected):
        ap.load_adapter(tmp_path / "peft", frozen("llama_gqa"))


# Whose base


def lora_config():
    return peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=2)


CONFIGS = {
    "LORA": lora_config,
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "ADAPTION_PROMPT": lambda: peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=3, adapter_layers=2),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Two bases of the same shapes with other weights, in folders."""
    root = tmp_path_factory.mktemp("bases")
    model = plain("llama_gqa")
    model.save_pretrained(root / "one")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(root / "other")
    return root


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_of_another_base_at_hand_is_refused(tmp_path, bases, kind):
    made(tmp_path / "peft", "llama_gqa", CONFIGS[kind](), named=str(bases / "one"))
    other = ap.load_model(bases / "other")
    with pytest.raises(AlignerProbeError, match=r"was trained on another base: it names .*one.*force=True"):
        ap.load_adapter(tmp_path / "peft", other)
    with pytest.warns(AlignerProbeWarning, match="as its base"):
        forced = ap.load_adapter(tmp_path / "peft", other, force=True)
    assert "as its base" in forced.loaded_from["base_note"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", AlignerProbeWarning)
        adapter = ap.load_adapter(tmp_path / "peft", ap.load_model(bases / "one"))
    assert "base_note" not in adapter.loaded_from


def test_one_base_in_two_folders_is_one_base(tmp_path, bases):
    shutil.copytree(bases / "one", tmp_path / "copy")
    made(tmp_path / "peft", "llama_gqa", lora_config(), named=str(bases / "one"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", AlignerProbeWarning)
        ap.load_adapter(tmp_path / "peft", ap.load_model(tmp_path / "copy"))


def test_two_bases_of_one_name_are_told_apart_by_their_weights(tmp_path, bases):
    shutil.copytree(bases / "other", tmp_path / "one")
    made(tmp_path / "peft", "llama_gqa", lora_config(), named=str(bases / "one"))
    with pytest.raises(AlignerProbeError, match="another base"):
        ap.load_adapter(tmp_path / "peft", ap.load_model(tmp_path / "one"))


@pytest.mark.parametrize(
    ("named", "is_said"),
    [
        ("owner/one", False),
        ("owner/One", False),
        ("/gone/to/one/", False),
        ("/cache/models--owner--one/snapshots/0123abc", False),
        ("owner/two", True),
        ("/gone/to/two", True),
        ("owner/one-instruct", True),
        ("", False),
        (None, False),
    ],
)
def test_names_are_compared_where_the_named_base_is_not_here(tmp_path, bases, named, is_said):
    made(tmp_path / "peft", "llama_gqa", lora_config())
    changed(tmp_path / "peft", base_model_name_or_path=named)
    model = ap.load_model(bases / "one")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapter = ap.load_adapter(tmp_path / "peft", model)
    said = [str(one.message) for one in caught if issubclass(one.category, AlignerProbeWarning)]
    assert bool(said) == is_said
    assert adapter.loaded_from.get("base_note") == (said[0] if said else None)
    assert adapter.loaded_from["base_model"] == (named or None)


def test_a_model_without_a_name_cannot_be_compared_which_is_said(tmp_path):
    made(tmp_path / "peft", "llama_gqa", lora_config(), named="owner/base")
    with pytest.warns(AlignerProbeWarning, match="has no name to compare"):
        ap.load_adapter(tmp_path / "peft", frozen("llama_gqa"))


def test_the_note_is_kept_in_what_is_saved(tmp_path, bases):
    made(tmp_path / "peft", "llama_gqa", lora_config(), named="owner/two")
    with pytest.warns(AlignerProbeWarning):
        adapter = ap.load_adapter(tmp_path / "peft", ap.load_model(bases / "one"))
    saved = ap.save_adapter(adapter, tmp_path / "own")
    assert "owner/two" in json.loads((saved / "provenance.json").read_text())["loaded_from"]["base_note"]


@pytest.mark.slow
def test_the_command_prints_the_note_in_one_line(tmp_path, bases):
    made(tmp_path / "peft", "llama_gqa", lora_config(), named="owner/two")
    command = [sys.executable, "-m", "aligner_probe.export", tmp_path / "peft", "--to", "native"]
    command += ["--out", tmp_path / "own", "--model", bases / "one"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stderr.splitlines() if "owner/two" in line]
    assert line.startswith("warning: ")


def test_a_native_checkpoint_that_records_its_base_is_refused_on_another(tmp_path):
    """Also where it was saved again without its options, as `save_checkpoint` does."""
    model = frozen("llama_gqa")
    first = ap.save_adapter(ap.Aligner(model, n_tokens=2, start_layer=1), tmp_path / "first")
    again = ap.save_checkpoint(ap.load_checkpoint(first), tmp_path / "again")
    ap.load_adapter(again, model)
    other = plain("llama_gqa")
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(2)
    with pytest.raises(AlignerProbeError, match="another base"):
        ap.load_adapter(again, ap.load_model(other))
    ap.load_adapter(again, ap.load_model(other), force=True)
