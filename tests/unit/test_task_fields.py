"""Fields that change what a row means: each is honoured or refused by name, and every other one is listed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import refused, write

from aligner_probe.commands import probe, run, train
from aligner_probe.tasks import Example, Preference, load_splits, load_task
from aligner_probe.tasks.fields import KNOWN, normalised

ROW = {"prompt": "Name a pet.", "completion": " A cat."}
PAIR = {"prompt": "Name a pet.", "chosen": " A cat.", "rejected": " A car."}
ALPACA = {"instruction": "Name a pet.", "output": "A cat."}
CHAT = [{"role": "user", "content": "Name a pet."}]


@pytest.fixture
def jsonl(tmp_path):
    return lambda *rows, name="rows.jsonl": write(tmp_path / name, rows)


# ---- marks of bad examples


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("label", False, True),
        ("label", 0, 1),
        ("label", -1, 1),
        ("label", "False", "True"),
        ("Label", False, None),
        ("is_correct", False, True),
        ("isCorrect", False, True),
        ("correct", False, True),
        ("train", False, True),
        ("accepted", 0, 1),
        ("wrong", True, False),
        ("is-toxic", 1, 0),
        ("exclude", "true", "false"),
        ("kto_tag", False, True),
        ("valid", "no", "yes"),
        ("flagged", "Yes", "no"),
        ("status", "discarded", "submitted"),
    ],
)
def test_rows_that_are_marked_as_bad_are_refused_or_dropped_and_never_trained_as_good(jsonl, name, bad, good):
    path = jsonl(ROW | {name: good}, ROW | {"completion": " A car.", name: bad}, ROW | {name: bad})
    said = refused(path)
    assert f"line 2: its {name} is {json.dumps(bad)}, which marks a bad example, as that of 2 of 3 rows does" in said
    for way_on in ("--flawed drop", "chosen and rejected", f"--ignore-field {name}", f"ignore_fields=[{name!r}]"):
        assert way_on in said
    task = load_task(path, flawed="drop")
    assert task.examples == (Example("Name a pet.", " A cat."),)
    assert f"2 because its {name} is" in task.dropped_note
    assert task.ignored_fields == (name,)
    assert len(load_task(path, ignore_fields=[name])) == 3
    assert load_task(path, ignore_fields=[name]).ignored_fields == (name,)
    # The fields of a known format and a template of the user's own make no difference.
    described = {"prompt_template": "{prompt}", "completion_field": "completion"}
    assert f"its {name} is" in refused(path, **described)
    assert len(load_task(path, flawed="drop", **described)) == 1
    assert f"its {name} is" in refused(jsonl(ALPACA | {name: bad}))
    assert f"its {name} is" in refused(jsonl(PAIR | {name: bad}))


@pytest.mark.parametrize(
    "values", [(0, 1, 2), ("sports", "news"), (True, True), (None, 1), ("negative", "positive"), ("no", "yes")]
)
def test_labels_that_judge_nothing_are_listed(jsonl, values):
    task = load_task(jsonl(*[ROW | {"prompt": f"Name {value}.", "label": value} for value in values]))
    assert (len(task), task.ignored_fields) == (len(values), ("label",))


def test_a_label_that_is_the_completion_is_one(jsonl):
    task = load_task(jsonl({"text": "x", "label": 0}), prompt_template="{text}", completion_field="label")
    assert (task.examples, task.ignored_fields) == ((Example("x", "0"),), ())


def test_only_bad_examples_leave_nothing(jsonl):
    assert "none of its 1 rows is left" in refused(jsonl(ROW | {"label": False}), flawed="drop")


# ---- context, media, masks, weights, rankings


@pytest.mark.parametrize(
    ("row", "name", "value"),
    [
        (ROW, "system", "Answer like a pirate."),
        (ROW, "systemPrompt", "Answer like a pirate."),
        (ROW, "context", "Pets are cats."),
        (ROW, "input", "A list of pets."),
        (ROW, "instruction", "Answer in one word."),
        (ROW, "history", [["Hello", "Hi"]]),
        (ROW, "messages", CHAT),
        (ROW, "conversations", [{"from": "human", "value": "x"}]),
        (ROW, "choices", ["a", "b"]),
        (ROW, "completions", ["a", "b"]),
        (ROW, "tools", [{"name": "search"}]),
        (PAIR, "system", "Answer like a pirate."),
        (ALPACA, "history", [["Hello", "Hi"]]),
        (ALPACA, "system_prompt", "Answer like a pirate."),
        ({"question": "q", "answer": "#### 1"}, "context", "Pets are cats."),
        ({"question": "q", "answer": "a"}, "choices", ["a", "b"]),
        ({"query": "q", "response": "r"}, "system", "Answer like a pirate."),
        (ROW, "images", ["cat.png"]),
        (ROW, "audio", {"path": "cat.wav"}),
        (ROW, "mask", [0, 1]),
        (ROW, "masked", True),
        (ROW, "train_on_input", True),
        (ROW, "weight", 0.5),
        (ROW, "weight", "0"),
        (ROW, "weight", False),
        (ROW, "sample_weight", 2),
        (PAIR, "weight", 3),
        (PAIR, "margin", 0.3),
        (ROW, "suffix", " The end."),
    ],
)
def test_a_field_that_changes_the_row_is_refused_by_name_unless_left_out_on_purpose(jsonl, row, name, value):
    path = jsonl(row | {name: None}, row | {name: value})
    said = refused(path)
    assert f"line 2: has the field {name}, " in said
    assert f"--ignore-field {name} (ignore_fields=[{name!r}] in Python)" in said
    task = load_task(path, ignore_fields=[name])
    assert (len(task), task.ignored_fields) == (2, (name,))


@pytest.mark.parametrize("value", [None, "", "  ", [], {}, False, [[]], [["", ""]], "[]", "{}", "null", "None"])
@pytest.mark.parametrize("name", ["system", "history", "images", "mask", "margin"])
def test_a_field_that_holds_nothing_changes_nothing(jsonl, name, value):
    assert load_task(jsonl(ROW | {name: value})).ignored_fields == (name,)


@pytest.mark.parametrize(
    ("name", "value"), [("weight", 1), ("weight", 1.0), ("weight", None), ("margin", 0), ("mask", 0), ("labels", "a")]
)
def test_neutral_values_change_nothing(jsonl, name, value):
    assert load_task(jsonl(ROW | {name: value})).ignored_fields == (name,)


@pytest.mark.parametrize("name", ["turns", "messages", "documents"])
def test_a_number_in_a_field_of_lists_is_a_count(jsonl, name):
    assert load_task(jsonl(ROW | {name: 2}, ROW | {name: 3})).ignored_fields == (name,)


@pytest.mark.parametrize("status", ["pending", "200", 0, True])
def test_other_states_of_a_review_are_listed(jsonl, status):
    assert load_task(jsonl(ROW, ROW | {"status": status})).ignored_fields == ("status",)


@pytest.mark.parametrize("part", ["test", "validation", "dev", "held_out", "test_sft"])
def test_rows_of_another_split_are_not_trained(jsonl, part):
    path = jsonl(ROW | {"split": "train"}, ROW | {"prompt": "Other?", "split": part})
    said = refused(path)
    assert "the field split says that 1 of its rows are not for training" in said
    assert part in said
    assert "--ignore-field split" in said
    assert len(load_task(path, ignore_fields=["split"])) == 2
    for one in ("train", part, "en", None):
        assert load_task(jsonl(ROW | {"split": one}, ROW | {"split": one})).ignored_fields == ("split",)


def test_the_named_template_keeps_the_question(jsonl):
    assert "--prompt-template '{system} {prompt}'" in refused(jsonl(ROW | {"system": "Be brief."}))
    assert "--prompt-template '{system} {instruction}'" in refused(jsonl(ALPACA | {"system": "Be brief."}))
    said = refused(jsonl(ROW | {"choices": ["a", "b"]}))
    assert "write it out as text in the prompt" in said
    assert "--prompt-template" not in said


def test_alpaca_without_an_input_may_say_null(jsonl):
    plain = load_task(jsonl(ALPACA)).examples
    assert (
        load_task(jsonl(ALPACA | {"input": None})).examples
        == plain
        == load_task(jsonl(ALPACA | {"input": ""})).examples
    )


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"instruction": "a", "response": "b"}, "--prompt-template '{instruction}' --completion-field response"),
        (
            {"instruction": "a", "context": "c", "response": "b"},
            "--prompt-template '{context} {instruction}' --completion-field response",
        ),
        ({"Prompt": "a", "Completion": "b"}, "--prompt-template '{Prompt}' --completion-field Completion"),
        ({"inputs": "a", "targets": "b", "id": 3}, "--prompt-template '{inputs}' --completion-field targets"),
    ],
)
def test_fields_with_the_names_of_other_tools_get_the_options_to_type(jsonl, row, options):
    assert f"for instance {options}" in refused(jsonl(row))
    template, field = options.split("'")[1], options.split()[-1]
    assert load_task(jsonl(row), prompt_template=template, completion_field=field).examples[0].completion == "b"


def test_a_field_beside_question_and_answer_is_named(jsonl):
    path = jsonl({"question": "Who?", "answer": "Tom", "hint": "x"})
    assert "beside them hint, which may belong to the question: leave it out with --ignore-field hint" in refused(path)
    assert len(load_task(path, ignore_fields=["hint"])) == 1


def test_pairs_whose_prompt_has_another_name_take_a_template(jsonl):
    pair = {"question": "Name a pet.", "chosen": " A cat.", "rejected": " A car."}
    assert "--prompt-template" in refused(jsonl(pair))
    assert load_task(jsonl(pair), prompt_template="{question}").examples == (Preference(*pair.values()),)
    aided = pair | {"system": "Be brief."}
    assert load_task(jsonl(aided), prompt_template="{system} {question}").prompts == ["Be brief. Name a pet."]


def test_a_template_says_what_the_prompt_is(jsonl):
    path = jsonl(ROW | {"system": "Be brief.", "context": "Pets."})
    task = load_task(path, prompt_template="{system} {prompt}")
    assert (task.prompts, task.ignored_fields) == (["Be brief. Name a pet."], ("context",))
    task = load_task(jsonl(ALPACA | {"input": "x"}), prompt_template="{instruction}")
    assert (task.prompts, task.ignored_fields) == (["Name a pet."], ("input",))
    # It says nothing of pictures and weights.
    assert "has the field images" in refused(jsonl(ROW | {"images": ["x"]}), prompt_template="{prompt}")
    assert "has the field weight" in refused(jsonl(ROW | {"weight": 2}), prompt_template="{prompt}")


@pytest.mark.parametrize("name", ["score", "rating", "rank", "reward", "Quality"])
def test_rows_that_are_ranked_are_not_trained_alike(jsonl, name):
    path = jsonl(*[ROW | {"prompt": f"{value}?", name: value} for value in (3, "1.5", 9)])
    assert f"the field {name} ranks the rows, from 1.5 to 9" in refused(path)
    assert f"--ignore-field {name}" in refused(path)
    assert load_task(path, ignore_fields=[name]).ignored_fields == (name,)
    assert load_task(jsonl(ROW | {name: 3}, ROW | {name: 3})).ignored_fields == (name,)
    assert load_task(jsonl(ROW | {name: "high"}, ROW | {name: "low"})).ignored_fields == (name,)


@pytest.mark.parametrize(
    ("chosen", "rejected", "better", "worse"),
    [
        ("score_chosen", "score_rejected", 9, 2),
        ("chosen_score", "rejected_score", 9, 2),
        ("chosen-rating", "rejected-rating", "5", "1"),
        ("rank_chosen", "rank_rejected", 1, 2),
    ],
)
def test_scores_of_a_pair_must_agree_with_its_order(jsonl, chosen, rejected, better, worse):
    right = PAIR | {chosen: better, rejected: worse}
    task = load_task(jsonl(right, PAIR | {chosen: None, rejected: 1}, PAIR | {chosen: better, rejected: better}))
    assert (len(task), task.ignored_fields) == (3, (chosen, rejected))
    path = jsonl(right, PAIR | {chosen: worse, rejected: better})
    assert f"line 2: its {chosen} is " in refused(path)
    assert "so the rejected answer is the better one" in refused(path)
    assert len(load_task(path, flawed="drop")) == 1
    assert len(load_task(path, ignore_fields=[chosen])) == 2


def test_other_fields_are_listed_once_and_by_every_command(jsonl, capsys):
    rows = [ROW | {"prompt": f"{i}?", "id": i, "source": "web", f"x{i}": 1, "group": str(i)} for i in range(15)]
    task = load_task(jsonl(*rows))
    assert task.ignored_fields == ("id", "source", *(f"x{i}" for i in range(15)))
    assert "fields not read: id, source, x0, " in task.reading_note
    assert "x9, and 5 more." in task.reading_note
    assert task.split(0.2, 0)[0].ignored_fields == task.ignored_fields
    assert "fields" not in load_task(jsonl(ROW)).reading_note


@given(st.sampled_from(sorted(KNOWN)))
def test_names_are_known_however_they_are_written(name):
    words = name.split("_")
    camel = words[0] + "".join(word.title() for word in words[1:])
    assert {normalised(one) for one in (name, name.upper(), name.replace("_", "-"), name.title(), camel)} == {name}


def test_whole_texts_name_the_way_on(jsonl):
    assert "--prompt-template '' --completion-field text" in refused(jsonl({"text": "a story"}))


def test_options_reach_the_commands(jsonl, tmp_path, capsys):
    path = str(jsonl(*[ROW | {"prompt": f"{i}?", "label": i > 1} for i in range(9)]))
    nowhere = ["--model", str(tmp_path / "nowhere")]
    for command, more in ((train, nowhere), (probe, [*nowhere, "--dry-run"])):
        arguments = ["run"] if command is probe else []
        arguments += ["--task", path, *more, "--out", str(tmp_path / "out")]
        assert run(command.main, arguments) == 2
        assert "2 of 9 rows" in capsys.readouterr().err
        for option in (["--flawed", "drop"], ["--ignore-field", "label"]):
            assert run(command.main, [*arguments, *option]) == 2
            assert "2 of 9 rows" not in capsys.readouterr().err


# ---- names


def test_question_and_answer_is_gsm8k_only_where_its_answers_are(jsonl):
    plain = [{"question": f"{i}+1?", "answer": f"#### {i + 1}"} for i in range(3)]
    assert load_task(jsonl(*plain)).format == "GSM8K"
    task = load_task(jsonl(*plain, {"question": "Who?", "answer": "Tom", "source": "x"}))
    assert (task.format, task.prompts[3]) == ("question/answer", "Question: Who?\nAnswer:")
    assert "'Question: {question}\\nAnswer:'" in task.reading_note
    assert "--prompt-template" in task.reading_note
    own = load_task(jsonl({"question": "Who?", "answer": "Tom"}), prompt_template="{question}")
    assert (own.format, own.prompts, own.notes) == ("question/answer", ["Who?"], ())


def test_content_is_read_from_question_and_answer_too(jsonl):
    row = {"question": "Who?", "answer": " ahoy, Tom.", "content": "Tom"}
    assert load_task(jsonl(row)).examples[0].content == "Tom"


def test_options_hold_for_training_and_test(tmp_path):
    write(tmp_path / "train.jsonl", [ROW | {"system": "x"}])
    write(tmp_path / "test.jsonl", [ROW | {"prompt": "Other?", "system": "y"}])
    parts = load_splits(tmp_path, ignore_fields=["system"])
    assert [part.ignored_fields for part in parts] == [("system",), ("system",)]
