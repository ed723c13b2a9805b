"""The plan of a frontier: equal trials for every arm, lower rates below an arm's default, and what is refused."""

import json
from dataclasses import replace

import pytest

from aligner_probe.arms.catalogue import ARMS
from aligner_probe.arms.names import PROMPT
from aligner_probe.errors import AlignerProbeError
from aligner_probe.probing.frontier_plan import FRONTIER_ARMS, frontier_plan, plan_in_probe, rates_below
from aligner_probe.probing.plan import BUDGETS, WIDE
from aligner_probe.training.rates import WIDTH


def test_every_arm_has_equal_trials_and_its_own_rates():
    plan = frontier_plan(rates=3, lengths=(240, 60), seeds=2)
    trained = [cell for cell in plan.cells if cell.arm != PROMPT]
    assert sorted(cell.arm for cell in trained) == sorted(2 * FRONTIER_ARMS)
    assert {len(cell.rates) for cell in trained} == {3}
    assert {cell.lengths for cell in trained} == {(60, 240)}
    assert {cell.arm: cell.rates[0] for cell in trained} == {
        arm: ARMS[arm].stored_rate_on(WIDTH) for arm in FRONTIER_ARMS
    }
    assert len({cell.id for cell in plan.cells}) == len(plan.cells) == 15


def test_rates_go_down_by_half_a_decade():
    assert rates_below(0.1, 4) == (0.1, 0.032, 0.01, 0.0032)


def test_the_plan_as_text_has_all_that_changes_the_results():
    texts = {
        frontier_plan(**changes).to_json(base="b")
        for changes in ({}, {"rates": 2}, {"lengths": (9,)}, {"seeds": 1}, {"batch_size": 4}, {"n_form": 9},
                        {"n_off_domain": 9}, {"arms": ("lora-8",)})
    }  # fmt: skip
    assert len(texts) == 8
    assert json.loads(frontier_plan().to_json(base="b"))["base"] == "b"


def test_the_plan_in_words_counts_its_time():
    plan = frontier_plan(arms=("aligner-1", "lora-8"), seeds=2)
    text = plan.described({cell.id: 60.0 for cell in plan.cells}, 2)
    assert "Aligner-1               120 s" in text
    assert "2 min by 2 processes" in text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arms": ("aligner-1",)}, "no lora-8"),
        ({"arms": ("lora-8", "aligner-1-shuffled")}, "no arm on shuffled answers"),
        ({"arms": ("lora-8", "lora-9")}, "no arm that trains is named 'lora-9'"),
        ({"arms": ("lora-8", "lora-8")}, "differ"),
        ({"rates": 0}, "rates 0"),
        ({"seeds": 0}, "seeds 0"),
        ({"lengths": ()}, "lengths"),
        ({"lengths": (60, 60)}, "differ"),
        ({"lengths": (0,)}, "length 0"),
        ({"n_off_domain": 0}, "n_off_domain 0"),
    ],
)
def test_a_plan_that_compares_nothing_is_refused(changes, says):
    with pytest.raises(AlignerProbeError, match=says):
        frontier_plan(**changes)


def test_a_probe_s_own_frontier_is_small_and_smaller_on_a_wide_base():
    quick = BUDGETS["quick"]
    own = plan_in_probe(quick, WIDTH, "4-shot, draw 0")
    assert {cell.arm for cell in own.cells} == {PROMPT, "aligner-1", "lora-8", "prompt-tuning-10"}
    assert {cell.lengths for cell in own.cells if cell.arm != PROMPT} == {(60, 120)}
    assert own.cells[0].ways == ("4-shot, draw 0",)
    wide = plan_in_probe(quick.on_width(WIDE), WIDE, "zero-shot")

    def steps(plan):
        return sum(len(cell.rates) * max(cell.lengths, default=0) for cell in plan.cells)

    tuned = plan_in_probe(BUDGETS["standard"], WIDTH, "zero-shot")
    assert (steps(own), steps(wide), steps(tuned)) == (3 * 3 * 120, 3 * 2 * 40, 3 * 3 * 240)


def test_a_budget_without_a_reference_has_no_frontier():
    assert plan_in_probe(replace(BUDGETS["quick"], arms=("aligner-1",)), WIDTH, "zero-shot") is None
