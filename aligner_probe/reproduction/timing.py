"""How long the runs of a reproduction will take: a few steps and answers of each kind are timed before the first.

A step is timed on a few rows and scaled to the batch, which is right where time goes with tokens, as on a CPU. Sizes of
one method cost the same, since the base model takes nearly all of the time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.arms.catalogue import ARMS
from aligner_probe.jobs.pool import threads_each
from aligner_probe.models import device_of, n_base_parameters
from aligner_probe.reproduction.cells import ReproductionCell
from aligner_probe.reproduction.items import Item
from aligner_probe.reproduction.run import ReproductionBench, new_adapter
from aligner_probe.reproduction.source import Material, Measure, Stage
from aligner_probe.study import seconds_a_step, seconds_an_item, threads_of_a_worker
from aligner_probe.tasks import Example, Task
from aligner_probe.training import Recipe, Training

#: How many items are asked to time an answer, of a small base model and of others, whose answers take seconds.
ITEMS_OF_SMALL, ITEMS = 32, 8
#: A base model of fewer parameters is small.
SMALL = 20_000_000
#: How many rows a timed step has on a CPU.
TIMED_ROWS = 4
#: The share of a row's time in training that a forward pass alone takes.
FORWARD = 0.5


@dataclass(frozen=True)
class Needed:
    """The seconds that each run takes in a process of its own, by the id of its cell, if each process has its cores.

    `share` is the share of its cores that this process had while it was timed. Below 1 other processes are at work,
    and the runs take as much longer as long as they are.
    """

    seconds: dict[str, float]
    share: float = 1.0

    @property
    def total(self) -> float:
        return sum(self.seconds.values(), 0.0)


def time_needed(cells: Sequence[ReproductionCell], bench: ReproductionBench) -> Needed:
    """Estimate how long each run takes, by a few steps and answers of each kind."""
    wall, cpu = time.perf_counter(), time.process_time()
    seconds = _timed(cells, bench)
    if not seconds or device_of(bench.model).type != "cpu":
        return Needed(seconds)
    return Needed(seconds, _share(wall, cpu))


def _share(wall: float, cpu: float) -> float:
    """The share of its cores that this process has had since `wall` and `cpu`, of its two clocks."""
    return min(1.0, (time.process_time() - cpu) / (time.perf_counter() - wall) / threads_each().n)


def _on_free_cores(model: TransformerBridge, work: Callable[[], float]) -> float:
    """The seconds that `work` returns, less those for which the CPU was given to other processes meanwhile."""
    wall, cpu = time.perf_counter(), time.process_time()
    seconds = work()
    return seconds if device_of(model).type != "cpu" else seconds * _share(wall, cpu)


def _timed(cells: Sequence[ReproductionCell], bench: ReproductionBench) -> dict[str, float]:
    steps: dict[tuple, float] = {}
    asking: dict[str, float] = {}
    known: dict[tuple, float] = {}
    seconds = {}
    with threads_of_a_worker():
        for cell in tqdm(cells, desc="timing a few steps of each kind", leave=False):
            material = bench.materials[cell.experiment]
            if cell.experiment not in asking:
                asking[cell.experiment] = _seconds_asking(bench, cell, material, known)
            seconds[cell.id] = asking[cell.experiment]
            for stage in () if cell.is_base else material.stages:
                alike = (ARMS[cell.method].method, cell.precision, stage.name, stage.train.name)
                if alike not in steps:
                    steps[alike] = _seconds_a_row(cell, bench, stage)
                how = bench.source.recipe_of(cell, stage).settled(len(stage.train))
                seconds[cell.id] += steps[alike] * (_rows_trained(how, stage) + FORWARD * _rows_validated(how, stage))
    return seconds


def _rows_trained(how: Recipe, stage: Stage) -> int:
    return how.total_steps(len(stage.train)) * (how.batch_size or 1)


def _rows_validated(how: Recipe, stage: Stage) -> int:
    """Validation examples of a whole run: before it, and after each interval, by default an epoch."""
    n = len(stage.train)
    every = how.evaluate_every or how.steps_per_epoch(n)
    return (how.total_steps(n) // every + 1) * len(stage.validation)


def _seconds_a_row(cell: ReproductionCell, bench: ReproductionBench, stage: Stage) -> float:
    """Seconds of one example in a step of training."""
    model = bench.model_for(cell)
    how = bench.source.recipe_of(cell, stage).settled(len(stage.train))
    size = how.batch_size or 1
    if device_of(model).type == "cpu" and cell.arm not in ("gates", "tokens"):
        size = min(size, TIMED_ROWS)
    few = _of_mean_length(stage.train, size)
    how = replace(how, batch_size=size, micro_batch_size=None if size < how.rows_at_once else how.micro_batch_size)
    adapter = new_adapter(cell, model, bench.materials[cell.experiment].stages[0].train)
    training = Training(adapter=adapter, task=few, recipe=how)
    return _on_free_cores(model, lambda: seconds_a_step(model, [training]).seconds) / size


def _of_mean_length(task: Task, n: int) -> Task:
    """The n examples whose length is nearest to the mean, because training puts examples of like length together."""
    texts = [
        str(one.prompt) + (one.completion if isinstance(one, Example) else max(one.chosen, one.rejected, key=len))
        for one in task.examples
    ]
    mean = sum(map(len, texts)) / len(texts)
    order = sorted(range(len(texts)), key=lambda index: abs(len(texts[index]) - mean))
    return replace(task, examples=tuple(task.examples[index] for index in order[:n]))


def _seconds_asking(
    bench: ReproductionBench, cell: ReproductionCell, material: Material, known: dict[tuple, float]
) -> float:
    """Seconds of all that a cell of the experiment is asked; `known` has those of an item of sets timed before."""
    model, source, seconds = bench.model, bench.source, 0.0
    n_timed = ITEMS_OF_SMALL if n_base_parameters(model) < SMALL else ITEMS
    asked: dict[str, Sequence[Item]] = {}
    if source.asks_questions(cell.experiment):
        asked["questions"] = bench.questions
    asked |= material.items
    answered: set[str] = set()
    for name, items in asked.items():
        prompts = {item.prompt for item in items}
        alike = (name, *sorted(prompts)[:1])
        if name in material.measures:
            measure = material.measures[name]
            some = range(min(n_timed, len(items)))

            def work(chosen: Sequence[int], measure: Measure = measure) -> object:
                return measure.some(len(chosen)).of(model)

            if alike not in known:
                known[alike] = _on_free_cores(model, partial(seconds_an_item, work, some))
            seconds += known[alike] * len(items)
        elif new := prompts - answered:  # a prompt is asked once
            few = items[:: max(1, len(items) // n_timed)][:n_timed]
            if alike not in known:
                known[alike] = _on_free_cores(model, partial(seconds_an_item, partial(source.answers, model), few))
            seconds += known[alike] * len(new)
            answered |= new
    return seconds
