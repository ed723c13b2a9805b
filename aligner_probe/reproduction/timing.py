"""How long runs will take, from a few timed steps of each kind before the first begins."""

import time
from collections.abc import Sequence
from dataclasses import replace

from aligner_probe.jobs.pool import threads_each
from aligner_probe.reproduction.plan import Planned
from aligner_probe.reproduction.run import Bench, answers, new_adapter, recipe_of
from aligner_probe.reproduction.tasks import Stage
from aligner_probe.threads import exactly
from aligner_probe.training import fit
from aligner_probe.training.callbacks import Callback

#: Steps that are timed, after one that is not; and questions.
TIMED_STEPS, TIMED_QUESTIONS = 2, 32


class _Clock(Callback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def stepped(self, row: dict) -> None:
        self.times.append(time.perf_counter())


def seconds_needed(runs: Sequence[Planned], bench: Bench) -> dict[str, float]:
    """Seconds of one process by run's id: timed steps of its kind times its steps, and its questions.

    The process is timed with the number of threads that each of those has which will make the runs.
    """
    kinds: dict[tuple, float] = {}
    found = {}
    with exactly(threads_each().n):
        a_question = _seconds_a_question(bench)
        for run in runs:
            material = bench.materials[run.experiment]
            asked = len(bench.questions) + sum(len(items) for items in material.items.values())
            found[run.id] = asked * a_question
            for stage in () if run.is_base else material.stages:
                kind = (run.method, run.recipe, run.precision, run.arm in ("gates", "tokens"), stage.train.name)
                if kind not in kinds:
                    kinds[kind] = _seconds_a_step(run, bench, stage)
                found[run.id] += kinds[kind] * recipe_of(run, stage, bench.config).total_steps(len(stage.train))
    return found


def _seconds_a_step(run: Planned, bench: Bench, stage: Stage) -> float:
    how = replace(recipe_of(run, stage, bench.config), steps=1 + TIMED_STEPS, evaluate_every=0)
    few = replace(stage.train, examples=stage.train.examples[: how.batch_size])
    clock = _Clock()
    model = bench.model_for(run)
    adapter = new_adapter(run, model, bench.materials[run.experiment].stages[0].train)
    fit(model, adapter, few, recipe=how, cache=False, callbacks=[clock], show_progress=False)
    return (clock.times[-1] - clock.times[0]) / TIMED_STEPS


def _seconds_a_question(bench: Bench) -> float:
    items = bench.questions[:: max(1, len(bench.questions) // TIMED_QUESTIONS)]
    answers(bench.model, items[:2], bench.config)
    began = time.perf_counter()
    answers(bench.model, items, bench.config)
    return (time.perf_counter() - began) / len(items)
