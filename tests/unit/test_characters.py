"""What tokenizers lose of a task, however they lose it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import BYTES, TEXT, WORDS, byte_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from aligner_probe.tasks import Example, Preference, Task
from aligner_probe.tasks.encoding import encode, lost_characters

KNOWN = "abcdefghijklmnopqrstuvwxyz ABCé1fi:?\n"


UNACCENTED = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])


def letters(unknown=None, normalizer=None, said=True):
    """One token a character of `KNOWN`; `unknown` is what stands for others, `said` whether the tokenizer tells."""
    ids = {c: i for i, c in enumerate(dict.fromkeys(KNOWN))}
    if unknown is not None:
        ids[unknown] = len(ids)
    tokenizer = Tokenizer(models.BPE(ids, [], unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **({"unk_token": unknown} if said and unknown else {}))


def words(*known):
    """One token a word, as the smallest tokenizers have it."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<unk>", *known])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def unigram():
    """SentencePiece's kind, which puts its unknown piece for what it does not know, without a byte fallback."""
    pieces = [("<unk>", 0.0), ("▁", -1.0), *((c, -2.0) for c in "abcdefghijklmnopqrstuvwxyz.")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def task(*rows, template=None):
    return Task("made", "sft", tuple(Example(*row) for row in rows), template=template)


@pytest.mark.parametrize(
    ("tokenizer", "row", "lost"),
    [
        (letters(), ("a cat", "dog~"), {"~": 1 / 9}),
        (letters("<unk>"), ("a cat", "dog~"), {"~": 1 / 9}),
        (letters("<unk>", said=False), ("a cat", "dog~"), {"~": 1 / 9}),
        (letters("?"), ("a cat", "dog~"), {"~": 1 / 9}),
        (letters(normalizer=normalizers.Lowercase()), ("a Cat", "dog"), {"C": 1 / 8}),
        (letters(normalizer=normalizers.NFKC()), ("a cat", "ﬁ①"), {"ﬁ": 1 / 7, "①": 1 / 7}),
        (letters(normalizer=normalizers.NFC()), ("a cat", "e\u0301"), {}),
        (letters(normalizer=UNACCENTED), ("é", "b"), {"é": 0.5}),
        (words("a", "cat", "dog"), ("a cat", "dog"), {}),
        (words("a", "cat", "dog"), ("a cat", "do"), {"d": 1 / 7, "o": 1 / 7}),
        (unigram(), ("a cat", "Dog"), {"D": 1 / 8}),
        (unigram(), ("a cat", " dog."), {}),
        (byte_tokenizer(drops="~"), ("a cat", "dog~"), {"~": 1 / 9}),
        (BYTES, ("日本 \n\t", "<s> </s> é"), {}),
    ],
)  # fmt: skip
def test_every_way_of_losing_a_character_is_found(tokenizer, row, lost):
    found = lost_characters(tokenizer, task(row))
    assert found.characters == pytest.approx(lost)
    assert found.affected == ((0,) if lost else ())
    assert found.share == pytest.approx(sum(lost.values()))
    assert all(repr(character) in found.said for character in lost)
    assert encode(task(row), tokenizer, max_length=99).lost == found.characters


def test_a_written_unknown_token_is_one_and_hides_none():
    """wikitext writes <unk> where a word was rare: the base sees just that."""
    tokenizer = letters("<unk>")
    assert not lost_characters(tokenizer, task(("a <unk>", "cat"))).characters
    assert lost_characters(tokenizer, task(("a <unk>", "~unk<"))).visible == {"~": 1 / 12, "<": 1 / 12}


def test_white_space_is_counted_and_affects_no_example():
    found = lost_characters(words("a", "cat", "dog"), task(("a\ncat", "dog")))
    assert (found.characters, found.visible, found.affected) == ({"\n": 1 / 8}, {}, ())
    assert "They are white space." in found.said


def test_examples_are_counted_once_and_one_is_shown():
    rows = [("a cat", "dog"), ("a ~cat", "d~g"), ("a ~cat", "dog")]
    found = lost_characters(letters(), task(*rows))
    assert (found.affected, found.n) == ((1, 2), 3)
    assert found.example == ("a ~cat", "a cat")
    assert "2 of 3 examples lose some: 'a ~cat' comes back as 'a cat'." in found.said
    pairs = Task("made", "preference", (Preference("a", "b", "c"), Preference("a", "b", "~")))
    assert lost_characters(letters(), pairs).affected == (1,)
    json.dumps(found.to_dict())


def test_a_template_that_is_lost_is_named():
    lost = lost_characters(letters(), task(("~a~", "dog"), ("~b~", "cat"), template="~{question}~"))
    assert (lost.template, lost.affected) == ("~{question}~", (0, 1))
    assert "--prompt-template '{question}'" in lost.way_on
    data = lost_characters(letters(), task(("Q: ~", "dog"), template="a: {question}"))
    assert data.template is None
    assert "Leave these characters out" in data.way_on


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(TEXT, WORDS), min_size=1, max_size=5), dropped=st.sets(st.sampled_from("~^a0"), max_size=4)
)
def test_what_is_lost_is_what_the_tokenizer_drops(rows, dropped):
    found = lost_characters(byte_tokenizer(drops="".join(dropped)), task(*rows))
    text = "".join(prompt + completion for prompt, completion in rows)
    assert set(found.characters) == dropped & set(text)
    assert found.share == pytest.approx(sum(text.count(c) for c in dropped) / len(text))
    assert found.affected == tuple(i for i, row in enumerate(rows) if dropped & set("".join(row)))
