"""What a probe will do: a budget's arms and seeds as the cells of a study.

    print(plan("quick").to_frame())

A cell comes after other cells in two cases only: its learning rate is tuned first, or it belongs to a candidate for the
reference that is tried where the candidates before it have not learned.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from aligner_probe.arms.catalogue import ARMS, PROBE_ARMS, Arm, arm_named, label_of, register_arm
from aligner_probe.arms.names import (
    ALIGNER_1,
    ALIGNER_1_SHUFFLED,
    CANDIDATES,
    CONDITIONAL,
    FULL,
    LORA_8,
    LORA_16,
    PROMPT_TUNING,
    REFERENCE_SHUFFLED,
)
from aligner_probe.errors import AlignerProbeError, did_you_mean
from aligner_probe.study import waves

BudgetName = Literal["quick", "standard", "thorough"]
CellKind = Literal["prompts", "tune", "train"]
PROMPTS = "prompts"
#: A base model is wide from this `d_model` on: a step on a processor takes seconds.
WIDE = 512


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much a probe trains and asks.

    Args:
        name: the budget's name.
        arms: the arms that train: names of the catalogue (`arms.catalogue.ARMS`), or an `Arm`, which is then registered
            and stands here by its name.
        seeds: pairs of a start seed (the adapter's first values) and an order seed (the order of the examples).
        shuffled_seeds: with how many of these pairs the arms on shuffled answers are trained; None for all.
        tuned: whether learning rates are tuned on the first pair of seeds; otherwise the stored ones are taken.
        steps: the most steps of a run.
        reference_steps: the most steps of the reference, which has to show that the task can be learned, and of prompt
            tuning, which has to show that no prompt reaches it.
        rungs: shares of `steps` for tuning by successive halving: all learning rates are tried for the first share of
            the steps, the better half of them for the next share, and so on.
        batch_size: examples in a batch.
        evaluate_every: steps between two validations.
        patience: how many validations in a row may bring no improvement before a run stops.
        min_improvement: what counts as an improvement of the validation loss, in nats a token.
        n_validation: the most validation items that are asked.
        n_train_asked: the most training items that are asked.
        n_off_domain: the most off-domain items that are asked.
        shots: numbers of examples in the prompts that are tried.
        draws: how often the examples of such a prompt are drawn.
        on_wide: fields with the values that they have on a wide base model (`d_model` of `WIDE` or more).
    """

    name: str
    arms: tuple[Any, ...]
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
    shuffled_seeds: int | None = None
    on_wide: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in vars(self).items() if type(value) is int}
        wrong = [f"{name} {value}" for name, value in numbers.items() if value < 1]
        wrong += [f"rung {share:g} of the steps" for share in self.rungs if not 0 < share <= 1]
        if wrong or not self.rungs or not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise AlignerProbeError(
                f"budget {self.name!r}: {', '.join(wrong) or f'rungs {self.rungs}, seeds {self.seeds}'}; expected 1 "
                "or more of each, rungs that are shares of the steps, and seeds that differ"
            )
        named = [register_arm(arm) if isinstance(arm, Arm) else arm_named(arm) for arm in self.arms]
        object.__setattr__(self, "arms", tuple(arm.name for arm in named))
        if self.on_wide:
            replace(self, on_wide={}, **self.on_wide)  # raises for a value that is wrong

    def __reduce__(self) -> tuple[Callable[..., "Budget"], tuple[Any, ...]]:
        # The arms themselves travel: another process does not know those that a user has registered.
        return _budget, (vars(self) | {"arms": tuple(ARMS[arm] for arm in self.arms)},)

    def on_width(self, d_model: int) -> "Budget":
        """The budget for a base model of this width."""
        return replace(self, on_wide={}, **self.on_wide) if self.on_wide and d_model >= WIDE else self

    def seeds_of(self, arm: str) -> tuple[tuple[int, int], ...]:
        """The pairs of seeds with which an arm is trained."""
        return self.seeds[: self.shuffled_seeds] if ARMS[arm].shuffled else self.seeds

    def tried(self, rates: int) -> list[tuple[int, int]]:
        """For each rung, how many of `rates` learning rates are tried, and for how many steps."""
        return [
            (math.ceil(rates / 2**index), max(1, round(share * self.steps))) for index, share in enumerate(self.rungs)
        ]

    def steps_of(self, arm: str) -> int:
        """The most steps that a run of an arm may take."""
        long = (LORA_8, REFERENCE_SHUFFLED, PROMPT_TUNING, *CONDITIONAL)
        return self.reference_steps if arm in long else self.steps


def _budget(fields: dict[str, Any]) -> Budget:
    return Budget(**fields)


_FEW = (ALIGNER_1, PROMPT_TUNING, LORA_8, LORA_16, ALIGNER_1_SHUFFLED, REFERENCE_SHUFFLED)
BUDGETS: dict[str, Budget] = {
    "quick": Budget(
        name="quick",
        arms=_FEW,
        seeds=((0, 0), (1, 1)),
        tuned=False,
        batch_size=32,  # the stored rates were found with batches of 32
        patience=4,
        shots=(1, 4),
        draws=1,
        # So that two processor cores need about half an hour for a base model of 135 million parameters. The reference
        # and the soft prompt go on as long as they learn: invented facts take them more than a hundred steps.
        on_wide={
            "steps": 80,
            "reference_steps": 240,
            "shuffled_seeds": 1,
            "batch_size": 8,
            "patience": 3,
            "n_validation": 40,
            "n_train_asked": 20,
            "n_off_domain": 40,
        },
    ),
    "standard": Budget(name="standard", arms=PROBE_ARMS, seeds=((0, 0), (1, 1), (2, 2)), tuned=True),
    "thorough": Budget(
        name="thorough",
        arms=PROBE_ARMS,
        seeds=tuple((start, order) for order in range(2) for start in range(5)),
        tuned=True,
        steps=480,
        reference_steps=960,
    ),
}


@dataclass(frozen=True)
class ProbeCell:
    """One cell of a probe.

    Args:
        id: the name of its folder.
        kind: "prompts" asks the base model without training, "tune" chooses an arm's learning rate, "train" is one run.
        arm: the arm's name; None for "prompts".
        start_seed: the seed of the adapter's first values.
        order_seed: the seed of the order of the examples.
        after: the ids of the cells that come first.
        only_if_unlearned: whether the cell is made only where the reference in `after` has not learned.
        together: how many runs of the arm (for "tune", how many learning rates) are trained together (`batches.py`).
    """

    id: str
    kind: CellKind
    arm: str | None = None
    start_seed: int | None = None
    order_seed: int | None = None
    after: tuple[str, ...] = ()
    only_if_unlearned: bool = False
    together: int = 1

    @property
    def trained_arm(self) -> str:
        """The arm. Raises ValueError for the cell that trains none."""
        if self.arm is None:
            raise ValueError(f"cell {self.id!r} trains no arm")
        return self.arm

    @property
    def seeds(self) -> tuple[int, int]:
        """The start seed and the order seed. Raises ValueError for the cell that trains no arm."""
        if self.start_seed is None or self.order_seed is None:
            raise ValueError(f"cell {self.id!r} trains no arm")
        return self.start_seed, self.order_seed


@dataclass(frozen=True)
class Plan:
    """A budget and its cells; the cells that decide most come first."""

    budget: Budget
    cells: tuple[ProbeCell, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a cell."""
        return pd.DataFrame([asdict(cell) for cell in self.cells])

    def to_json(self, **of: Any) -> str:
        """The text of plan.json: the budget, its arms and cells, and `of`, what else the results depend on."""
        content = of | {"budget": asdict(self.budget), "methods": {arm: _recorded(ARMS[arm]) for arm in self.arms}}
        return json.dumps(content | {"cells": [asdict(cell) for cell in self.cells]}, indent=1, sort_keys=True) + "\n"

    @property
    def arms(self) -> tuple[str, ...]:
        return self.budget.arms

    def runs_of(self, arm: str) -> tuple[ProbeCell, ...]:
        """The cells that train an arm, one for each pair of seeds."""
        return tuple(cell for cell in self.cells if cell.kind == "train" and cell.arm == arm)

    def waves(self) -> list[list[ProbeCell]]:
        """The cells that can be made at the same time, wave after wave."""
        return waves(self.cells)

    @property
    def open_questions(self) -> tuple[str, ...]:
        """What this budget cannot decide, in sentences."""
        return tuple(_open_questions(self.budget))


def budget_named(budget: Budget | BudgetName | str) -> Budget:
    """The budget of this name; a budget itself is returned as it is. Raises AlignerProbeError for an unknown name."""
    if isinstance(budget, Budget):
        return budget
    if budget not in BUDGETS:
        raise AlignerProbeError(
            f"no budget is named {budget!r}; {did_you_mean(budget, BUDGETS)}there are {', '.join(BUDGETS)}"
        )
    return BUDGETS[budget]


def plan(budget: Budget | BudgetName | str, **changes: Any) -> Plan:
    """The plan of a budget, which is given by its name or as an object, with some of its fields changed.

    Raises AlignerProbeError for a name or a field that does not exist.
    """
    budget = budget_named(budget)
    unknown = set(changes) - set(Budget.__dataclass_fields__)
    if unknown:
        first, fields = sorted(unknown)[0], Budget.__dataclass_fields__
        raise AlignerProbeError(
            f"a budget has no {first!r}; {did_you_mean(first, fields)}there are {', '.join(fields)}"
        )
    budget = replace(budget, **changes)
    return Plan(budget, tuple(_cells(budget)))


def _recorded(arm: Arm) -> dict[str, Any]:
    """An arm as plan.json has it, in the words of version 0.1, so that a folder begun by it goes on."""
    return {
        "name": arm.name,
        "label": "PromptTuning-10" if arm.name == PROMPT_TUNING else arm.label,
        "adapter": arm.method,
        "rates": arm.tried_rates,
        "options": dict(arm.options),
        "family": arm.group,
        "shuffled": arm.shuffled,
    } | ({} if arm.examples is None else {"examples": arm.examples})


def tune_id(arm: str) -> str:
    """The id of the cell that chooses an arm's learning rate."""
    return f"{ARMS[arm].rates_from}_tune"


def _cells(budget: Budget) -> Iterator[ProbeCell]:
    yield ProbeCell(PROMPTS, "prompts")
    if budget.tuned:
        for arm in budget.arms:
            if ARMS[arm].rates_from == arm and arm not in CONDITIONAL:
                yield ProbeCell(tune_id(arm), "tune", arm, *budget.seeds[0])
    for start, order in budget.seeds:
        for arm in budget.arms:
            after = (tune_id(arm),) if budget.tuned else ()
            if arm not in CONDITIONAL and (start, order) in budget.seeds_of(arm):
                yield ProbeCell(run_id(arm, start, order), "train", arm, start, order, after)
    yield from _conditional(budget)


def _conditional(budget: Budget) -> Iterator[ProbeCell]:
    """The later candidates for the reference, each after those before it, and only where these have not learned."""
    before = tuple(run_id(LORA_8, *seeds) for seeds in budget.seeds)
    for candidate in CANDIDATES[1:]:
        if candidate not in budget.arms:
            continue
        after = before
        if budget.tuned:
            yield ProbeCell(tune_id(candidate), "tune", candidate, *budget.seeds[0], before, only_if_unlearned=True)
            after = (*before, tune_id(candidate))
        for start, order in budget.seeds:
            for arm in CONDITIONAL:
                trained = arm in budget.arms and (start, order) in budget.seeds_of(arm)
                if trained and ARMS[arm].rates_from == candidate:
                    made = run_id(arm, start, order)
                    yield ProbeCell(made, "train", arm, start, order, after, only_if_unlearned=True)
        before = (*before, *(run_id(candidate, *seeds) for seeds in budget.seeds))


def run_id(arm: str, start_seed: int, order_seed: int) -> str:
    """The id of the cell that trains an arm with these seeds."""
    return f"{arm}_start{start_seed}_order{order_seed}"


def _open_questions(budget: Budget) -> Iterator[str]:
    missing = [name for name in PROBE_ARMS if name not in budget.arms]
    if FULL in missing:
        yield (
            "Full fine-tuning is not tried: a task that LoRA r=8 does not learn is undetermined, unless it has stopped "
            "and LoRA r=16 agrees with it."
        )
    if PROMPT_TUNING in missing:
        yield "R_soft is not measured: whether any prompt could reach the task."
    if "output-bias" in missing:
        yield "B is not measured: whether what one token misses takes more numbers, or attention."
    if "random-subspace" in missing:
        yield "Delta is not measured: whether the token itself deserves the credit, or any few numbers."
    if {"aligner-10", "aligner-100", "lora-1"} & set(missing):
        yield "There is no dose-response: one size a family."
    if not budget.tuned:
        yield "Learning rates are the stored ones: an arm that fails may have failed for its rate."
    starts, orders = ({pair[which] for pair in budget.seeds} for which in range(2))
    if len(budget.seeds) < len(starts) * len(orders):
        yield "Start and order of examples change together, so which of them matters is not told."
    if len(budget.seeds) < 3:
        yield f"How much runs differ is hardly told: seeds tried, {len(budget.seeds)}."


def described(
    plan: Plan, seconds: dict[str, float], processes: int, memory: Sequence[str] = (), *, prompts: int | None = None
) -> str:
    """The plan in words: the cells of each arm with their time, the time in all, memory, and open questions.

    Args:
        plan: the plan.
        seconds: seconds of one process by cell id.
        processes: how many processes make the cells.
        memory: lines about the memory that a step takes.
        prompts: how many ways to ask the base model are tried; None where that is not said.
    """
    lines = [f"budget {plan.budget.name}: {len(plan.cells)} cells"]
    by_arm: dict[tuple[str, str], list[ProbeCell]] = {}
    for cell in plan.cells:
        by_arm.setdefault((cell.arm or "base", cell.kind), []).append(cell)
    for (arm, kind), cells in by_arm.items():
        label = label_of(arm) if arm in ARMS else "base: prompts, controls"
        total = sum(seconds[cell.id] for cell in cells)
        condition = ", only if the candidates before it have not learned" if cells[0].only_if_unlearned else ""
        what = {"tune": "learning rates", "train": f"{len(cells)} runs", "prompts": "no training"}[kind]
        batch = f", {cells[0].together} in a batch" if cells[0].together > 1 else ""
        tried = f", {prompts} ways to ask" if kind == "prompts" and prompts else ""
        lines.append(f"  {label:32}{what:16}{total:7.0f} s{batch}{tried}{condition}")
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
