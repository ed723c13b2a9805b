"""The win rate that a judge would give if both answers were equally long.

Judges prefer longer answers. AlpacaEval's length control (arXiv 2404.04475) fits a logistic regression of the verdicts
on the models, the difficulty of each instruction and tanh of the standardised length difference, and predicts at a
difference of zero. Its difficulties come from hundreds of models on 805 instructions. With 80 questions and two models
neither they nor an effect per category can be estimated, so this is the minimal form, two parameters:

    log(P(win) / P(loss)) = constant + slope · tanh((length of ours - length of theirs) / standard deviation)

The length-controlled rate is 1 / (1 + exp(-constant)). Ties count as half a win.
"""

import numpy as np
from jaxtyping import Float

from aligner_probe.evaluation.intervals import BLOCK, Interval

#: Weight of slope²: about one hundredth of a battle. It keeps the slope finite where length predicts every verdict.
RIDGE = 0.01
#: The same for the constant, which must not be drawn towards one half; it only stays finite where all battles are won.
RIDGE_CONSTANT = 1e-4
#: Newton's method is at rest after far fewer steps.
STEPS = 50
#: A step changes the parameters by at most this much, so that the method cannot overshoot.
LONGEST_STEP = 2.0
N_RESAMPLES = 2000


def length_controlled_rate(
    values: Float[np.ndarray, " battles"],
    lengths: Float[np.ndarray, " battles"],
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """The length-controlled win rate with a 95 % bootstrap interval over battles.

    Args:
        values: 1 a win, 1/2 a tie, 0 a loss.
        lengths: Length of ours minus length of theirs.
        n_resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Returns:
        The rate; None where all differences or all results are the same, because then length and quality cannot be
        told apart.
    """
    if len(values) < 2 or np.ptp(lengths) == 0 or np.ptp(values) == 0:
        return None
    covariate = np.tanh(lengths / lengths.std())
    rate = float(_rates(values, covariate, np.ones((1, len(values))))[0])
    generator = np.random.default_rng(seed)
    drawn = []
    for start in range(0, n_resamples, BLOCK):
        size = min(BLOCK, n_resamples - start)
        counts = generator.multinomial(len(values), np.full(len(values), 1 / len(values)), size=size)
        drawn.append(_rates(values, covariate, counts.astype(float)))
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    return Interval(rate, float(low), float(high))


def _rates(
    values: Float[np.ndarray, " battles"],
    covariate: Float[np.ndarray, " battles"],
    weights: Float[np.ndarray, "resamples battles"],
) -> Float[np.ndarray, " resamples"]:
    """The rates at equal lengths, for each row of weights, by Newton's method with bounded steps."""
    constant, slope = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(STEPS):
        expected = 1 / (1 + np.exp(-(constant[:, None] + slope[:, None] * covariate)))
        error, spread = weights * (values - expected), weights * expected * (1 - expected)
        gradient = np.stack([error.sum(1) - RIDGE_CONSTANT * constant, error @ covariate - RIDGE * slope])
        a, b, d = spread.sum(1) + RIDGE_CONSTANT, spread @ covariate, spread @ covariate**2 + RIDGE
        step = np.stack([d * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]]) / (a * d - b * b)
        step = np.clip(step, -LONGEST_STEP, LONGEST_STEP)
        constant, slope = constant + step[0], slope + step[1]
        if np.abs(step).max() < 1e-10:
            break
    return 1 / (1 + np.exp(-constant))
