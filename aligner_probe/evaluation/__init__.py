"""What a model does, under whatever adapters are attached: greedy completions, scores with format and content apart,
and how sure they are."""

from aligner_probe.evaluation.generation import generate, generate_ids
from aligner_probe.evaluation.guessing import Guess, guess_scorer, scorer_named
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

__all__ = [
    "BalancedAccuracy",
    "Contains",
    "ExactMatch",
    "Guess",
    "LastNumber",
    "MeanLogLikelihood",
    "MultipleChoice",
    "Pattern",
    "Scores",
    "TextScorer",
    "UserFunction",
    "generate",
    "generate_ids",
    "guess_scorer",
    "log_likelihoods",
    "score_task",
    "scorer_named",
]
