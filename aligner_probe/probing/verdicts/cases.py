"""What a rule of a verdict is asked about (`Case`), what it answers (`Finding`), and how values are said."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from aligner_probe.arms.names import ALIGNER_1, PROMPT, PROMPT_TUNING
from aligner_probe.evaluation.intervals import Interval
from aligner_probe.probing.verdicts.evidence import Evidence
from aligner_probe.probing.verdicts.measures import Measures, Which
from aligner_probe.probing.verdicts.soft_prompts import has_trained
from aligner_probe.probing.verdicts.thresholds import Thresholds

Name = Literal["form", "latent", "new", "known", "constant answer", "undetermined"]
Side = Literal["above", "below", "across"]


@dataclass(frozen=True)
class Finding:
    """What a kind of score shows, and why; "known" means that the base model has it without training."""

    name: Name
    reason: str

    @property
    def decided(self) -> bool:
        """Whether the finding names the nature of the task."""
        return self.name in ("form", "latent", "new", "known")


class Elicited(NamedTuple):
    """The measure that says whether the base model has the task in it: R_soft, or R1 where no soft prompt trained."""

    name: str
    share: Interval
    cut: float

    @property
    def side(self) -> Side:
        """On which side of its cut it lies."""
        return side(self.share, self.cut)


@dataclass(frozen=True)
class Case:
    """One kind of score of a task, with the evidence and the thresholds that the rules need."""

    which: Which
    measures: Measures
    evidence: Evidence
    thresholds: Thresholds

    @property
    def memory(self) -> bool:
        """Whether the tested content was trained, so that the finding cannot be form or latent."""
        return self.evidence.kind == "memory" and self.which != "format"

    @property
    def F(self) -> Interval:
        """R of the best prompt. The rule for what is missing comes before every rule that asks for it."""
        return self.measures.recovered[PROMPT]

    @property
    def prompted(self) -> Side:
        """On which side of its cut F lies."""
        return side(self.F, self.thresholds.F_cut)

    @property
    def R1(self) -> Interval:
        """R of Aligner-1. The rule for what is missing comes before every rule that asks for it."""
        return self.measures.recovered[ALIGNER_1]

    @property
    def soft_trained(self) -> bool:
        """Whether a soft prompt was run and has trained, so that its share says something."""
        return PROMPT_TUNING in self.measures.recovered and has_trained(self.evidence, self.measures, self.thresholds)

    @property
    def elicited(self) -> Elicited:
        """R_soft where the soft prompt has trained, otherwise R1."""
        if self.soft_trained:
            return Elicited("R_soft", self.measures.recovered[PROMPT_TUNING], self.thresholds.R_soft_cut)
        return Elicited("R1", self.R1, self.thresholds.R1_cut)

    def score(self, arm: str) -> float:
        """The mean score of an arm."""
        return self.measures.scores[arm].value


def side(interval: Interval, cut: float) -> Side:
    """On which side of a cut an interval lies; "across" where it contains the cut."""
    return "above" if interval.low > cut else "below" if interval.high < cut else "across"


def undetermined(reason: str) -> Finding:
    """The finding that there is none."""
    return Finding("undetermined", reason)
