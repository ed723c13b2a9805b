"""Whether a claim of the paper holds here: criteria set in advance, applied to intervals, put into one sentence.

Three answers are possible. A claim holds where the whole interval lies on its side, fails where the whole interval lies
on the other, and is undecided where the interval has both.
"""

from dataclasses import dataclass
from typing import Literal

from aligner_probe.evaluation.intervals import Interval

Verdict = Literal["holds", "does not hold", "undecided"]

#: "As good as" in shares of items or of questions won: differences up to this count as none.
MARGIN = 0.1
#: The same for scores of 10.
MARGIN_OF_TEN = 0.5


@dataclass(frozen=True)
class Claim:
    """A verdict and the sentence that says it, with the criterion and the number that decided."""

    verdict: Verdict
    sentence: str


def above(found: Interval, bound: float | int, what: str) -> Claim:
    """`what` ("the spread rises with layer") holds where the interval lies above `bound`."""
    verdict = _side(found.low > bound, found.high < bound)
    return Claim(verdict, f"{_said(verdict)}: {what} (criterion: interval above {bound:g}; it is {_range(found)}).")


def below(found: Interval, bound: float | int, what: str) -> Claim:
    """`what` holds where the interval lies below `bound`."""
    verdict = _side(found.high < bound, found.low > bound)
    return Claim(verdict, f"{_said(verdict)}: {what} (criterion: interval below {bound:g}; it is {_range(found)}).")


def not_worse(difference: Interval, what: str, margin: float | int = MARGIN) -> Claim:
    """`what` ("Aligner-1 is as good as LoRA") holds where the difference cannot be below minus the margin."""
    verdict = _side(difference.low > -margin, difference.high < -margin)
    criterion = f"criterion: difference above −{margin:g}, the margin set in advance; its interval is"
    return Claim(verdict, f"{_said(verdict)}: {what} ({criterion} {_range(difference)}).")


def all_of(claims: list[Claim], what: str) -> Claim:
    """`what` about several parts: fails with any of them, holds with all."""
    verdicts = [claim.verdict for claim in claims]
    verdict = _side(all(v == "holds" for v in verdicts), "does not hold" in verdicts)
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("holds", "does not hold", "undecided") if v in verdicts)
    return Claim(verdict, f"{_said(verdict)}: {what} (criterion: each of {len(claims)} must hold; {counts}).")


def _side(on: bool, off: bool) -> Verdict:
    return "holds" if on else "does not hold" if off else "undecided"


def _said(verdict: Verdict) -> str:
    return {
        "holds": "The claim holds here",
        "does not hold": "The claim does not hold here",
        "undecided": "Undecided here",
    }[verdict]


def _range(found: Interval) -> str:
    return f"{found.low:.3f} to {found.high:.3f}"
