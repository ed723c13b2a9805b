"""Parts of a task: what is tested is what was not trained (general), or what was, in other words (memory)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.intervals import items_needed
from aligner_probe.probing.splitting import split_task
from aligner_probe.probing.verdicts.power import planned_size
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS
from aligner_probe.tasks.task import Example, Preference, Task


def task(*rows):
    return Task("made", "sft", tuple(Example(prompt, f" {group}.", group) for prompt, group in rows))


def facts(n_groups, n_wordings):
    return task(*((f"wording {w} of fact {g}?", f"fact {g}") for w in range(n_wordings) for g in range(n_groups)))


def groups(part):
    return {example.group for example in part.examples}


@settings(max_examples=30, deadline=None)
@given(st.integers(6, 40), st.integers(1, 4), st.integers(0, 99))
def test_a_general_task_is_tested_on_other_groups(n_groups, n_wordings, seed):
    whole = facts(n_groups, n_wordings)
    parts = split_task(whole, seed=seed)
    named = (parts.train, parts.validation, parts.test)
    assert not groups(parts.train) & groups(parts.test)
    assert not groups(parts.train) & groups(parts.validation)
    assert not groups(parts.validation) & groups(parts.test)
    assert sorted(e.prompt for part in named for e in part.examples) == sorted(whole.prompts)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(2, 9), st.integers(0, 99))
def test_a_memory_task_is_tested_on_trained_facts_in_other_words(n_groups, n_wordings, seed):
    whole = facts(n_groups, n_wordings)
    parts = split_task(whole, "memory", seed=seed)
    named = (parts.train, parts.validation, parts.test)
    assert groups(parts.train) == groups(whole)
    prompts = [prompt for part in named for prompt in part.prompts]
    assert sorted(prompts) == sorted(whole.prompts)
    assert len(set(prompts)) == len(prompts)
    if n_wordings >= 3:
        assert groups(parts.test) == groups(parts.validation) == groups(whole)
    assert parts.n_units == len(groups(parts.test))


def test_the_seed_is_wired():
    whole = facts(30, 1)
    assert split_task(whole, seed=1).test.prompts == split_task(whole, seed=1).test.prompts
    assert split_task(whole, seed=1).test.prompts != split_task(whole, seed=2).test.prompts


@pytest.mark.parametrize("kind", ["general", "memory"])
def test_one_prompt_in_two_parts_is_refused(kind):
    train = facts(8, 2)
    shared = train.examples[0]
    test = task(*((f"another wording of fact {g}?", f"fact {g}") for g in range(8)), (shared.prompt, shared.group))
    with pytest.raises(AlignerProbeError, match="1 prompts stand in both the training and the test part"):
        split_task(train, kind, test=test, validation=task(("validating?", "fact 0")))


def test_white_space_makes_no_other_prompt():
    with pytest.raises(AlignerProbeError, match="1 prompts stand in both"):
        split_task(task(("what is  it?\n", "a"), ("b?", "b"), ("c?", "c")), test=task(("what is it?", "d")))


def test_one_group_in_two_parts_of_a_general_task_is_refused_and_memory_suggested():
    with pytest.raises(AlignerProbeError, match=r"fact 3.*--kind memory"):
        split_task(facts(8, 1), test=task(("fact 3, please?", "fact 3")))


def test_an_untrained_fact_is_no_test_of_memory():
    with pytest.raises(AlignerProbeError, match="what is not trained: group 'fact 99'"):
        split_task(facts(8, 2), "memory", test=task(("fact 99?", "fact 99")))


def test_a_memory_task_needs_groups_and_wordings():
    with pytest.raises(AlignerProbeError, match='no "group"'):
        split_task(Task("made", "sft", (Example("a", "b"), Example("c", "d"))), "memory")
    with pytest.raises(AlignerProbeError, match="two wordings a group"):
        split_task(facts(8, 1), "memory")


def test_a_single_fact_needs_three_wordings():
    parts = split_task(facts(1, 3), "memory")
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [1, 1, 1]


def test_given_parts_are_kept_as_they_are():
    train, validation, test = facts(8, 1), task(("v?", "v")), task(("t?", "t"))
    parts = split_task(train, test=test, validation=validation)
    assert (parts.train, parts.validation, parts.test) == (train, validation, test)


def test_preferences_are_refused():
    with pytest.raises(AlignerProbeError, match="holds preferences"):
        split_task(Task("made", "preference", (Preference("a", "b", "c"),)))


def given_test(n, wordings=1):
    test = task(*((f"test {w} {g}?", f"test {g}") for g in range(n) for w in range(wordings)))
    return planned_size(split_task(facts(8, 1), test=test), 0.0)


def test_power_is_of_groups_and_meets_what_is_needed():
    needed = given_test(9).needed
    t = THRESHOLDS
    of = {
        name: items_needed(cut * t.learned, (cut + t.resolution) * t.learned)
        for name, cut in (("F", t.F_cut), ("R_soft", t.R_soft_cut))
    }
    assert needed == max(of.values())
    assert f"are needed to tell {max(of, key=of.__getitem__)} = " in given_test(9).said
    enough, short, three = given_test(needed), given_test(needed - 1), given_test(needed, wordings=3)
    assert enough.enough
    assert not short.enough
    assert enough.power == three.power >= 0.8
    assert (enough.rows, three.rows) == (needed, 3 * needed)
    assert f"write about {needed} rows of test ({needed} test items)" in short.said
    assert "write" not in enough.said


@pytest.mark.parametrize("wordings", [1, 3])
def test_a_task_of_as_many_rows_as_it_says_has_as_many_items(wordings):
    """The rows to write are of the whole task, of which a part becomes the test."""
    few = planned_size(split_task(facts(20, wordings)), 0.0)
    assert not few.enough
    enough = planned_size(split_task(facts(round(1.1 * few.rows / wordings), wordings)), 0.0)
    assert enough.enough
    assert enough.n <= 1.3 * enough.needed


def test_what_a_constant_answer_scores_makes_the_test_larger():
    parts = split_task(facts(60, 1))
    sizes = [planned_size(parts, floor).needed for floor in (0.0, 0.25, 0.5, 0.9)]
    assert sizes == sorted(set(sizes))
    assert planned_size(parts, 1.0).needed is None
    assert "no test set is large enough" in planned_size(parts, 1.0).said
    likelihood = planned_size(parts, None)
    assert (likelihood.needed, likelihood.power) == (THRESHOLDS.fewest_items, None)
    facts_only = planned_size(split_task(facts(30, 4), "memory"), 0.0)
    assert facts_only.enough
    assert "all the facts" in facts_only.said


def test_one_wording_to_train_and_a_test_of_others_make_a_memory_task():
    """Validation is taken from the test: other wordings of its facts where it has some, else some of its facts."""
    train = facts(30, 1)
    for n_wordings in (1, 4):
        test = task(*((f"test {w} of fact {g}?", f"fact {g}") for w in range(n_wordings) for g in range(30)))
        parts = split_task(train, "memory", test=test)
        assert parts.train == train
        assert sorted(parts.test.prompts + parts.validation.prompts) == sorted(test.prompts)
        shared = groups(parts.test) & groups(parts.validation)
        assert shared == (groups(test) if n_wordings == 4 else set())
        assert len(groups(parts.test)) == (30 if n_wordings == 4 else 21)
    with pytest.raises(AlignerProbeError, match="--validation FILE"):
        split_task(task(("a?", "x")), "memory", test=task(("b?", "x")))


def test_prompts_that_differ_in_white_space_stay_in_one_part():
    whole = task(*((f"Q {g}?{' ' * w}\nA:", f"entity {g} {w}") for g in range(20) for w in range(2)))
    assert split_task(whole).n_units <= 14


def test_one_prompt_many_times_is_one_item():
    rows = tuple(Example(f"prompt {place % 10}", f" answer {place % 7}") for place in range(200))
    parts = split_task(Task("repeated", "sft", rows))
    assert parts.n_units == len(set(parts.test.prompts)) < 10 < len(parts.test)
