"""When a reference counts that has not learned the task whole: it has stopped, and a second capacity agrees with it."""

import re
from dataclasses import replace

import numpy as np
import pytest
from evidences import FORM, HALF, LATENT, NEW, changed, verdict

from aligner_probe.probing.verdicts.evidence import ReferenceTraining
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS


def test_a_reference_that_stopped_short_asks_for_a_second_capacity():
    lora, full = ReferenceTraining("lora-8", 0.7, 0.004), ReferenceTraining("full", 0.72, 0.001)
    short = changed(NEW, reference=0.72)
    assert "no second capacity was tried" in verdict(short, trainings=(lora,)).reason
    assert verdict(short, trainings=(lora, full)).outcome == "new"
    assert "not known" in verdict(short, trainings=()).reason


def test_a_mean_that_misses_the_ceiling_by_rounding_alone_has_learned():
    """54, 60 and 57 right of 60 are .95 at the mean, which floats make a little less; on disk it is .95."""
    mean = float(np.mean([54 / 60, 60 / 60, 57 / 60]))
    assert mean < THRESHOLDS.learned
    assert THRESHOLDS.is_learned(mean)
    assert not THRESHOLDS.is_learned(mean - 1 / 180)
    as_made, as_kept = (verdict(NEW, trainings=(ReferenceTraining("lora-8", v, 0.2),)) for v in (mean, 0.95))
    assert (as_made.outcome, as_made.reason) == (as_kept.outcome, as_kept.reason)


STOPPED = (ReferenceTraining("lora-8", 0.7, 0.0, 0.8, 0.01), ReferenceTraining("lora-16-all", 0.7, 0.0, 0.8, 0.01))


@pytest.mark.parametrize(("shares", "outcome"), [(FORM, "form"), (LATENT, "latent"), (NEW, "new")])
def test_where_the_ceiling_is_unknown_a_second_capacity_that_agrees_makes_a_reference_count(shares, outcome):
    """All arms at .7 of what they have: the ceiling is .7, and two capacities stop there."""
    partly = {arm: 0.7 * share for arm, share in shares.items()} | {"lora-8": 0.7, "lora-16-all": 0.68}
    agreed = verdict(partly, trainings=STOPPED)
    assert agreed.outcome == outcome
    assert re.search(r"shares of what training taught this base, 0\.(68|69|70) of the items", agreed.reason)
    # Where it has learned the task, nothing of the kind is said.
    assert "shares of what training" not in verdict(shares).reason


def test_a_second_capacity_that_disagrees_leaves_the_ceiling_unknown():
    partly = {arm: 0.7 * share for arm, share in NEW.items()} | {"lora-8": 0.4, "lora-16-all": 0.68}
    apart = verdict(partly, trainings=STOPPED, reference="lora-16-all")
    assert apart.outcome == "undetermined"
    assert "no other capacity agrees with it" in apart.reason
    assert "lora-8 recovers 0.5" in apart.reason
    # The reference is not compared with itself.
    assert "lora-16-all recovers" not in apart.reason


def test_a_gain_that_may_be_chance_does_not_count_as_rising():
    """The loss is flat since long, and the score of forty items has moved by four of them."""
    level = replace(STOPPED[0], late_gain=0.1, late_fall=0.001)
    assert not level.has_stopped(HALF)
    assert replace(level, late_error=0.08).has_stopped(HALF)
    assert not replace(level, late_error=0.08, late_fall=0.2).has_stopped(HALF)
    assert not replace(level, late_error=0.01).has_stopped(HALF)


@pytest.mark.parametrize(("gain", "fall"), [(0.08, 0.0), (0.0, 0.2), (None, 0.0)])
def test_a_second_capacity_counts_only_where_both_have_stopped(gain, fall):
    partly = {arm: 0.7 * share for arm, share in NEW.items()} | {"lora-8": 0.7, "lora-16-all": 0.68}
    moving = (STOPPED[0], replace(STOPPED[1], late_gain=gain, late_fall=fall))
    assert "had not stopped" in verdict(partly, trainings=moving).reason
