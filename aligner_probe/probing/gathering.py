"""Reads the results of a probe's cells and puts them together as the evidence for a verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from aligner_probe.arms.catalogue import ARMS
from aligner_probe.arms.names import (
    ALIGNER_1,
    BASE,
    CANDIDATES,
    CONSTANT,
    FULL,
    FULL_SHUFFLED,
    KEPT_ARMS,
    LORA_8,
    ON_FEW,
    PROMPT_TUNING,
    REFERENCE,
    REFERENCE_SHUFFLED,
)
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.guessing import sft_examples
from aligner_probe.evaluation.intervals import Interval
from aligner_probe.html import Shown
from aligner_probe.probing.cells import LATE, read_result
from aligner_probe.probing.plan import PROMPTS, Plan
from aligner_probe.probing.run import left
from aligner_probe.probing.splitting import Parts
from aligner_probe.probing.verdicts.doses import Size
from aligner_probe.probing.verdicts.evidence import Evidence, ReferenceTraining
from aligner_probe.probing.verdicts.frontier import Frontier
from aligner_probe.probing.verdicts.measures import (
    Kept,
    Measures,
    Table,
    Which,
    capacity,
    floors_of,
    knowledge_kept,
    measure,
)
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS
from aligner_probe.tasks.characters import LostCharacters


@dataclass(frozen=True, eq=False, repr=False)
class Gathered(Shown):
    """All results of a probe.

    Args:
        evidence: what the verdict is decided on.
        kept: what each arm keeps of other knowledge at the learning rate that suits the task.
        reference: the arm that is the reference.
        prompts: the result of the cell that asks the base model without training.
        runs: the results of the runs by cell id, without those that failed.
        failed: by cell id, why a run failed.
        frontier: the report of the frontier of form against knowledge; None where there is none.
    """

    evidence: Evidence
    kept: dict[str, Kept]
    reference: str
    prompts: dict[str, Any]
    runs: dict[str, dict[str, Any]]
    failed: dict[str, str]
    frontier: dict[str, Any] | None = None

    def shown(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "runs": len(self.runs),
            "failed": self.failed,
        }

    def runs_of(self, arm: str) -> list[dict[str, Any]]:
        """The results of an arm's runs."""
        return [run for run in self.runs.values() if run["arm"] == arm]


def gather(
    probe: Plan,
    parts: Parts,
    out: Path,
    lost: LostCharacters | None = None,
    frontier: tuple[dict[str, Any], Frontier] | None = None,
) -> Gathered:
    """Read the results of all cells in OUT.

    `lost` are the characters of the task that the base model's tokenizer loses, `frontier` is the frontier of form
    against knowledge with its report. Raises AlignerProbeError where cells
    are not finished, and where no run of the reference came to an end.
    """
    missing, prompts = left(probe, out), read_result(out, PROMPTS)
    if missing or prompts is None:
        raise AlignerProbeError(
            f"{len(missing)} of {len(probe.cells)} cells in {out} are not finished, the first {missing[0].id}; go on: "
            "the same command with --resume"
        )
    cells = [cell for cell in probe.cells if cell.kind == "train"]
    results = {cell.id: result for cell in cells if (result := read_result(out, cell.id)) is not None}
    failed = {name: result["failed"] for name, result in results.items() if "failed" in result}
    runs = {name: result for name, result in results.items() if name not in failed}
    arms = [arm for arm in probe.arms if any(run["arm"] == arm for run in runs.values())]
    made = {arm: [run for run in runs.values() if run["arm"] == arm] for arm in arms}
    reference = max(
        (arm for arm in CANDIDATES if arm in made), key=lambda arm: _mean(made[arm], "validation"), default=LORA_8
    )
    if reference not in made:
        raise AlignerProbeError(
            f"no run of the reference came to an end: {'; '.join(failed.values()) or 'none was made'}. The standard "
            "budget finds learning rates by itself and tries full fine-tuning too: --budget standard, in another folder"
        )
    kinds: tuple[Which, ...] = ("strict", "content", "format", "likelihood")
    tables: dict[Which, Table | None] = {which: _table(which, prompts, made, reference, parts) for which in kinds}
    sizes = {arm: Size(group, made[arm][0]["n_parameters"]) for arm in arms if (group := ARMS[arm].group) is not None}
    in_all = len(parts.train if parts.kind == "general" else {one.group for one in parts.train.examples})
    examples = {arm: min(n, in_all) for arm, n in ON_FEW.items()} | {LORA_8: in_all}
    # Where there is no constant answer, the task's own score is a likelihood.
    own: Which | None = None if prompts["scores"][CONSTANT] else "likelihood"
    measured = {
        which: measure(table, sizes, examples=examples, floors=floors_of(own or which, parts.kind, parts.n_units))
        for which, table in tables.items()
        if table is not None
    }
    kept = {arm: its for arm in KEPT_ARMS if arm in made and (its := _kept(prompts, made[arm], arm)) is not None}
    marks, strict = prompts["full_marks"], tables["strict"]
    items = None if prompts["knows"] is None else np.array(prompts["knows"]["items"]) == 1
    counts = parts.kind == "memory" and ALIGNER_1 in made and marks is not None
    evidence = Evidence(
        kind=parts.kind,
        strict=measured["strict"],
        content=measured["content"],
        format=measured.get("format"),
        likelihood=measured.get("likelihood"),
        known=None if items is None or strict is None else _of_known(strict, items, own, parts),
        known_share=None if items is None else float(items.mean()),
        trainings=tuple(_training(arm, made[arm], probe, len(parts.validation)) for arm in CANDIDATES if arm in made),
        reference=reference,
        run_on=_run_on(made.get(reference, []), parts),
        most_shots=prompts["most_shots"],
        prompting=_control(prompts["control"]),
        kept=kept.get(ALIGNER_1),
        most_kept={} if frontier is None else {arm: frontier[1].most_kept(arm) for arm in frontier[1].arms},
        kept_against_lora=None if frontier is None else frontier[1].difference(ALIGNER_1, LORA_8),
        rows_an_item=parts.rows_an_item,
        own_test=parts.own_test,
        capacity=capacity(strict, np.array(marks)) if counts and strict is not None else None,
        lost=lost,
        soft_train=_on_trained_items(made.get(PROMPT_TUNING, [])),
    )
    return Gathered(evidence, kept, reference, prompts, runs, failed, None if frontier is None else frontier[0])


def _table(which: Which, prompts: dict, made: dict[str, list[dict]], reference: str, parts: Parts) -> Table | None:
    """The scores of one kind of all arms; None where the base model has none.

    The reference also has a row under the name "reference". Where full fine-tuning is the reference, the arm on
    shuffled answers that belongs to it takes the place of LoRA's.
    """
    scores: dict[str, Float[np.ndarray, "_seeds items"]] = {
        arm: np.array([by_kind[which]]) for arm, by_kind in prompts["scores"].items() if which in by_kind
    }
    if BASE not in scores:
        return None
    scores |= {arm: np.array([run["scores"][which] for run in runs]) for arm, runs in made.items()}
    scores[REFERENCE] = scores[reference]
    if reference == FULL:
        scores.pop(REFERENCE_SHUFFLED, None)
        if FULL_SHUFFLED in scores:
            scores[REFERENCE_SHUFFLED] = scores[FULL_SHUFFLED]
    return Table(scores, parts.test_groups)


def _of_known(strict: Table, items: Bool[np.ndarray, " items"], own: Which | None, parts: Parts) -> Measures | None:
    """The strict scores of the items whose content the base knows.

    None where these are too few, or nearly all, and for a memory task, whose content is what it trains.
    """
    enough = int(items.sum()) >= THRESHOLDS.fewest_items and float(items.mean()) < THRESHOLDS.base_solves
    if not enough or parts.kind == "memory":
        return None
    return measure(strict.only(items), floors=floors_of(own or "strict", parts.kind, parts.n_units))


def _training(arm: str, runs: list[dict], probe: Plan, n_validation: int) -> ReferenceTraining:
    falls = [_late_fall(run["validation_loss"], LATE * probe.budget.steps_of(arm)) for run in runs]
    known = [fall for fall in falls if fall is not None]
    asked = min(n_validation, probe.budget.n_validation)
    return ReferenceTraining(
        arm,
        _mean(runs, "validation"),
        _mean(runs, "late_gain"),
        _on_trained_items(runs),
        float(np.mean(known)) if known else None,
        _error_of_gain(_mean(runs, "validation"), _mean(runs, "late_gain"), asked * len(runs)),
    )


def _error_of_gain(last: float, gain: float, n: int) -> float:
    """The standard error of the gain between two shares of n answers, which are asked twice and so hardly disagree.

    It is that of independent answers, so it is rather too large. Scores that are no shares have none.
    """
    shares = (last, last - gain)
    return math.sqrt(sum(share * (1 - share) for share in shares) / n) if all(0 <= one <= 1 for one in shares) else 0.0


def _on_trained_items(runs: list[dict]) -> float | None:
    train = [run["train"] for run in runs if run["train"] is not None]
    return float(np.mean(train)) if train else None


def _late_fall(losses: Sequence[Sequence[int | float]], late: float) -> float | None:
    """The share of the fall of a validation loss that came after step `late`; None where no step is before it."""
    early, lowest = [loss for step, loss in losses if step <= late], min((loss for _, loss in losses), default=0.0)
    if not early:
        return None
    return (min(early) - lowest) / (early[0] - lowest) if early[0] > lowest else 0.0


def _run_on(runs: list[dict], parts: Parts) -> float:
    """The share of answers that begin with the expected answer and do not end there."""
    wanted = [example.completion.strip() for example in sft_examples(parts.test)]
    said = [(text.strip(), right) for run in runs for text, right in zip(run["completions"], wanted, strict=False)]
    return float(np.mean([text != right and text.startswith(right) for text, right in said] or [False]))


def _mean(runs: list[dict], name: str) -> float:
    return float(np.mean([run[name] for run in runs]))


def _control(score: dict[str, Any] | None) -> Interval | None:
    """The score of the positive control; None where it was not possible, or had too few items."""
    if score is None or "value" not in score or len(score["completions"]) < THRESHOLDS.fewest_items:
        return None
    return Interval(**{name: score[name] for name in ("value", "low", "high", "confidence", "degenerate")})


def _kept(prompts: dict, runs: list[dict], arm: str) -> Kept | None:
    before = prompts["off_domain"]
    if not before:
        return None
    content, form = (
        Table({BASE: np.array([before[which]]), arm: np.array([run["off_domain"][which] for run in runs])})
        for which in ("content", "format")
    )
    return knowledge_kept(content, form, arm)
