"""Pairs of answers, and how tests ask an endpoint at a `judge_server` about them."""

from judge_server import said, user_text

from aligner_probe.judging.asking import ask_all
from aligner_probe.judging.battles import Pair
from aligner_probe.judging.endpoint import Endpoint
from aligner_probe.judging.prompts import OWN, JudgePrompts
from aligner_probe.judging.store import AnswerStore

KEY = "sk-secret/0123456789"
PROMPTS = JudgePrompts(dict(OWN))


def endpoint(server, **options):
    given = {"key": KEY, "workers": 2, "timeout": 30, "max_retries": 1, "verdicts": "pattern"} | options
    return Endpoint("judge", base_url=server.url, **given)


def pairs(n):
    return [Pair(str(i), f"question {i}", f"ours {i}", f"theirs {i}") for i in range(n)]


def asked(server, tmp_path, asks, **options):
    judge = endpoint(server, **options)
    return ask_all(asks, judge, AnswerStore(tmp_path, judge.identity))


def ours_is_first(request):
    text = user_text(request)
    return text.find("ours") < text.find("theirs")


def prefers_ours(request, before):
    return said("because. " + ("[[A]]" if ours_is_first(request) else "[[B]]"))
