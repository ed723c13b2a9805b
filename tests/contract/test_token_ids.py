"""Token ids that the embedding lacks, and prompts that are no texts: refused in one line before any compute."""

import pytest
import torch
from tokenizer_bases import bpe, folder_of
from tokenizers import processors
from transformers import AutoTokenizer

from aligner_probe.adapters import Aligner
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import generate, generate_ids, log_likelihoods, score_task
from aligner_probe.models import load_model
from aligner_probe.tasks import Example, Preference, Task
from aligner_probe.tasks.tokenizing import pad_id
from aligner_probe.training import fit, recipe

STEP = recipe("corrected", steps=1, batch_size=4)


@pytest.fixture(scope="module")
def bpe_base(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("bpe") / "base")


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
