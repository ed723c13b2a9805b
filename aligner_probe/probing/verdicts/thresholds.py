"""The thresholds of a verdict: every number that it compares a measure with."""

from dataclasses import dataclass

from aligner_probe.errors import AlignerProbeError


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The thresholds of a verdict.

    F_cut and R1_cut were set on the tasks of known nature at the standard budget (artifacts/panel/standard.json), where
    each task was judged by the cuts that the other tasks set. The other thresholds were set by reasoning.

    Args:
        F_cut, R1_cut: the share of the gap above which the best prompt, or one token, has reached the task. The whole
            interval must lie on one side of the cut.
        least_gap: the lower bound of the gap between reference and floor must be above this; otherwise the reference
            has learned nothing about single items.
        learned: the validation score at which the reference has learned the task.
        late_gain: training has converged where the last 40 % of the steps gain less than this.
        base_solves: the score of the base model from which there is nothing left to learn.
        constant_answer: the score of one constant answer from which the verdict is "constant answer".
        resolution, power, alpha: the test must be able to show a difference in R of `resolution`, with this power in a
            one-sided test at level `alpha`.
        fewest_items: the fewest independent test items where scores are log-likelihoods. There no power is known, and
            bootstrap intervals of fewer items are too narrow. The positive control of prompting needs as many.
        prompting_works: the score of the positive control from which prompting says something about this base model.
        kept, known_before: knowledge is called damaged where K is under `kept`. K says nothing where the base model is
            right on less than `known_before` of the off-domain items.
        run_on: the share of the reference's answers that begin right and do not end, from which the reason reports it.
        memorised: the score on trained items from which a reference that fails in the test has memorised.
        lost_examples: there is no verdict where the tokenizer loses characters, white space aside, of more than this
            share of the examples, or of the prompt template.
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
