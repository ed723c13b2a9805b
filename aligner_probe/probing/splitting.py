"""Splits a task into training, validation and test part.

A **general** task is tested on other groups than it was trained on (other entities, other operands), so that a right
answer was not stored. A **memory** task is tested on the groups that it was trained on, in other words, so that a right
answer was stored. In both kinds a prompt that stands in two parts is refused, because its answer was seen.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import get_args

from aligner_probe.errors import AlignerProbeError, one_of
from aligner_probe.evaluation.guessing import sft_examples
from aligner_probe.probing.verdicts.measures import TaskKind
from aligner_probe.tasks.task import Example, Task, as_read

#: The shares of a general task for validation and for the test, and the share of a memory task's wordings for each.
VALIDATION, TEST = 0.15, 0.35
WORDINGS_ASIDE = 0.25


@dataclass(frozen=True)
class Parts:
    """The three parts of a task and its kind. `own_test` says whether the test was given as a file of its own."""

    kind: TaskKind
    train: Task
    validation: Task
    test: Task
    own_test: bool = False

    @property
    def whole(self) -> Task:
        """The task with the examples of all three parts."""
        return replace(self.train, examples=(*self.train.examples, *self.validation.examples, *self.test.examples))

    @property
    def test_groups(self) -> tuple[str, ...]:
        """The group of each test item; an item without a group has one of its own, which is named by its prompt."""
        return tuple(
            f"prompt {as_read(example.prompt)}" if example.group is None else f"group {example.group}"
            for example in self.test.examples
        )

    @property
    def n_units(self) -> int:
        """The number of independent test items: each group counts once."""
        return len(set(self.test_groups))

    @property
    def rows_an_item(self) -> float:
        """Rows for each independent test item: of the test where it is a file of its own, otherwise of the task."""
        return len(self.test if self.own_test else self.whole) / self.n_units


def split_task(
    task: Task,
    kind: TaskKind | str = "general",
    *,
    test: Task | None = None,
    validation: Task | None = None,
    seed: int = 0,
) -> Parts:
    """Split a task into its parts, and check the parts that are given.

    Args:
        task: the examples to train on, and to split off what is not given.
        kind: "general" or "memory".
        test: the test part, where it is given.
        validation: the validation part, where it is given.
        seed: the seed of the split.

    Raises:
        AlignerProbeError: the task holds preferences; a prompt stands in two parts; a group of a general task stands in
            two parts; a group of a memory task is tested and not trained; or there is too little to split.
    """
    for part in (task, test, validation):
        if part is not None and part.kind != "sft":
            raise AlignerProbeError(
                f"task {part.name!r} holds preferences; a probe expects prompts with completions, so give it the "
                "chosen answers as completions"
            )
    known: TaskKind = one_of(kind, get_args(TaskKind), "kind")
    cut = _memory if known == "memory" else _general
    parts = Parts(known, *cut(task, test, validation, seed), own_test=test is not None)
    _check(parts)
    return parts


def _general(task: Task, test: Task | None, validation: Task | None, seed: int) -> tuple[Task, Task, Task]:
    if test is None:
        task, test = task.split(TEST, seed)
    if validation is None:
        # The share of what is left that is the wanted share of the whole.
        task, validation = task.split(VALIDATION / (1 - TEST), seed + 1)
    return task, validation, test


def _memory(task: Task, test: Task | None, validation: Task | None, seed: int) -> tuple[Task, Task, Task]:
    nameless = sum(example.group is None for example in task.examples)
    if nameless:
        raise AlignerProbeError(
            f'{nameless} of {len(task)} examples of {task.name!r} have no "group"; a memory task expects one in every '
            "example, which names the fact, so that it can be tested in other words"
        )
    aside = [name for name, part in (("validation", validation), ("test", test)) if part is None]
    rest, taken = _wordings_aside(sft_examples(task), aside, seed)
    if test is not None and aside == ["validation"] and not taken["validation"]:
        test, validation = _validation_of(test, seed)
        return task, validation, test
    for name in aside:
        if not taken[name]:
            raise AlignerProbeError(
                f"no group of {task.name!r} has a second wording to set apart for {name}; a memory task expects at "
                "least two wordings a group, or test prompts in a file of their own: --test FILE"
            )
    made = {name: replace(task, examples=tuple(taken[name])) for name in aside}
    return replace(task, examples=tuple(rest)), validation or made["validation"], test or made["test"]


def _validation_of(test: Task, seed: int) -> tuple[Task, Task]:
    """Split a test into test and validation, for facts that are trained in one wording each.

    The validation takes other wordings of the test's facts where there are some, otherwise some of the facts.
    """
    rest, taken = _wordings_aside(sft_examples(test), ["validation"], seed)
    if taken["validation"]:
        return replace(test, examples=tuple(rest)), replace(test, examples=tuple(taken["validation"]))
    if len({example.group for example in test.examples}) < 2:
        raise AlignerProbeError(
            f"nothing of {test.name!r} can be set apart for validation: it asks about one fact in one wording, and so "
            "does the training part; give validation prompts in a file of their own: --validation FILE"
        )
    return test.split(VALIDATION / (VALIDATION + TEST), seed)


def _wordings_aside(
    examples: Sequence[Example], names: Sequence[str], seed: int
) -> tuple[list[Example], dict[str, list[Example]]]:
    """Set some wordings of every group aside for each named part; at least one wording is left for training.

    A group with too few wordings for all parts gives one to some of them. The parts take turns over the groups, so that
    every part has some facts.
    """
    by_group: dict[str | None, list[Example]] = defaultdict(list)
    for example in examples:
        by_group[example.group].append(example)
    generator = random.Random(f"wordings {seed}")
    taken: dict[str, list[Example]] = {name: [] for name in names}
    turn = 0
    for group in by_group.values():
        prompts = list(dict.fromkeys(as_read(example.prompt) for example in group))
        generator.shuffle(prompts)
        n = max(1, round(WORDINGS_ASIDE * len(prompts)))
        if len(prompts) > n * len(names):
            given = {name: prompts[index * n : (index + 1) * n] for index, name in enumerate(names)}
        else:
            spare, given = prompts[:-1], {}
            for prompt in spare:
                given.setdefault(names[turn % len(names)], []).append(prompt)
                turn += 1
        for name, chosen in given.items():
            taken[name] += [example for example in group if as_read(example.prompt) in chosen]
    gone = {id(example) for part in taken.values() for example in part}
    return [example for example in examples if id(example) not in gone], taken


def _check(parts: Parts) -> None:
    named = {"training": parts.train, "test": parts.test, "validation": parts.validation}
    for one, other in combinations(named, 2):
        shared = _prompts(named[one]) & _prompts(named[other])
        if shared:
            raise AlignerProbeError(
                f"{len(shared)} prompts stand in both the {one} and the {other} part, for instance "
                f"{min(shared)[:60]!r}; expected none, since what was seen is then read off. Remove them from one part"
            )
    for one, other in combinations(named, 2):
        both = _groups(named[one]) & _groups(named[other])
        if both and parts.kind == "general":
            raise AlignerProbeError(
                f"{len(both)} groups stand in both the {one} and the {other} part, for instance {min(both)[:60]!r}; a "
                "general task expects other ones in each. Where the test asks for trained facts in other words: "
                "--kind memory"
            )
    if parts.kind == "memory":
        for name in ("validation", "test"):
            nameless = any(example.group is None for example in named[name].examples)
            untrained = _groups(named[name]) - _groups(parts.train)
            if nameless or untrained:
                raise AlignerProbeError(
                    f"the {name} part of a memory task asks about what is not trained: "
                    f"{'an example without a group' if nameless else f'group {min(untrained)[:60]!r}'}; expected "
                    "groups of the training part only, in other words"
                )


def _prompts(task: Task) -> set[str]:
    return {as_read(example.prompt) for example in task.examples}


def _groups(task: Task) -> set[str]:
    return {example.group for example in task.examples if example.group is not None}
