"""Files of texts that are read as conversations with a chat model."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import WORDS, refused, write

import aligner_probe as ap
from aligner_probe.commands import probe, run, train
from aligner_probe.errors import AlignerProbeError
from aligner_probe.probing.inputs import load_parts
from aligner_probe.tasks import Example, Preference, load_splits, load_task
from aligner_probe.tasks.chat import Conversation, Message

CHAT = {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": " Ho. "}]}


@pytest.fixture
def jsonl(tmp_path):
    return lambda *rows, name="rows.jsonl": write(tmp_path / name, rows)


def asked(*turns, system=None):
    start = [] if system is None else [Message("system", system)]
    return Conversation((*start, *(Message(("user", "assistant")[i % 2], turn) for i, turn in enumerate(turns))))


@pytest.mark.parametrize(
    ("row", "prompt", "template"),
    [
        ({"prompt": " Name a pet.\n", "completion": " A cat. "}, "Name a pet.", None),
        ({"instruction": "Name a pet.", "output": "A cat."}, "Name a pet.", "{instruction}"),
        ({"instruction": "Name it.", "input": "meow", "output": "A cat."}, "Name it.\n\nmeow", "{instruction}"),
        ({"question": "Name a pet.", "answer": "A cat."}, "Name a pet.", "{question}"),
        ({"query": "Name a pet.", "response": "A cat."}, "Name a pet.", "{query}"),
    ],
)
def test_the_bare_question_of_every_format_is_what_the_user_says(jsonl, row, prompt, template):
    task = load_task(jsonl(row), as_chat=True)
    assert task.examples == (Example(asked(prompt), "A cat."),)
    assert task.template == template
    assert "Each prompt became a message of the user (as_chat)" in task.reading_note
    assert "wrapped" not in task.reading_note
    # A file of texts is read without it as it always was.
    assert isinstance(load_task(jsonl(row)).prompts[0], str)


def test_preferences_and_transcripts_become_turns(jsonl):
    pair = {"prompt": "Name a pet.", "chosen": " A cat.", "rejected": "A car."}
    assert load_task(jsonl(pair), as_chat=True).examples == (Preference(asked("Name a pet."), "A cat.", "A car."),)
    said = "\n\nHuman: Hi.\n\nAssistant: Ho.\n\nHuman: Name a\n\npet.\n\nAssistant:"
    hh = {"chosen": f"{said} A cat.", "rejected": f"{said} A car."}
    task = load_task(jsonl(hh), as_chat=True)
    assert task.examples == (Preference(asked("Hi.", "Ho.", "Name a\n\npet."), "A cat.", "A car."),)
    beaver = {"prompt": "Hi?", "response_0": "no", "response_1": "yes", "better_response_id": 0}
    assert load_task(jsonl(beaver), as_chat=True).examples == (Preference(asked("Hi?"), "no", "yes"),)
    own = load_task(jsonl(hh), as_chat=True, prompt_template="Go on:{prompt}")
    assert own.prompts == [asked(f"Go on:{said}")]


def test_a_template_of_the_user_is_what_the_user_says(jsonl):
    row = {"question": "Name a pet.", "answer": "A cat."}
    task = load_task(jsonl(row), as_chat=True, prompt_template="Q: {question}\n")
    assert (task.prompts, task.template) == ([asked("Q: Name a pet.")], "Q: {question}\n")
    task = load_task(jsonl(row), as_chat=True, prompt_template="{question}", completion_field="answer")
    assert task.examples == (Example(asked("Name a pet."), "A cat."),)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_only_white_space_at_the_ends_is_lost_and_that_is_said(rows):
    plain = load_task([{"prompt": prompt, "completion": completion} for prompt, completion in rows])
    task = load_task([{"prompt": p, "completion": c} for p, c in rows], as_chat=True, repeated_prompt="keep")
    assert [(e.prompt.messages[0].content, e.completion) for e in task.examples] == [
        (prompt.strip(), completion.strip()) for prompt, completion in rows
    ]
    n = sum(prompt != prompt.strip() or completion != completion.strip() for prompt, completion in rows)
    assert (f"in {n} of {len(rows)} rows white space" in task.reading_note) == (n > 0)
    assert plain.sha256 != task.sha256


def test_a_system_message_is_for_all_rows_or_in_a_field(jsonl):
    row = {"prompt": "Hi.", "completion": "Ho."}
    task = load_task(jsonl(row), as_chat=True, system="Be brief.")
    assert task.prompts == [asked("Hi.", system="Be brief.")]
    assert "after the system message 'Be brief.'" in task.reading_note
    task = load_task(jsonl(row | {"systemPrompt": "Be long."}, row | {"prompt": "Ha."}), as_chat=True)
    assert task.prompts == [asked("Hi.", system="Be long."), asked("Ha.")]
    assert task.ignored_fields == ()
    said = refused(jsonl(row, row | {"system": "Be long."}), as_chat=True, system="Be brief.")
    assert re.search("line 2: has the system message 'Be long.', and another", said)
    assert load_task(jsonl(CHAT), system="Be brief.").prompts == [asked("Hi.", system="Be brief.")]
    said = refused(jsonl(row), system="Be brief.")
    assert re.search("line 1: is of format TRL, .*give --as-chat", said)


def test_conversations_stay_as_they_are_and_that_is_said(jsonl):
    task = load_task(jsonl(CHAT), as_chat=True)
    assert task.examples == load_task(jsonl(CHAT)).examples == (Example(asked("Hi."), " Ho. "),)
    assert "conversations already, so that as_chat changes nothing" in task.reading_note


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": " ", "completion": "b"}, "line 2: has an empty prompt"),
        ({"prompt": "a", "completion": "b", "system": 3}, "line 2: its system is a JSON number"),
        ({"prompt": "a", "completion": "b", "context": "c"}, "line 2: has the field context"),
    ],
)
def test_bad_rows_are_named(jsonl, row, says):
    assert says in refused(jsonl({"prompt": "a", "completion": "b"}, row), as_chat=True)


def test_pairs_that_differ_in_white_space_alone_teach_nothing(jsonl):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path = jsonl(good, {"prompt": "a", "chosen": "b", "rejected": " b"})
    assert "line 2: chosen and rejected differ in white space alone" in refused(path, as_chat=True)
    task = load_task(path, as_chat=True, flawed="drop")
    assert (len(task), [row.line for row in task.dropped]) == (1, [2])


def test_a_repeated_prompt_is_taken_off_first(jsonl):
    rows = [{"prompt": f"Name pet {i}.", "completion": f"Name pet {i}. A cat."} for i in range(3)]
    assert {e.completion for e in load_task(jsonl(*rows), as_chat=True).examples} == {"A cat."}


def test_examples_and_tasks_in_memory():
    task = ap.load_task([ap.Example("Hi.", " Ho.", "g")], as_chat=True)
    assert task.examples == (Example(asked("Hi."), "Ho.", "g"),)
    plain = ap.Task("x", "sft", (Example("Hi.", " Ho."),))
    again = ap.load_task(plain, as_chat=True, system="Be brief.")
    assert again.examples == (Example(asked("Hi.", system="Be brief."), "Ho."),)
    assert again.sha256 != plain.sha256
    assert ap.load_task(again, as_chat=True) is again
    with pytest.raises(AlignerProbeError, match=r"has prompts that the template 'Question:.* made"):
        ap.load_task(load_task([{"question": "Hi?", "answer": "Ho."}]), as_chat=True)
    with pytest.raises(AlignerProbeError, match="example 0, from zero: has an empty prompt"):
        ap.load_task([ap.Example(" ", "b")], as_chat=True)


def test_both_parts_of_a_split_are_read_alike(tmp_path):
    write(tmp_path / "train.jsonl", [{"prompt": "a", "completion": "b"}])
    test = write(tmp_path / "test.jsonl", [{"prompt": "c", "completion": "d"}])
    parts = load_splits(tmp_path, as_chat=True, system="s")
    assert [part.prompts for part in parts] == [[asked("a", system="s")], [asked("c", system="s")]]
    write(test, [{"prompt": " a", "completion": "d"}])
    with pytest.raises(AlignerProbeError, match="a prompt that was trained"):
        load_splits(tmp_path, as_chat=True)


def test_parts_of_conversations_and_of_texts_are_not_mixed(tmp_path):
    write(tmp_path / "train.jsonl", [CHAT])
    for part in ("test", "validation"):
        other = write(tmp_path / f"{part}.jsonl", [{"prompt": "a", "completion": "b"}])
        with pytest.raises(AlignerProbeError, match=rf"train.jsonl holds conversations but \S*{part}.jsonl texts"):
            load_parts(tmp_path)
        assert load_parts(tmp_path, as_chat=True).train.prompts == [asked("Hi.")]
        other.unlink()


def test_the_options_reach_the_commands(jsonl, tmp_path, capsys):
    path = str(jsonl({"prompt": "a", "completion": "b"}))
    for command in (train, probe):
        arguments = ["run"] if command is probe else []
        arguments += ["--task", path, "--model", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
        assert run(command.main, [*arguments, "--as-chat", "--system", r" \n"]) == 2
        assert "line 1: message 1, of the system, is empty" in capsys.readouterr().err
    rows = [{"prompt": f"a{i}", "completion": "b"} for i in range(20)]
    other = jsonl({"prompt": " ", "completion": "b"}, name="other.jsonl")
    asked = ["run", "--task", str(jsonl(*rows)), "--off-domain", str(other), "--as-chat", "--dry-run"]
    assert run(probe.main, asked) == 2
    assert f"{other}, line 1: has an empty prompt" in capsys.readouterr().err
