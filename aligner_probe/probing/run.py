"""All cells of a plan into one folder, wave after wave; what is finished is never made again.

OUT/plan.json says what is made and of what: it is written first and must not change, so no folder mixes two probes.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from aligner_probe.evaluation.scorers import UserFunction
from aligner_probe.jobs.backend import Backend
from aligner_probe.jobs.folder import begin, make_all, unfinished
from aligner_probe.models import fingerprint
from aligner_probe.probing.batches import jobs
from aligner_probe.probing.bench import Bench
from aligner_probe.probing.cells import carry_out, read_result
from aligner_probe.probing.methods import LORA_8, METHODS
from aligner_probe.probing.plan import Budget, Cell, Plan, plan
from aligner_probe.probing.splitting import Parts
from aligner_probe.probing.thresholds import THRESHOLDS
from aligner_probe.tasks.encoding import put_around
from aligner_probe.tasks.task import Task

PLAN = "plan.json"


def plan_for(budget: Budget, parts: Parts) -> Plan:
    """The budget's plan on a task. A single fact has no other fact to trade answers with, so nothing is shuffled."""
    if parts.kind == "memory" and parts.n_units == 1:
        budget = replace(budget, arms=tuple(arm for arm in budget.arms if not METHODS[arm].shuffled))
    return plan(budget)


def make(probe: Plan, bench: Bench, out: Path, backend: Backend, *, show_progress: bool = True) -> None:
    """Make all cells that are not finished.

    Raises AlignerProbeError where the folder was begun with another plan, another process is at work in it, or cells
    failed, after the others were made.
    """
    prepare(probe, bench, out)
    with tqdm(total=len(probe.cells), desc="cells", disable=not show_progress) as bar:
        made = 0
        for wave in probe.waves():
            if wanted := jobs([cell for cell in wave if is_wanted(cell, probe, out)], out):
                make_all(wanted, carry_out, bench, out, backend, bar=bar)
            made += len(wave)
            bar.update(made - bar.n)  # a batch is one job


def prepare(probe: Plan, bench: Bench, out: Path) -> None:
    """Write plan.json, or check that the one in the folder is the same."""
    text = probe.to_json(
        base=fingerprint(bench.model),
        dtype=bench.dtype,
        kind=bench.parts.kind,
        scorer=repr(bench.scorer) + (f" {bench.scorer.sha256}" if isinstance(bench.scorer, UserFunction) else ""),
        tokenizer=_vocabulary(bench.model.tokenizer),
        task={name: _hashed(getattr(bench.parts, name)) for name in ("train", "validation", "test")},
        off_domain=None if bench.off_domain is None else _hashed(bench.off_domain),
        own_prompt=bench.own_prompt,
        ending=bench.ending,
    )
    begin(out, {PLAN: text}, "another task, base or budget than this probe's")


def is_wanted(cell: Cell, probe: Plan, out: Path) -> bool:
    """Whether a conditional cell has its condition."""
    return not cell.only_if_unlearned or not has_learned(probe, out)


def has_learned(probe: Plan, out: Path) -> bool:
    """Whether the first candidate for the reference has, on validation, over its seeds."""
    found = [read_result(out, cell.id) for cell in probe.runs_of(LORA_8)]
    scores = [one["validation"] for one in found if one is not None and "failed" not in one]
    return bool(scores) and float(np.mean(scores)) >= THRESHOLDS.learned


def left(probe: Plan, out: Path) -> list[Cell]:
    """Cells that are not finished and wanted, as far as that is known by now."""
    return [cell for cell in unfinished(probe.cells, out) if is_wanted(cell, probe, out)]


def _vocabulary(tokenizer: Any) -> str | None:
    """A hash of what texts become: the same for the same pieces, whatever else a tokenizer's files say.

    A BOS that the tokenizer has and does not put enters it, so that a probe that was begun when such bases got a BOS
    before every prompt is not gone on with.
    """
    if tokenizer is None:
        return None
    pieces = json.dumps(sorted(tokenizer.get_vocab().items()))
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is not None and bos not in put_around(tokenizer)[0]:
        pieces += " without its BOS"
    return hashlib.sha256(pieces.encode()).hexdigest()


def _hashed(task: Task) -> dict[str, str | int]:
    rows = [[e.prompt, e.completion, e.group, e.content] for e in task.examples]
    return {"n": len(task), "sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest(), "file": task.sha256}
