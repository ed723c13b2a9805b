"""Whether a soft prompt has trained. One that has not says nothing about what prompts can reach."""

from aligner_probe.arms.names import BASE, PROMPT_TUNING, REFERENCE, REFERENCE_SHUFFLED
from aligner_probe.probing.verdicts.evidence import Evidence
from aligner_probe.probing.verdicts.measures import Measures
from aligner_probe.probing.verdicts.thresholds import Thresholds


def has_trained(evidence: Evidence, measures: Measures, thresholds: Thresholds) -> bool:
    """Whether the soft prompt shows in one of four ways that its training worked.

    It recovers enough of what is scored; or it reaches the form of the answers; or it answers items that it was
    trained on; or the expected answers have become as likely by it as shuffled answers make them, which is what can be
    learned about a task without learning the task.
    """
    least = thresholds.soft_trained
    shares = [measures.recovered[PROMPT_TUNING].value]
    if evidence.format is not None and PROMPT_TUNING in evidence.format.recovered:
        shares.append(evidence.format.recovered[PROMPT_TUNING].value)
    return any(share >= least for share in (*shares, _on_trained_items(evidence), _of_the_prior(evidence)))


def _on_trained_items(evidence: Evidence) -> float:
    """The score on trained items, as a share of the reference's there."""
    reference = max((one.train for one in evidence.trainings if one.train is not None), default=0.0)
    return 0.0 if evidence.soft_train is None or reference <= 0 else evidence.soft_train / reference


def _of_the_prior(evidence: Evidence) -> float:
    """How far the likelihood rises from the base's, as a share of how far shuffled answers raise it."""
    scores = {} if evidence.likelihood is None else evidence.likelihood.scores
    if not {BASE, PROMPT_TUNING, REFERENCE, REFERENCE_SHUFFLED} <= set(scores):
        return 0.0
    base = scores[BASE].value
    # Shuffled answers cannot teach more than the true ones do.
    prior = min(scores[REFERENCE_SHUFFLED].value, scores[REFERENCE].value) - base
    return (scores[PROMPT_TUNING].value - base) / prior if prior > 0 else 0.0
