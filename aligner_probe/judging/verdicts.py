"""From what a judge said to its verdict: by a schema, or by the published pattern. Nothing is guessed."""

import json
import re
from collections.abc import Sequence
from typing import Any

from aligner_probe.judging.asks import Answer, Ask

#: Points of a single answer, by the published prompt: "a scale of 1 to 10".
LOWEST, HIGHEST = 1, 10
POINTS = tuple(str(n) for n in range(LOWEST, HIGHEST + 1))
_PATTERN = re.compile(r"\[\[([^\[\]\n]{1,20})\]\]")
_POINTS = re.compile(r"\d{1,2}(?:\.\d+)?")
#: A model may put its JSON into a fence of Markdown.
_FENCE = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n?```\s*$", re.DOTALL)


def schema_of(ask: Ask) -> dict[str, Any]:
    """The JSON schema of an answer: first an explanation, then one of the verdicts that the prompt offers."""
    verdict: dict[str, Any] = {"type": "string", "enum": list(ask.choices)}
    if ask.kind == "single":
        verdict = {"type": "integer", "enum": [int(choice) for choice in ask.choices]}
    return {
        "type": "object",
        "properties": {"explanation": {"type": "string"}, "verdict": verdict},
        "required": ["explanation", "verdict"],
        "additionalProperties": False,
    }


def verdict_of(ask: Ask, answer: Answer) -> str | None:
    """The verdict of an answer, one of the ask's choices, or for points a number as text; None where it has none.

    Only a complete answer has a verdict. JSON is read for its member "verdict"; in any other text, the pattern
    "[[…]]" must name exactly one of the choices, however often, and no other verdict.
    """
    if answer.status != "complete":
        return None
    stated, verdict = _stated(answer.text)
    if stated:
        return _one_of(ask, str(verdict)) if isinstance(verdict, str | int | float) else None
    named = {_one_of(ask, text.strip()) for text in _PATTERN.findall(answer.text)}
    return named.pop() if len(named) == 1 else None


def explanation_of(answer: Answer) -> str:
    """Why a judge decided so, in its words: the member "explanation" of JSON, else the whole text."""
    fields = _object(answer.text)
    reason = None if fields is None else fields.get("explanation")
    return reason if isinstance(reason, str) else answer.text


def offered(text: str, letters: Sequence[str]) -> tuple[str, ...]:
    """Which of the verdicts "[[letter]]" a prompt offers: those that stand in it."""
    return tuple(f"[[{letter}]]" for letter in letters if f"[[{letter}]]" in text)


def _one_of(ask: Ask, said: str) -> str | None:
    if ask.kind == "single":
        bare = said.strip("[]")
        return bare if _POINTS.fullmatch(bare) and LOWEST <= float(bare) <= HIGHEST else None
    return next((choice for choice in ask.choices if choice.strip("[]") == said.strip("[]")), None)


def _stated(text: str) -> tuple[bool, Any]:
    """Whether a text is a JSON object, and its member "verdict"."""
    fields = _object(text)
    return (False, None) if fields is None else (True, fields.get("verdict"))


def _object(text: str) -> dict[str, Any] | None:
    fence = _FENCE.match(text)
    try:
        value = json.loads(fence[1] if fence else text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
