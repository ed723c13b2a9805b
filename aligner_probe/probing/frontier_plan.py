"""What a frontier of form against knowledge will train and read: its arms, learning rates, lengths and seeds as cells.

    print(frontier_plan(arms=("aligner-1", "lora-8"), seeds=3).described({}))

Every arm has the same number of trials: as many learning rates, and as many lengths at which each run is read.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aligner_probe.arms.catalogue import ARMS, arm_named, label_of
from aligner_probe.arms.names import (
    ALIGNER_1,
    ALIGNER_10,
    LLAMA_ADAPTER_10,
    LORA_8,
    OUTPUT_BIAS,
    PROMPT,
    PROMPT_TUNING,
    RANDOM_SUBSPACE,
)
from aligner_probe.errors import AlignerProbeError
from aligner_probe.probing.plan import WIDE, Budget
from aligner_probe.training.rates import WIDTH

#: The arms of a frontier. The last two add the same vectors at every position whatever is asked, as Aligner-1 does.
FRONTIER_ARMS = (ALIGNER_1, ALIGNER_10, LLAMA_ADAPTER_10, LORA_8, PROMPT_TUNING, OUTPUT_BIAS, RANDOM_SUBSPACE)
#: Those of the small frontier of a probe.
IN_PROBE = (ALIGNER_1, LORA_8, PROMPT_TUNING)
#: Learning rates an arm, optimiser steps at which runs are read, and seeds, where they are not given.
RATES, LENGTHS, SEEDS = 4, (15, 30, 60, 120, 240), 3
#: The factor between two learning rates.
RATIO = 10**0.5
#: Items of the task and of the other domain that every run is asked.
FORM_ITEMS, OFF_DOMAIN_ITEMS = 100, 120
#: The cell that asks without training.
ASKED = "prompts"


@dataclass(frozen=True)
class FrontierCell:
    """One cell: an arm with a seed at all its learning rates, or all ways to ask.

    Args:
        id: the name of its folder.
        arm: the arm that it trains; the name of the best prompt (`arms.names.PROMPT`) for the ways to ask.
        seed: the seed of the adapter's first values and of the order of the examples.
        rates: the learning rates, for a base model of width `training.rates.WIDTH`.
        lengths: the optimiser steps after which each run is read; the longest is the length of the training.
        ways: the names of the ways to ask that are tried; empty for all.
    """

    id: str
    arm: str
    seed: int = 0
    rates: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    ways: tuple[str, ...] = ()

    @property
    def after(self) -> tuple[str, ...]:
        """No cell waits for another one."""
        return ()


@dataclass(frozen=True)
class FrontierPlan:
    """A frontier's cells, and how many items each run is asked."""

    budget: Budget
    cells: tuple[FrontierCell, ...]
    n_form: int

    def to_json(self, **of: Any) -> str:
        """The text of plan.json: the cells, and `of`, what else the results depend on."""
        own = {"n_form": self.n_form, "n_off_domain": self.budget.n_off_domain, "batch_size": self.budget.batch_size}
        asked = {"shots": self.budget.shots, "draws": self.budget.draws}
        cells = [asdict(cell) for cell in self.cells]
        return json.dumps(of | own | asked | {"cells": cells}, indent=1, sort_keys=True) + "\n"

    def described(self, seconds: Mapping[str, float], processes: int = 1) -> str:
        """The plan in words; `seconds` of one process by cell id."""
        lines = [f"frontier: {len(self.cells)} cells, {self.n_form} items of the task each"]
        for arm in dict.fromkeys(cell.arm for cell in self.cells):
            its = [cell for cell in self.cells if cell.arm == arm]
            rates = ", ".join(f"{rate:g}" for rate in its[0].rates)
            lengths = ", ".join(map(str, its[0].lengths))
            label = "ways to ask" if arm == PROMPT else label_of(arm)
            what = f"{len(its)} seeds x rates {rates} x steps {lengths}" if rates else "no training"
            total = f"{sum(seconds[cell.id] for cell in its):7.0f} s" if seconds else ""
            lines.append(f"  {label:20}{total}  {what}")
        if seconds:
            plural = "es" if processes > 1 else ""
            lines.append(f"time: {sum(seconds.values()) / processes / 60:.0f} min by {processes} process{plural}")
        return "\n".join(lines)


def frontier_plan(
    *,
    arms: Sequence[str] = FRONTIER_ARMS,
    rates: int = RATES,
    lengths: Sequence[int] = LENGTHS,
    seeds: int = SEEDS,
    batch_size: int = 16,
    n_form: int = FORM_ITEMS,
    n_off_domain: int = OFF_DOMAIN_ITEMS,
    shots: Sequence[int] = (1, 2, 4, 8),
    draws: int = 1,
    ways: Sequence[str] = (),
) -> FrontierPlan:
    """The plan of a frontier.

    Args:
        arms: names of the catalogue; LoRA r=8, the reference, must be one of them.
        rates: how many learning rates each arm is tried at.
        lengths: the optimiser steps after which each run is read.
        seeds: how many seeds.
        batch_size: examples in a batch.
        n_form: the most items of the task that are asked.
        n_off_domain: the most off-domain items that are asked.
        shots: numbers of examples in the prompts that are tried.
        draws: how often the examples of such a prompt are drawn.
        ways: the names of the ways to ask that are tried; by default all.

    Raises AlignerProbeError for an unknown arm, for one on shuffled answers, and for numbers below 1.
    """
    wrong = [f"{what} {n}" for what, n in (("rates", rates), ("seeds", seeds), ("n_form", n_form)) if n < 1]
    wrong += [f"length {steps}" for steps in lengths if steps < 1]
    if wrong or not lengths or len(set(lengths)) < len(lengths) or len(set(arms)) < len(arms):
        raise AlignerProbeError(
            f"a frontier of {', '.join(wrong) or f'arms {arms}, lengths {lengths}'}; expected 1 or more of each, and "
            "arms and lengths that differ"
        )
    shuffled = [arm for arm in arms if arm_named(arm).shuffled]
    if shuffled or LORA_8 not in arms:
        raise AlignerProbeError(
            f"arms {', '.join(arms)}: {', '.join(shuffled) or f'no {LORA_8}'}; a frontier compares arms on the right "
            f"answers with the form that {LORA_8} reaches, so name {LORA_8} and no arm on shuffled answers"
        )
    pairs = tuple((seed, seed) for seed in range(seeds))
    budget = Budget(
        name="frontier", arms=tuple(arms), seeds=pairs, tuned=False, batch_size=batch_size, n_off_domain=n_off_domain,
        shots=tuple(shots), draws=draws,
    )  # fmt: skip
    cells = [FrontierCell(ASKED, PROMPT, ways=tuple(ways))]
    for seed in range(seeds):
        for arm in arms:
            tried = rates_below(ARMS[arm].stored_rate_on(WIDTH), rates)
            cells.append(FrontierCell(f"{arm}_seed{seed}", arm, seed, tried, tuple(sorted(lengths))))
    return FrontierPlan(budget, tuple(cells), n_form)


def plan_in_probe(budget: Budget, d_model: int, way: str) -> FrontierPlan | None:
    """The small frontier that a probe of this budget makes; None where the budget lacks LoRA r=8 or Aligner-1.

    Args:
        budget: the budget of the probe, for the width of its base model.
        d_model: that width. Wide base models get fewer rates and shorter runs, which take seconds a step.
        way: the name of the best way to ask by the form score, which is read as well.
    """
    arms = tuple(arm for arm in IN_PROBE if arm in budget.arms)
    if not {ALIGNER_1, LORA_8} <= set(arms):
        return None
    wide = d_model >= WIDE
    # A budget that tunes nothing is to be quick.
    lengths = {max(1, round(share * budget.steps)) for share in ((0.25, 1.0) if budget.tuned else (0.25, 0.5))}
    return frontier_plan(
        arms=arms,
        rates=2 if wide else 3,
        lengths=tuple(lengths),
        seeds=1,
        batch_size=min(16, budget.batch_size),
        n_form=budget.n_off_domain,
        n_off_domain=budget.n_off_domain,
        shots=budget.shots,
        draws=budget.draws,
        ways=(way,),
    )


def rates_below(rate: float, n: int) -> tuple[float, ...]:
    """`n` learning rates from the highest down, each lower than the one before by the factor `RATIO`, of two digits.

    The highest is an arm's default, at which it reaches most tasks; lower ones damage less.
    """
    return tuple(float(f"{rate / RATIO**index:.2g}") for index in range(n))
