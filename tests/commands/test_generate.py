"""The generate command: answers are those of each adapter alone, it goes on where it stopped, mistakes are one line."""

import json

import pytest
from in_process import called
from tiny import base_folder, save_tokenizer
from tiny_adapters import opened

import aligner_probe as ap
from aligner_probe.adapters import Aligner, LoRA
from aligner_probe.checkpoints.adapters import save_adapter
from aligner_probe.commands import generate as command
from aligner_probe.evaluation import answers as answering
from aligner_probe.evaluation.answers import JOURNAL, names_for
from aligner_probe.evaluation.questions import read_questions

QUESTIONS = [
    {"question_id": 7, "text": "w1 w2 w3", "category": "writing"},
    {"question_id": 9, "text": "w4", "category": "math"},
    {"question_id": 11, "text": "w5 w6 w7 w8 w9 w10", "category": "math"},
    {"question_id": 12, "text": "w11 w12 <b>w3</b>", "category": "math"},
]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model with a tokenizer, and three adapters of two shapes on it."""
    where = tmp_path_factory.mktemp("generate")
    base = base_folder("llama_gqa", where)
    save_tokenizer(base)
    model = ap.load_model(base)
    save_adapter(opened(Aligner(model, 1, 1), 1), where / "one" / "adapter")
    save_adapter(opened(Aligner(model, 1, 1), 2), where / "two" / "adapter")
    save_adapter(opened(LoRA(model, 2), 3), where / "lora")
    written(where / "questions.jsonl", QUESTIONS)
    return where


def arguments(folder, out, *more, adapters=("one/adapter", "two/adapter", "lora")):
    words = ["--model", folder / "base", "--questions", folder / "questions.jsonl", "--out", out]
    return [*words, "--max-new-tokens", 6, *more, "--adapter", *(folder / one for one in adapters)]


def test_answers_are_those_of_each_adapter_alone(folder, tmp_path, capsys):
    done = called(capsys, command.main, *arguments(folder, tmp_path / "out", "--base", "--batch-size", 5))
    assert done.returncode == 0, done.stderr
    model = ap.load_model(folder / "base")
    asked = [row["text"] for row in QUESTIONS]
    for name, path in {"base": None, "one": "one/adapter", "two": "two/adapter", "lora": "lora"}.items():
        rows = rows_of(tmp_path / "out" / "by_model" / f"{name}.jsonl")
        assert [row["question_id"] for row in rows] == ["7", "9", "11", "12"]
        assert [row["category"] for row in rows] == [row["category"] for row in QUESTIONS]
        adapters = {} if path is None else {"adapters": [ap.load_adapter(folder / path, model)]}
        assert [row["answer"] for row in rows] == ap.generate(model, asked, max_new_tokens=6, **adapters)
    assert len(rows_of(tmp_path / "out" / JOURNAL)) == 16
    page = (tmp_path / "out" / "side_by_side.html").read_text()
    assert page.count("<h3>lora</h3>") == 4
    assert "&lt;b&gt;w3&lt;/b&gt;" in page
    assert "<b>w3" not in page
    assert (tmp_path / "out" / "side_by_side.md").read_text().count("**two**") == 4


def test_it_goes_on_where_it_stopped(folder, tmp_path, capsys, monkeypatch):
    """Stopped in its third batch, and with half a line at the end of the file, it asks only for what is missing."""
    drawn = ["--temperature", 0.9, "--seed", 3, "--batch-size", 2]
    whole = called(capsys, command.main, *arguments(folder, tmp_path / "whole", *drawn))
    assert whole.returncode == 0, whole.stderr
    asked, real = [], answering.generate

    def stopped(model, prompts, **options):
        asked.append(len(prompts))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(model, prompts, **options)

    monkeypatch.setattr(answering, "generate", stopped)
    done = called(capsys, command.main, *arguments(folder, tmp_path / "out", *drawn))
    assert done.returncode == 130
    assert "it needs no --resume" in done.stderr
    with (tmp_path / "out" / JOURNAL).open("a") as file:
        file.write('{"question_id": "7", "model": "lo')
    plan = called(capsys, command.main, *arguments(folder, tmp_path / "out", "--dry-run", *drawn))
    assert "4 questions to 3 models: 4 answers are there, 8 are left, in 4 batches" in plan.stdout
    asked += [0]
    done = called(capsys, command.main, *arguments(folder, tmp_path / "out", *drawn))
    assert done.returncode == 0, done.stderr
    assert sum(asked[4:]) == 8
    for name in ("one", "two", "lora"):
        files = [tmp_path / out / "by_model" / f"{name}.jsonl" for out in ("out", "whole")]
        assert files[0].read_text() == files[1].read_text()
    other = called(capsys, command.main, *arguments(folder, tmp_path / "out", "--temperature", 0.8))
    assert other.returncode == 2
    assert "other questions, adapters or options" in other.stderr


def test_a_judges_decisions_are_shown(folder, tmp_path, capsys):
    out = tmp_path / "out"
    called(capsys, command.main, *arguments(folder, out))
    answer = {name: {row["question_id"]: row["answer"] for row in rows_of(out / "by_model" / f"{name}.jsonl")}
              for name in ("one", "lora")}  # fmt: skip
    battles = [
        {"id": i, "ours": answer["one"][i], "theirs": answer["lora"][i], "outcome": outcome, "said": ["Because *so*."]}
        for i, outcome in (("7", "loss"), ("9", "win"), ("11", "tie"))
    ]
    judged = written(tmp_path / "battles.jsonl", battles)
    done = called(capsys, command.main, *arguments(folder, out, "--judged", judged))
    assert done.returncode == 0, done.stderr
    text = (out / "side_by_side.md").read_text()
    order = ["Questions that one wins", "### 9", "Questions that one loses", "### 7", "## Ties", "### 11", "### 12"]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    assert "one wins against lora." in text
    assert text.count("Because *so*.") == 3
    assert "one loses against lora." in (out / "side_by_side.html").read_text()
    written(judged, [battles[0] | {"ours": "something else"}])
    done = called(capsys, command.main, *arguments(folder, out, "--judged", judged))
    assert done.returncode == 2
    assert "have the answers that were judged there" in done.stderr


def test_mistakes_are_one_line_and_leave_nothing(folder, tmp_path, capsys):
    out = tmp_path / "out"
    twice = written(tmp_path / "twice.jsonl", [{"question": "w1", "id": 1}, {"question": "w2", "id": 1}])
    empty = written(tmp_path / "empty.jsonl", [{"answer": "w1"}])
    for more, says in (
        (["--questions", tmp_path / "nowhere.jsonl"], "does not exist"),
        (["--questions", twice], "the id '1' stands twice"),
        (["--questions", empty], "line 1: has no text named question"),
        (["--names", "one"], "1 names for 3 adapters"),
        (["--names", "one", "one", "two"], "two adapters are called 'one'"),
        (["--names", "base", "a", "b"], "and not 'base'"),
        (["--names", "../a", "a", "b"], "is none for a file"),
        (["--temperature", -1], "temperature -1.0; expected 0"),
        (["--top-k", 5], "give a temperature"),
        (["--system", "Be short."], "give --as-chat"),
        (["--prompt-template", "{missing}"], "has no text named missing"),
        (["--max-new-tokens", 0], "expected 1 or more"),
        (["--max-new-tokens", 9999], "leaves no room"),
    ):
        done = called(capsys, command.main, *arguments(folder, out, *more))
        assert done.returncode == 2, (more, done.stdout)
        # The bar of transformers, which reads the base model, is on standard error, too.
        [line] = [line for line in done.stderr.splitlines() if line and "it/s]" not in line]
        assert says in line
        assert not (out / JOURNAL).exists() or not (out / JOURNAL).read_text()
    done = called(capsys, command.main, *arguments(folder, out, adapters=["nowhere"]))
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    done = called(capsys, command.main, "--model", "m", "--questions", "q", "--out", out)
    assert done.returncode == 2
    assert "nobody answers" in done.stderr


def test_a_dry_run_reads_no_base_model(folder, tmp_path, capsys):
    words = ["--model", "no-such-model", "--questions", folder / "questions.jsonl", "--out", tmp_path / "out"]
    done = called(capsys, command.main, *words, "--dry-run", "--base", "--adapter", folder / "lora")
    assert done.returncode == 0, done.stderr
    assert "lora: lora" in done.stdout
    assert "4 questions to 2 models: 0 answers are there, 8 are left, in 1 batches" in done.stdout
    assert not (tmp_path / "out").exists()


def test_names_come_from_paths():
    assert names_for(["out/one/adapter", "out/two/adapter/", "my lora"], None) == ["one", "two", "my-lora"]


def test_questions_are_read_in_the_usual_ways(tmp_path):
    rows = [
        {"question": "Who?"},
        {"prompt": "What?", "category": "c"},
        {"instruction": "Add.", "input": "1 and 2"},
        {"messages": [{"role": "system", "content": "Short."}, {"role": "user", "content": "Hi"}], "id": "m"},
        {"turns": ["Write.", "Write it again."]},
    ]
    file = written(tmp_path / "q.jsonl", rows)
    questions = read_questions(str(file))
    assert [question.id for question in questions] == ["1", "2", "3", "m", "5"]
    assert [question.prompt for question in questions[:3]] == ["Who?", "What?", "Add.\n\n1 and 2"]
    assert questions[3].prompt == ap.Conversation(rows[3]["messages"])
    assert questions[4].prompt == "Write."
    assert questions[1].category == "c"
    chats = read_questions(str(file), as_chat=True, system="Be kind.")
    assert chats[0].prompt == ap.Conversation(
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"}]
    )
    written(file, rows[:1])
    assert read_questions(str(file), template="Q: {question}\nA:")[0].prompt == "Q: Who?\nA:"
    assert read_questions(str(file), template="Q: {question}\nA:")[0].text == "Who?"
