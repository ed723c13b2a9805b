"""Which test items have a content that the base model knows, asked without the task's form.

The form of an answer can only be judged where the content can be right. So the base model is asked for the bare
content, without examples and after examples whose answers are the bare content too. The prompts that are judged
themselves play no part: an item that is chosen because a prompt is right on it would speak for that prompt.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from aligner_probe.evaluation.guessing import sft_examples
from aligner_probe.evaluation.scorers import TextScorer
from aligner_probe.probing.bench import ProbeBench
from aligner_probe.probing.prompts import Prompting, fitting, promptings
from aligner_probe.tasks.chat_template import are_chat
from aligner_probe.tasks.task import Example, Task


def known_items(bench: ProbeBench, validation: Task, room: int, zero_shot: list[float]) -> dict[str, Any] | None:
    """Which test items the base model knows, when it is asked for their bare content.

    Args:
        bench: the base model and the task.
        validation: the validation items on which the number of examples is chosen.
        room: the most tokens of a prompt.
        zero_shot: the content score of each test item, asked without examples.

    Returns:
        "items": 1 for each test item whose content is right without examples or after bare ones, otherwise 0;
        "prompting": the name of the way to ask that validation chose; "validation": the content score of every way
        there; "example": the first test item as it is asked. None where the task has no form beside its content, or
        no prompt with examples fits.
    """
    if not has_bare_contents(bench):
        return None
    items = [*sft_examples(validation), *sft_examples(bench.parts.test)]
    kept = fitting(_ways_to_ask_bare(bench), items, bench.model.tokenizer, room).kept
    if not kept:
        return None
    means = {one.name: float(np.mean(bench.asked(validation, one)[0]["content"])) for one in kept}
    best = max(kept, key=lambda one: means[one.name])
    bare = bench.asked(bench.parts.test, best)[0]["content"]
    return {
        "items": [float(max(one, other) >= 1.0) for one, other in zip(zero_shot, bare, strict=True)],
        "prompting": best.name,
        "validation": means,
        "example": bench.shown(best(sft_examples(bench.parts.test)[0])),
    }


def has_bare_contents(bench: ProbeBench) -> bool:
    """Whether every answer has a content, and not every answer is nothing but its content."""
    examples = sft_examples(bench.parts.whole)
    told = all(one.content is not None for one in examples)
    return isinstance(bench.scorer, TextScorer) and told and any(_bare(one) != _stripped(one) for one in examples)


def _ways_to_ask_bare(bench: ProbeBench) -> list[Prompting]:
    """The ways to ask with examples, of the first draw, whose answers are the bare content."""
    parts, budget = bench.parts, bench.budget
    bare = tuple(replace(one, completion=f" {_bare(one)}") for one in sft_examples(parts.train))
    tried = promptings(
        sft_examples(bench.as_trained(replace(parts.train, examples=bare))),
        budget.shots,
        1,
        separator=bench.separator,
        chat=are_chat(parts.train.prompts),
    )
    return [replace(one, name=f"bare content, {one.n_shots}-shot") for one in tried if one.n_shots]


def _bare(example: Example) -> str:
    return (example.content or "").strip()


def _stripped(example: Example) -> str:
    return example.completion.strip().rstrip(".")
