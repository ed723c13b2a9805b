"""Batched, cached greedy generation is the plain loop, token for token."""

import pytest
import tiny
import torch
from conftest import small_model
from generating import plainly, prompts, word_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adapters import MAKERS, moved

from aligner_probe.adapters import PromptTuning
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import generate, generate_ids


@pytest.fixture(scope="module")
def stories():
    from aligner_probe.models import load_model

    return load_model(small_model("stories260K"))


@pytest.mark.parametrize("family", tiny.MODELS)
def test_every_family_as_hugging_face_alone(family):
    """Lengths mixed, so that rows are padded; against plain transformers, which knows nothing of bridge and batch."""
    rows, plain = prompts([5, 2, 9, 9, 1, 7]), tiny.plain(family)
    wanted = []
    for row in rows:
        ids = torch.tensor([row])
        for _ in range(8):
            with torch.no_grad():
                ids = torch.cat([ids, plain(ids).logits[:, -1:].argmax(-1)], dim=1)
        wanted.append(ids[0, len(row) :].tolist())
    assert generate_ids(tiny.frozen(family), rows, max_new_tokens=8, batch_size=4) == wanted


#: Every method on one family; on the two other kinds of positions, those whose hooks depend on them.
ASKED = [
    pytest.param(
        family,
        method,
        marks=()
        if family == "llama_gqa" or method in ("aligner", "prefix_tuning", "prompt_tuning")
        else pytest.mark.slow,
    )
    for family in ("llama_gqa", "gpt2", "neox")
    for method in MAKERS
]


@pytest.mark.parametrize(("family", "method"), ASKED)
def test_every_adapter_as_one_at_a_time_without_a_cache(family, method):
    model = tiny.frozen(family)
    rows = prompts([6, 3, 3, 8, 1])
    base = generate_ids(model, rows, max_new_tokens=7)
    adapter = moved(MAKERS[method](model))
    with adapter.attached():
        found = generate_ids(model, rows, max_new_tokens=7, batch_size=3)
        wanted = [plainly(model, row, 7) for row in rows]
    assert found == wanted
    assert found != base
    assert generate_ids(model, rows, max_new_tokens=7) == base


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 9))
def test_neither_batches_nor_rows_that_leave_change_a_token(lengths, batch_size, n, seed):
    model, rows = tiny.frozen("llama_gqa"), prompts(lengths, seed)

    def ending(new):
        return new[-1] % 3 == 0

    wanted = [plainly(model, row, n, ending) for row in rows]
    assert generate_ids(model, rows, max_new_tokens=n, batch_size=batch_size, ending=ending) == wanted


def test_a_finished_batch_runs_no_further():
    model, calls = tiny.bridge("llama"), []
    model.original_model.register_forward_hook(lambda *_: calls.append(1))
    generate_ids(model, prompts([4, 4]), max_new_tokens=30, ending=lambda new: len(new) == 3)
    assert len(calls) == 3


@pytest.mark.parametrize(
    "method", [None, "aligner", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lora", "prompt_tuning"))]
)
def test_a_real_model(stories, method):
    asked = ["Once upon a time", "Lily", "The cat was sad because it"]
    ids = [[1, *row] for row in stories.tokenizer(asked, add_special_tokens=False)["input_ids"]]

    def both():
        wanted = [plainly(stories, row, 14) for row in ids]
        assert generate_ids(stories, ids, max_new_tokens=14, batch_size=2) == wanted
        texts = generate(stories, asked, max_new_tokens=14)
        assert texts == [stories.tokenizer.decode(row, skip_special_tokens=True) for row in wanted]
        return texts

    base = both()
    if method:
        adapter = MAKERS[method](stories)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.1)
        with adapter.attached():
            assert both() != base


def test_stop_strings(stories):
    asked = ["Once upon a time there was a", "Tom was happy. He", "Lily said"]
    whole = generate(stories, asked, max_new_tokens=30)
    for stop in (["."], ["ed ", "."], [" the"], ["é"], ["w"]):
        wanted = []
        for text in whole:
            found = [text.find(s) for s in stop if s in text]
            wanted.append(text[: min(found)] if found else text)
        assert generate(stories, asked, max_new_tokens=30, stop=stop) == wanted
        assert any(len(short) < len(long) for short, long in zip(wanted, whole, strict=True)) == (stop != ["é"])


def test_words_end_tokens_and_stops_on_a_word_level_tokenizer():
    """Planted next tokens: a base whose last layer says what the test wants."""
    model = tiny.bridge("llama")
    model.tokenizer = tokenizer = word_tokenizer()
    script = [tokenizer.convert_tokens_to_ids(word) for word in ["red", "blue", "\n", "red", "<end>", "blue"]]
    steps = []

    def say(logits, hook):
        logits[:] = 0
        logits[:, -1, script[len(steps)]] = 1
        steps.append(1)
        return logits

    model.unembed.hook_out.add_hook(say, is_permanent=True)
    assert generate(model, ["Q: w1 A:"], max_new_tokens=6) == ["red blue \n red"]
    assert len(steps) == 5
    steps.clear()
    assert generate(model, ["Q: w1 A:"], max_new_tokens=6, stop=["\n"]) == ["red blue "]
    assert len(steps) == 3
    model.unembed.hook_out.remove_hooks(including_permanent=True)


def test_what_does_not_fit_is_refused_before_any_compute():
    model = tiny.bridge("llama")
    model.original_model.register_forward_hook(lambda *_: pytest.fail("computed"))
    with pytest.raises(AlignerProbeError, match=r"prompt 1, .* 61 tokens.* at most 60 .*1 of 2 prompts are too long"):
        generate_ids(model, prompts([60, 61]), max_new_tokens=4)
    with PromptTuning(model, 3).attached(), pytest.raises(AlignerProbeError, match="at most 57"):
        generate_ids(model, prompts([58]), max_new_tokens=4)
    with pytest.raises(AlignerProbeError, match="no tokens"):
        generate_ids(model, [[1], []], max_new_tokens=4)
    with pytest.raises(AlignerProbeError, match="max_new_tokens 999 leaves no room"):
        generate_ids(model, prompts([2]), max_new_tokens=999)
    with pytest.raises(AlignerProbeError, match="max_new_tokens 0"):
        generate_ids(model, [[1]], max_new_tokens=0)
    with pytest.raises(AlignerProbeError, match="no tokenizer"):
        generate(model, ["a"])
    model.tokenizer = word_tokenizer()
    for wrong in ("", [""], ["a", ""]):
        with pytest.raises(AlignerProbeError, match=r"stop string ., from zero, is empty"):
            generate(model, ["red"], stop=wrong)
    with pytest.raises(AlignerProbeError, match="prompt 0, from zero, is no text"):
        generate(model, [["red"]])


def test_a_prompt_that_just_fits():
    model = tiny.bridge("gpt2")
    rows = prompts([60, 12])
    assert generate_ids(model, rows, max_new_tokens=4) == [plainly(model, row, 4) for row in rows]


def test_no_prompts():
    assert generate_ids(tiny.bridge("llama"), [], max_new_tokens=4) == []
