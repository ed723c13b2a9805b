"""Structured output: asked for until the server rejects it, and not given up for another failure."""

import json

import pytest
from judge_asking import PROMPTS, asked, ours_is_first, pairs, prefers_ours
from judge_server import failed, has_schema, said, serving

from aligner_probe.errors import AlignerProbeError
from aligner_probe.judging.battles import asks_of, battles_of

pytest.importorskip("openai")


def test_structured_output_is_asked_for_until_the_server_rejects_it(tmp_path):
    def no_schema(request, before):
        return failed(400, "response_format is not supported") if has_schema(request) else prefers_ours(request, before)

    def with_schema(request, before):
        schema = request["response_format"]["json_schema"]
        assert schema["strict"] is True
        assert schema["schema"]["properties"]["verdict"]["enum"] == ["[[A]]", "[[B]]", "[[C]]"]
        verdict = "[[A]]" if ours_is_first(request) else "[[B]]"
        return said(json.dumps({"explanation": "not [[C]]", "verdict": verdict}))

    asks = asks_of(pairs(3), PROMPTS)
    for script, way, n_requests in ((no_schema, "pattern", 7), (with_schema, "schema", 6)):
        with serving(script) as server:
            answers = asked(server, tmp_path / way, asks, verdicts="auto")
            asked(server, tmp_path / way, asks, verdicts="auto")
        assert len(server.seen) == n_requests
        assert {answer.way for answer in answers} == {way}
        values = [b.value for b in battles_of(pairs(3), dict(zip(asks, answers, strict=True)), PROMPTS)]
        assert values == [1, 1, 1]


@pytest.mark.parametrize("status", [400, 404, 415, 422, 501])
def test_a_status_that_can_mean_no_structured_output_is_followed_by_the_pattern(status, tmp_path):
    def script(request, before):
        return failed(status, "no such form") if has_schema(request) else prefers_ours(request, before)

    asks = asks_of(pairs(2), PROMPTS)
    with serving(script) as server:
        answers = asked(server, tmp_path, asks, verdicts="auto", max_retries=0)
        assert [has_schema(request) for request in server.seen] == [True, False, False, False, False]
    assert {answer.way for answer in answers} == {"pattern"}


def test_an_address_that_is_not_there_is_so_without_structured_output_too(tmp_path):
    with serving(lambda request, before: failed(404, "no such model")) as server:
        with pytest.raises(AlignerProbeError, match="refuses to work: HTTP 404"):
            asked(server, tmp_path, asks_of(pairs(4), PROMPTS), verdicts="auto", max_retries=0)
        assert [has_schema(request) for request in server.seen] == [True, False]


@pytest.mark.parametrize("trouble", [failed(500), failed(429), failed(403), {"hang": True}])
def test_a_failure_that_says_nothing_of_structured_output_does_not_end_it(trouble, tmp_path):
    def script(request, before):
        if len(server.seen) == 1:
            return trouble
        return said(json.dumps({"explanation": "", "verdict": "[[A]]"}))

    asks = asks_of(pairs(2), PROMPTS)
    with serving(script) as server:
        answers = asked(server, tmp_path, asks, verdicts="auto", max_retries=0, timeout=2)
        assert [has_schema(request) for request in server.seen] == [True] * 4
    assert [answer.status for answer in answers] == ["missing"] + ["complete"] * 3
