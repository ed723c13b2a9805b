"""Rows of messages: every form gives the same task, and every row that is no conversation is one line that names it."""

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import refused, write
from trl.data_utils import extract_prompt, maybe_convert_to_chatml

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import Example, Preference, load_task
from aligner_probe.tasks.chat import Conversation, Message
from aligner_probe.tasks.fields import NOTHING_TEXTS

NAMES = {"system": "system", "user": "human", "assistant": "gpt"}
#: A field whose whole text is "None", "null" or the like is read as an empty one.
SAID = st.text(max_size=12).filter(lambda text: text.strip() and text.strip() not in NOTHING_TEXTS)
USER, ANSWER = {"role": "user", "content": "Name a pet."}, {"role": "assistant", "content": " A cat."}
OTHER = ANSWER | {"content": "A car."}
SYSTEM = {"role": "system", "content": "Be brief."}
GOOD = {"messages": [USER, ANSWER]}


@pytest.fixture
def jsonl(tmp_path):
    return lambda *rows, name="rows.jsonl": write(tmp_path / name, rows)


def as_messages(turns, system=None):
    """Messages as TRL writes them, of which the user says the first."""
    start = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return start + [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]


def as_prompt(messages):
    return Conversation(tuple(Message(turn["role"], turn["content"]) for turn in messages))


def as_sharegpt(messages):
    return [{"from": NAMES[turn["role"]], "value": turn["content"]} for turn in messages]


CONVERSATIONS = st.builds(
    lambda pairs, system: as_messages([turn for pair in pairs for turn in pair], system),
    st.lists(st.tuples(SAID, SAID), min_size=1, max_size=3),
    st.none() | SAID,
)


# ---- forms


def forms(messages):
    """One conversation in every form of examples that is read."""
    sharegpt = as_sharegpt(messages)
    rows = [{name: messages} for name in ("messages", "conversations", "conversation", "chat", "dialog", "dialogue")]
    rows += [{"conversations": sharegpt}, {"messages": sharegpt, "id": "x"}]
    rows += [{"prompt": messages[:cut], "completion": messages[cut:]} for cut in range(len(messages))]
    rows += [{"prompt": messages[:-1], "completion": messages}]
    rows += [{"prompt": messages[:-1], "completion": messages[-1]["content"]}]
    rows += [{"messages": [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in messages]}]
    rows += [{"messages": json.dumps(messages)}]
    if messages[0]["role"] == "system":
        rest = [{"role": "developer", "content": messages[0]["content"]}, *messages[1:]]
        rows += [{"messages": messages[1:], "system": messages[0]["content"]}, {"messages": rest}]
        rows += [{"conversations": sharegpt[1:], "systemPrompt": messages[0]["content"]}]
    first = next(turn["content"] for turn in messages if turn["role"] == "user")
    return [*rows, {"prompt": first, "prompt_id": "x", "messages": messages}]


@settings(max_examples=40)
@given(CONVERSATIONS, st.none() | st.sampled_from("ab"), st.none() | SAID, st.integers(0, 9))
def test_a_conversation_in_each_form_is_the_same_example_whatever_the_order_of_its_fields(
    messages, group, content, seed
):
    expected = Example(as_prompt(messages[:-1]), messages[-1]["content"], group, content=content)
    for row in forms(messages):
        task = load_task([shuffled(row | {"group": group, "content": content}, seed)])
        assert task.examples == (expected,)
        assert (task.kind, task.template, task.dropped) == ("sft", None, ())


def shuffled(value, seed):
    """The same JSON with the fields of every object in another order."""
    if isinstance(value, list):
        return [shuffled(one, seed) for one in value]
    if not isinstance(value, dict):
        return value
    names = list(value)
    random.Random(seed).shuffle(names)
    return {name: shuffled(value[name], seed) for name in names}


@given(messages=CONVERSATIONS, rejected=SAID, seed=st.integers(0, 9))
def test_a_pair_in_each_form_has_the_prompt_that_trl_extracts(messages, rejected, seed):
    worse = [*messages[:-1], {"role": "assistant", "content": rejected}]
    if messages == worse:
        return
    reference = extract_prompt({"chosen": messages, "rejected": worse})
    assert (len(reference["chosen"]), len(reference["rejected"])) == (1, 1)
    expected = Preference(as_prompt(reference["prompt"]), reference["chosen"][0]["content"], rejected)
    rows = [
        {"chosen": messages, "rejected": worse},
        reference,
        {"chosen": as_sharegpt(messages), "rejected": as_sharegpt(worse)},
        {"prompt": reference["prompt"], "chosen": messages, "rejected": worse},
        {"prompt": reference["prompt"], "chosen": messages[-1]["content"], "rejected": rejected},
        # As in ultrafeedback_binarized.
        {
            "prompt": next(turn["content"] for turn in messages if turn["role"] == "user"),
            "chosen": messages,
            "rejected": worse,
            "messages": messages,
            "score_chosen": 8.0,
            "score_rejected": 4.0,
        },
    ]
    if messages[0]["role"] == "system":
        rows.append({"chosen": messages[1:], "rejected": worse[1:], "system": messages[0]["content"]})
    for row in rows:
        task = load_task([shuffled(row, seed)])
        assert task.examples == (expected,)
        assert task.kind == "preference"


@given(st.lists(st.tuples(CONVERSATIONS, st.none() | SAID), min_size=1, max_size=3))
def test_a_frame_of_conversations_is_read_again(rows):
    task = load_task([{"messages": messages, "content": content} for messages, content in rows])
    assert load_task(task.to_frame().drop(columns="line")).examples == task.examples


@given(CONVERSATIONS)
def test_sharegpt_is_read_as_trl_converts_it(messages):
    row = {"conversations": as_sharegpt(messages)}
    converted = maybe_convert_to_chatml(json.loads(json.dumps(row)))
    for turn in converted["messages"]:
        turn["role"] = {"human": "user", "gpt": "assistant"}.get(turn["role"], turn["role"])
    assert load_task([converted]).examples == load_task([row]).examples


def test_formats_are_named_and_fields_that_are_not_read_are_listed(jsonl):
    messages = [USER | {"id": 1}, ANSWER | {"model": "x", "tool_calls": None}]
    task = load_task(jsonl({"messages": messages, "source": "y"}))
    assert task.format == "chat messages"
    assert task.ignored_fields == ("source", "messages.id", "messages.model", "messages.tool_calls")
    assert "rows of format chat messages; prompt template: none, prompts are conversations; " in task.reading_note
    assert load_task(jsonl({"prompt": [USER], "completion": [ANSWER]})).format == "chat completion"
    assert load_task(jsonl({"chosen": [USER, ANSWER], "rejected": [USER, OTHER]})).format == "chat preference"
    # Texts of the same names stay what they were.
    assert load_task(jsonl({"prompt": "a", "completion": "b"})).format == "TRL"
    assert load_task(jsonl({"prompt": "a", "chosen": "b", "rejected": "c"})).format == "TRL preference"


def test_an_answer_may_repeat_the_question(jsonl):
    rows = [{"messages": [USER, ANSWER | {"content": f"{USER['content']} A cat {i}."}]} for i in range(2)]
    assert load_task(jsonl(*rows, GOOD)).examples[0].completion == "Name a pet. A cat 0."


def test_parts_of_a_message_are_joined_as_transformers_does(jsonl):
    parts = [{"type": "text", "text": "Name"}, {"type": "input_text", "text": "a pet.", "image": None}]
    [example] = load_task(jsonl({"messages": [USER | {"content": parts}, ANSWER]})).examples
    assert example.prompt == as_prompt([USER])


# ---- bad rows


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([ANSWER, USER], "message 1 is of the assistant; expected one of the user"),
        ([USER, USER, ANSWER], "message 2 is of the user; expected one of the assistant"),
        ([SYSTEM, ANSWER], "message 2 is of the assistant; expected one of the user"),
        ([USER, SYSTEM, ANSWER], "message 2 is of the system; expected one of the assistant"),
        ([USER | {"content": " \n"}, ANSWER], "message 1, of the user, is empty"),
        ([USER | {"content": None}, ANSWER], "message 1, of the user, is empty"),
        ([USER, ANSWER | {"content": ""}, USER, ANSWER], "message 2, of the assistant, is empty"),
        ([SYSTEM | {"content": ""}, USER, ANSWER], "message 1, of the system, is empty"),
        ([USER, {"role": "tool", "content": "4"}, ANSWER], r"message 2 of its messages is one of a tool \(tool\)"),
        ([USER, {"from": "function_call", "value": "4"}, ANSWER], "message 2 .* is one of a tool"),
        ([USER, ANSWER | {"tool_calls": [{"id": "1"}]}], "message 2 of its messages has tool_calls"),
        ([USER, ANSWER | {"function_call": {"name": "f"}}], "message 2 of its messages has function_call"),
        ([USER | {"content": [{"type": "image"}]}, ANSWER], "message 1 .* has a part of type image"),
        ([USER | {"content": [{"type": "image_url", "image_url": {}}]}, ANSWER], "a part of type image_url"),
        ([USER | {"content": ["a"]}, ANSWER], "message 1 of its messages has a JSON text as part"),
        ([USER | {"images": ["cat.png"]}, ANSWER], "message 1 of its messages has images"),
        ([USER, ANSWER | {"reasoning_content": "Hm."}], "message 2 .* has reasoning_content"),
        ([USER, ANSWER | {"weight": 0}], "message 2 of its messages has the weight 0"),
        ([USER, ANSWER | {"train": False}], "message 2 of its messages has train false; .*--train-on"),
        ([USER, ANSWER | {"role": "narrator"}], "message 2 of its messages has the role 'narrator'"),
        ([USER, ANSWER | {"role": 2}], "has the role 'number'"),
        ([USER, {"content": "A cat."}], "message 2 of its messages lacks role, or from"),
        ([USER, {"role": "assistant"}], "message 2 of its messages lacks content, or value"),
        ([USER, ANSWER | {"content": 4}], "the content of message 2 of its messages is a JSON number"),
        ([USER, ANSWER | {"value": "A car."}], "message 2 of its messages has both content and value"),
        ([USER, ANSWER | {"from": "gpt"}], "message 2 of its messages has both role and from"),
        ([USER, ANSWER | {"content": "\ud83d"}], "has half a character in message 2 of its messages"),
        ([USER, "A cat."], "message 2 of its messages is a JSON text"),
        ("Name a pet.", "its messages is a JSON text; expected a list of messages"),
        (None, "has no list of messages"),
        ({"messages": [USER, ANSWER], "conversations": [USER, ANSWER]}, "has messages and conversations"),
        ({"messages": [USER, ANSWER], "prompt": "Another."}, "has a prompt that is none of the messages of the user"),
        ({"messages": [SYSTEM, USER, ANSWER], "system": "Be long."}, "has a system message and another one"),
        ({"messages": [USER, ANSWER], "system": ["x"]}, "its system is a JSON list"),
        ({"messages": [USER, ANSWER], "system": "a", "system_prompt": "b"}, "has different texts in system and sys"),
        ({"messages": [USER, ANSWER], "tools": [{"name": "f"}]}, "has the field tools, .*--ignore-field tools"),
        ({"messages": [USER, ANSWER], "context": "Cats."}, "has the field context, .*as text in a message"),
        (
            {"messages": [USER, ANSWER], "chat_template_kwargs": {"enable_thinking": False}},
            "has the field chat_template_kwargs, which changes what a chat template makes of the row",
        ),
        ({"messages": [USER, ANSWER], "images": ["cat.png"]}, "has the field images"),
        ({"other": []}, "lacks messages or conversations"),
    ],
)
def test_rows_that_are_no_conversations_are_one_line_with_their_number(jsonl, row, says):
    bad = row if isinstance(row, dict) else {"messages": row}
    path = jsonl(GOOD, bad)
    assert f"{path}, line 2: " in refused(path, flawed="drop")
    assert_says(says, refused(path))


def assert_says(pattern, said):
    assert re.search(pattern, said), said


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([USER], "the conversation ends with a message of the user"),
        ([USER, ANSWER, USER], "the conversation ends with a message of the user"),
        ([SYSTEM], "the conversation ends with a message of the system"),
        ([], "the conversation has no messages"),
        ([USER, ANSWER | {"content": " "}], "the completion is empty"),
    ],
)
def test_conversations_that_teach_nothing_are_refused_or_dropped(jsonl, messages, says):
    for rows in ([GOOD, {"messages": messages}], [{"messages": messages}, GOOD]):
        path = jsonl(*rows)
        assert_says(rf"line {rows.index({'messages': messages}) + 1}: {says}.*--flawed drop", refused(path))
        task = load_task(path, flawed="drop")
        assert len(task) == 1
        assert says in task.dropped_note


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "chosen and rejected are equal"),
        ({"chosen": [USER, ANSWER], "rejected": [USER | {"content": "x"}, OTHER]}, "do not share their prompt"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, OTHER, USER, OTHER]}, "do not share their prompt"),
        ({"chosen": [USER, ANSWER], "rejected": [USER]}, "ends with a message of the user"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER | {"content": ""}]}, "the rejected completion is empty"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, OTHER], "score_chosen": 1, "score_rejected": 2}, "score_chosen"),
    ],
)
def test_pairs_that_teach_nothing_are_refused_or_dropped(jsonl, row, says):
    path = jsonl({"chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, row)
    assert_says(f"line 2: .*{says}", refused(path))
    assert len(load_task(path, flawed="drop")) == 1


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "completion": [ANSWER]}, "line 1: has a JSON list in completion but a JSON text in prompt"),
        ({"prompt": [USER], "completion": 4}, "line 1: has a JSON list in prompt but a JSON number in completion"),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": "c"}, "a JSON list in prompt but a JSON text in rejected"),
        ({"chosen": [USER, ANSWER], "rejected": "c"}, "a JSON list in chosen but a JSON text in rejected"),
        ({"messages": ["a", "b"]}, "a JSON list of other things in messages; expected a list of messages"),
        ({"conversations": "a"}, "a JSON text in conversations; expected a list of messages"),
        ({"prompt": [USER], "completion": ["b"]}, "a JSON list of other things in completion"),
        ({"prompt": ["a"], "completion": ["b"]}, "its prompt is a JSON list; expected text"),
    ],
)
def test_fields_of_two_types_are_named(jsonl, row, says):
    assert_says(says, refused(jsonl(row)))


def test_rows_of_another_type_than_the_first(jsonl):
    texts, lists = {"prompt": "a", "completion": "b"}, {"prompt": [USER], "completion": [ANSWER]}
    assert_says("line 2: its prompt is a JSON list; expected text", refused(jsonl(texts, lists)))
    assert_says("line 2: its prompt is a JSON text; expected a list of messages", refused(jsonl(lists, texts)))


def test_a_prompt_template_is_for_texts(jsonl):
    for row in (GOOD, {"prompt": [USER], "completion": [ANSWER]}):
        assert_says("line 1: .*whose prompts are conversations", refused(jsonl(row), prompt_template="{prompt}"))


@given(
    good=st.integers(0, 3),
    turn=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner),
        max_leaves=4,
    ),
    name=st.sampled_from(["role", "content", "messages", 0, 1]),
)
def test_whatever_stands_in_a_row_is_an_example_or_one_line_with_its_number(good, turn, name):
    row = {"messages": [dict(USER), dict(ANSWER)]}
    if isinstance(name, int):
        row["messages"][name] = turn
    elif name == "messages":
        row["messages"] = turn
    else:
        row["messages"][1][name] = turn
    rows = [GOOD] * good + [row]
    try:
        task = load_task(rows)
    except AlignerProbeError:
        assert f"rows in memory, line {good + 1}: " in refused(rows)
    else:
        assert len(task) == good + 1


# ---- conversations in Python


def test_a_conversation_is_made_of_messages_or_dicts():
    made = Conversation([USER, ANSWER, Message("user", "Another one.")])
    assert made == as_prompt([USER, ANSWER, {"role": "user", "content": "Another one."}])
    assert hash(made) == hash(Conversation(made.messages))
    assert (Conversation((SYSTEM, USER)).system, made.system) == ("Be brief.", None)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ("Name a pet.", "a conversation is the text 'Name a pet.'; expected a list of messages"),
        ([USER, "A cat."], "a message is 'A cat.'; expected an ap.Message"),
        ([USER | {"name": "Tom"}], "expected an ap.Message, or a dict with role and content and nothing else"),
        ([USER | {"content": 4}], "expected a role of system, user or assistant, and a text"),
        ([USER | {"role": "tool"}], "a message is {'role': 'tool'.*; expected a role of system, user or assistant"),
        ([USER, ANSWER], "ends with a message of the assistant"),
        ([], "has no messages"),
    ],
)
def test_what_is_no_conversation_is_refused_in_one_line(messages, says):
    with pytest.raises(AlignerProbeError, match=says) as caught:
        Conversation(messages)
    assert "\n" not in str(caught.value)
