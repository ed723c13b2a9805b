"""How long the runs of a reproduction will take: a few steps of each kind of run are timed before the first begins."""

from collections.abc import Sequence
from dataclasses import replace

from aligner_probe.reproduction.items import Item
from aligner_probe.reproduction.plan import ReproductionCell
from aligner_probe.reproduction.run import ReproductionBench, answers, new_adapter, recipe_of
from aligner_probe.reproduction.tasks import Stage
from aligner_probe.study import seconds_a_step, seconds_an_item, threads_of_a_worker
from aligner_probe.training import Training

#: How many questions are asked to time an answer.
TIMED_QUESTIONS = 32


def seconds_needed(cells: Sequence[ReproductionCell], bench: ReproductionBench) -> dict[str, float]:
    """Estimate the seconds that one process takes for each run, by the id of its cell."""
    steps: dict[tuple, float] = {}
    seconds = {}
    with threads_of_a_worker():
        a_question = _seconds_a_question(bench)
        for cell in cells:
            material = bench.materials[cell.experiment]
            asked = len(bench.questions) + sum(len(items) for items in material.items.values())
            seconds[cell.id] = asked * a_question
            for stage in () if cell.is_base else material.stages:
                alike = (cell.method, cell.recipe, cell.precision, cell.arm in ("gates", "tokens"), stage.train.name)
                if alike not in steps:
                    steps[alike] = _seconds_a_step(cell, bench, stage)
                seconds[cell.id] += steps[alike] * recipe_of(cell, stage, bench.config).total_steps(len(stage.train))
    return seconds


def _seconds_a_step(cell: ReproductionCell, bench: ReproductionBench, stage: Stage) -> float:
    how = recipe_of(cell, stage, bench.config)
    few = replace(stage.train, examples=stage.train.examples[: how.batch_size])
    model = bench.model_for(cell)
    adapter = new_adapter(cell, model, bench.materials[cell.experiment].stages[0].train)
    return seconds_a_step(model, [Training(adapter=adapter, task=few, recipe=how)]).seconds


def _seconds_a_question(bench: ReproductionBench) -> float:
    items = bench.questions[:: max(1, len(bench.questions) // TIMED_QUESTIONS)]

    def ask(some: Sequence[Item]) -> None:
        answers(bench.model, some, bench.config)

    return seconds_an_item(ask, items)
