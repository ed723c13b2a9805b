"""The command `train` on conversations: the template, which turns, and what is said of texts."""

import json

import chats
import pytest
from in_process import called

from aligner_probe.commands import train
from aligner_probe.tasks.chat_template import template_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return chats.folder_of(tmp_path_factory.mktemp("base"), "llama3")


@pytest.fixture
def messages(tmp_path):
    """A file of conversations with two answers each."""
    turns = [("user", "{}?"), ("assistant", "a{}"), ("user", "and {}?"), ("assistant", "b{}")]
    rows = [{"messages": [{"role": role, "content": said.format(i)} for role, said in turns]} for i in range(20)]
    path = tmp_path / "messages.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i}? ", "completion": f"a{i}"}) + "\n" for i in range(20)))
    return path


def trained(capsys, folder, task, out, *more):
    shared = ("--model", folder, "--task", task, "--out", out, "--start-layer", 1, "--n-tokens", 1)
    return called(capsys, train.main, *shared, "--steps", 1, "--batch-size", 2, *more)


def error_of(done):
    """The one line of a mistake, without the progress bars of transformers."""
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if "Loading weights" not in line and line]
    return line


def recorded(out):
    return json.loads((out / "adapter" / "provenance.json").read_text())["run"]


def test_a_file_of_messages_is_trained_with_the_models_template(capsys, tmp_path, folder, messages):
    done = trained(capsys, folder, messages, tmp_path / "run", "--train-on", "all")
    assert done.returncode == 0, done.stderr
    assert "turns end with '<|eot_id|>'" in done.stdout
    assert "Trained on all answers of the assistant" in done.stdout
    assert "--as-chat" not in done.stdout
    record = recorded(tmp_path / "run")
    assert record["recipe"]["train_on"] == "all"
    assert record["tokenizer"]["chat_template"] == template_of(chats.tokenizer("llama3")).sha256


def test_a_file_with_a_template_takes_the_place_of_the_models(capsys, tmp_path, folder, messages):
    file = tmp_path / "marked.jinja"
    file.write_text(chats.template("llama3", marked=True))
    done = trained(capsys, folder, messages, tmp_path / "run", "--chat-template", file)
    assert done.returncode == 0, done.stderr
    assert recorded(tmp_path / "run")["tokenizer"]["chat_template"] == (
        template_of(chats.tokenizer("llama3", marked=True)).sha256
    )
    # A training goes on with the template that it began with.
    done = trained(capsys, folder, messages, tmp_path / "run", "--resume")
    assert "was begun with" in error_of(done)
    assert "chat_template" in error_of(done)


def test_texts_on_a_chat_model_are_remarked_on_unless_they_are_meant(capsys, tmp_path, folder, texts):
    done = trained(capsys, folder, texts, tmp_path / "one")
    assert done.returncode == 0, done.stderr
    assert "This base has a chat template, and the prompts are asked without it." in done.stdout
    assert "--as-chat" in done.stdout
    done = trained(capsys, folder, texts, tmp_path / "two", "--chat-template", "none")
    assert done.returncode == 0, done.stderr
    assert "--as-chat" not in done.stdout
    assert recorded(tmp_path / "two")["tokenizer"]["chat_template"] is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--chat-template", "absent.jinja"), "absent.jinja"),
        (("--chat-template", "none"), "has no chat template"),
        (("--train-on", "first"), "invalid choice"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(capsys, tmp_path, folder, messages, options, says):
    done = trained(capsys, folder, messages, tmp_path / "run", *options)
    assert says in error_of(done)
    assert not (tmp_path / "run").exists()


def test_texts_have_no_turns(capsys, tmp_path, folder, texts):
    done = trained(capsys, folder, texts, tmp_path / "run", "--train-on", "all")
    assert "without turns" in error_of(done)
    assert not (tmp_path / "run").exists()
