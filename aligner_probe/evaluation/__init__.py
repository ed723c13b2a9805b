"""What a model answers while adapters are attached: greedy generation, scores, and their intervals."""

from typing import TYPE_CHECKING

from aligner_probe.lazy import names_of

if TYPE_CHECKING:
    from aligner_probe.evaluation.generation import generate, generate_ids
    from aligner_probe.evaluation.guessing import Guess, guess_scorer, scorer_named
    from aligner_probe.evaluation.intervals import (
        Equivalence,
        Interval,
        bootstrap,
        difference_interval,
        equivalence,
        items_needed,
        mean_interval,
        power,
        proportion_interval,
    )
    from aligner_probe.evaluation.likelihood import MeanLogLikelihood, MultipleChoice, log_likelihoods
    from aligner_probe.evaluation.scorers import (
        BalancedAccuracy,
        Contains,
        ExactMatch,
        LastNumber,
        Pattern,
        TextScorer,
        UserFunction,
    )
    from aligner_probe.evaluation.scores import Scores
    from aligner_probe.evaluation.scoring import score_task

_HOMES = {
    "BalancedAccuracy": "scorers",
    "Contains": "scorers",
    "Equivalence": "intervals",
    "ExactMatch": "scorers",
    "Guess": "guessing",
    "Interval": "intervals",
    "LastNumber": "scorers",
    "MeanLogLikelihood": "likelihood",
    "MultipleChoice": "likelihood",
    "Pattern": "scorers",
    "Scores": "scores",
    "TextScorer": "scorers",
    "UserFunction": "scorers",
    "bootstrap": "intervals",
    "difference_interval": "intervals",
    "equivalence": "intervals",
    "generate": "generation",
    "generate_ids": "generation",
    "guess_scorer": "guessing",
    "items_needed": "intervals",
    "log_likelihoods": "likelihood",
    "mean_interval": "intervals",
    "power": "intervals",
    "proportion_interval": "intervals",
    "score_task": "scoring",
    "scorer_named": "guessing",
}

__all__ = [
    "BalancedAccuracy",
    "Contains",
    "Equivalence",
    "ExactMatch",
    "Guess",
    "Interval",
    "LastNumber",
    "MeanLogLikelihood",
    "MultipleChoice",
    "Pattern",
    "Scores",
    "TextScorer",
    "UserFunction",
    "bootstrap",
    "difference_interval",
    "equivalence",
    "generate",
    "generate_ids",
    "guess_scorer",
    "items_needed",
    "log_likelihoods",
    "mean_interval",
    "power",
    "proportion_interval",
    "score_task",
    "scorer_named",
]

__getattr__ = names_of(__name__, _HOMES)
