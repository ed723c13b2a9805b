"""What is high, low, enough and too little: every number that a verdict compares with, in one place."""

from dataclasses import dataclass

from aligner_probe.errors import AlignerProbeError


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Bounds of the verdict.

    F_cut, R1_cut: share of the gap above which a prompt, or one token, has reached a task; the whole interval must lie
    on one side. Set by the tasks of known nature at the standard budget (artifacts/panel/standard.json); a task of
    those is judged by what the others set, never by its own. The rest are set by reasoning.

    least_gap: the lower bound of reference less floor must be above it, or nothing item-specific was learned.
    learned: validation score at which the reference has learned. late_gain: it has stopped where the last 40 % of steps
    gain less than this.
    base_solves: score of the base from which there is nothing left to learn.
    constant_answer: score of one constant answer from which the task is called that.
    resolution: the difference in R that the test set must be able to show, with `power` at one-sided
    level `alpha`.
    fewest_items: independent items of the test where scores are no shares of items (log-likelihoods), so that no power
    is known: bootstrap intervals of fewer are too narrow. As many of the positive control of prompting.
    prompting_works: score of the positive control from which prompting is informative on this base.
    kept: K under which knowledge is called damaged; known_before: content right before, under which K
    says nothing.
    run_on: share of the reference's answers that begin right and do not end, from which that is said.
    lost_examples: share of the task's examples above which there is no verdict where the tokenizer loses characters of
    them, white space aside. A prompt template that it loses leaves no verdict either.
    memorised: score on trained items from which a reference that fails in the test has memorised.
    """

    F_cut: float = 0.48
    R1_cut: float = 0.19
    least_gap: float = 0.1
    learned: float = 0.95
    late_gain: float = 0.01
    base_solves: float = 0.9
    constant_answer: float = 0.9
    resolution: float = 0.25
    power: float = 0.8
    alpha: float = 0.05
    fewest_items: int = 20
    prompting_works: float = 0.8
    kept: float = 0.8
    known_before: float = 0.5
    run_on: float = 0.3
    memorised: float = 0.8
    lost_examples: float = 0.01

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (value >= 2 if name == "fewest_items" else 0 < value < 1):
                wanted = "2 or more" if name == "fewest_items" else "between 0 and 1"
                raise AlignerProbeError(f"threshold {name} {value}; expected {wanted}")


THRESHOLDS = Thresholds()
