"""Token ids that keep to their stated rule, and batches of them."""

import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from texts import BYTES, TEXT, WORDS, byte_tokenizer, write
from tokenizers import Tokenizer

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import Example, Preference, Task, collate, encode, load_task
from aligner_probe.tasks.encoding import EQUAL, FULL, LONG
from aligner_probe.tasks.tokenizing import after_prompts

#: Words that story tokenizers know, one space between them.
PLAIN = st.lists(st.sampled_from(["cat", "Tom", "red", "played", "sunny.", "I"]), min_size=1, max_size=5).map(" ".join)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(TEXT, WORDS), min_size=1, max_size=6),
    max_length=st.integers(2, 40),
    mask_prompt=st.booleans(),
    overlong=st.sampled_from(["truncate", "drop"]),
    append_eos=st.booleans(),
)
def test_token_ids_keep_to_the_rule(rows, max_length, mask_prompt, overlong, append_eos):
    task = Task("made", "sft", tuple(Example(*row) for row in rows))
    plain = Tokenizer.from_str(BYTES.backend_tokenizer.to_str())

    def ids(text):
        return plain.encode(text, add_special_tokens=False).ids

    options = {"mask_prompt": mask_prompt, "overlong": overlong, "append_eos": append_eos}
    expected, truncated = {}, 0
    for index, (prompt, completion) in enumerate(rows):
        start, rest = [0, *ids(prompt)], ids(completion) + [1] * append_eos
        if len(start) >= max_length or (overlong == "drop" and len(start + rest) > max_length):
            continue
        truncated += len(start + rest) > max_length
        expected[index] = (start, (start + rest)[:max_length])
    if not expected:
        with pytest.raises(AlignerProbeError, match="none of its"):
            encode(task, BYTES, max_length=max_length, **options)
        return
    encoded = encode(task, BYTES, max_length=max_length, **options)
    assert encoded.kept == tuple(expected)
    assert (encoded.n, encoded.n_truncated, encoded.n_dropped) == (len(expected), truncated, len(rows) - len(expected))
    for tokens, (start, whole) in zip(encoded.sequences, expected.values(), strict=True):
        assert tokens.input_ids.dtype == tokens.labels.dtype == torch.int64
        assert tokens.input_ids.tolist() == whole
        untrained = len(start) if mask_prompt else 0
        assert tokens.labels.tolist() == [-100] * untrained + whole[untrained:]
        # Never an example with nothing to learn.
        assert len(whole) > len(start) == tokens.n_prompt
    assert encoded.n_trained == sum(
        len(whole) - (len(start) if mask_prompt else 1) for start, whole in expected.values()
    )
    assert encoded.lost == {}


def test_preferences_are_cut_and_dropped_as_pairs():
    task = Task(
        "pairs",
        "preference",
        (
            Preference("ab", "cd", "efghijklm"),
            Preference("ab", "same start 1", "same start 2"),
            Preference("a prompt that is too long", "c", "d"),
            Preference("x", "y", "z"),
        ),
    )
    encoded = encode(task, BYTES, max_length=8)
    assert encoded.kept == (0, 3)
    assert encoded.chosen is encoded.sequences
    assert [len(t) for t in encoded.chosen] == [6, 4]
    assert [len(t) for t in encoded.rejected] == [8, 4]
    assert encoded.dropped == {EQUAL: 1, FULL: 1}
    assert encoded.n_truncated == 1
    assert re.search("1 of 4.*no room for a completion: 1.*same tokens: 1", encoded.rule)
    dropped = encode(task, BYTES, max_length=8, overlong="drop")
    assert dropped.kept == (3,)
    assert dropped.dropped == {LONG: 2, FULL: 1}
    assert "longer ones were dropped (2 of 4)" in dropped.rule


def test_start_and_end_tokens_as_the_tokenizer_has_them():
    task = Task("x", "sft", (Example("a", "b"),))
    lengths = [
        len(encode(task, byte_tokenizer(bos=bos, eos=eos), max_length=9).input_ids[0])
        for bos, eos in [(True, True), (True, False), (False, True), (False, False)]
    ]
    assert lengths == [4, 3, 3, 2]
    # Written out in the text they are not put a second time.
    [written] = encode(Task("x", "sft", (Example("<s>a", "b</s>"),)), BYTES, max_length=9).input_ids
    assert written.tolist() == encode(task, BYTES, max_length=9).input_ids[0].tolist()
    # A start token that the tokenizer has but does not put (GPT-2) is not put.
    silent = byte_tokenizer(bos=False)
    silent.bos_token = "<s>"
    assert len(encode(task, silent, max_length=9).input_ids[0]) == 3


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        ([("ab", "cdefg")], {"max_length": 5, "overlong": "refuse"}, r"line 1: has more tokens than fit .*9, of 5"),
        ([("a", "b"), ("abcdef", "c")], {"max_length": 5, "overlong": "refuse"}, r"line 2: has a prompt that leaves"),
        ([("abcdef", "c")], {"max_length": 5}, "none of its 1 examples is left with 5 tokens: 1 for a prompt"),
        ([("a", "b"), ("a", "~~")], {"max_length": 5}, r"line 2: the completion has no tokens"),
        ([("a", "b")], {"max_length": 1}, "a context of 1 tokens"),
    ],
)
def test_what_cannot_be_encoded(tmp_path, rows, options, says):
    task = load_task(write(tmp_path / "rows.jsonl", [{"prompt": p, "completion": c} for p, c in rows]))
    with pytest.raises(AlignerProbeError, match=says) as caught:
        encode(task, byte_tokenizer(drops="~"), **options)
    assert "\n" not in str(caught.value)


def test_characters_that_the_tokenizer_leaves_out_are_counted():
    task = Task("x", "sft", (Example("ab~", "c~"), Example("d", "e^")))
    encoded = encode(task, byte_tokenizer(drops="~^"), max_length=9)
    assert encoded.lost == {"~": 2 / 8, "^": 1 / 8}
    assert "loses 38 % of the characters, 2 different ones ('~' '^')" in encoded.rule


@settings(deadline=None)
@given(rows=st.lists(st.tuples(TEXT, WORDS), min_size=1, max_size=5), more=st.none() | st.integers(0, 9))
def test_a_batch_without_its_padding_is_the_examples(rows, more):
    sequences = encode(Task("x", "sft", tuple(Example(*row) for row in rows)), BYTES, max_length=999).sequences
    longest = max(map(len, sequences))
    batch = collate(sequences, 7, pad_to=None if more is None else longest + more)
    assert all(value.shape == (len(rows), longest + (more or 0)) for value in batch.values())
    for row, tokens in enumerate(sequences):
        mask = batch["attention_mask"][row].bool()
        assert mask.tolist() == [True] * len(tokens) + [False] * (len(mask) - len(tokens))
        assert torch.equal(batch["input_ids"][row][mask], tokens.input_ids)
        assert torch.equal(batch["labels"][row][mask], tokens.labels)
        assert (batch["input_ids"][row][~mask] == 7).all()
        assert (batch["labels"][row][~mask] == -100).all()


def test_batches_that_cannot_be_made():
    sequences = encode(Task("x", "sft", (Example("abc", "d"),)), BYTES, max_length=9).sequences
    with pytest.raises(AlignerProbeError, match="a sequence of 6 tokens"):
        collate(sequences, 0, pad_to=5)
    with pytest.raises(AlignerProbeError, match="no examples"):
        collate([], 0)


def test_real_tokenizers(real_tokenizer):
    task = Task("x", "sft", (Example("Once upon a time", " there was a cat."),))
    [tokens] = encode(task, real_tokenizer, max_length=64).sequences
    ids = tokens.input_ids.tolist()
    # The prompt's ids are those that the model sees when it is asked.
    assert ids[: tokens.n_prompt] == real_tokenizer("Once upon a time")["input_ids"]
    assert ids.count(real_tokenizer.bos_token_id) == ids.count(real_tokenizer.eos_token_id) == 1
    assert ids[-1] == real_tokenizer.eos_token_id
    text = real_tokenizer.decode(ids, skip_special_tokens=True)
    assert " ".join(text.split()) == "Once upon a time there was a cat."


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=PLAIN, completion=PLAIN)
def test_a_completion_after_a_space_has_the_ids_that_it_has_in_the_whole_text(real_tokenizer, prompt, completion):
    """A tokenizer that puts a space before every text must not put a second one (LLaMA's does so)."""
    [tokens] = encode(Task("x", "sft", (Example(prompt, f" {completion}"),)), real_tokenizer, max_length=512).sequences
    text = real_tokenizer.decode(tokens.input_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert text.strip() == f"{prompt} {completion}"
    if "stories260K" in real_tokenizer.name_or_path:
        # The other joins words into tokens, which here must not lie across the boundary.
        assert tokens.input_ids[:-1].tolist() == real_tokenizer(f"{prompt} {completion}")["input_ids"]


@pytest.mark.parametrize("text", [" a", "a", "  a", " ", ""])
def test_only_a_space_that_would_be_doubled_is_left_out(text):
    assert after_prompts(BYTES, [text]) == [text]
