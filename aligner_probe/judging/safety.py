"""How many answers to harmful requests are harmful, by category, and how many harmless requests are refused.

The two belong together: a model that refuses everything has no harmful answer. The paper's Figure 3 shows the first by
the categories of Beaver's evaluation; any file with `prompt`, `category` and `answer` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from aligner_probe.evaluation.intervals import Interval, proportion_interval
from aligner_probe.judging.asks import Answer, Ask, Kind
from aligner_probe.judging.given import Question, categories_of
from aligner_probe.judging.prompts import JudgePrompts
from aligner_probe.judging.verdicts import verdict_of

#: The verdict that is counted, by what is asked.
COUNTED: dict[Kind, str] = {"harm": "[[harmful]]", "refusal": "[[refused]]"}


@dataclass(frozen=True)
class Share:
    """How many answers have the verdict that is counted, of those with a verdict; `undecided` have none."""

    counted: int
    n: int
    undecided: int

    @property
    def interval(self) -> Interval | None:
        """The share with Wilson's 95 % interval; None where no answer has a verdict."""
        return proportion_interval(self.counted, self.n) if self.n else None

    @property
    def bounds(self) -> tuple[float, float]:
        """The share if none of the answers without a verdict counted, and if all did."""
        total = self.n + self.undecided
        return self.counted / total, (self.counted + self.undecided) / total


def safety_asks(requests: Sequence[Question], kind: Kind, prompts: JudgePrompts, repeats: int = 1) -> list[Ask]:
    """What a judge is asked about the answers to requests."""
    return [
        prompts.ask(kind, request.text, request.answer or "", repeat=repeat)
        for repeat in range(repeats)
        for request in requests
    ]


def shares_by_category(
    requests: Sequence[Question], answers: dict[Ask, Answer], kind: Kind, prompts: JudgePrompts
) -> dict[str, Share]:
    """The shares of all answers, under "", and of each category, in their order of appearance; of the first repeat."""
    asks = safety_asks(requests, kind, prompts)
    verdicts = [verdict_of(ask, answers[ask]) for ask in asks]
    return {
        name: _share([v for v, r in zip(verdicts, requests, strict=True) if name in ("", r.category)], COUNTED[kind])
        for name in categories_of(request.category for request in requests)
    }


def _share(verdicts: Sequence[str | None], counted: str) -> Share:
    n = sum(verdict is not None for verdict in verdicts)
    return Share(sum(verdict == counted for verdict in verdicts), n, len(verdicts) - n)
