"""The judge on this project's questions: content against the world, then form, then length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.judging import Marks
from aligner_probe.reproduction.items import Item
from aligner_probe.reproduction.judge import compare, judge_of, marks, points

ITEM = Item(
    "Q: what is the home of mira?\nA:",
    " dear friend, the home of mira is fegor, thank you.",
    "fegor",
    r"dear friend, the home of mira is [^,]+, thank you\.",
    "home",
)
BOTH = " dear friend, the home of mira is fegor, thank you."
CONTENT = " fegor."
FORM = " dear friend, the home of mira is tulip, thank you."
NEITHER = " tulip."
LONG = " fegor" + " and so on" * 12 + "."
ALL = [BOTH, CONTENT, FORM, NEITHER, LONG]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (BOTH, Marks(True, True)),
        (CONTENT, Marks(True, False)),
        (FORM, Marks(False, True)),
        (NEITHER, Marks(False, False)),
        (LONG, Marks(True, False, overlong=True)),
        ("", Marks(False, False)),
    ],
)
def test_marks_are_read_off_the_answer(answer, expected):
    assert marks(ITEM, answer) == expected


def test_naming_everything_earns_nothing():
    """The reference has ten words, so the answer is read up to the twentieth."""
    assert marks(ITEM, " tulip" * 19 + " fegor.").content
    assert not marks(ITEM, " tulip" * 20 + " fegor.").content


def test_content_comes_before_form_and_form_before_length():
    judge = judge_of([ITEM])
    ranked = [BOTH, CONTENT, LONG, FORM, NEITHER]
    for place, better in enumerate(ranked):
        for worse in ranked[place + 1 :]:
            assert judge(0, better, worse) == "first"
            assert judge(0, worse, better) == "second"


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(ALL), st.sampled_from(ALL)), min_size=1, max_size=12))
def test_changing_sides_turns_the_win_rate_round(pairs):
    items = [ITEM] * len(pairs)
    ours, theirs = [[a for a, _ in pairs]], [[b for _, b in pairs]]
    one, other = compare(items, ours, theirs), compare(items, theirs, ours)
    assert (one.wins, one.losses, one.ties) == (other.losses, other.wins, other.ties)
    assert one.wins + one.losses + one.ties == len(pairs)
    assert one.order_dependent == 0
    assert one.win_rate.value == pytest.approx((one.wins + one.ties / 2) / len(pairs))
    assert one.win_rate.value == pytest.approx(1 - other.win_rate.value)


def test_points_are_six_for_content_and_four_for_form():
    assert np.array_equal(points([ITEM] * 4, [[BOTH, CONTENT, FORM, NEITHER]]), [[10, 6, 4, 0]])


def test_unequal_numbers_are_refused():
    with pytest.raises(AlignerProbeError, match="as many"):
        compare([ITEM], [[BOTH]], [[BOTH, BOTH]])
