"""Answers that repeat their prompt: taken off where the file shows that it is meant, refused where it does not say."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import refused, write

from aligner_probe.tasks import Preference, load_task
from aligner_probe.tasks.repeats import _end_of, rest_of

ROW = {"prompt": "Name a pet.", "completion": " A cat."}
PAIR = {"prompt": "Name a pet.", "chosen": " A cat.", "rejected": " A car."}


@pytest.fixture
def jsonl(tmp_path):
    return lambda *rows, name="rows.jsonl": write(tmp_path / name, rows)


HUMAN = "\n\nHuman: Name a pet, please.\n\nAssistant:"


@pytest.mark.parametrize("start", [HUMAN, HUMAN.strip(), HUMAN.replace("\n\n", "\n"), f" {HUMAN} "])
def test_a_prompt_that_both_answers_repeat_is_taken_off(jsonl, start):
    path = jsonl({"prompt": HUMAN, "chosen": f"{start} A cat.", "rejected": f"{start} A car."}, PAIR)
    task = load_task(path)
    first = task.examples[0]
    assert (first.prompt, first.chosen.strip(), first.rejected.strip()) == (HUMAN, "A cat.", "A car.")
    assert task.examples[1] == Preference(*PAIR.values())
    assert "The answers of 1 row repeated the prompt, which was taken off." in task.reading_note
    assert load_task(path, repeated_prompt="keep").examples[0].chosen == f"{start} A cat."
    wrapped = load_task(path, prompt_template="<{prompt}>")
    assert (wrapped.prompts[0], wrapped.examples[0].chosen.strip()) == (f"<{HUMAN}>", "A cat.")


def test_completions_that_all_repeat_their_prompt_lose_it(jsonl):
    rows = [{"prompt": f"Question {i}: why?", "completion": f"Question {i}: why?\nBecause."} for i in range(3)]
    assert {example.completion for example in load_task(jsonl(*rows)).examples} == {"\nBecause."}
    said = refused(jsonl(ROW, *rows))
    assert "line 2: the completion begins with the whole prompt, as 3 of 4 completions do" in said
    assert "--repeated-prompt strip" in said
    taken_off = load_task(jsonl(ROW, *rows), repeated_prompt="strip")
    assert [example.completion for example in taken_off.examples] == [" A cat.", *["\nBecause."] * 3]
    kept = load_task(jsonl(ROW, *rows), repeated_prompt="keep")
    assert kept.examples[1].completion == rows[0]["completion"]


def test_a_pair_of_which_one_answer_repeats_the_prompt_is_refused(jsonl):
    said = refused(jsonl({"prompt": HUMAN, "chosen": f"{HUMAN} A cat.", "rejected": " A car."}))
    assert "line 1: only the chosen answer begins with the whole prompt" in said


def test_a_published_question_may_be_said_again_in_an_answer(jsonl):
    answers = {"response_0": "Why is it so? I do not know.", "response_1": "Because.", "safer_response_id": 0}
    row = {"prompt": "Why is it so?"} | answers
    assert load_task(jsonl(row)).examples[0].chosen == answers["response_0"]


def test_short_prompts_may_stand_at_the_start_of_an_answer(jsonl):
    """An echo is an answer, and so is a word that begins like the prompt."""
    echo = [{"prompt": "cat", "completion": "cat cat"}, {"prompt": "dog", "completion": "dog dog"}]
    assert [example.completion for example in load_task(jsonl(*echo)).examples] == ["cat cat", "dog dog"]
    copy = {"prompt": "the cat sat", "completion": "the cat sat"}
    assert load_task(jsonl(copy)).examples[0].completion == "the cat sat"


@pytest.mark.parametrize(
    ("answer", "prompt", "rest"),
    [
        ("The cat sat.", "The cat", " sat."),
        ("The category", "The cat", None),
        ("The  cat\nsat", "The cat ", "sat"),
        ("The cat", "The cat", None),
        ("A: The cat", "The cat", None),
        ("法国的首都是巴黎。", "法国的首都", "是巴黎。"),
        ("anything", "", None),
        ("anything", " ", None),
    ],
)
def test_what_follows_a_repeated_prompt(answer, prompt, rest):
    assert rest_of(answer, prompt) == rest


@given(st.text(max_size=20), st.text(max_size=20))
def test_what_follows_is_always_the_end_of_the_answer(prompt, rest):
    found = rest_of(prompt + rest, prompt)
    assert found is None or (prompt + rest).endswith(found)
    if prompt.strip() and rest.strip() and rest[0].isspace() and not prompt[-1].isspace():
        assert found == rest


@given(
    st.lists(st.sampled_from(["a", "A:", "(b", ".", "é", "\n", " ", "\x1c", "\u00a0", "\u200b", "\t "]), max_size=9),
    st.lists(st.sampled_from(["a", "A:", "(b", ".", "é", "\n", " ", "\x1c", "\u00a0", "\u200b", "\t "]), max_size=9),
)
def test_words_end_where_the_pattern_of_them_ends(prompt, rest):
    """The pattern: these words, with white space between them and perhaps before them."""
    words, answer = "".join(prompt).split(), "".join([*prompt, *rest])
    for said in (answer, answer[1:], " ".join(answer.split())):
        found = re.match(r"\s*" + r"\s+".join(map(re.escape, words)), said)
        assert _end_of(words, said) == (found.end() if found and words else 0 if not words else None)
