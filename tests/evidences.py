"""Planted scores of a probe's arms, and the measures and verdicts that follow from them."""

import numpy as np

from aligner_probe.evaluation.intervals import Interval
from aligner_probe.probing.verdicts.evidence import Evidence, ReferenceTraining
from aligner_probe.probing.verdicts.measures import Table, floors_of, measure
from aligner_probe.probing.verdicts.thresholds import Thresholds
from aligner_probe.probing.verdicts.verdict import judge

N = 120
#: Cuts that stay when those of the panel move: here it is about the rules.
HALF = Thresholds(F_cut=0.5, R1_cut=0.5)
WORKS = Interval(0.98, 0.93, 1.0)
LEARNED = (ReferenceTraining("lora-8", validation=0.99, late_gain=0.0, train=1.0),)
#: Scores of the base, the best constant answer, reference and Aligner-1 on shuffled answers, in a task that is learned.
NOTHING = {"base": 0.0, "constant": 0.05, "reference-shuffled": 0.02, "aligner-1-shuffled": 0.02}
FORM = NOTHING | {"prompt": 0.95, "aligner-1": 0.97, "reference": 1.0}
LATENT = NOTHING | {"prompt": 0.0, "aligner-1": 0.85, "reference": 0.98}
NEW = NOTHING | {"prompt": 0.01, "aligner-1": 0.06, "reference": 0.97}
#: Content that the base says anyway.
SAID = dict.fromkeys(NEW, 1.0)


def table(shares, n=N, groups=None):
    """Exact shares of right items, in places of their own for each arm and seed; adapters have three seeds."""
    scores = {}
    for place, (arm, share) in enumerate(shares.items()):
        generator = np.random.default_rng(place)
        rows = np.zeros((1 if arm in ("base", "prompt", "constant") else 3, n))
        for row in rows:
            row[generator.permutation(n)[: round(share * n)]] = 1
        scores[arm] = rows
    return Table(scores, groups)


def measured(shares, which="strict", kind="general", n=N, groups=None):
    floors = floors_of(which, kind, None if groups is None else len(set(groups)))
    return measure(table(shares, n, groups), floors=floors, n_resamples=300)


def verdict(strict, content=None, *, kind="general", n=N, groups=None, **more):
    """The verdict on planted shares; `more` are fields of the evidence."""
    how = {"kind": kind, "n": n, "groups": groups}
    evidence = Evidence(
        kind=kind,
        strict=measured(strict, **how),
        content=measured(content or strict, "content", **how),
        **{"trainings": LEARNED, "prompting": WORKS} | more,
    )
    return judge(evidence, HALF)


def changed(shares, **changes):
    """The shares with others in their place; an underscore stands for a hyphen."""
    return shares | {name.replace("_", "-"): share for name, share in changes.items()}


def without(shares, *arms):
    """The shares without these arms."""
    return {arm: share for arm, share in shares.items() if arm not in arms}
