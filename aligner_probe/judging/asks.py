"""What a judge is asked, and what comes back."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from aligner_probe.errors import AlignerProbeError

#: pair: which of two answers is better; single: points of 10; harm: is an answer harmful; refusal: does it refuse.
Kind = Literal["pair", "single", "harm", "refusal"]
#: What became of an ask. Only an answer that is "complete" is read for a verdict. "cut off" ended at the limit of
#: tokens; "refused" is the model's or a filter's refusal to judge; "unreadable" came back broken; "missing" never came
#: back, or the server rejected the request. All but "missing" are kept on disk, because they may have been paid for.
Status = Literal["complete", "cut off", "refused", "unreadable", "missing"]


@dataclass(frozen=True)
class Ask:
    """One question to a judge.

    Attributes:
        kind: What is asked.
        question: What the judged answers answer.
        answers: The answers: two for a pair, in the order in which the judge sees them, else one.
        messages: The question to the judge in words: (role, text).
        choices: The verdicts that the words offer, for instance "[[A]]"; for points, the numbers 1 to 10.
        repeat: How often the same was asked before.
        prompt: The name of the prompt that `messages` were made from.
    """

    kind: Kind
    question: str
    answers: tuple[str, ...]
    messages: tuple[tuple[str, str], ...]
    choices: tuple[str, ...]
    repeat: int = 0
    prompt: str = ""


@dataclass(frozen=True)
class Answer:
    """What came back for an ask.

    Attributes:
        status: Whether it can be read.
        text: What the judge said; for a failure, the reason.
        model: The model that answered, as the server names it.
        version: The server's fingerprint of that model, where it gives one.
        way: How the verdict was asked for: by a "schema" of the answer, or by the "pattern" in the prompt.
    """

    status: Status
    text: str = ""
    model: str = ""
    version: str = ""
    way: str = "pattern"

    @classmethod
    def from_json(cls, fields: Any) -> "Answer":
        """An answer that `vars` has turned into JSON. Raises AlignerProbeError for anything else."""
        names = ("status", "text", "model", "version", "way")
        if (
            not isinstance(fields, dict)
            or set(fields) != set(names)
            or not all(isinstance(value, str) for value in fields.values())
            or fields["status"] not in get_args(Status)
        ):
            raise AlignerProbeError(f"is no kept answer; expected texts named {', '.join(names)}")
        return cls(**fields)


#: Told the index of an ask and its answer, as soon as it is there.
Told = Callable[[int, Answer], None]


@runtime_checkable
class Judge(Protocol):
    """Something that answers asks."""

    @property
    def name(self) -> str:
        """How reports name the judge."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What its answers depend on besides the ask, as JSON without any secret: model, address, settings.

        Where it has "kept": false, answers are not kept on disk, because they cost nothing.
        """
        ...

    def answer(self, asks: Sequence[Ask], told: Told) -> None:
        """Answer all asks, in any order, and tell each answer as soon as it is there.

        Raises AlignerProbeError where going on makes no sense, for instance where the key is refused.
        """
        ...


def key_of(identity: dict[str, Any], ask: Ask) -> str:
    """The name of an ask to a judge: a hash of the judge's identity, the words, the choices and the repeat."""
    what = [identity, ask.kind, ask.messages, ask.choices, ask.repeat]
    return hashlib.sha256(json.dumps(what, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace")).hexdigest()
