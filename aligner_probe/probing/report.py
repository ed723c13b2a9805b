"""A probe's report as data: verdict and measures first, then every number, run, version, seed and hash behind them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from aligner_probe.arms.names import ALIGNER_1, OUTPUT_BIAS, PROMPT, PROMPT_TUNING
from aligner_probe.evaluation.guessing import sft_examples
from aligner_probe.evaluation.intervals import Interval
from aligner_probe.files import for_json, read_own_json, write_text
from aligner_probe.probing.endings import Ending
from aligner_probe.probing.gathering import Gathered
from aligner_probe.probing.plan import Plan
from aligner_probe.probing.splitting import Parts
from aligner_probe.probing.verdicts.measures import Measures
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS, Thresholds
from aligner_probe.probing.verdicts.verdict import Verdict
from aligner_probe.tasks.characters import LostCharacters
from aligner_probe.tasks.task import one_line

FORMAT = "aligner_probe probe report 2"
REPORT = "report.json"
N_SAMPLES = 6
#: The measures that are shares of the gap between floor and reference.
SHARES = ("F", "R_soft", "R1", "B", "delta")
#: What a report leaves to the report of its frontier.
APART = ("readings", "before", "provenance")
#: What no probe shows, whatever it finds.
LIMITS = (
    "The verdict holds for this base model and for supervised fine-tuning; another base, or reinforcement learning, "
    "may well give another.",
    "Few trained numbers do not prove form: a few thousand random ones can recover most of a fine-tuning gap. That is "
    "why prompts, shuffled answers and a random subspace stand beside them.",
    "A prompt that was not tried may work: latent means that none of the tried ones did.",
    "Cuts may lie elsewhere on a base other than the one on which they were set. The other thresholds were set by "
    "reasoning.",
)


def report(
    verdict: Verdict, found: Gathered, probe: Plan, parts: Parts, *, base: str, scorer: str, why_scorer: str,
    ending: Ending, describe: Sequence[str] = (), thresholds: Thresholds = THRESHOLDS,
) -> dict[str, Any]:  # fmt: skip
    """Everything, ready for JSON: numbers that do not exist are None. `describe` are the instructions in words."""
    strict, kept = found.evidence.strict, found.evidence.kept
    most = found.evidence.most_kept.get(ALIGNER_1)
    scored = ("strict", "content", "format", "likelihood", "known")
    kinds = {which: getattr(found.evidence, which) for which in scored}
    content = {
        "format": FORMAT,
        "verdict": verdict.outcome,
        "reason": verdict.reason,
        "decided_by": verdict.decided_by,
        "F": _triple(strict.F),
        "R_soft": _triple(strict.R_soft),
        "R1": _triple(strict.R1),
        "B": _triple(strict.B),
        "delta": _triple(strict.delta),
        "K": _triple(None if most is None else most.kept),
        "kept_at_task_rate": _triple(None if kept is None else kept.kept),
        "notes": verdict.notes,
        "parts": {which: asdict(part) for which, part in verdict.parts.items()},
        "cannot_decide": probe.open_questions,
        "limits": LIMITS,
        "task": {
            "name": parts.test.name, "kind": parts.kind, "independent_test_items": parts.n_units,
            "n": {name: len(getattr(parts, name)) for name in ("train", "validation", "test")},
            "sha256": {name: getattr(parts, name).sha256 for name in ("train", "validation", "test")},
            **_reading(parts, found.evidence.lost),
        },
        "base": base,
        "scorer": {"is": scorer, "because": why_scorer},
        "ending": {"is": ending.text, "because": ending.because},
        "budget": probe.budget.name,
        "seeds": probe.budget.seeds,
        "reference": found.reference,
        "reference_trainings": [asdict(one) for one in found.evidence.trainings],
        "prompting": {name: found.prompts[name] for name in ("control", "chosen", "validation", "left_out")}
        | {"example": found.prompts["prompt_text"]}
        | ({"lost_examples": found.prompts["lost_examples"]} if "lost_examples" in found.prompts else {})
        | ({"descriptions": describe} if describe else {}),
        "knows": _known(found),
        "constant_answer": found.prompts["constant_answer"],
        "capacity": None if found.evidence.capacity is None else asdict(found.evidence.capacity),
        # The curve and K of every arm; the readings of single items are in the folder of the frontier.
        "frontier": found.frontier and {name: one for name, one in found.frontier.items() if name not in APART},
        "knowledge_kept": {arm: asdict(one) for arm, one in found.kept.items()},
        "measures": {which: _measures(one) for which, one in kinds.items() if one is not None},
        "thresholds": asdict(thresholds),
        "samples": _samples(found, parts),
        "runs": [_run(name, run) for name, run in found.runs.items()],
        "failed": found.failed,
        "provenance": found.prompts["provenance"],
    }  # fmt: skip
    return for_json(content)


def _read_as(task: dict[str, Any]) -> dict[str, Any]:
    """Format, prompt template and lost characters for a comparison; None each in reports that do not have them."""
    lost = task.get("lost")
    return {
        "format": task.get("format"),
        "template": None if task.get("template") is None else one_line(task["template"]),
        "characters lost": None if lost is None else lost["share"],
    }


def write_report(content: dict[str, Any], out: Path) -> Path:
    """Write OUT/report.json."""
    file = out / REPORT
    write_text(file, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return file


def read_report(path: str | Path) -> dict[str, Any]:
    """A report by its file or its probe's folder. Raises AlignerProbeError for anything else."""
    file = Path(path) / REPORT if Path(path).is_dir() else Path(path)
    return read_own_json(file, FORMAT, what="report", expected="one that aligner-probe probe run wrote")


def has_gap(report: dict[str, Any], which: str = "strict") -> bool:
    """Whether the reference of a report is clearly above the floor, by a kind of score.

    If it is not, there is no gap that a method could recover, and shares of it mean nothing.
    """
    return report["measures"][which]["gap"]["low"] > THRESHOLDS.least_gap


def shares_that_decided(report: dict[str, Any]) -> dict[str, Any]:
    """F, R_soft, R1 and B of a report, each with its interval, of the kind of score whose finding is the verdict.

    All are None where there is no gap (`has_gap`).
    """
    none = {"value": None, "low": None, "high": None}
    which = report.get("decided_by", "strict")
    recovered = report["measures"][which]["recovered"] if has_gap(report, which) else {}
    arms = {"F": PROMPT, "R_soft": PROMPT_TUNING, "R1": ALIGNER_1, "B": OUTPUT_BIAS}
    return {name: recovered.get(arm, none) for name, arm in arms.items()}


def comparison(reports: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row a report: the verdict and its measures side by side.

    Without a gap (`has_gap`) there are no shares of it. Older reports have no R_soft.
    """
    return pd.DataFrame(
        [
            {"task": one["task"]["name"], "base": one["base"], "budget": one["budget"], "verdict": one["verdict"]}
            | {name: one[name]["value"] if name in one and has_gap(one) else None for name in SHARES}
            | {"K": one["K"]["value"]}
            | _read_as(one["task"])
            | {f"{family} k50": dose["k50_said"] for family, dose in one["measures"]["strict"]["doses"].items()}
            for one in reports
        ]
    )


def _reading(parts: Parts, lost: LostCharacters | None) -> dict[str, Any]:
    """How the task's rows were read, and what of them the base's tokenizer loses."""
    task = parts.train
    return {
        "format": task.format,
        "template": task.template,
        "ignored_fields": task.ignored_fields,
        "reading": task.reading_note,
        "dropped": {name: getattr(parts, name).dropped_note for name in ("train", "validation", "test")},
        "lost": None if lost is None else lost.to_dict() | {"said": lost.said},
    }


def bits_by_arm(runs: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """The bits of each arm's runs, from the runs of a report. Arms without any are left out."""
    by_arm: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        if run.get("bits") is not None:
            by_arm.setdefault(run["arm"], []).append(run["bits"])
    return by_arm


def _known(found: Gathered) -> dict[str, Any] | None:
    """How many test items have a content that the base knows, and how it was asked; None without bare contents."""
    knows = found.prompts["knows"]
    if knows is None:
        return None
    return {name: value for name, value in knows.items() if name != "items"} | {"share": found.evidence.known_share}


def _measures(found: Measures) -> dict[str, Any]:
    doses = {one.family: asdict(one) | {"k50_said": str(one.k50), "k90_said": str(one.k90)} for one in found.doses}
    examples = None if found.examples is None else asdict(found.examples) | {"k50_said": str(found.examples.k50)}
    return asdict(found) | {"doses": doses, "examples": examples}


def _run(name: str, run: dict[str, Any]) -> dict[str, Any]:
    left_out = ("scores", "completions", "off_domain", "provenance")
    means = {which: sum(values) / len(values) for which, values in run["scores"].items()}
    return {key: value for key, value in run.items() if key not in left_out} | {"id": name, "means": means}


def _samples(found: Gathered, parts: Parts) -> list[dict[str, Any]]:
    """The same test items as the base, the prompted base and the first run of each arm answer them.

    Each sample has its answers by arm, and their scores by kind of score ("strict", "content") and arm.
    """
    said = dict(found.prompts["completions"])
    scored = {arm: found.prompts["scores"][arm] for arm in said}
    for run in found.runs.values():
        said.setdefault(run["arm"], run["completions"])
        scored.setdefault(run["arm"], run["scores"])
    examples = sft_examples(parts.test)
    step = max(1, len(examples) // N_SAMPLES)
    indices = range(0, len(examples), step)[:N_SAMPLES]
    return [
        {
            "prompt": str(examples[index].prompt),
            "reference": examples[index].completion,
            "answers": {arm: texts[index] for arm, texts in said.items() if texts},
            "scores": {
                which: {arm: scored[arm][which][index] for arm, texts in said.items() if texts and which in scored[arm]}
                for which in ("strict", "content")
            },
        }
        for index in indices
    ]


def _triple(interval: Interval | None) -> dict[str, float | None]:
    return {name: None if interval is None else getattr(interval, name) for name in ("value", "low", "high")}
