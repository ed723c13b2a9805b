"""What a probe will do: the arms and seeds of a budget, as cells that can be made apart and in any order but one.

    print(plan("quick").to_frame())

A cell is one piece of work with an id that stays the same; its result is a folder of that name. Cells need other cells
only where a learning rate is tuned first, or a reference is tried because the one before did not learn.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pandas as pd

from aligner_probe.errors import AlignerProbeError, did_you_mean
from aligner_probe.probing.arms import ALIGNER_1, ALIGNER_1_SHUFFLED, REFERENCE_SHUFFLED
from aligner_probe.probing.methods import CONDITIONAL, FULL, LORA_8, METHODS, rates_from

BudgetName = Literal["quick", "standard", "thorough"]
CellKind = Literal["prompts", "tune", "train"]
PROMPTS = "prompts"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is spent. `seeds` are pairs: of the start, and of the order of examples.

    `steps` are a run's at most, `reference_steps` those of the reference, which has to show that the task can be
    learned; validation every `evaluate_every` stops it after `patience` without one that is better by more than
    `min_improvement` (nats a token).
    `tuned`: learning rates by successive halving on the first seed, else the stored ones: all are tried for the first
    of the `rungs`, a share of the steps, the better half of them for the next. `n_validation` and `n_off_domain` are
    the most items asked.
    """

    name: str
    arms: tuple[str, ...]
    seeds: tuple[tuple[int, int], ...]
    tuned: bool
    steps: int = 240
    reference_steps: int = 480
    rungs: tuple[float, ...] = (1 / 6, 1 / 3)
    batch_size: int = 16
    evaluate_every: int = 20
    patience: int = 3
    min_improvement: float = 0.005
    n_validation: int = 60
    n_train_asked: int = 40
    n_off_domain: int = 60
    shots: tuple[int, ...] = (1, 2, 4, 8)
    draws: int = 2

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in vars(self).items() if type(value) is int}
        wrong = [f"{name} {value}" for name, value in numbers.items() if value < 1]
        wrong += [f"rung {share:g} of the steps" for share in self.rungs if not 0 < share <= 1]
        if wrong or not self.rungs or not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise AlignerProbeError(
                f"budget {self.name!r}: {', '.join(wrong) or f'rungs {self.rungs}, seeds {self.seeds}'}; expected 1 "
                "or more of each, rungs that are shares of the steps, and seeds that differ"
            )
        unknown = [arm for arm in self.arms if arm not in METHODS]
        if unknown:
            hint = did_you_mean(unknown[0], METHODS)
            raise AlignerProbeError(f"no arm that trains is named {unknown[0]!r}; {hint}there are {', '.join(METHODS)}")

    def tried(self, rates: int) -> list[tuple[int, int]]:
        """How many learning rates are tried on each rung, and for how many steps."""
        return [
            (math.ceil(rates / 2**place), max(1, round(share * self.steps))) for place, share in enumerate(self.rungs)
        ]

    def steps_of(self, arm: str) -> int:
        """The most steps that a run of an arm may take."""
        return self.reference_steps if arm in (LORA_8, REFERENCE_SHUFFLED, *CONDITIONAL) else self.steps


_FEW = (ALIGNER_1, LORA_8, ALIGNER_1_SHUFFLED, REFERENCE_SHUFFLED)
BUDGETS: dict[str, Budget] = {
    # The stored rates were found with batches of 32.
    "quick": Budget(
        name="quick", arms=_FEW, seeds=((0, 0), (1, 1)), tuned=False, batch_size=32, patience=4, shots=(1, 4), draws=1
    ),
    "standard": Budget(name="standard", arms=tuple(METHODS), seeds=((0, 0), (1, 1), (2, 2)), tuned=True),
    "thorough": Budget(
        name="thorough",
        arms=tuple(METHODS),
        seeds=tuple((start, order) for order in range(2) for start in range(5)),
        tuned=True,
        steps=480,
        reference_steps=960,
    ),
}


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    `prompts`: everything of the base without training. `tune`: learning rates of an arm. `train`: one run. `after` are
    the ids of cells that come first; `only_if_unlearned` marks a reference that is tried where those have not learned.
    `together`: runs of the arm, or of `tune` learning rates, that share a batch (`batches.py`).
    """

    id: str
    kind: CellKind
    arm: str | None = None
    start_seed: int | None = None
    order_seed: int | None = None
    after: tuple[str, ...] = ()
    only_if_unlearned: bool = False
    together: int = 1


@dataclass(frozen=True)
class Plan:
    """A budget and its cells, in the order in which they tell most."""

    budget: Budget
    cells: tuple[Cell, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a cell."""
        return pd.DataFrame([asdict(cell) for cell in self.cells])

    def to_json(self, **of: Any) -> str:
        """Budget and cells as text, with what else the results depend on; the same for the same ones."""
        content = of | {"budget": asdict(self.budget), "methods": {arm: asdict(METHODS[arm]) for arm in self.arms}}
        return json.dumps(content | {"cells": [asdict(cell) for cell in self.cells]}, indent=1, sort_keys=True) + "\n"

    @property
    def arms(self) -> tuple[str, ...]:
        return self.budget.arms

    def runs_of(self, arm: str) -> tuple[Cell, ...]:
        """The runs of an arm, one a pair of seeds."""
        return tuple(cell for cell in self.cells if cell.kind == "train" and cell.arm == arm)

    def waves(self) -> list[list[Cell]]:
        """Cells that can be made together, wave after wave: each comes after all that it needs."""
        waves: list[list[Cell]] = []
        made: set[str] = set()
        left = list(self.cells)
        while left:
            ready = [cell for cell in left if made.issuperset(cell.after)]
            waves.append(ready)
            made |= {cell.id for cell in ready}
            left = [cell for cell in left if cell.id not in made]
        return waves

    @property
    def open_questions(self) -> tuple[str, ...]:
        """What this budget cannot decide, in sentences."""
        return tuple(_open_questions(self.budget))


def plan(budget: Budget | BudgetName | str, **changes: Any) -> Plan:
    """The plan of a budget, by name or made; `changes` are fields of it. Raises AlignerProbeError for others."""
    if not isinstance(budget, Budget):
        if budget not in BUDGETS:
            raise AlignerProbeError(
                f"no budget is named {budget!r}; {did_you_mean(budget, BUDGETS)}there are {', '.join(BUDGETS)}"
            )
        budget = BUDGETS[budget]
    unknown = set(changes) - set(Budget.__dataclass_fields__)
    if unknown:
        first, fields = sorted(unknown)[0], Budget.__dataclass_fields__
        raise AlignerProbeError(
            f"a budget has no {first!r}; {did_you_mean(first, fields)}there are {', '.join(fields)}"
        )
    budget = replace(budget, **changes)
    return Plan(budget, tuple(_cells(budget)))


def tune_id(arm: str) -> str:
    return f"{rates_from(METHODS[arm])}_tune"


def _cells(budget: Budget) -> Iterator[Cell]:
    yield Cell(PROMPTS, "prompts")
    if budget.tuned:
        for arm in budget.arms:
            if rates_from(METHODS[arm]) == arm and arm not in CONDITIONAL:
                yield Cell(tune_id(arm), "tune", arm, *budget.seeds[0])
    for start, order in budget.seeds:
        for arm in budget.arms:
            after = (tune_id(arm),) if budget.tuned else ()
            if arm not in CONDITIONAL:
                yield Cell(run_id(arm, start, order), "train", arm, start, order, after)
    yield from _conditional(budget)


def _conditional(budget: Budget) -> Iterator[Cell]:
    """Full fine-tuning, last: only where LoRA has not learned."""
    before = tuple(run_id(LORA_8, *seeds) for seeds in budget.seeds)
    if budget.tuned and FULL in budget.arms:
        yield Cell(tune_id(FULL), "tune", FULL, *budget.seeds[0], before, only_if_unlearned=True)
        before = (*before, tune_id(FULL))
    for start, order in budget.seeds:
        for arm in CONDITIONAL:
            if arm in budget.arms:
                yield Cell(run_id(arm, start, order), "train", arm, start, order, before, only_if_unlearned=True)


def run_id(arm: str, start_seed: int, order_seed: int) -> str:
    return f"{arm}_start{start_seed}_order{order_seed}"


def _open_questions(budget: Budget) -> Iterator[str]:
    missing = [name for name in METHODS if name not in budget.arms]
    if FULL in missing:
        yield "A task that LoRA r=8 does not learn stays undetermined: full fine-tuning is not tried."
    if "output-bias" in missing:
        yield "B is not measured: whether what one token misses takes more numbers, or attention."
    if "random-subspace" in missing:
        yield "Delta is not measured: whether the token itself deserves the credit, or any few numbers."
    if {"aligner-10", "aligner-100", "lora-1"} & set(missing):
        yield "There is no dose-response: one size a family."
    if not budget.tuned:
        yield "Learning rates are the stored ones: an arm that fails may have failed for its rate."
    starts, orders = ({pair[place] for pair in budget.seeds} for place in range(2))
    if len(budget.seeds) < len(starts) * len(orders):
        yield "Start and order of examples change together, so which of them matters is not told."
    if len(budget.seeds) < 3:
        yield f"How much runs differ is hardly told: seeds tried, {len(budget.seeds)}."


def described(plan: Plan, seconds: dict[str, float], processes: int, memory: Sequence[str] = ()) -> str:
    """The plan in words: cells by arm with their time, in all, memory, and what the budget cannot decide."""
    lines = [f"budget {plan.budget.name}: {len(plan.cells)} cells"]
    by_arm: dict[tuple[str, str], list[Cell]] = {}
    for cell in plan.cells:
        by_arm.setdefault((cell.arm or "base", cell.kind), []).append(cell)
    for (arm, kind), cells in by_arm.items():
        label = METHODS[arm].label if arm in METHODS else "base: prompts, controls"
        total = sum(seconds[cell.id] for cell in cells)
        condition = ", only if the reference has not learned" if cells[0].only_if_unlearned else ""
        what = {"tune": "learning rates", "train": f"{len(cells)} runs", "prompts": "no training"}[kind]
        batch = f", {cells[0].together} in a batch" if cells[0].together > 1 else ""
        lines.append(f"  {label:32}{what:16}{total:7.0f} s{batch}{condition}")
    sure = sum(seconds[cell.id] for cell in plan.cells if not cell.only_if_unlearned)
    all_ = sum(seconds.values())
    lines.append(
        f"time: {_minutes(sure / processes)} by {processes} process{'es' if processes > 1 else ''} (timed steps times "
        "their number)" + (f", {_minutes(all_ / processes)} with all conditional runs" if all_ > sure else "")
    )
    lines += [f"memory: {line}" for line in memory]
    lines += [f"cannot decide: {question}" for question in plan.open_questions]
    return "\n".join(lines)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
