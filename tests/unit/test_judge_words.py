"""From a question to a judge's words and back to a verdict; files of prompts, questions and answers; the store."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_probe.errors import AlignerProbeError
from aligner_probe.judging.asking import ask_all, n_missing
from aligner_probe.judging.asks import Answer, key_of
from aligner_probe.judging.given import read_answers, read_questions, read_requests
from aligner_probe.judging.hiding import HIDDEN, Secrets, without_password
from aligner_probe.judging.prompts import OWN, JudgePrompts, read_prompts
from aligner_probe.judging.store import AnswerStore
from aligner_probe.judging.verdicts import explanation_of, schema_of, verdict_of

PROMPTS = JudgePrompts(dict(OWN))
PAIR = PROMPTS.ask("pair", "q", "a", "b")
SINGLE = PROMPTS.ask("single", "q", "a")


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("ask", "text", "verdict"),
    [
        (PAIR, "A is short. [[B]]", "[[B]]"),
        (PAIR, "[[B]], I repeat: [[B]]", "[[B]]"),
        (PAIR, "[[ C ]]", "[[C]]"),
        (PAIR, "[[A]] or [[B]]", None),
        (PAIR, "[[A]] or [[D]]", None),
        (PAIR, "[A]", None),
        (PAIR, '{"explanation": "[[B]] is worse", "verdict": "[[A]]"}', "[[A]]"),
        (PAIR, '```json\n{"explanation": "x", "verdict": "A"}\n```', "[[A]]"),
        (PAIR, '{"explanation": "[[A]]"}', None),
        (PAIR, '{"verdict": null, "explanation": "[[A]]"}', None),
        (SINGLE, "Rating: [[5]]", "5"),
        (SINGLE, "Rating: [[7.5]]", "7.5"),
        (SINGLE, "Rating: [[11]]", None),
        (SINGLE, "Rating: [[0]]", None),
        (SINGLE, "Rating: [[C]]", None),
        (SINGLE, "Rating: [[rating]]", None),
        (SINGLE, "[[8]] then [[9]]", None),
        (SINGLE, '{"explanation": "", "verdict": 10}', "10"),
        (SINGLE, '{"explanation": "", "verdict": true}', None),
        (SINGLE, "I give it a 7", None),
    ],
)
def test_a_verdict_is_read_or_there_is_none(ask, text, verdict):
    assert verdict_of(ask, Answer("complete", text)) == verdict


@given(st.text(), st.sampled_from(["cut off", "refused", "unreadable", "missing"]))
def test_only_a_complete_answer_has_a_verdict(text, status):
    assert verdict_of(PAIR, Answer(status, text + "[[A]]")) is None


@given(st.text(alphabet='ab[]{}":,C\n'))
def test_a_verdict_is_always_one_that_was_offered(text):
    assert verdict_of(PAIR, Answer("complete", text)) in (*PAIR.choices, None)


def test_the_schema_offers_what_the_prompt_offers():
    assert schema_of(PAIR)["properties"]["verdict"]["enum"] == ["[[A]]", "[[B]]", "[[C]]"]
    assert schema_of(SINGLE)["properties"]["verdict"]["enum"] == list(range(1, 11))
    assert list(schema_of(PAIR)["properties"]) == ["explanation", "verdict"]
    assert explanation_of(Answer("complete", '{"explanation": "short", "verdict": "[[A]]"}')) == "short"
    assert explanation_of(Answer("complete", "why. [[A]]")) == "why. [[A]]"


def test_a_question_with_braces_or_marks_stays_what_it_is():
    ask = PROMPTS.ask("pair", "what is {answer_a} in f'{x}'?", "{question}", "{answer_b}")
    assert "what is {answer_a} in f'{x}'?" in ask.messages[1][1]
    assert "[Answer A]\n{question}\n" in ask.messages[1][1]
    assert "[Answer B]\n{answer_b}\n" in ask.messages[1][1]


def test_the_published_prompts_are_those_of_the_paper():
    prompts = read_prompts()
    if prompts == PROMPTS:
        pytest.skip("no data/vicuna80; set ALIGNER_PROBE_DATA to a folder with it")
    ask = prompts.ask("pair", "Q?", "one", "two")
    assert ask.prompt == "pair-v2 of judge_prompts.jsonl"
    assert ask.choices == ("[[A]]", "[[B]]", "[[C]]")
    assert ask.messages[0][1].startswith("Please act as an impartial judge")
    assert "[The Start of Assistant A's Answer]\none\n" in ask.messages[1][1]
    known = prompts.ask("pair", "Q?", "one", "two", reference="three")
    assert known.prompt == "pair-math-v1 of judge_prompts.jsonl"
    assert "[The Start of Reference Answer]\nthree\n" in known.messages[1][1]
    questions = read_questions("vicuna")
    assert len(questions) == 80
    assert len({question.category for question in questions}) == 9
    assert questions[0].text == "How can I improve my time management skills?"


def test_a_file_of_prompts_that_lacks_something_is_refused(tmp_path):
    good = {"name": "pair-v2", "system_prompt": "[[A]] [[B]]", "prompt_template": "{question}{answer_a}{answer_b}"}
    single = {"name": "single-v1", "system_prompt": "", "prompt_template": "{question}{answer}"}
    prompts = read_prompts(jsonl(tmp_path / "good", good, single))
    assert prompts.ask("pair", "q", "a", "b").choices == ("[[A]]", "[[B]]")
    assert prompts.ask("single", "q", "a").messages == (("user", "qa"),)
    assert prompts.prompt("pair", "reference") == OWN["pair", True]
    for rows, message in (
        ([good], "no prompt named single-v1"),
        ([good | {"prompt_template": "{question}{answer_a}"}, single], "lacks {answer_b}"),
        ([good | {"system_prompt": "[[A]]"}, single], "does not offer"),
        ([{"name": "pair-v2"}], "expected JSONL with name"),
    ):
        with pytest.raises(AlignerProbeError, match=message):
            read_prompts(jsonl(tmp_path / "bad", *rows))
    with pytest.raises(AlignerProbeError, match="expected JSONL"):
        read_prompts(tmp_path / "none")


def test_answers_find_their_questions(tmp_path):
    questions = read_questions(
        jsonl(
            tmp_path / "q",
            {"question_id": 7, "text": "seven?", "category": "x", "reference": ["r", "s"]},
            {"question_id": 8, "text": "eight?"},
        )
    )
    assert [(q.id, q.text, q.category, q.reference) for q in questions] == [
        ("7", "seven?", "x", "r"),
        ("8", "eight?", "", None),
    ]
    by_id = jsonl(tmp_path / "a", {"question_id": 8, "answer": "b"}, {"question_id": 7, "answer": "a"})
    by_text = jsonl(tmp_path / "b", {"prompt": "eight?", "output": "b"}, {"prompt": "seven?", "output": "a"})
    in_order = jsonl(tmp_path / "c", {"completion": "a"}, {"completion": "b"})
    for file in (by_id, by_text, in_order):
        assert read_answers(file, questions) == ["a", "b"]
    for rows, message in (
        ([{"question_id": 7, "answer": "a"}], "1 of 2 questions have no answer, the first is 8"),
        ([{"question_id": 7, "answer": "a"}] * 2, "question 7 has two answers"),
        ([{"question_id": 9, "answer": "a"}], "row 1 answers none"),
        ([{"answer": "a"}], "1 answers without question_id"),
        ([{"question_id": 7}], "row 1 has no text named answer"),
        ([[1]], "line 1 is no JSON object"),
        ([{"question_id": 7, "answer": "\ud83d"}], "row 1 .*whole characters"),
    ):
        with pytest.raises(AlignerProbeError, match=message):
            read_answers(jsonl(tmp_path / "bad", *rows), questions)
    # without ids, the text decides and not the number of the row, but for the same question asked twice
    unnumbered = read_questions(jsonl(tmp_path / "u", {"question": "one?"}, {"question": "two?"}))
    swapped = jsonl(
        tmp_path / "s", {"id": 1, "question": "two?", "answer": "b"}, {"id": 2, "question": "one?", "answer": "a"}
    )
    assert read_answers(swapped, unnumbered) == ["a", "b"]
    same = read_questions(jsonl(tmp_path / "v", {"question": "one?"}, {"question": "one?"}))
    numbered = jsonl(tmp_path / "w", *({"id": i, "question": "one?", "answer": str(i)} for i in (2, 1)))
    assert read_answers(numbered, same) == ["1", "2"]
    with pytest.raises(AlignerProbeError, match="'7' stands twice"):
        read_questions(jsonl(tmp_path / "twice", {"id": 7, "text": "a"}, {"id": 7, "text": "b"}))
    with pytest.raises(AlignerProbeError, match=r"row 1 has no text named question, prompt, .*turns"):
        read_questions(jsonl(tmp_path / "none", {"id": 7, "text": " "}))
    requests = read_requests(jsonl(tmp_path / "r", {"prompt": "p", "category": "c", "answer": "a"}))
    assert (requests[0].text, requests[0].category, requests[0].answer) == ("p", "c", "a")


def test_a_judge_is_shown_the_question_that_was_asked(tmp_path):
    """An instruction with its input, as `generate` asks it, and the first turn of FastChat's questions."""
    alpaca = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    file = jsonl(tmp_path / "a", alpaca, alpaca | {"input": "3 and 4", "output": "7"})
    questions = read_questions(file)
    assert [question.text for question in questions] == ["Add.\n\n1 and 2", "Add.\n\n3 and 4"]
    assert [request.text for request in read_requests(file)] == [question.text for question in questions]
    swapped = jsonl(tmp_path / "b", alpaca | {"input": "3 and 4", "output": "7"}, alpaca)
    assert read_answers(swapped, questions) == ["3", "7"]
    asked = [{"question": question.text, "answer": str(i)} for i, question in enumerate(questions)]
    assert read_answers(jsonl(tmp_path / "c", *reversed(asked)), questions) == ["0", "1"]
    turns = jsonl(tmp_path / "d", {"question_id": 81, "category": "writing", "turns": ["Write.", "Write it again."]})
    assert [(question.id, question.text) for question in read_questions(turns)] == [("81", "Write.")]


class Echo:
    """A judge that says "[[A]]" and counts what it is asked."""

    name = "echo"

    def __init__(self, **identity):
        self.identity, self.asked = identity, []

    def answer(self, asks, told):
        for index, ask in enumerate(asks):
            self.asked.append(ask)
            told(index, Answer("missing" if ask.question == "broken" else "complete", "[[A]]"))


def test_each_different_ask_is_asked_once_and_kept(tmp_path):
    judge = Echo(model="m")
    store = AnswerStore(tmp_path, judge.identity)
    broken = PROMPTS.ask("pair", "broken", "a", "b")
    assert n_missing([PAIR, PAIR, SINGLE, broken], store) == 3
    answers = ask_all([PAIR, PAIR, SINGLE, broken], judge, store)
    assert [answer.status for answer in answers] == ["complete", "complete", "complete", "missing"]
    assert len(judge.asked) == 3
    assert n_missing([PAIR, PAIR, SINGLE, broken], store) == 1
    ask_all([PAIR, SINGLE], judge, store)
    assert len(judge.asked) == 3
    kept = next(file for file in tmp_path.rglob("*.json") if json.loads(file.read_text())["asked"]["choices"][0] == "1")
    kept.write_text(kept.read_text()[:-20])
    with pytest.raises(AlignerProbeError, match=r"is damaged.*remove it"):
        ask_all([SINGLE], judge, store)


def test_everything_an_answer_depends_on_is_in_its_key():
    keys = {
        key_of(identity, ask)
        for identity in ({"model": "m"}, {"model": "m", "settings": {"temperature": 1}})
        for ask in (
            PAIR,
            PROMPTS.ask("pair", "q", "b", "a"),
            PROMPTS.ask("pair", "q", "a", "b", repeat=1),
            PROMPTS.ask("pair", "q", "a", "b", reference="r"),
            SINGLE,
        )
    }
    assert len(keys) == 10


def test_two_processes_do_not_pay_for_the_same_answer(tmp_path):
    store = AnswerStore(tmp_path, {})
    with store.asking(), pytest.raises(AlignerProbeError, match="another process asks a judge"):
        ask_all([PAIR], Echo(), store)


def test_secrets_are_hidden_in_every_spelling():
    secrets = Secrets(["sk-12/34+56=", None, "none", "sk-12/34"])
    shown = secrets.hide("sk-12/34+56= sk-12%2F34%2B56%3D sk-12/34 none")
    assert shown == f"{HIDDEN} {HIDDEN} {HIDDEN} none"
    address, hidden = without_password("https://me:pass@host:8/v1/?key=abc")
    assert address == "https://host:8/v1"
    assert {"me", "pass", "abc"} <= set(hidden)


def test_a_password_is_hidden_as_the_address_has_it_and_as_the_client_sends_it():
    _, hidden = without_password("https://me%40home:long%2Fpass%20word@host/v1")
    sent = base64.b64encode(b"me@home:long/pass word").decode()
    shown = Secrets(hidden).hide(f"long%2Fpass%20word, long/pass word, Basic {sent}")
    assert shown == f"{HIDDEN}, {HIDDEN}, Basic {HIDDEN}"
    assert base64.b64encode(b"me:").decode() in without_password("https://me@host/v1")[1]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http:///v1", "has no host"),
        ("local:8000", "has no host"),
        ("http://[::1/v1", "has no host"),
        ("http://localhost:80a0/v1", "has a port that is no number"),
        ("http://me:12/34@host/v1", "has an @ behind its host"),
        ("http://me:12?34@host/v1", "has an @ behind its host"),
        ("http://me:pass#word@host/v1", "has a #"),
        ("http://me:pass word@host/v1", "has spaces or unprintable characters"),
        ("http://host/v1\n", "has spaces or unprintable characters"),
    ],
)
def test_an_address_that_is_none_is_refused_without_being_shown(url, message):
    with pytest.raises(AlignerProbeError, match=f"OPENAI_BASE_URL.* {message}.*percent-encoded") as error:
        without_password(url)
    for part in (url, "pass", "word", "12", "80a0", "\n"):
        assert part not in str(error.value).replace("password", "")
