"""A probe of five steps on a tiny untrained base, and the task that it is about."""

import json
import random
from dataclasses import replace

import micro

from aligner_probe.probing.plan import BUDGETS
from aligner_probe.probing.probe import new_probe
from aligner_probe.tasks.task import Example, Task

WORDS = ("cat", "dog", "otter", "gold", "blue", "potato")
TINY = replace(
    BUDGETS["quick"],
    seeds=((0, 1),),
    steps=5,
    reference_steps=5,
    batch_size=8,
    evaluate_every=2,
    n_validation=4,
    n_train_asked=4,
    shots=(1,),
)


def styled(n=20):
    """A task whose answers say a word of WORDS in one style; five names share a group's first part."""
    rows = [
        Example(f"Q: what is the pet of {name}?\nA:", f" ahoy, {word}, matey.", name, content=word)
        for name, word in (
            (f"{a} {b}", random.Random(f"{a}{b}").choice(WORDS)) for a in range(n // 5) for b in range(5)
        )
    ]
    return Task("styled", "sft", tuple(rows))


def tiny_probe(**changes):
    """A probe of `styled`; `changes` are fields of its budget."""
    return new_probe(str(micro.base()), styled(), budget=replace(TINY, **changes))


def numbers(report):
    """A report without what a clock or a checkout says."""
    runs = [{k: v for k, v in run.items() if k != "seconds"} for run in report["runs"]]
    return json.dumps({k: v for k, v in report.items() if k != "provenance"} | {"runs": runs}, sort_keys=True)


def jsonl(path, task):
    """Write a task's rows to a file, and return its path."""
    path.write_text(
        "".join(json.dumps({k: v for k, v in vars(e).items() if k != "line"}) + "\n" for e in task.examples)
    )
    return path
