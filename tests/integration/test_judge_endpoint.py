"""An endpoint as a judge, against a real server on the loopback that misbehaves."""

import json
import logging
import re

import pytest
from judge_asking import KEY, PROMPTS, asked, endpoint, ours_is_first, pairs, prefers_ours
from judge_server import failed, said, serving, user_text

from aligner_probe.errors import AlignerProbeError
from aligner_probe.judging.asking import ask_all
from aligner_probe.judging.battles import asks_of, battles_of, rates_of
from aligner_probe.judging.calibration import known_pairs
from aligner_probe.judging.endpoint import Endpoint, read_response
from aligner_probe.judging.evaluate import Setting, judge_pairs
from aligner_probe.judging.prompts import OWN, JudgePrompts
from aligner_probe.judging.store import AnswerStore
from aligner_probe.judging.verdicts import verdict_of

pytest.importorskip("openai")


def files_of(folder):
    return {file: file.read_text() for file in folder.rglob("*.json")}


def test_a_rerun_asks_nothing_and_a_request_says_what_it_should(tmp_path):
    asks = asks_of(pairs(3), PROMPTS)
    with serving(prefers_ours) as server:
        first = asked(server, tmp_path, asks)
        assert len(server.seen) == 6
        assert all(request["temperature"] == 0 and request["model"] == "judge" for request in server.seen)
        assert all(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)
        assert asked(server, tmp_path, asks) == first
        # another setting, model or repeat is another ask
        asked(server, tmp_path, asks, settings={"max_tokens": 7})
        assert len(server.seen) == 12
        asked(server, tmp_path, asks_of(pairs(3), PROMPTS, repeats=2))
        assert len(server.seen) == 18
    answers = dict(zip(asks, first, strict=True))
    assert [battle.value for battle in battles_of(pairs(3), answers, PROMPTS)] == [1, 1, 1]


def test_the_client_obeys_retry_after_and_tries_500_again(tmp_path):
    def script(request, before):
        trouble = {0: failed(429, headers={"Retry-After": "1"}), 1: failed(500)}
        return trouble.get(before) or prefers_ours(request, before)

    ask = asks_of(pairs(1), PROMPTS)[:1]
    with serving(script) as server:
        [answer] = asked(server, tmp_path, ask, max_retries=2)
    assert verdict_of(ask[0], answer) == "[[A]]"
    assert len(server.seen) == 3
    assert server.times[1] - server.times[0] >= 0.99


def test_what_never_came_is_missing_and_only_that_is_asked_again(tmp_path):
    broken = {"question 0": {"hang": True}, "question 1": failed(500), "question 2": failed(400, "too long")}
    healthy = False

    def script(request, before):
        which = next((what for name, what in broken.items() if name in user_text(request)), None)
        return prefers_ours(request, before) if which is None or healthy else which

    asks = asks_of(pairs(5), PROMPTS)
    with serving(script) as server:
        answers = asked(server, tmp_path, list(reversed(asks)), max_retries=0, timeout=2)
        statuses = [answer.status for answer in reversed(answers)]
        assert statuses == ["missing"] * 6 + ["complete"] * 4
        reasons = {answer.text for answer in answers if answer.status == "missing"}
        assert any("silent" in reason for reason in reasons)
        assert any("HTTP 500" in reason for reason in reasons)
        assert any("too long" in reason for reason in reasons)
        paid = dict(server.paid)
        healthy, n = True, len(server.seen)
        asked(server, tmp_path, asks)
        assert len(server.seen) == n + 6
        assert set(server.paid.values()) == {1}
        assert set(paid) < set(server.paid)


BROKEN = {
    "broken JSON": {"status": 200, "body": '{"choices": [{"message": {"content": "[[A]]"'},
    "no choices": {"status": 200, "body": '{"choices": []}'},
    "a list": {"status": 200, "body": '["[[A]]"]'},
    "no content": said(None),
    "tool call": said("[[A]]", finish="tool_calls"),
    "not even JSON": {"status": 200, "body": "[[A]]", "headers": {"Content-Type": "text/html"}},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_has_no_verdict_and_is_not_paid_twice(name, tmp_path):
    asks = asks_of(pairs(1), PROMPTS)
    with serving(lambda request, before: BROKEN[name]) as server:
        for _ in range(2):
            answers = asked(server, tmp_path, asks)
            assert [answer.status for answer in answers] == ["unreadable"] * 2
        assert len(server.seen) == 2
    assert [verdict_of(ask, answer) for ask, answer in zip(asks, answers, strict=True)] == [None, None]


def test_half_a_character_is_kept_as_a_question_mark(tmp_path):
    half = {"status": 200, "body": said("because SMILE [[A]]")["body"].replace("SMILE", "\\ud83d")}
    asks = asks_of(pairs(1), PROMPTS)
    with serving(lambda request, before: half) as server:
        first = asked(server, tmp_path, asks)
        assert asked(server, tmp_path, asks) == first
    assert first[0].text == "because ? [[A]]"
    assert verdict_of(asks[0], first[0]) == "[[A]]"


def test_an_error_with_status_200_is_missing():
    """As routers report what failed behind them."""
    assert read_response('{"error": {"message": "overloaded"}}', "pattern").status == "missing"


@pytest.mark.parametrize(
    ("what", "status"),
    [
        (said("[[A]] is what I would say, and the reason is", finish="length"), "cut off"),
        (said("", refusal="I cannot judge this [[A]]"), "refused"),
        (said("[[A]]", finish="content_filter"), "refused"),
        (said("[[A]] or [[B]], who knows"), "complete"),
        (said("[[D]]"), "complete"),
        (said("A"), "complete"),
        (said(""), "complete"),
        (said('{"explanation": "[[A]] is good", "verdict": "neither"}'), "complete"),
    ],
)
def test_a_verdict_that_is_not_there_is_not_made(what, status, tmp_path):
    [pair] = pairs(1)
    with serving(lambda request, before: what) as server:
        result = judge_pairs([pair], Setting.of(endpoint(server), PROMPTS, tmp_path, n_known=2))
    assert result.rates[""].undecided == 1
    assert result.rates[""].rate is None
    assert result.rates[""].bounds == (0.0, 1.0)
    assert result.asked.outcomes == {"unparsed" if status == "complete" else status: 2}
    assert (result.accuracy.right, result.accuracy.undecided) == (0, 2)


def test_a_tie_counts_only_where_the_prompt_offers_it(tmp_path):
    """A first answer of status 400, then "[[C]]" from a prompt without ties: two without a verdict, and no win."""
    no_ties = OWN["pair", False].system.replace(', "[[C]]" if they are equally good', "")
    assert "[[C]]" not in no_ties
    for system, n_ties in ((OWN["pair", False].system, 2), (no_ties, 0)):
        prompts = JudgePrompts(
            {**OWN, ("pair", False): type(OWN["pair", False])("p", system, OWN["pair", False].template)}
        )
        one, other = pairs(2)
        asks = asks_of([one, other], prompts)

        def script(request, before):
            return failed(400) if "question 0" in user_text(request) and ours_is_first(request) else said("[[C]]")

        with serving(script) as server:
            answers = dict(zip(asks, asked(server, tmp_path, asks), strict=True))
        values = [battle.value for battle in battles_of([one, other], answers, prompts)]
        assert values == [None, 0.5 if n_ties else None]
        rates = rates_of(values)
        assert (rates.wins, rates.losses, rates.ties) == (0, 0, 1 if n_ties else 0)


def test_orders_that_disagree_are_a_tie_and_one_battle(tmp_path):
    with serving(lambda request, before: said("[[A]]")) as server:
        result = judge_pairs(pairs(4), Setting.of(endpoint(server), PROMPTS, tmp_path, n_known=2))
    rates = result.rates[""]
    assert (rates.wins, rates.losses, rates.ties, rates.order_dependent, rates.n) == (0, 0, 4, 4, 4)
    assert result.first_preferred == 1.0
    assert not result.accuracy.enough


def test_repeats_show_contradictions(tmp_path):
    def script(request, before):
        changes = "question 0" in user_text(request) and before > 0
        return said("[[C]]") if changes else prefers_ours(request, before)

    with serving(script) as server:
        setting = Setting.of(endpoint(server), PROMPTS, tmp_path, n_known=2, repeats=3)
        result = judge_pairs(pairs(3), setting)
    assert result.asked.contradicted == (2, 6)
    assert result.of_repeats == (1.0, pytest.approx(2.5 / 3), pytest.approx(2.5 / 3))
    assert result.rates[""].wins == 3


def test_a_key_that_is_echoed_is_in_no_log_cache_or_error(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    quoted = KEY.replace("/", "%2F")

    def script(request, before):
        if "question 0" in user_text(request):
            return failed(400, f"bad request with key {KEY}", headers={"X-Key": KEY})
        answer = said(f"your key is {KEY}. [[A]]")
        if "question 1" in user_text(request):  # another spelling in JSON
            answer["body"] = answer["body"].replace("/", "\\/").replace("secret", "\\u0073ecret")
        return answer | {"headers": {"X-Key": KEY, "Set-Cookie": f"k={quoted}"}}

    with serving(script) as server:
        url = server.url.replace("http://", "http://user:long-password@") + "?token=token-in-the-address"
        judge = Endpoint("judge", base_url=url, key=KEY, verdicts="pattern", max_retries=0, timeout=2)
        answers = ask_all(asks_of(pairs(3), PROMPTS), judge, AnswerStore(tmp_path, judge.identity))
    assert sum(answer.status == "complete" for answer in answers) == 4
    kept = "".join(files_of(tmp_path).values())
    assert "[key hidden]" in kept
    shown = kept + repr(answers) + judge.name + json.dumps(judge.identity) + caplog.text
    assert re.search("127.0.0.1", shown)
    for secret in (KEY, quoted, "long-password", "token-in-the-address"):
        assert secret not in shown, secret


def test_a_password_that_comes_back_as_the_client_sent_it_is_not_kept(tmp_path):
    def script(request, before):
        return said(f"you are {server.headers[-1]['authorization']} or me@home:long/password [[A]]")

    with serving(script) as server:
        url = server.url.replace("http://", "http://me%40home:long%2Fpassword@")
        judge = Endpoint("judge", base_url=url, key=KEY, verdicts="pattern")
        ask_all(asks_of(pairs(1), PROMPTS), judge, AnswerStore(tmp_path, judge.identity))
        assert server.headers[0]["authorization"].startswith("Basic ")
        kept = "".join(files_of(tmp_path).values())
        assert server.headers[0]["authorization"].removeprefix("Basic ") not in kept
    assert "you are Basic [key hidden]" in kept
    assert "long" not in kept


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (failed(401, f"wrong key {KEY}"), "refuses to work: HTTP 401.*key hidden"),
        (failed(402, "no money"), "refuses to work: HTTP 402"),
        (failed(404, "no such model"), "refuses to work: HTTP 404"),
        (failed(429, "pay first", code="insufficient_quota"), "pay first"),
    ],
)
def test_what_cannot_succeed_stops_at_once(what, message, tmp_path):
    with serving(lambda request, before: what) as server:
        with pytest.raises(AlignerProbeError, match=message) as error:
            asked(server, tmp_path, asks_of(pairs(20), PROMPTS), max_retries=0)
        assert len(server.seen) <= 2
    assert KEY not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("status", [400, 403, 413, 415, 422])
def test_requests_that_are_rejected_for_themselves_stop_nothing(status, tmp_path):
    """A rerun, in which only rejected asks are left, comes to its end, and takes what the server accepts by then."""
    healthy = False

    def script(request, before):
        rejected = "question 1" not in user_text(request) and not healthy
        return failed(status, "too long") if rejected else prefers_ours(request, before)

    asks = asks_of(pairs(12), PROMPTS)
    with serving(script) as server:
        for _ in range(2):
            answers = asked(server, tmp_path, asks, max_retries=0)
            assert [answer.status for answer in answers].count("missing") == 18
        assert len(server.seen) == 24 + 18
        healthy = True
        assert {answer.status for answer in asked(server, tmp_path, asks)} == {"complete"}


def test_a_server_that_rejects_everything_is_left_after_the_calibration(tmp_path):
    with serving(lambda request, before: failed(403, f"no rights for {KEY}")) as server:
        setting = Setting.of(endpoint(server, max_retries=0), PROMPTS, tmp_path, n_known=3)
        with pytest.raises(
            AlignerProbeError, match=r"gave none of the 6 answers.*HTTP 403: no rights.*--setting"
        ) as error:
            judge_pairs(pairs(20), setting)
        assert len(server.seen) == 6
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "the model's name"):
        assert name in str(error.value)
    assert KEY not in str(error.value)
    assert "\n" not in str(error.value)


def test_calibration_answers_that_never_came_are_told_from_those_without_a_verdict(tmp_path):
    known = [pair.question for pair, _ in known_pairs(4)]
    assert len(set(known)) == 4

    def script(request, before):
        text = user_text(request)
        return failed(400, "too long") if known[0] in text else said("who knows")

    with serving(script) as server:
        accuracy = judge_pairs(pairs(2), Setting.of(endpoint(server), PROMPTS, tmp_path, n_known=4)).accuracy
    assert (accuracy.right, accuracy.n, accuracy.undecided, accuracy.n_missing) == (0, 4, 3, 2)
    assert "3 without a verdict" in str(accuracy)
    assert "2 answers never came" in str(accuracy)


def test_a_server_that_only_fails_is_left_after_a_few_requests(tmp_path):
    with serving(lambda request, before: failed(500)) as server:
        with pytest.raises(AlignerProbeError, match=r"[34] requests in a row failed.*HTTP 500: no;"):
            asked(server, tmp_path, asks_of(pairs(20), PROMPTS), max_retries=0)
        assert len(server.seen) <= 4


def test_no_server_is_one_line(tmp_path):
    judge = Endpoint("judge", base_url="http://127.0.0.1:9/v1", key=None, max_retries=0, timeout=1)
    with pytest.raises(AlignerProbeError, match=r"no connection.*OPENAI_BASE_URL"):
        ask_all(asks_of(pairs(1), PROMPTS), judge, AnswerStore(tmp_path, judge.identity))


def test_an_endpoint_is_named_by_the_environment(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(AlignerProbeError, match="OPENAI_BASE_URL is not set"):
        Endpoint.from_environment("judge")
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000")
    with pytest.raises(AlignerProbeError, match="begin with http"):
        Endpoint.from_environment("judge")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:80a0/v1")
    with pytest.raises(AlignerProbeError, match=r"OPENAI_BASE_URL.* has a port that is no number"):
        Endpoint.from_environment("judge")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8000/v1")
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nmore")
    with pytest.raises(AlignerProbeError, match="characters that no key has") as error:
        Endpoint.from_environment("judge")
    assert KEY not in str(error.value)
    with pytest.raises(AlignerProbeError, match="'stream' is decided"):
        Endpoint("judge", base_url="http://x/v1", key=None, settings={"stream": True})
