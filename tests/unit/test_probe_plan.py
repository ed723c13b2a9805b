"""Budgets, their cells and what they leave open; every arm on a small base."""

import json

import pytest
from tiny import bridge

from aligner_probe.adapters import METHODS
from aligner_probe.adapters.adapter import suggested_start_layer
from aligner_probe.arms.catalogue import ARMS, PROBE_ARMS, Arm, new_arm_adapter
from aligner_probe.arms.names import (
    ALIGNER_1,
    ALIGNER_1_SHUFFLED,
    CONDITIONAL,
    FULL,
    FULL_SHUFFLED,
    LORA_8,
    LORA_16,
    ON_FEW,
    PROMPT_TUNING,
    RANDOM_SUBSPACE,
    REFERENCE_SHUFFLED,
)
from aligner_probe.errors import AlignerProbeError
from aligner_probe.probing.plan import BUDGETS, PROMPTS, described, plan, tune_id


@pytest.mark.parametrize("name", BUDGETS)
def test_ids_are_unique_stable_and_safe_as_folders(name):
    one, other = plan(name), plan(name)
    ids = [cell.id for cell in one.cells]
    assert len(set(ids)) == len(ids)
    assert one.to_json(base="b") == other.to_json(base="b") != other.to_json(base="c")
    assert all(part.replace("-", "").replace("_", "").isalnum() for part in ids)


def test_quick_is_what_it_says():
    quick = plan("quick")
    assert {cell.arm for cell in quick.cells if cell.kind == "train"} == {
        ALIGNER_1, PROMPT_TUNING, LORA_8, LORA_16, ALIGNER_1_SHUFFLED, REFERENCE_SHUFFLED,
    }  # fmt: skip
    assert {len(quick.runs_of(arm)) for arm in quick.arms} == {2}
    assert not any(cell.kind == "tune" for cell in quick.cells)
    assert len(quick.waves()) == 2
    left_open = " ".join(quick.open_questions)
    assert all(word in left_open for word in ("B is", "Delta", "dose-response", "stored", "Full fine-tuning"))


def test_standard_has_all_arms_three_seeds_and_equal_trials():
    standard = plan("standard")
    assert {cell.arm for cell in standard.cells if cell.arm} == set(PROBE_ARMS)
    assert {len(standard.runs_of(arm)) for arm in PROBE_ARMS} == {3}
    assert {len(ARMS[cell.arm].tried_rates) for cell in standard.cells if cell.kind == "tune"} == {3}
    assert not any("B is" in line or "Delta" in line or "stored" in line for line in standard.open_questions)


def test_thorough_crosses_start_and_order():
    seeds = {(cell.start_seed, cell.order_seed) for cell in plan("thorough").runs_of(ALIGNER_1)}
    starts, orders = {start for start, _ in seeds}, {order for _, order in seeds}
    assert len(starts) >= 5
    assert seeds == {(start, order) for start in starts for order in orders}
    assert len(orders) > 1
    assert plan("thorough").open_questions == ()


@pytest.mark.parametrize("name", BUDGETS)
def test_waves_have_every_cell_once_after_what_it_needs(name):
    made, waves = set(), plan(name).waves()
    for wave in waves:
        assert all(made.issuperset(cell.after) for cell in wave)
        made |= {cell.id for cell in wave}
    assert sum(map(len, waves)) == len(plan(name).cells) == len(made)
    assert waves[0][0].id == PROMPTS


def test_a_later_candidate_waits_for_those_before_it():
    standard = plan("standard")
    later = [cell for cell in standard.cells if cell.arm in CONDITIONAL]
    first, second = ({cell.id for cell in standard.runs_of(arm)} for arm in (LORA_8, LORA_16))
    assert all(cell.only_if_unlearned and first <= set(cell.after) for cell in later)
    assert all(second <= set(cell.after) for cell in later if cell.arm in (FULL, FULL_SHUFFLED))
    assert not any(cell.only_if_unlearned for cell in standard.cells if cell.arm not in CONDITIONAL)
    # It is a reference, so it has its own control on shuffled answers, at its own rate.
    assert len(standard.runs_of(FULL_SHUFFLED)) == len(standard.runs_of(FULL)) == 3
    assert all(tune_id(FULL) in cell.after for cell in standard.runs_of(FULL_SHUFFLED))


def test_shuffled_arms_take_the_rate_of_the_true_ones():
    assert (ARMS[ALIGNER_1_SHUFFLED].rates_from, ARMS[REFERENCE_SHUFFLED].rates_from) == (ALIGNER_1, LORA_8)
    assert tune_id(ALIGNER_1_SHUFFLED) == tune_id(ALIGNER_1)


def test_arms_on_few_examples_take_the_rate_of_the_one_on_all():
    for name, n in ON_FEW.items():
        arm = ARMS[name]
        assert (arm.examples, arm.rates_from, tune_id(name)) == (n, LORA_8, tune_id(LORA_8))
        assert (arm.method, dict(arm.options)) == (ARMS[LORA_8].method, dict(ARMS[LORA_8].options))
        assert plan("standard").budget.steps_of(name) < plan("standard").budget.steps_of(LORA_8)
    assert not set(ON_FEW) & set(plan("quick").arms)
    assert set(ON_FEW) <= set(plan("standard").arms) & set(plan("thorough").arms)
    recorded = json.loads(plan("standard").to_json())["methods"]
    assert {arm: one["examples"] for arm, one in recorded.items() if "examples" in one} == ON_FEW
    with pytest.raises(AlignerProbeError, match="takes 0 examples"):
        Arm("none", "none", "lora", examples=0)


def test_changes_and_mistakes():
    assert plan("quick", steps=7).budget.steps == 7
    for wrong, said in (({"steps": 0}, "steps 0"), ({"colour": 1}, "no 'colour'"), ({"arms": ("x",)}, "named 'x'"),
                        ({"seeds": ()}, "seeds")):  # fmt: skip
        with pytest.raises(AlignerProbeError, match=said):
            plan("quick", **wrong)
    with pytest.raises(AlignerProbeError, match="no budget is named 'huge'"):
        plan("huge")


def test_the_plan_in_words():
    quick = plan("quick")
    said = described(quick, dict.fromkeys([cell.id for cell in quick.cells], 10.0), 2, ["base 1 GB"])
    assert "Aligner-1                       2 runs               20 s" in said
    assert "time: 55 s by 2 processes (timed steps times their number), 65 s with all conditional runs" in said
    assert "memory: base 1 GB" in said
    assert said.count("cannot decide: ") == len(quick.open_questions)
    standard = plan("standard")
    said = described(standard, dict.fromkeys([cell.id for cell in standard.cells], 60.0), 2)
    assert "only if the candidates before it have not learned" in said
    assert "with all conditional runs" in said


def test_every_arm_makes_its_adapter_and_a_random_subspace_has_aligner_s_size():
    model = bridge("llama_gqa")
    adapters = {arm: new_arm_adapter(arm, model, 0) for arm in ARMS}
    assert adapters[RANDOM_SUBSPACE].n_parameters == adapters[ALIGNER_1].n_parameters
    assert {arm for arm, adapter in adapters.items() if adapter.layers.start == 1} == {
        name for name, arm in ARMS.items() if METHODS[arm.method].starts_above
    }
    assert suggested_start_layer(model) == 1
    families = {}
    for name in PROBE_ARMS:
        families.setdefault(ARMS[name].group, []).append(adapters[name].n_parameters)
    assert families["Aligner"] == sorted(set(families["Aligner"]))
    assert families["LoRA"] == sorted(set(families["LoRA"]))
    with pytest.raises(AlignerProbeError, match="no arm that trains is named 'base'"):
        new_arm_adapter("base", model, 0)


def test_learning_rates_shrink_with_the_width_of_the_base():
    method = ARMS["aligner-1"]
    assert method.rates_on(128) == method.tried_rates == method.rates_on(64)
    assert method.rates_on(4096) == (0.00094, 0.0031, 0.0094)
    assert method.stored_rate_on(256) == method.tried_rates[1] / 2


def test_the_quick_budget_is_smaller_on_a_wide_base():
    quick = BUDGETS["quick"]
    wide = quick.on_width(576)
    assert quick.on_width(128) is quick
    assert (wide.arms, wide.seeds, wide.on_wide) == (quick.arms, quick.seeds, {})
    shuffled = {arm: len(plan(wide).runs_of(arm)) for arm in wide.arms if ARMS[arm].shuffled}
    assert shuffled == {ALIGNER_1_SHUFFLED: 1, REFERENCE_SHUFFLED: 1}
    assert {len(plan(wide).runs_of(arm)) for arm in wide.arms if not ARMS[arm].shuffled} == {2}
    assert wide.reference_steps * wide.batch_size < quick.reference_steps * quick.batch_size
    assert BUDGETS["standard"].on_width(4096) is BUDGETS["standard"]
    with pytest.raises(AlignerProbeError, match="steps 0"):
        plan("quick", on_wide={"steps": 0})
