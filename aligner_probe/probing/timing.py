"""How long a probe will take and how much memory, from a few timed steps of each arm before anything is made."""

import time
from dataclasses import replace

from aligner_probe.jobs.pool import threads_each
from aligner_probe.probing.bench import Bench, first
from aligner_probe.probing.cells import recipe_for, trained_on
from aligner_probe.probing.methods import METHODS, new_adapter
from aligner_probe.probing.plan import Cell, Plan
from aligner_probe.threads import exactly
from aligner_probe.training import Training, fit_together
from aligner_probe.training.callbacks import Callback, Start

#: Steps that are timed, after one that is not; and items asked.
TIMED_STEPS, TIMED_ITEMS = 2, 16


class _Clock(Callback):
    def __init__(self) -> None:
        self.times: list[float] = []
        self.memory = ""

    def started(self, start: Start) -> None:
        self.memory = str(start.memory)

    def stepped(self, row: dict) -> None:
        self.times.append(time.perf_counter())


def seconds_and_memory(probe: Plan, bench: Bench) -> tuple[dict[str, float], list[str]]:
    """Seconds of one process by cell's id, and the memory of the arm that takes most, in words.

    The process is timed with the number of threads that each of those has which will make the cells.
    Steps are taken at their most: early stopping makes a run shorter. An arm's own passes over prompts are counted as
    the base's.
    """
    with exactly(threads_each().n):
        a_question = _seconds_a_question(bench)
        steps: dict[str, float] = {}
        memory: dict[str, str] = {}
        found = {}
        for cell in probe.cells:
            if cell.kind == "prompts":
                found[cell.id] = a_question * _asked_of_base(bench)
                continue
            timed = f"{METHODS[cell.arm].adapter} {METHODS[cell.arm].options} {cell.together}"
            if timed not in steps:
                steps[timed], memory[METHODS[cell.arm].label] = _seconds_a_step(bench, cell)
            most = _tuning_steps(bench, cell) if cell.kind == "tune" else bench.budget.steps_of(cell.arm)
            asked = 0 if cell.kind == "tune" else _asked_of_run(bench)
            found[cell.id] = steps[timed] * most + a_question * asked
    return found, [f"{label}: {said}" for label, said in memory.items()]


def _tuning_steps(bench: Bench, cell: Cell) -> int:
    return sum(n * steps for n, steps in bench.budget.tried(len(METHODS[cell.arm].rates)))


def _seconds_a_step(bench: Bench, cell: Cell) -> tuple[float, str]:
    """Seconds of one run's step, in a batch with as many others as the plan says."""
    train, _ = trained_on(bench, cell)
    how = recipe_for(bench, cell, METHODS[cell.arm].stored_rate_on(bench.model.cfg.d_model))
    how = replace(how, steps=1 + TIMED_STEPS, evaluate_every=0)
    clock = _Clock()
    few = first(train, how.batch_size)
    trainings = [
        Training(
            adapter=new_adapter(cell.arm, bench.model, cell.start_seed),
            task=few,
            recipe=how,
            callbacks=[] if place else [clock],
        )
        for place in range(cell.together)
    ]
    fit_together(bench.model, trainings, cache=False, show_progress=False)
    return (clock.times[-1] - clock.times[0]) / TIMED_STEPS / cell.together, clock.memory


def _seconds_a_question(bench: Bench) -> float:
    items = first(bench.parts.validation, TIMED_ITEMS)
    bench.asked(first(items, 2))
    began = time.perf_counter()
    bench.asked(items)
    return (time.perf_counter() - began) / len(items)


def _asked_of_base(bench: Bench) -> int:
    budget, n = bench.budget, len(bench.parts.test)
    tried = 1 + len(budget.shots) * budget.draws + (0 if bench.own_prompt is None else 2)
    off_domain = 0 if bench.off_domain is None else min(budget.n_off_domain, len(bench.off_domain))
    controls = 2 * budget.n_off_domain
    return tried * min(budget.n_validation, len(bench.parts.validation)) + 3 * n + off_domain + controls


def _asked_of_run(bench: Bench) -> int:
    budget = bench.budget
    off_domain = 0 if bench.off_domain is None else min(budget.n_off_domain, len(bench.off_domain))
    return 2 * len(bench.parts.test) + 2 * budget.n_validation + budget.n_train_asked + off_domain
