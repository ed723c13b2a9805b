"""Probes the panel, the tasks of known nature: how often are verdicts right, and where lie the cuts of the measures?

    aligner-probe probe panel --out DIR

The cuts are calibrated by leaving one task out: each task is judged by the cuts that the other tasks set. Memory tasks
do not take part in setting the cuts of R_soft and R1, because they test what was trained, and a token may just hold
that. A panel that is drawn anew has other facts, codes and splits, and had no part in the thresholds that it is judged
by.

Results are kept with their evidence, so a panel can be probed in parts, on several days or machines. The parts are read
again (`stored`) and judged together, by the rules and cuts of today.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import for_json, read_json, read_own_json, sha256
from aligner_probe.jobs.backend import Backend
from aligner_probe.microworld.panel import panel, write_panel
from aligner_probe.microworld.world import World
from aligner_probe.probing.calibration import CUTS, MEASURES, KnownShares, cuts_from
from aligner_probe.probing.inputs import PANEL, load_parts
from aligner_probe.probing.plan import Budget
from aligner_probe.probing.probe import Probe, ProbeResult, carry_out_probe, new_probe, with_off_domain
from aligner_probe.probing.report import bits_by_arm
from aligner_probe.probing.verdicts.evidence import Evidence
from aligner_probe.probing.verdicts.stored import as_json, from_json
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS, Thresholds
from aligner_probe.probing.verdicts.verdict import Verdict, judge
from aligner_probe.tasks.panel import PANEL as FOLDER

FORMAT = "aligner_probe panel report 1"
#: What a row has beside verdict and evidence.
MEASURED = (
    "F", "R_soft", "R1", "B", "delta", "K", "bits", "dose", "knowledge_kept", "capacity", "scores", "sha256",
)  # fmt: skip
#: On what, and with what, a task was probed.
MADE_BY = ("base", "budget", "provenance")
#: The verdicts that are right for a task of each nature; for an open task the right one is not known.
RIGHT = {
    "form": ("form",),
    "latent": ("latent",),
    "new": ("new",),
    "mixed": ("mixed",),
    "open": ("form", "latent", "new", "mixed", "undetermined"),
    "control": ("undetermined", "constant answer"),
}


@dataclass(frozen=True)
class Known:
    """A task of the panel. `counted` says whether its nature is one of the verdicts."""

    name: str
    nature: str
    kind: str
    why: str
    counted: bool


@dataclass(frozen=True, eq=False)
class Tried:
    """A task of known nature with the results of its probe.

    `measured` is what a panel's report says of it beside its verdict, and `made_by` what it was made on and with: the
    base model, the budget and the provenance.
    """

    known: Known
    evidence: Evidence
    verdict: Verdict
    measured: dict[str, Any]
    made_by: dict[str, Any]

    @classmethod
    def of(cls, known: Known, evidence: Evidence, verdict: Verdict, report: dict[str, Any]) -> "Tried":
        """The results of a probe, from its report."""
        made_by = {name: report[name] for name in MADE_BY}
        return cls(known, evidence, verdict, _measured(report), made_by)


@dataclass(frozen=True, eq=False)
class JudgedTask:
    """A probed task with a verdict by thresholds that it had no part in."""

    tried: Tried
    thresholds: Thresholds
    verdict: Verdict

    @property
    def right(self) -> bool:
        """Whether the verdict fits the task's nature."""
        return self.verdict.outcome in RIGHT[self.tried.known.nature]


def draw_panel(seed: int, folder: Path) -> None:
    """Write a panel of the same world that is drawn by a seed; seed 0 gives the stored panel."""
    write_panel(panel(World.from_seed(), seed), folder)


def known_tasks(
    only: Sequence[str] = ("*",), natures: Sequence[str] = tuple(RIGHT), folder: Path = FOLDER
) -> list[Known]:
    """A panel's tasks of these natures whose names fit a pattern. Raises AlignerProbeError where there is none."""
    content = read_json(folder / PANEL)
    fields = ("nature", "kind", "why", "counted")
    known = [Known(name, **{field: row[field] for field in fields}) for name, row in content.items()]
    chosen = [one for one in known if any(fnmatch(one.name, each) for each in only) and one.nature in natures]
    if not chosen:
        there = ", ".join(f"{one.name} ({one.nature})" for one in known)
        asked = f"{' or '.join(only)} and is {' or '.join(natures)}"
        raise AlignerProbeError(f"no task of the panel fits {asked}; there are {there}")
    return chosen


def probe_panel(
    base: str,
    tasks: Sequence[Known],
    out: Path,
    *,
    folder: Path = FOLDER,
    budget: Budget | str = "standard",
    backend: Backend | None = None,
    device: str | None = None,
) -> Iterator[tuple[Known, ProbeResult]]:
    """Probe task after task of a panel, each into OUT/NAME; what is finished is not made again."""
    for known in tasks:
        probe = panel_probe(base, known, folder=folder, budget=budget, device=device)
        yield known, carry_out_probe(probe, out / known.name, backend=backend, resume=True)


def panel_probe(
    base: str, known: Known, *, folder: Path = FOLDER, budget: Budget | str = "standard", device: str | None = None
) -> Probe:
    """The probe of one task of a panel, with off-domain items of the micro-world."""
    given = load_parts(folder / known.name)
    probe = new_probe(
        base, given.train, test=given.test, validation=given.validation, kind=given.kind, budget=budget, device=device
    )
    return with_off_domain(probe)


def calibrated(tried: Sequence[Tried], thresholds: Thresholds = THRESHOLDS) -> Thresholds:
    """The thresholds with the cuts of F, R_soft and R1 that these tasks set."""
    counted = [
        KnownShares(one.known.nature, one.known.kind, _shares(one.evidence, thresholds))
        for one in tried
        if one.known.counted
    ]
    return cuts_from(counted, thresholds)


def _shares(evidence: Evidence, thresholds: Thresholds) -> dict[str, float | None]:
    """F, R_soft and R1 of the strict score; None if not measured, or if the reference learned nothing."""
    learned = evidence.strict.has_gap(thresholds.least_gap)
    shares = {name: getattr(evidence.strict, name) if learned else None for name in MEASURES}
    return {name: None if share is None else share.value for name, share in shares.items()}


def leave_one_out(tried: Sequence[Tried], thresholds: Thresholds = THRESHOLDS) -> list[JudgedTask]:
    """Judge every task by the cuts that the other tasks set. Raises AlignerProbeError where those set none."""
    judged = []
    for one in tried:
        cuts = calibrated([other for other in tried if other is not one], thresholds)
        judged.append(JudgedTask(one, cuts, judge(one.evidence, cuts)))
    return judged


def as_judged(tried: Sequence[Tried], thresholds: Thresholds = THRESHOLDS) -> list[JudgedTask]:
    """Take every task's verdict from its own probe; for a part of the panel, which sets no cuts."""
    return [JudgedTask(one, thresholds, one.verdict) for one in tried]


def area_under_roc(tried: Sequence[Tried], *, general_only: bool = False) -> float:
    """The area under the ROC curve of R1: the probability that a form or latent task has a higher R1 than a new one.

    Tasks whose reference learned nothing have no R1, and are left out. Not a number where there are no tasks on one of
    the two sides.
    """
    from sklearn.metrics import roc_auc_score

    counted = [t for t in tried if t.known.counted and (t.known.kind == "general" or not general_only)]
    shares = [(t.known.nature != "new", _shares(t.evidence, THRESHOLDS)["R1"]) for t in counted]
    rows = [(above, share) for above, share in shares if share is not None]
    truth, values = (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.array([]), np.array([]))
    return float(roc_auc_score(truth, values)) if 0 < truth.sum() < len(truth) else float("nan")


def confusions(judged: Sequence[JudgedTask]) -> pd.DataFrame:
    """How often tasks of each nature (rows) have each verdict (columns)."""
    natures = [one.tried.known.nature for one in judged]
    outcomes = [one.verdict.outcome for one in judged]
    return pd.crosstab(pd.Series(natures, name="nature"), pd.Series(outcomes, name="verdict"))


def summary(judged: Sequence[JudgedTask]) -> dict[str, Any]:
    """Counts over the panel: right verdicts, kinds of mistakes, and how well R1 tells tasks apart."""
    counted = [one for one in judged if one.tried.known.counted]
    tried = [one.tried for one in judged]
    named = {"form", "latent", "new"}
    controls = [one for one in judged if one.tried.known.nature == "control"]
    return {
        "counted": len(counted),
        "right": sum(one.right for one in counted),
        "undetermined": _names(one for one in counted if one.verdict.outcome == "undetermined"),
        "called_new_but_form_or_latent": _names(
            one for one in counted if one.verdict.outcome == "new" and one.tried.known.nature != "new"
        ),
        "called_form_or_latent_but_new": _names(
            one for one in counted if one.verdict.outcome in ("form", "latent") and one.tried.known.nature == "new"
        ),
        "controls_called_form_latent_or_new": _names(one for one in controls if one.verdict.outcome in named),
        "not_right": _names(one for one in judged if not one.right),
        "auc_R1": area_under_roc(tried),
        "auc_R1_general_tasks": area_under_roc(tried, general_only=True),
    }


def panel_report(judged: Sequence[JudgedTask], cuts: Thresholds | None, draw: int = 0) -> dict[str, Any]:
    """All results, ready for JSON: each task's verdict, measures and cuts, and the `cuts` that all tasks together set.

    `draw` is the seed with which the tasks were drawn. Raises AlignerProbeError where not all were probed on the same
    base model at the same budget.
    """
    made_by = [one.tried.made_by for one in judged]
    for name in ("base", "budget"):
        if len(different := {one[name] for one in made_by}) > 1:
            raise AlignerProbeError(
                f"the tasks were probed with different values of {name}: {', '.join(sorted(different))}; expected one "
                "base model and one budget"
            )
    return {
        "format": FORMAT,
        "budget": made_by[0]["budget"],
        "draw": draw,
        "base": made_by[0]["base"],
        "summary": for_json(summary(judged)),
        "calibrated": None if cuts is None else {name: getattr(cuts, name) for name in CUTS},
        "tasks": [_row(one) for one in judged],
        "provenance": made_by[-1]["provenance"],
    }


def stored(file: Path, folder: Path = FOLDER, draw: int = 0) -> list[Tried]:
    """The results of a panel's report that `panel_report` made, with verdicts by the rules of today.

    Raises AlignerProbeError where the file is no such report, or is of another draw, or a task in it has changed since.
    """
    content = read_own_json(file, FORMAT, what="panel report", expected="one that aligner-probe probe panel wrote")
    if content.get("draw", 0) != draw:
        raise AlignerProbeError(
            f"{file}: its tasks were drawn by seed {content.get('draw', 0)}; expected {draw}: --draw"
        )
    known, tried = {one.name: one for one in known_tasks(folder=folder)}, []
    for row in content["tasks"]:
        name = row["task"]
        if "evidence" not in row:
            raise AlignerProbeError(f"{file}: {name} is kept without its evidence; probe it again")
        if name not in known or row["sha256"]["test"] != sha256(folder / name / "test.jsonl"):
            raise AlignerProbeError(f"{file}: {name} is not, or no longer, this task of the panel; probe it again")
        evidence = from_json(row["evidence"])
        made_by = {"base": content["base"], "budget": content["budget"], "provenance": row["provenance"]}
        measured = {name: row[name] for name in MEASURED}
        tried.append(Tried(known[name], evidence, judge(evidence), measured, made_by))
    return tried


def _row(one: JudgedTask) -> dict[str, Any]:
    known = one.tried.known
    return {
        "task": known.name,
        "nature": known.nature,
        "kind": known.kind,
        "verdict": one.verdict.outcome,
        "right": one.right,
        "reason": one.verdict.reason,
        "parts": {which: part.name for which, part in one.verdict.parts.items()},
        "cuts": {name.removesuffix("_cut"): getattr(one.thresholds, name) for name in CUTS},
        **one.tried.measured,
        "evidence": as_json(one.tried.evidence),
        "provenance": one.tried.made_by["provenance"],
    }


def _measured(report: dict[str, Any]) -> dict[str, Any]:
    """What a panel's report takes from the report of a probe."""
    values = (
        *(report[name] for name in ("F", "R_soft", "R1", "B", "delta", "K")),
        _bits(report["runs"]),
        report["measures"]["strict"].get("examples"),
        {arm: kept["kept"] for arm, kept in report["knowledge_kept"].items()},
        None if report["capacity"] is None else report["capacity"]["facts"]["value"],
        {arm: score["value"] for arm, score in report["measures"]["strict"]["scores"].items()},
        report["task"]["sha256"],
    )
    return dict(zip(MEASURED, values, strict=True))


def _bits(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The excess description length of each arm as a mean over its runs: in all, an example and a label, in bits."""
    return {
        arm: {
            "excess": float(np.mean([one["excess"] for one in its])),
            "an_example": float(np.mean([one["excess"] / one["n_examples"] for one in its])),
            "a_label": float(np.mean([one["excess"] / one["n_labels"] for one in its])),
        }
        for arm, its in bits_by_arm(runs).items()
    }


def _names(judged: Any) -> list[str]:
    return [one.tried.known.name for one in judged]
