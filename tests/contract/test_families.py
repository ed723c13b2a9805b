"""The entry of every family says what is true of its models; the page on adding a family does what it says."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
import transformers
from tiny import MODELS, bridge, plain, save_tokenizer, tokens
from tiny_adapters import opened

from aligner_probe.adapters.output_bias import OutputBias
from aligner_probe.adapters.prefix import Aligner
from aligner_probe.checkpoints.exporting import export_adapter
from aligner_probe.errors import AlignerProbeError
from aligner_probe.families import FAMILIES, family_of, register_family
from aligner_probe.hooks import check_family
from aligner_probe.models import architecture_of, load_model
from aligner_probe.overlay import FAST_COMPONENTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "add_a_family.md"


@pytest.fixture
def families():
    """The registered families, which a test may change."""
    before = dict(FAMILIES)
    yield FAMILIES
    FAMILIES.clear()
    FAMILIES.update(before)


@pytest.mark.parametrize("name", [*MODELS, "gemma3_window"])
def test_an_entry_is_true_of_its_models(name):
    check_family(bridge(name))


def test_every_family_is_held_to_the_contract():
    tested = {type(plain(name)).__name__ for name in MODELS}
    assert tested == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
def test_names_in_an_entry_exist(family):
    model_class = getattr(transformers, family.architecture)
    assert model_class.config_class.model_type == family.model_type
    assert family.fast_components in (None, *FAST_COMPONENTS)
    assert (family.merged_as is None) == bool(family.no_merge)
    if family.parallel_flag:
        assert hasattr(model_class.config_class(), family.parallel_flag)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("llama", {"query": "hook_q"}, "by query='hook_q' gives attention probabilities that differ"),
        ("neox", {"query": "hook_rot_q"}, "never fires hook_rot_q in layer 0"),
        ("gpt2", {"modules": {"o": "attn.o_proj"}}, r"has no module transformer\.h\.0\.attn\.o_proj"),
    ],
)
def test_a_wrong_entry_is_named(families, name, change, says):
    model = bridge(name)
    architecture = architecture_of(model)
    families[architecture] = dataclasses.replace(families[architecture], **change)
    with pytest.raises(AlignerProbeError, match=says) as caught:
        check_family(model)
    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_is_one_line_with_the_known_ones_and_the_page():
    with pytest.raises(AlignerProbeError) as caught:
        family_of("OPTForCausalLM")
    message = str(caught.value)
    assert "\n" not in message
    assert all(architecture in message for architecture in FAMILIES)
    assert "docs/howto/add_a_family.md" in message
    assert PAGE.is_file()


def test_gemma_3_with_images_is_refused_and_its_language_model_is_taken_out(tmp_path):
    """By the lines of the page that the message names."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sight = sizes | {"image_size": 28, "patch_size": 14}
    tokens_of_images = {"image_token_index": 60, "boi_token_index": 59, "eoi_token_index": 58}
    config = transformers.Gemma3Config(
        text_config=plain("gemma3").config.to_dict(), vision_config=sight, mm_tokens_per_image=4, **tokens_of_images
    )
    torch.manual_seed(0)
    whole = transformers.Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path / "whole")
    save_tokenizer(tmp_path / "whole")
    for given in (whole, tmp_path / "whole"):
        with pytest.raises(AlignerProbeError, match=r"a Gemma3ForCausalLM: docs/bases_and_files\.md") as caught:
            load_model(given)
        assert "\n" not in str(caught.value)
    page = (PAGE.parents[1] / "bases_and_files.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL) if "take_out" in b]
    names: dict = {}
    exec(block, names)
    names["take_out_language_model"](tmp_path / "whole", tmp_path / "text")
    with torch.no_grad():
        found, expected = load_model(tmp_path / "text")(tokens()), whole(tokens()).logits
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_an_architecture_is_registered_once():
    llama = FAMILIES["LlamaForCausalLM"]
    assert register_family(dataclasses.replace(llama)) == llama
    with pytest.raises(AlignerProbeError, match="LlamaForCausalLM is registered already with another entry"):
        register_family(dataclasses.replace(llama, query="hook_q"))
    assert FAMILIES["LlamaForCausalLM"] is llama


def test_the_page_adds_a_family_that_passes_the_contract(families, tmp_path):
    """Every block of the page runs; then the new family does what the contract asks of all."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert "OlmoForCausalLM" in families
    hugging_face = names["tiny_olmo"]()
    ids = tokens()
    with torch.no_grad():
        expected = hugging_face(ids).logits
    hugging_face.save_pretrained(tmp_path / "base")
    model = load_model(tmp_path / "base")
    with torch.no_grad():
        base = model(ids)
        assert (base - expected).abs().max() < 1e-5 * expected.abs().max()
        closed = Aligner(model, 3, start_layer=1)
        with closed.attached():
            assert torch.equal(model(ids), base)
        with opened(Aligner(model, 3, start_layer=1)).attached():
            assert not torch.allclose(model(ids), base, atol=1e-3)
        assert torch.equal(model(ids), base)
    # a bias of the attention output is merged exactly, which holds the hook point and the module's name to each other
    done = export_adapter(
        opened(OutputBias(model, start_layer=1)), "merged", tmp_path / "merged", model=tmp_path / "base"
    )
    assert done.checks.max_logit_difference < 1e-4 * max(1.0, done.checks.max_logit)
