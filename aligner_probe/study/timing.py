"""How long a study will take: a few steps and answers are timed, before any cell is made.

with threads_of_a_worker():
    step = seconds_a_step(model, [Training(adapter=adapter, task=task, recipe=how)])
    answer = seconds_an_item(ask, items)
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.errors import AlignerProbeError
from aligner_probe.jobs.pool import threads_each
from aligner_probe.threads import exactly
from aligner_probe.training import Training, fit_together
from aligner_probe.training.callbacks import Callback, Start

#: Steps that are timed, after one step that is not: the first step also allocates memory.
TIMED_STEPS = 2
#: Items of the warm-up before items are timed.
WARM_UP_ITEMS = 2
Item = TypeVar("Item")


@dataclass(frozen=True)
class StepCost:
    """`seconds` of one step of one run, and `memory`, the estimate of what a step takes, in words."""

    seconds: float
    memory: str


class Clock(Callback):
    """Notes when each step ended, in seconds of `time.perf_counter`, and the estimate of memory."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.memory = ""

    def started(self, start: Start) -> None:
        self.memory = str(start.memory)

    def stepped(self, row: dict[str, Any]) -> None:
        self.times.append(time.perf_counter())


@contextmanager
def threads_of_a_worker() -> Iterator[None]:
    """Inside the block this process computes with as many CPU threads as each worker process will have."""
    with exactly(threads_each().n):
        yield


def seconds_a_step(model: TransformerBridge, trainings: Sequence[Training]) -> StepCost:
    """Time a step of runs that are trained together, each with a recipe; seconds are per run.

    The adapters are trained for three steps without validation, so they are not used for anything else afterwards.
    Raises AlignerProbeError as `fit_together` does, and where a loss is not finite.
    """
    clock = Clock()
    timed = []
    for training in trainings:
        if training.recipe is None:
            raise ValueError("a training that is timed needs a recipe")
        few_steps = replace(training.recipe, steps=1 + TIMED_STEPS, evaluate_every=0)
        callbacks = [] if timed else [clock]
        timed.append(replace(training, recipe=few_steps, validation=None, callbacks=callbacks))
    for run in fit_together(model, timed, cache=False, show_progress=False):
        if isinstance(run, AlignerProbeError):
            raise run
    return StepCost((clock.times[-1] - clock.times[0]) / TIMED_STEPS / len(timed), clock.memory)


def seconds_an_item(work: Callable[[Sequence[Item]], object], items: Sequence[Item]) -> float:
    """Time `work(items)`, for instance asking questions, after a warm-up with two items; seconds are per item."""
    work(items[:WARM_UP_ITEMS])
    began = time.perf_counter()
    work(items)
    return (time.perf_counter() - began) / len(items)
