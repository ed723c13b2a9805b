"""A probe as a study: its plan of cells, what OUT/plan.json says of them, and which cells are made at all."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aligner_probe.arms.catalogue import ARMS
from aligner_probe.arms.names import CANDIDATES
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.guessing import sft_examples
from aligner_probe.evaluation.scorers import UserFunction
from aligner_probe.jobs.backend import Backend
from aligner_probe.jobs.folder import unfinished
from aligner_probe.models import fingerprint
from aligner_probe.probing.batches import jobs
from aligner_probe.probing.bench import ProbeBench
from aligner_probe.probing.cells import carry_out
from aligner_probe.probing.plan import Budget, Plan, ProbeCell, plan
from aligner_probe.probing.splitting import Parts
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS
from aligner_probe.study import Study, read_result
from aligner_probe.tasks.chat import as_json
from aligner_probe.tasks.chat_template import are_chat, template_of
from aligner_probe.tasks.task import Task
from aligner_probe.tasks.tokenizing import put_around

PLAN = "plan.json"


def plan_for(budget: Budget, parts: Parts) -> Plan:
    """The plan of a budget on a task.

    A memory task about one fact has no arms on shuffled answers: there is no other answer to exchange.
    """
    if parts.kind == "memory" and parts.n_units == 1:
        budget = replace(budget, arms=tuple(arm for arm in budget.arms if not ARMS[arm].shuffled))
    return plan(budget)


def study_of(probe: Plan, bench: ProbeBench) -> Study[ProbeCell]:
    """The study that makes a probe's cells."""
    text = probe.to_json(**depends_on(bench))
    return Study(
        cells=probe.cells,
        carry_out=carry_out,
        bench=bench,
        files={PLAN: text},
        differs="another task, base or budget than this probe's",
        is_wanted=lambda cell, out: is_wanted(cell, probe, out),
        jobs=jobs,
    )


def depends_on(bench: ProbeBench) -> dict[str, Any]:
    """What plan.json says of what the results depend on: the base model, the task, and how it is asked and scored."""
    scorer = bench.scorer
    return {
        "base": fingerprint(bench.model),
        "dtype": bench.dtype,
        "kind": bench.parts.kind,
        "scorer": repr(scorer) + (f" {scorer.sha256}" if isinstance(scorer, UserFunction) else ""),
        "tokenizer": _vocabulary(bench.model.tokenizer),
        "task": {name: _hashed(getattr(bench.parts, name)) for name in ("train", "validation", "test")},
        "off_domain": None if bench.off_domain is None else _hashed(bench.off_domain),
        "own_prompt": bench.own_prompt,
        "ending": bench.ending,
        **_template(bench),
        **({"describe": bench.describe} if bench.describe else {}),
    }


def make(probe: Plan, bench: ProbeBench, out: Path, backend: Backend, *, show_progress: bool = True) -> None:
    """Make all cells that are not finished.

    Raises AlignerProbeError as `Study.make` does.
    """
    study_of(probe, bench).make(out, backend, show_progress=show_progress)


def check_folder(out: Path, resume: bool) -> None:
    """Raise AlignerProbeError where a folder has a probe already and it is not to go on."""
    if (out / PLAN).exists() and not resume:
        raise AlignerProbeError(f"{out} holds a probe already; go on with it: --resume, or name another folder: --out")


def is_wanted(cell: ProbeCell, probe: Plan, out: Path) -> bool:
    """Whether a cell is made: a conditional one only where no candidate for the reference before it has learned."""
    if not cell.only_if_unlearned:
        return True
    own = CANDIDATES.index(ARMS[cell.trained_arm].rates_from)
    return not any(has_learned(arm, probe, out) for arm in CANDIDATES[:own])


def has_learned(arm: str, probe: Plan, out: Path) -> bool:
    """Whether a candidate for the reference has learned the task.

    That is so where the mean of its validation scores over the seeds reaches `Thresholds.learned`.
    """
    results = [read_result(out, cell.id) for cell in probe.runs_of(arm)]
    scores = [one["validation"] for one in results if one is not None and "failed" not in one]
    return bool(scores) and THRESHOLDS.is_learned(float(np.mean(scores)))


def left(probe: Plan, out: Path) -> list[ProbeCell]:
    """The cells that are wanted and not finished, as far as that is known by now."""
    return [cell for cell in unfinished(probe.cells, out) if is_wanted(cell, probe, out)]


def _template(bench: ProbeBench) -> dict[str, str]:
    """The hash of the chat template that writes the conversations of a probe; nothing where prompts are texts."""
    chat = are_chat(bench.parts.train.prompts)
    return {"chat_template": template_of(bench.model.tokenizer).sha256} if chat else {}


def _vocabulary(tokenizer: Any) -> str | None:
    """A hash of a tokenizer's vocabulary: the same for the same pieces, whatever else the tokenizer's files say.

    It differs for a tokenizer that has a BOS token and does not write it. Probes of such base models that an older
    version began had a BOS before every prompt, so they cannot go on with this version.
    """
    if tokenizer is None:
        return None
    pieces = json.dumps(sorted(tokenizer.get_vocab().items()))
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is not None and bos not in put_around(tokenizer)[0]:
        pieces += " without its BOS"
    return hashlib.sha256(pieces.encode()).hexdigest()


def _hashed(task: Task) -> dict[str, str | int]:
    rows = [[as_json(e.prompt), e.completion, e.group, e.content] for e in sft_examples(task)]
    return {"n": len(task), "sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest(), "file": task.sha256}
