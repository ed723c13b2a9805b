"""A base's tokenizer is the one of AutoTokenizer, also where TransformerLens would put a BOS of its own in front."""

import hashlib
import json
import warnings

import pytest
import torch
from conftest import real_model, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adapters import opened
from tokenizer_bases import PUT, bpe, folder_of
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

from aligner_probe.adapters import Aligner
from aligner_probe.artifacts import microworld_folder
from aligner_probe.checkpoints.exporting import export_adapter
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import generate, generate_ids, log_likelihoods
from aligner_probe.models import load_model
from aligner_probe.probing.run import _vocabulary
from aligner_probe.tasks import Example, Task, encode
from aligner_probe.tasks.tokenizing import prompt_ids
from aligner_probe.tokenizers import own_tokenizer
from aligner_probe.training import recipe

PROMPTS = ["a b", "Once upon a time", "The capital of France is", " two  spaces", "x", "Tom said: it's 12 + 34."]
STEP = recipe("corrected", steps=1, batch_size=4)


@pytest.fixture(scope="module")
def bpe_base(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("bpe") / "base")


def plainly(folder, prompts, n):
    """The new token ids of plain transformers with AutoTokenizer, one prompt at a time."""
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        done = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, pad_token_id=0
        )
        found.append(done[0, ids.shape[1] :].tolist())
    return found


def check_greedy(folder, prompts=PROMPTS, n=12):
    """Our answers and TransformerLens' are those of plain transformers, token by token."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), load_model(folder)
    wanted = plainly(folder, prompts, n)
    eos = tokenizer.eos_token_id
    for prompt, ids in zip(prompts, prompt_ids(model.tokenizer, prompts), strict=True):
        assert ids == tokenizer(prompt)["input_ids"] == model.to_tokens(prompt)[0].tolist()
    found = generate_ids(
        model,
        prompt_ids(model.tokenizer, prompts),
        max_new_tokens=n,
        ending=lambda new: new[-1] == eos,
        batch_size=4,
    )
    assert found == wanted
    texts = [tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False) for new in wanted]
    assert generate(model, prompts, max_new_tokens=n, batch_size=4) == texts
    for prompt, new in zip(prompts[:3], wanted, strict=False):
        whole = model.generate(prompt, max_new_tokens=n, do_sample=False, return_type="tokens", verbose=False)
        assert whole[0].tolist()[-len(new) :] == new


@pytest.mark.parametrize("name", ["stories260K", "TinyStories-656K"])
def test_greedy_answers_of_story_models_are_those_of_plain_transformers(name):
    check_greedy(small_model(name))


def test_greedy_answers_of_the_micro_world_are_those_of_plain_transformers():
    check_greedy(microworld_folder())


def test_greedy_answers_of_a_byte_level_bpe_are_those_of_plain_transformers(bpe_base):
    check_greedy(bpe_base)


@pytest.mark.slow
def test_greedy_answers_of_a_real_chat_model_are_those_of_plain_transformers():
    check_greedy(real_model(), n=20)


@pytest.mark.parametrize("put", PUT)
def test_prompts_have_the_ids_of_the_tokenizer_but_no_end_token(put):
    tokenizer = bpe(put)
    before, behind, _ = PUT[put]
    texts = [*PROMPTS, "", "</s>", "a</s>", "b<s>"]
    for text, ids in zip(texts, prompt_ids(tokenizer, texts), strict=True):
        usual = tokenizer(text)["input_ids"]
        assert ids == (usual[:-1] if behind else usual)
    bos, a = tokenizer.convert_tokens_to_ids("<s>"), tokenizer("a", add_special_tokens=False)["input_ids"]
    # A BOS that stands in the text is one BOS, whether the tokenizer puts one or not.
    start = prompt_ids(tokenizer, [""])[0]
    assert prompt_ids(tokenizer, ["<s>a"]) == [(start if before == "<s> " else [*start, bos]) + a]
    [tokens] = encode(Task("x", "sft", (Example("a", "b"),)), tokenizer, max_length=20).sequences
    assert tokens.input_ids[: tokens.n_prompt].tolist() == start + a


@settings(deadline=None, max_examples=30)
@given(text=st.text(max_size=20).filter(lambda text: "<s>" not in text), put=st.sampled_from(list(PUT)))
def test_any_prompt_has_the_ids_of_the_tokenizer(text, put):
    tokenizer = bpe(put)
    usual = tokenizer(text)["input_ids"]
    assert prompt_ids(tokenizer, [text]) == [usual[:-1] if PUT[put][1] else usual]


@pytest.mark.parametrize("put", PUT)
def test_a_bridge_has_the_tokenizer_as_it_is(put, tmp_path):
    base = folder_of(tmp_path / "base", put)
    model, tokenizer = load_model(base), AutoTokenizer.from_pretrained(base)
    assert model.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert model.tokenizer.eos_token_id == tokenizer.eos_token_id
    for text in PROMPTS:
        assert model.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
        if tokenizer.eos_token_id is not None:  # TransformerLens pads every text, so it needs some special token
            assert [model.to_tokens(text)[0].tolist()] == prompt_ids(tokenizer, [text])


def test_a_bridge_of_transformer_lens_gets_the_tokenizer_back(bpe_base):
    bridge = TransformerBridge.boot_transformers(str(bpe_base), device="cpu")
    copied = bridge.tokenizer("a b")["input_ids"]
    wanted = AutoTokenizer.from_pretrained(bpe_base)("a b")["input_ids"]
    assert copied == [0, *wanted]
    with pytest.warns(UserWarning, match="had rebuilt this bridge's tokenizer") as caught:
        model = load_model(bridge)
    assert "\n" not in str(caught[0].message)
    assert model is bridge
    assert model.tokenizer("a b")["input_ids"] == wanted == model.to_tokens("a b")[0].tolist()
    assert generate(model, PROMPTS, max_new_tokens=5) == generate(load_model(bpe_base), PROMPTS, max_new_tokens=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert own_tokenizer(load_model(model)) is model.tokenizer


USES = {
    "generate": lambda model: generate(model, ["a"], max_new_tokens=1),
    "adapter": lambda model: Aligner(model, 1, 1),
    "likelihood": lambda model: log_likelihoods(model, [Example("a", "b")]),
}


@pytest.mark.parametrize("use", USES)
def test_wherever_a_bridge_comes_in_its_tokenizer_is_looked_at(use, bpe_base):
    model = load_model(bpe_base)
    model.tokenizer = AutoTokenizer.from_pretrained(bpe_base)  # TransformerLens makes a copy
    assert model.tokenizer("a")["input_ids"][0] == 0
    with pytest.warns(UserWarning, match="had rebuilt"):
        USES[use](model)
    assert model.tokenizer("a")["input_ids"] == AutoTokenizer.from_pretrained(bpe_base)("a")["input_ids"]


def test_a_copy_whose_source_is_gone_stays_and_that_is_said(tmp_path):
    base = folder_of(tmp_path / "base")
    bridge = TransformerBridge.boot_transformers(str(base), device="cpu")
    base.rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="could not be read to see"):
        assert load_model(bridge).tokenizer("a")["input_ids"][0] == 0


def test_a_model_object_takes_the_tokenizer_that_it_is_given(bpe_base):
    model = load_model(AutoModelForCausalLM.from_pretrained(bpe_base))
    assert model.tokenizer is None
    tokenizer = AutoTokenizer.from_pretrained(bpe_base, add_bos_token=True)  # by the user's own will
    model.tokenizer = tokenizer
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert own_tokenizer(model) is tokenizer
    assert model.to_tokens("a")[0].tolist() == tokenizer("a")["input_ids"] == [0, tokenizer("a")["input_ids"][1]]


def test_the_export_check_fails_where_the_tokens_differ(bpe_base, tmp_path):
    model = load_model(bpe_base)
    adapter = opened(Aligner(model, 1, 1))
    done = export_adapter(adapter, "merged", tmp_path / "out", model=bpe_base)
    read = AutoTokenizer.from_pretrained(tmp_path / "out")("Once upon a time")["input_ids"]
    assert read == prompt_ids(model.tokenizer, ["Once upon a time"])[0]
    assert done.checks.n_text_tokens > 20
    # TransformerLens' copy again: every prompt that the adapter sees has a BOS.
    model.tokenizer = AutoTokenizer.from_pretrained(bpe_base)
    with pytest.raises(AlignerProbeError, match=r"get other token ids for the same text: .* position 0") as caught:
        export_adapter(adapter, "merged", tmp_path / "other", model=bpe_base)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "other").exists()


def test_answers_of_a_merged_model_are_those_of_the_adapter(bpe_base, tmp_path):
    model = load_model(bpe_base)
    adapter = opened(Aligner(model, 1, 1))
    export_adapter(adapter, "merged", tmp_path / "out", model=bpe_base)
    with adapter.attached():
        texts = generate(model, PROMPTS, max_new_tokens=10)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    wanted = plainly(tmp_path / "out", PROMPTS, 10)
    assert texts == [
        tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False) for new in wanted
    ]
    assert texts != generate(model, PROMPTS, max_new_tokens=10)


def test_a_probe_begun_with_another_bos_is_another_probe():
    tokenizers = [bpe(put) for put in ("a BOS that is not put", "BOS put", "no special tokens")]
    silent, put, without = map(_vocabulary, tokenizers)
    assert silent != put == without
    assert put == hashlib.sha256(json.dumps(sorted(tokenizers[1].get_vocab().items())).encode()).hexdigest()
