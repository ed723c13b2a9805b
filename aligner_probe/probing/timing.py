"""How long a probe will take and how much memory: a few steps of each arm are timed before any cell is made."""

from collections.abc import Sequence
from dataclasses import replace

from aligner_probe.arms.catalogue import ARMS, new_arm_adapter
from aligner_probe.evaluation.guessing import sft_examples
from aligner_probe.probing.asking import ways_to_ask
from aligner_probe.probing.bench import ProbeBench, first
from aligner_probe.probing.cells import recipe_for, trained_on
from aligner_probe.probing.frontier import planned_in_probe
from aligner_probe.probing.plan import Plan, ProbeCell, described
from aligner_probe.study import StepCost, seconds_a_step, seconds_an_item, threads_of_a_worker
from aligner_probe.tasks.task import Example
from aligner_probe.training import Training

#: How many items are asked to time an answer.
TIMED_ITEMS = 16


def plan_in_words(probe: Plan, bench: ProbeBench, processes: int) -> str:
    """What a probe and the small frontier in it will make, by so many processes, with the time and memory it takes."""
    seconds, memory = seconds_and_memory(probe, bench)
    made = described(probe, seconds, processes, memory, prompts=len(ways_to_ask(bench)[0]))
    return f"{made}\n{planned_in_probe(bench, processes)}"


def seconds_and_memory(probe: Plan, bench: ProbeBench) -> tuple[dict[str, float], list[str]]:
    """Estimate the seconds that one process takes for each cell, by cell id, and the memory of each arm, in words.

    The times are upper estimates: each run is counted with the most steps it may take, and early stopping makes it
    shorter. The passes over prompts are counted with the base model's time, without what an adapter adds.
    """
    with threads_of_a_worker():
        a_question = _seconds_a_question(bench)
        steps: dict[str, StepCost] = {}
        memory: dict[str, str] = {}
        seconds = {}
        for cell in probe.cells:
            if cell.arm is None:
                seconds[cell.id] = a_question * _asked_of_base(bench)
                continue
            arm = ARMS[cell.arm]
            alike = f"{arm.method} {arm.options} {arm.examples} {cell.together}"
            if alike not in steps:
                steps[alike] = _a_step(bench, cell)
                memory[arm.label] = steps[alike].memory
            most = _tuning_steps(bench, cell) if cell.kind == "tune" else bench.budget.steps_of(cell.arm)
            asked = 0 if cell.kind == "tune" else _asked_of_run(bench)
            seconds[cell.id] = steps[alike].seconds * most + a_question * asked
    return seconds, [f"{label}: {estimate}" for label, estimate in memory.items()]


def _tuning_steps(bench: ProbeBench, cell: ProbeCell) -> int:
    """The steps of all learning rates that a cell tries, together."""
    return sum(n * steps for n, steps in bench.budget.tried(len(ARMS[cell.trained_arm].tried_rates)))


def _a_step(bench: ProbeBench, cell: ProbeCell) -> StepCost:
    """Time a step of one run of the cell's arm, trained together with as many others as the plan says."""
    train, _ = trained_on(bench, cell)
    how = recipe_for(bench, cell, ARMS[cell.trained_arm].stored_rate_on(bench.model.cfg.d_model))
    few = first(train, how.batch_size or len(train))
    adapters = [new_arm_adapter(cell.trained_arm, bench.model, cell.seeds[0]) for _ in range(cell.together)]
    trainings = [Training(adapter=adapter, task=few, recipe=how) for adapter in adapters]
    return seconds_a_step(bench.model, trainings)


def _seconds_a_question(bench: ProbeBench) -> float:
    items = first(bench.parts.validation, TIMED_ITEMS)

    def ask(examples: Sequence[Example]) -> None:
        bench.asked(replace(items, examples=tuple(examples)))

    return seconds_an_item(ask, sft_examples(items))


def _asked_of_base(bench: ProbeBench) -> int:
    """The number of questions of the cell that trains nothing."""
    budget, n = bench.budget, len(bench.parts.test)
    tried = len(ways_to_ask(bench)[0])
    off_domain = 0 if bench.off_domain is None else min(budget.n_off_domain, len(bench.off_domain))
    controls = 2 * budget.n_off_domain
    return tried * min(budget.n_validation, len(bench.parts.validation)) + 3 * n + off_domain + controls


def _asked_of_run(bench: ProbeBench) -> int:
    """The number of questions of one run."""
    budget = bench.budget
    off_domain = 0 if bench.off_domain is None else min(budget.n_off_domain, len(bench.off_domain))
    return 2 * len(bench.parts.test) + 2 * budget.n_validation + budget.n_train_asked + off_domain
