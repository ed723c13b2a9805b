"""Conversations as token ids: those of transformers, of the template alone, and what is refused before any compute."""

import chats
import pytest
from chats import KINDS, PUT_BOS, as_messages, conversation, takes_system, talks, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import BYTES, TEXT, byte_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import Example, Preference, Task, encode
from aligner_probe.tasks.chat_template import template_of, untemplated_note
from aligner_probe.tasks.given_template import MOST_BYTES, read_template
from aligner_probe.tasks.tokenizing import prompt_ids

ROOM = 10_000
SAID = TEXT.map(lambda text: "".join(c for c in text if c not in "<[")).filter(str.strip)


def one(asked, answer="Paris.", line=7):
    return Task("one", "sft", (Example(asked, answer, line=line),))


def refused(task, tokenizer, **options):
    """The one line with which a task is refused."""
    with pytest.raises(AlignerProbeError) as caught:
        encode(task, tokenizer, max_length=ROOM, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def given_template(kind, text):
    made = tokenizer(kind)
    made.chat_template = text
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers_and_the_answer_has_the_labels(kind):
    own = tokenizer(kind)
    task = chats.task(kind)
    for example, tokens in zip(task.examples, encode(task, own, max_length=ROOM).sequences, strict=True):
        whole = own.apply_chat_template(as_messages(example.prompt, example.completion))["input_ids"]
        asked = own.apply_chat_template(as_messages(example.prompt), add_generation_prompt=True)["input_ids"]
        assert tokens.input_ids.tolist() == whole
        assert whole[: len(asked)] == asked == prompt_ids(own, [example.prompt])[0]
        assert tokens.labels.tolist() == [-100] * len(asked) + whole[len(asked) :]
        assert tokens.n_prompt == len(asked)


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_all_turns_are_those_that_transformers_sees_marked(kind, marked):
    """By the template's own marks, and by its prefixes where it has none."""
    task, marking = chats.task(kind), tokenizer(kind, marked=True)
    encoded = encode(task, tokenizer(kind, marked=marked), max_length=ROOM, train_on="all")
    assert ("as the template marks them" if marked else "by the template's own prefixes") in encoded.rule
    for example, tokens in zip(task.examples, encoded.sequences, strict=True):
        said = marking.apply_chat_template(
            as_messages(example.prompt, example.completion), return_dict=True, return_assistant_tokens_mask=True
        )
        labels = [i if own else -100 for i, own in zip(said["input_ids"], said["assistant_masks"], strict=True)]
        assert tokens.labels.tolist() == labels


@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from(list(KINDS)), turns=st.lists(SAID, min_size=2, max_size=6), system=st.none() | SAID)
def test_any_texts_become_the_ids_of_transformers(kind, turns, system):
    *asked, answer = turns if len(turns) % 2 == 0 else turns[1:]
    talk, own = conversation(*asked, system=system if takes_system(kind) else None), tokenizer(kind)
    [tokens] = encode(one(talk, answer), own, max_length=ROOM, find_lost=False).sequences
    prompt = own.apply_chat_template(as_messages(talk), add_generation_prompt=True)["input_ids"]
    assert tokens.input_ids.tolist()[: tokens.n_prompt] == prompt == prompt_ids(own, [talk])[0]
    whole = own.apply_chat_template(as_messages(talk, answer))["input_ids"]
    if whole[: len(prompt)] == prompt:
        assert tokens.input_ids.tolist() == whole
    else:  # a token reaches over the end of the prompt
        assert own.decode(tokens.input_ids) == own.decode(whole)
    assert tokens.labels.tolist() == [-100] * len(prompt) + tokens.input_ids.tolist()[len(prompt) :]


@pytest.mark.parametrize("kind", PUT_BOS)
def test_there_is_one_start_token(kind):
    """The template writes one, and the tokenizer puts one before every text."""
    own = tokenizer(kind)
    assert own("a")["input_ids"][0] == own.bos_token_id
    rows = [
        *prompt_ids(own, talks(kind)),
        *(t.input_ids.tolist() for t in encode(chats.task(kind), own, max_length=ROOM).sequences),
    ]
    assert {(row[0], row.count(own.bos_token_id)) for row in rows} == {(own.bos_token_id, 1)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_ends_a_turn_is_read_off_the_template(kind):
    own = tokenizer(kind)
    assert template_of(own).end == own.convert_tokens_to_ids(KINDS[kind][3])


def test_no_end_token_is_added_where_the_template_ends_the_turn():
    own = tokenizer("gemma")
    [tokens, *_] = encode(chats.task("gemma"), own, max_length=ROOM).sequences
    assert own.eos_token_id not in tokens.input_ids.tolist()


def test_a_template_without_an_end_token_gets_the_tokenizers():
    own = byte_tokenizer()
    own.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}{% else %} A: {{ m.content }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %} A: {% endif %}"
    )
    assert template_of(own).end is None
    encoded = encode(one(conversation("a?"), "b"), own, max_length=ROOM)
    assert encoded.sequences[0].input_ids.tolist()[-1] == own.eos_token_id
    assert own.decode(encoded.sequences[0].input_ids[:-1]) == "Q: a? A: b"
    assert "no special token" in encoded.rule
    without = encode(one(conversation("a?"), "b"), own, max_length=ROOM, append_eos=False)
    assert own.decode(without.sequences[0].input_ids) == "Q: a? A: b"


@pytest.mark.parametrize(
    ("options", "tail"),
    [({}, "Paris.<|end|>\n<|endoftext|>"), ({"after_end": False}, "Paris.<|end|>"), ({"append_eos": False}, "Paris.")],
)
def test_the_end_of_a_turn_can_be_left_out(options, tail):
    own = tokenizer("phi3")
    [tokens] = encode(one(conversation("a?")), own, max_length=ROOM, **options).sequences
    assert own.decode(tokens.input_ids[tokens.n_prompt :]) == tail


def merging(*, marked=False):
    """A tokenizer that makes one token of a colon and the x behind it, and a template that asks with a colon."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"</s>": 0} | {c: i + 1 for i, c in enumerate(alphabet)} | {":x": len(alphabet) + 1}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[(":", "x")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    own = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    start, stop = ("{% generation %}", "{% endgeneration %}") if marked else ("", "")
    own.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}:{% else %}"
        + f"{start}{{{{ m.content + eos_token }}}}{stop}"
        + "{% endif %}{% endfor %}"
    )
    return own


@pytest.mark.parametrize("marked", [False, True])
def test_a_token_over_the_prompts_end_is_parted_and_counted(marked):
    own = merging(marked=marked)
    task = Task("two", "sft", (Example(conversation("a"), "xy"), Example(conversation("a", "b", "c"), "y")))
    assert own.apply_chat_template(as_messages(conversation("a"), "xy"), tokenize=False) == "a:xy</s>"
    encoded = encode(task, own, max_length=ROOM)
    assert "in 1 of 2 examples a token reaches over the prompt's end" in encoded.rule
    first = encoded.sequences[0]
    assert own.convert_ids_to_tokens(first.input_ids) == ["a", ":", "x", "y", "</s>"]
    assert own.convert_ids_to_tokens(first.labels[2:]) == ["x", "y", "</s>"]
    assert first.labels[:2].tolist() == [-100, -100]
    every = encode(task, own, max_length=ROOM, train_on="all")
    kept = [
        [own.convert_ids_to_tokens(i) for i in row if i >= 0] for row in (labels.tolist() for labels in every.labels)
    ]
    assert kept == [["x", "y", "</s>"], ["b", "</s>", "y", "</s>"]]


def test_the_answers_of_a_preference_share_the_ids_of_the_prompt():
    own = merging()
    pair = Task("pair", "preference", (Preference(conversation("a"), "xy", "z"),))
    encoded = encode(pair, own, max_length=ROOM)
    assert encoded.rejected is not None
    for tokens, text in ((encoded.chosen[0], "xy</s>"), (encoded.rejected[0], "z</s>")):
        assert own.convert_ids_to_tokens(tokens.input_ids[:2]) == ["a", ":"]
        assert own.decode(tokens.input_ids[2:]) == text


@pytest.mark.parametrize("name", ["qwen2_5", "gemma3", "llama3_1", "llama3_2", "phi3_5", "cohere2", "glm4moe", "lfm2"])
def test_other_published_templates_are_rendered_as_by_transformers(name):
    """Of TRL's files; with every turn too, by prefixes."""
    own = given_template("chatml", chats.template(name))
    own.bos_token = "<|endoftext|>"
    talk, options = conversation("a?", "b", "c?", system="Be brief."), template_of(own).options
    for train_on in ("last", "all"):
        # Tokens that this tokenizer lacks end no turn in it, and an end token would be added.
        ends = template_of(own).end is not None
        [tokens] = encode(one(talk), own, max_length=ROOM, train_on=train_on, append_eos=ends).sequences
        assert (
            tokens.input_ids.tolist() == (own.apply_chat_template(as_messages(talk, "Paris."), **options)["input_ids"])
        )
        said = own.decode([i for i in tokens.labels.tolist() if i >= 0])
        assert "Paris." in said
        assert ("b" in said.partition("Paris.")[0]) == (train_on == "all")
        assert "a?" not in said
        assert "c?" not in said
    assert ("writes the date of the day" in encode(one(talk), own, max_length=ROOM).rule) == (name == "llama3_2")


def test_a_tokenizer_without_a_template_is_refused():
    said = refused(one(conversation("a?")), BYTES)
    assert "has no chat template" in said
    assert "--chat-template FILE" in said
    with pytest.raises(AlignerProbeError, match="has no chat template"):
        prompt_ids(BYTES, [conversation("a?")])


def test_a_template_without_a_generation_prompt_is_refused():
    text = chats.template("chatml").partition("{% if add_generation_prompt %}")[0]
    said = refused(one(conversation("a?")), given_template("chatml", text))
    assert "no generation prompt" in said
    assert "<|im_start|>assistant" in said


@pytest.mark.parametrize("kind", ["gemma", "mistral"])
def test_a_refused_system_message_is_named_by_its_line(kind):
    said = refused(one(conversation("a?", system="Be brief."), line=12), tokenizer(kind))
    assert "line 12" in said
    assert "system" in said
    with pytest.raises(AlignerProbeError, match="prompt 1, from zero"):
        prompt_ids(tokenizer(kind), [conversation("a?"), conversation("a?", system="Be brief.")])


def test_a_message_that_the_template_leaves_out_is_named():
    text = chats.template("chatml").replace("{% for message in messages %}", "{% for message in messages[-2:] %}")
    said = refused(one(conversation("a?", "b", "c?", system="Be brief."), line=3), given_template("chatml", text))
    assert "line 3" in said
    assert "'Be brief.'" in said


def test_a_model_that_can_think_is_told_not_to():
    """Qwen3 writes an empty thought before an answer, and before the place of an answer only when it is told."""
    own = given_template("chatml", chats.template("qwen3"))
    [tokens] = encode(one(conversation("a?")), own, max_length=ROOM).sequences
    whole = own.apply_chat_template(as_messages(conversation("a?"), "Paris."))["input_ids"]
    assert tokens.input_ids.tolist() == whole
    assert own.decode(tokens.labels[tokens.n_prompt :]) == "Paris.<|im_end|>\n"
    assert "enable_thinking=False" in encode(one(conversation("a?")), own, max_length=ROOM).rule
    talk = conversation("a?", "b", "c?")
    assert encode(one(talk), own, max_length=ROOM).n == 1
    said = refused(one(talk, line=4), own, train_on="all")
    assert "line 4" in said
    assert "changes earlier turns" in said
    assert "--train-on last" in said


def test_a_template_that_takes_back_the_end_of_the_prompt_is_refused():
    """DeepSeek's distilled models: the prompt ends with <think>, which the whole conversation does not have."""
    said = refused(one(conversation("a?")), given_template("chatml", chats.template("deepseek_r1_distill")))
    assert "changes what was before the answer" in said
    assert "<think>" in said


def test_texts_and_preferences_have_no_turns_to_train():
    assert "without turns" in refused(one("a?"), BYTES, train_on="all")
    assert "preferences" in refused(chats.pairs("chatml"), tokenizer("chatml"), train_on="all")
    assert "train_on 'first'" in refused(one("a?"), BYTES, train_on="first")


def test_texts_and_conversations_are_not_mixed():
    task = Task("both", "sft", (Example("a", "b"), Example(conversation("a"), "b")))
    assert "one kind" in refused(task, tokenizer("chatml"))


def test_lost_characters_are_those_of_the_messages():
    own = byte_tokenizer(drops="z")
    own.chat_template = "{% for m in messages %}{{ m.content }}|{% endfor %}"
    encoded = encode(one(conversation("fizz", "b", "c"), "ab"), own, max_length=ROOM)
    assert encoded.lost == {"z": 2 / len("fizzbcab")}


def test_texts_asked_of_a_chat_model_are_remarked_on():
    assert "--chat-template none" in untemplated_note(tokenizer("chatml"), ["a?"])
    assert "--as-chat" in untemplated_note(tokenizer("chatml"), ["a?"])
    assert untemplated_note(tokenizer("chatml"), [conversation("a?")]) == ""
    assert untemplated_note(BYTES, ["a?"]) == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no text"),
        (b"\xff\xfe", "expected a text file"),
        (b"{% for %}", "line 1"),
        (b"x" * (MOST_BYTES + 1), "more than 1,000,000 bytes"),
    ],
)
def test_files_that_are_no_template(tmp_path, content, said):
    (tmp_path / "t.jinja").write_bytes(content)
    with pytest.raises(AlignerProbeError, match=said) as caught:
        read_template(tmp_path / "t.jinja")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_templates_are_read_from_files(tmp_path, kind):
    for marked in (False, True):
        (tmp_path / "t.jinja").write_text(chats.template(kind, marked=marked))
        assert read_template(tmp_path / "t.jinja") == chats.template(kind, marked=marked)
    with pytest.raises(AlignerProbeError, match=r"absent\.jinja"):
        read_template(tmp_path / "absent.jinja")
