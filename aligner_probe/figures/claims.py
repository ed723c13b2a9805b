"""Whether a claim of the paper holds here: a criterion that was set in advance is applied to an interval.

There are three answers. A claim *holds* if the whole interval lies on its side of the bound. It *does not hold* if the
whole interval lies on the other side. It is *undecided* if the interval contains the bound.
"""

from dataclasses import dataclass
from typing import Literal

from aligner_probe.evaluation.intervals import Interval

Verdict = Literal["holds", "does not hold", "undecided"]

#: "As good as" in shares of items or of questions won: differences up to this count as none.
MARGIN = 0.1
#: The same for scores of 10.
MARGIN_OF_TEN = 0.5
#: How a sentence says the verdict.
SAID: dict[Verdict, str] = {
    "holds": "The claim holds here",
    "does not hold": "The claim does not hold here",
    "undecided": "Undecided here",
}


@dataclass(frozen=True)
class Claim:
    """A verdict, and a sentence that states it with its criterion and the value that decided."""

    verdict: Verdict
    sentence: str


def above(interval: Interval, bound: float | int, what: str) -> Claim:
    """`what` ("the spread rises with layer") holds where the interval lies above `bound`."""
    verdict = _side(interval.low > bound, interval.high < bound)
    return Claim(verdict, f"{_said(verdict)}: {what} (criterion: interval above {bound:g}; it is {_range(interval)}).")


def below(interval: Interval, bound: float | int, what: str) -> Claim:
    """`what` holds where the interval lies below `bound`."""
    verdict = _side(interval.high < bound, interval.low > bound)
    return Claim(verdict, f"{_said(verdict)}: {what} (criterion: interval below {bound:g}; it is {_range(interval)}).")


def not_worse(difference: Interval, what: str, margin: float | int = MARGIN) -> Claim:
    """`what` ("Aligner-1 is as good as LoRA") holds where the difference cannot be below minus the margin."""
    verdict = _side(difference.low > -margin, difference.high < -margin)
    criterion = f"criterion: difference above −{margin:g}, the margin set in advance; its interval is"
    return Claim(verdict, f"{_said(verdict)}: {what} ({criterion} {_range(difference)}).")


def as_good(difference: Interval, gain: Interval | None, what: str, margin: float | int = MARGIN) -> Claim:
    """`not_worse`, but only where the other has learned something to be as good at: `gain` is its own over the base.

    Undecided where that gain may be no more than the margin; two that learned nothing are not as good as each other.
    """
    if gain is None or gain.low > margin:
        return not_worse(difference, what, margin)
    criterion = f"criterion: the other must gain more than {margin:g} over the base first; it gains"
    return Claim("undecided", f"Undecided here: {what} ({criterion} {_range(gain)}).")


def reaches(share: Interval, gain: Interval, what: str, margin: float = MARGIN) -> Claim:
    """`what` holds if the whole interval of `share`, a share of another method's gain, is above 1 minus the margin.

    `gain` is the gain of the other method over the base model. If that may be zero, a share of it means nothing, and
    the claim is undecided.
    """
    if gain.low > 0:
        return above(share, 1 - margin, what)
    return Claim(
        "undecided", f"Undecided here: {what} (criterion: the other must gain first; it gains {_range(gain)})."
    )


def without_verdict(sentence: str) -> str:
    """The sentence of a claim without the words of its verdict, for a table that has the verdict by itself."""
    for said in SAID.values():
        sentence = sentence.replace(f"{said}: ", "")
    return sentence


def _side(on: bool, off: bool) -> Verdict:
    return "holds" if on else "does not hold" if off else "undecided"


def _said(verdict: Verdict) -> str:
    return SAID[verdict]


def _range(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"
