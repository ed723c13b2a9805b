"""Cuts that tasks of known nature set, and the files that keep them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner_probe.errors import AlignerProbeError
from aligner_probe.probing.calibration import CUTS, KnownShares, cut_between, cuts_from, read_cuts, write_cuts
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS

FORM = KnownShares("form", "general", {"F": 0.9, "R_soft": 1.0, "R1": 0.6})
LATENT = KnownShares("latent", "general", {"F": 0.0, "R_soft": 0.7, "R1": 0.3})
NEW = KnownShares("new", "general", {"F": 0.1, "R_soft": 0.2, "R1": 0.1})
MEMORY = KnownShares("new", "memory", {"F": 0.0, "R_soft": 0.95, "R1": 0.99})


@given(st.lists(st.tuples(st.floats(-1, 2).map(lambda x: round(x, 3)), st.booleans()), min_size=2, max_size=12))
@settings(max_examples=100, deadline=None)
def test_no_other_cut_tells_better(rows):
    values, above = np.array([v for v, _ in rows]), np.array([a for _, a in rows])
    if above.all() or not above.any() or len(np.unique(values)) == 1:
        with pytest.raises(AlignerProbeError, match="tasks"):
            cut_between(values, above)
        return

    def balanced(cut):
        return ((values[above] > cut).mean() + (values[~above] <= cut).mean()) / 2

    cut = cut_between(values, above)
    assert balanced(cut) >= max(balanced(c) for c in (np.unique(values)[1:] + np.unique(values)[:-1]) / 2) - 1e-12


def test_a_cut_lies_in_the_widest_gap():
    assert cut_between(np.array([0.0, 0.1, 0.7, 0.9]), np.array([False, False, True, True])) == pytest.approx(0.4)


def test_each_measure_has_its_cut_between_the_natures():
    cuts = cuts_from([FORM, LATENT, NEW, MEMORY])
    assert (cuts.F_cut, cuts.R_soft_cut, cuts.R1_cut) == pytest.approx((0.5, 0.45, 0.2))
    # What is no cut stays.
    assert replace(cuts, **{name: getattr(THRESHOLDS, name) for name in CUTS}) == THRESHOLDS


def test_where_no_soft_prompt_was_trained_its_cut_stays():
    tasks = [replace(one, shares={"F": one.shares["F"], "R1": one.shares["R1"]}) for one in (FORM, LATENT, NEW)]
    assert cuts_from(tasks).R_soft_cut == THRESHOLDS.R_soft_cut
    with pytest.raises(AlignerProbeError, match="all lie on one side"):
        cuts_from([FORM])


def test_a_task_without_shares_sets_no_cut():
    unlearned = replace(LATENT, shares=dict.fromkeys(LATENT.shares))
    assert cuts_from([FORM, LATENT, NEW, MEMORY, unlearned]) == cuts_from([FORM, LATENT, NEW, MEMORY])


def test_cuts_come_back_from_their_file(tmp_path):
    cuts = replace(cuts_from([FORM, LATENT, NEW]), calibration="three tasks of a test")
    write_cuts(cuts, tmp_path / "cuts.json")
    assert read_cuts(tmp_path / "cuts.json") == cuts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "expected 'aligner_probe cuts 1' as its format"),
        ({"F_cut": "high"}, "F_cut 'high'"),
        ({"R_soft_cut": None}, "R_soft_cut None"),
        ({"R1_cut": 1.5}, "R1_cut 1.5; expected between 0 and 1"),
        ({"calibration": " "}, "calibration ' '"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, change, said):
    file = tmp_path / "cuts.json"
    write_cuts(THRESHOLDS, file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(AlignerProbeError, match=said) as caught:
        read_cuts(file)
    assert "\n" not in str(caught.value)


def test_no_file_and_no_json_are_refused(tmp_path):
    (tmp_path / "text").write_text("no json")
    for name in ("missing.json", "text"):
        with pytest.raises(AlignerProbeError, match="no cuts there"):
            read_cuts(tmp_path / name)
