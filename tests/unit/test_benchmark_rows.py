"""Rows of GSM8K, MMLU and the Vicuna questions: forms that mean the same, and flaws that are named with their line."""

import json

import chats
import pytest
import real_runs

from aligner_probe.errors import AlignerProbeError
from aligner_probe.reproduction.data_names import DataNames
from aligner_probe.reproduction.real_data import read_data
from aligner_probe.tasks.benchmark_rows import gsm8k_number, mmlu_row, vicuna_row
from aligner_probe.tasks.sources import open_source

FLAT = {"question": "1 + 1?", "A": "3", "B": "2", "C": "4", "D": "5", "answer": "B", "subject": "algebra"}
OF_HUB = {"question": "1 + 1?", "choices": ["3", "2", "4", "5"], "answer": 1, "subject": "algebra"}


def source_of(folder, rows):
    file = folder / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_source(file)


@pytest.mark.parametrize("row", [FLAT, OF_HUB, OF_HUB | {"answer": "B"}], ids=["letters", "hub", "hub, letter"])
def test_both_forms_of_mmlu_are_read_as_the_hub_has_them(row, tmp_path):
    assert mmlu_row(source_of(tmp_path, [row]), 1, row) == OF_HUB


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 4}, "line 1: the answer is '4'; expected one of A, B, C, D, or its index"),
        ({"answer": True}, "line 1: the answer is 'True'"),
        ({"answer": None}, "line 1: the answer is 'None'"),
        ({"choices": ["3", "2"]}, r"line 1: has the choices \['3', '2'\]; expected a list of 4 texts"),
        ({"choices": 4}, "line 1: has the choices 4; expected a list of 4 texts"),
        ({"choices": [1, 2, 3, 4]}, "line 1: has the choices"),
        ({"subject": 3}, "line 1: has no text 'subject'"),
    ],
)
def test_a_row_of_mmlu_that_cannot_be_asked_is_named(change, message, tmp_path):
    row = OF_HUB | change
    with pytest.raises(AlignerProbeError, match=message):
        mmlu_row(source_of(tmp_path, [row]), 1, row)


@pytest.mark.parametrize("asked", [{"text": "Who?"}, {"turns": ["Who?"]}, {"turns": ["Who?", "And then?"]}])
def test_a_vicuna_question_is_a_text_or_the_first_of_its_turns(asked, tmp_path):
    """FastChat publishes the questions with turns, which were refused."""
    row = {"question_id": 1, "category": "generic"} | asked
    assert vicuna_row(source_of(tmp_path, [row]), 1, row) == {"text": "Who?", "category": "generic"}


@pytest.mark.parametrize("asked", [{}, {"text": ""}, {"text": 3}, {"turns": []}, {"turns": [4]}, {"turns": "Who?"}])
def test_a_vicuna_question_without_a_text_is_named(asked, tmp_path):
    row = {"category": "generic"} | asked
    with pytest.raises(AlignerProbeError, match=r"line 1: has no question \(it has category.*list 'turns'"):
        vicuna_row(source_of(tmp_path, [row]), 1, row)


def test_the_number_of_an_answer_stands_behind_the_last_mark():
    assert gsm8k_number("2+2=<<2+2=4>>4 #### no\n#### 1,004 ") == "1,004"


@pytest.mark.parametrize(
    ("part", "row", "message"),
    [
        ("mmlu", FLAT | {"answer": "E"}, "line 1: the answer is 'E'; expected one of A, B, C, D"),
        ("gsm8k", {"question": "How many?", "answer": "4"}, "line 1: the answer '4' does not say the number"),
    ],
)
def test_a_reproduction_refuses_questions_that_nobody_can_answer_right(part, row, message, tmp_path):
    data = real_runs.write_data(tmp_path)
    source_of(data / part, [row])
    with pytest.raises(AlignerProbeError, match=message):
        read_data(DataNames.of(data), real_runs.TINY, ("math",), chats.tokenizer("chatml"), chat=False, n_ctx=512)
