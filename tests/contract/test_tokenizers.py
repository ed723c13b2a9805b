"""A base's tokenizer is the one of AutoTokenizer: no BOS of TransformerLens' own, no id that the embedding lacks."""

import functools
import hashlib
import json
import warnings

import pytest
import torch
from conftest import real_model, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adapters import opened
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from aligner_probe.adapters import Aligner
from aligner_probe.artifacts import microworld_folder
from aligner_probe.checkpoints.exporting import export_adapter
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import generate, generate_ids, log_likelihoods, score_task
from aligner_probe.models import load_model
from aligner_probe.probing.run import _vocabulary
from aligner_probe.tasks import Example, Preference, Task, encode
from aligner_probe.tasks.encoding import pad_id, prompt_ids
from aligner_probe.tokenizers import own_tokenizer
from aligner_probe.training import fit, recipe

PROMPTS = ["a b", "Once upon a time", "The capital of France is", " two  spaces", "x", "Tom said: it's 12 + 34."]
CORPUS = ["Once upon a time there was a cat.", "The capital of France is Paris.", "Tom said it's a b c 12 34."] * 4
#: By name: what stands before and behind every text, and which of BOS and EOS the tokenizer says that it has.
PUT = {
    "a BOS that is not put": ("", "", {"bos_token": "<s>", "eos_token": "</s>"}),
    "BOS and EOS are one": ("", "", {"bos_token": "</s>", "eos_token": "</s>"}),
    "BOS put": ("<s> ", "", {"bos_token": "<s>", "eos_token": "</s>"}),
    "BOS and EOS put": ("<s> ", " </s>", {"bos_token": "<s>", "eos_token": "</s>"}),
    "EOS put": ("", " </s>", {"bos_token": "<s>", "eos_token": "</s>"}),
    "EOS put, no BOS": ("", " </s>", {"eos_token": "</s>"}),
    "two start tokens, no BOS": ("<mask> <sop> ", "", {"eos_token": "</s>"}),
    "no special tokens": ("", "", {}),
}
STEP = recipe("corrected", steps=1, batch_size=4)
SPECIAL = ["<s>", "</s>", "<mask>", "<sop>"]


@functools.cache
def trained() -> str:
    """A byte-level BPE with merges, as JSON."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return inner.to_str()


def bpe(put: str):
    before, behind, names = PUT[put]
    inner = Tokenizer.from_str(trained())
    if before or behind:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{before}$A{behind}", special_tokens=[(name, SPECIAL.index(name)) for name in SPECIAL]
        )
    else:
        inner.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def folder_of(path, put="a BOS that is not put", tokenizer=None):
    """A tiny random Llama with a tokenizer beside it."""
    config = LlamaConfig(
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        vocab_size=300,
        max_position_embeddings=128,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    (tokenizer or bpe(put)).save_pretrained(path)
    return path


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
    assert done.merge.n_text_tokens > 20
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


# Token ids beyond the embedding.


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """A base whose tokenizer got a [PAD] and a [NEW] while its embedding was not resized: their ids are 300 and 301."""
    tokenizer = bpe("a BOS that is not put")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(["[NEW]"])
    return folder_of(tmp_path_factory.mktemp("padded") / "base", tokenizer=tokenizer)


ROWS = (("a", " b"), ("Once upon a time", " there was a cat."), ("x", " y"), ("The capital", " of France is Paris."))


def test_a_pad_token_beyond_the_embedding_is_no_hindrance(padded, bpe_base):
    model, other = load_model(padded), load_model(bpe_base)
    assert AutoTokenizer.from_pretrained(padded).pad_token_id == 300
    examples = [Example(*row) for row in ROWS]
    for one, two in zip(log_likelihoods(model, examples), log_likelihoods(other, examples), strict=True):
        assert one == pytest.approx(two, abs=1e-5)
    prompts = [prompt for prompt, _ in ROWS]
    assert generate(model, prompts, max_new_tokens=5) == generate(other, prompts, max_new_tokens=5)
    assert model(prompts).shape == other(prompts).shape  # TransformerLens pads by itself
    losses = []
    for base in (model, other):
        run = fit(base, Aligner(base, 1, 1), Task("x", "sft", tuple(examples)), recipe=STEP, show_progress=False)
        losses.append(run.loss.tolist())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_pads_are_ids_of_the_embedding():
    class Padded:
        pad_token_id = 7

    assert [pad_id(Padded(), n) for n in (9, 8, 7, 3)] == [7, 7, 0, 0]
    Padded.pad_token_id = None
    assert pad_id(Padded(), 9) == pad_id(object(), 9) == 0


def refused(call, says):
    with pytest.raises(AlignerProbeError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_added_token_in_a_text_is_one_line_before_any_compute(padded):
    model = load_model(padded)
    adapter = Aligner(model, 1, 1)
    model.original_model.register_forward_hook(lambda *_: pytest.fail("computed"))
    says = r"token '\[NEW\]' has the id 301, but the base's embedding has only 300 rows"
    for row in (("a [NEW]", "b"), ("a", "b [NEW] c")):
        task = Task("made", "sft", (Example("a", "b", line=3), Example(*row, line=5)))
        refused(lambda task=task: fit(model, adapter, task, recipe=STEP), f"made, line 5: {says}")
        refused(lambda task=task: log_likelihoods(model, task.examples), f"line 5: {says}")
    pair = Task("pairs", "preference", (Preference("a", "b", "[NEW]"),))
    refused(lambda: fit(model, adapter, pair, recipe=STEP), f"pairs, example 0, from zero: {says}")
    asked = Task("made", "sft", (Example("a [NEW]", "b"),))
    refused(lambda: score_task(model, asked, "exact"), f"prompt 0, from zero: {says}")
    refused(lambda: generate(model, ["a", "[NEW]"]), f"prompt 1, from zero: {says}")
    refused(lambda: generate_ids(model, [[1], [300]], max_new_tokens=1), "prompt 1, from zero, has the token id 300")
    refused(lambda: generate_ids(model, [[-1]], max_new_tokens=1), "token id -1")


@pytest.mark.parametrize("which", ["bos", "eos"])
def test_a_start_or_an_end_token_beyond_the_embedding(which, tmp_path):
    put = "BOS put" if which == "bos" else "a BOS that is not put"
    tokenizer = bpe(put)
    tokenizer.add_special_tokens({f"{which}_token": "<new>"})
    if which == "bos":
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<new> $A", special_tokens=[("<new>", 300)]
        )
    model = load_model(folder_of(tmp_path / "base", tokenizer=tokenizer))
    says = rf"token '<new>', the tokenizer's {which.upper()}, has the id 300"
    task = Task("made", "sft", (Example("a", "b"),))
    refused(lambda: fit(model, Aligner(model, 1, 1), task, recipe=STEP), says)
    refused(lambda: log_likelihoods(model, task.examples), says)
    if which == "bos":
        refused(lambda: generate(model, ["a"]), says)
    else:
        assert len(generate(model, ["a"], max_new_tokens=3)) == 1


# What is no text.

NO_TEXTS = [
    (None, r"is no text but None \(NoneType\)"),
    (3, r"is no text but 3 \(int\)"),
    (float("nan"), r"is no text but nan \(float\)"),
    (b"x", r"is no text but b'x' \(bytes\)"),
    (["a"], r"is no text but \['a'\] \(list\)"),
    (torch.zeros(2, 2), r"is no text but tensor\(\[\[0\., 0\.\], \[0\., 0\.\]\]\) \(Tensor\)"),
    ("a\ud83d", r"has half a character at position 1 \(the lone surrogate '\\ud83d'\)"),
]


@pytest.mark.parametrize(("value", "says"), NO_TEXTS)
def test_a_prompt_that_is_no_text_is_named_by_its_index(value, says, bpe_base):
    model = load_model(bpe_base)
    refused(lambda: generate(model, ["a", value]), f"prompt 1, from zero, {says}")
    refused(lambda: generate(model, ["a"], stop=["\n", value]), f"stop string 1, from zero, {says}")


@pytest.mark.parametrize(("value", "says"), NO_TEXTS)
def test_a_task_of_what_is_no_text_is_not_made(value, says):
    def made(name, line):
        first, wrong = Example("a", "b"), Example("a", "b", line=line)
        object.__setattr__(wrong, name, value)  # the tests' type checker lets no other value in
        return Task("x", "sft", (first, wrong))

    for name in ("prompt", "completion"):
        refused(lambda name=name: made(name, None), f"task 'x', example 1, from zero: the {name} {says}")
        refused(lambda name=name: made(name, 7), f"task 'x', line 7: the {name} {says}")
    if value is not None:
        refused(lambda: made("content", None), f"the content {says}")
    wrong = Preference("a", "b", "c")
    object.__setattr__(wrong, "rejected", value)
    refused(lambda: Task("x", "preference", (wrong,)), f"example 0, from zero: the rejected {says}")


@pytest.mark.parametrize("prompts", [None, 3, b"bytes"])
def test_prompts_are_a_list(prompts, bpe_base):
    model = load_model(bpe_base)
    refused(lambda: generate(model, prompts), r"generate\(prompts=\) was given")
    refused(lambda: generate(model, ["a"], stop=prompts), r"generate\(stop=\) was given")
    assert generate(model, ("a" for _ in range(2)), max_new_tokens=1) == generate(model, ["a", "a"], max_new_tokens=1)
