"""Form reached against knowledge kept, for several methods on one task: plan, make, gather and report.

    frontier = new_frontier(probe.bench, frontier_plan())
    carry_out_frontier(frontier, "out")

docs/verdict.md says what K is, and `verdicts/frontier.py` how it is computed.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from aligner_probe.arms.catalogue import ARMS
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
from aligner_probe.evaluation.guessing import sft_examples
from aligner_probe.evaluation.scorers import TextScorer
from aligner_probe.files import read_own_json, write_text
from aligner_probe.jobs.backend import Backend, Processes
from aligner_probe.probing.bench import ProbeBench
from aligner_probe.probing.frontier_cells import FrontierBench, carry_out, training_of
from aligner_probe.probing.frontier_plan import ASKED, FrontierCell, FrontierPlan, plan_in_probe
from aligner_probe.probing.off_domain import asked_like, off_domain_of
from aligner_probe.probing.plan import PROMPTS
from aligner_probe.probing.run import PLAN, check_folder, depends_on
from aligner_probe.probing.verdicts.frontier import SHARE, Frontier, Reading
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS
from aligner_probe.study import Study, read_result, seconds_a_step, seconds_an_item, threads_of_a_worker

FORMAT = "aligner_probe frontier 1"
REPORT = "frontier.json"
#: The folder of a probe's own frontier.
FOLDER = "frontier"
#: Shares of the reference's form at which K is reported.
SHARES = (0.8, 0.9, SHARE)
#: The pairs of arms whose K is compared. The reading "an addition that does not depend on the input damages more" says
#: that Aligner-1, the output bias and the random subspace keep less than what depends on the input.
PAIRS = (
    (ALIGNER_1, LORA_8),
    (ALIGNER_1, ALIGNER_10),
    (ALIGNER_1, LLAMA_ADAPTER_10),
    (ALIGNER_1, PROMPT_TUNING),
    (ALIGNER_1, OUTPUT_BIAS),
    (ALIGNER_1, RANDOM_SUBSPACE),
    (OUTPUT_BIAS, LORA_8),
    (OUTPUT_BIAS, ALIGNER_10),
    (RANDOM_SUBSPACE, LORA_8),
    (RANDOM_SUBSPACE, ALIGNER_10),
    (LLAMA_ADAPTER_10, LORA_8),
    (ALIGNER_10, LORA_8),
    (PROMPT_TUNING, LORA_8),
    (PROMPT, LORA_8),
    (PROMPT, ALIGNER_1),
)
#: Items that are asked to time an answer.
TIMED_ITEMS = 16


@dataclass(frozen=True, eq=False)
class FrontierStudy:
    """A frontier that is ready to be made."""

    plan: FrontierPlan
    bench: FrontierBench

    def seconds(self) -> dict[str, float]:
        """Estimate the seconds that one process takes for each cell, by cell id: a few steps of each arm are timed."""
        with threads_of_a_worker():
            items = self.bench.form_items
            n = len(items) + self.bench.budget.n_off_domain
            timed = sft_examples(items)[:TIMED_ITEMS]
            answer = seconds_an_item(lambda some: self.bench.asked(replace(items, examples=tuple(some))), timed)
            steps: dict[str, float] = {}
            seconds = {}
            for cell in self.plan.cells:
                if cell.arm == PROMPT:
                    ways = 2 + self.bench.budget.draws * len(self.bench.budget.shots)
                    seconds[cell.id] = answer * n * ways
                    continue
                if cell.arm not in steps:
                    training = training_of(
                        self.bench, cell, ARMS[cell.arm].stored_rate_on(self.bench.model.cfg.d_model)
                    )
                    steps[cell.arm] = seconds_a_step(self.bench.model, [training]).seconds
                each = steps[cell.arm] * max(cell.lengths) + answer * n * len(cell.lengths)
                seconds[cell.id] = each * len(cell.rates)
            return seconds


def new_frontier(bench: ProbeBench, plan: FrontierPlan) -> FrontierStudy:
    """A frontier of a probe's task: its parts, scorer, base model and off-domain items, trained by `plan`.

    What ends answers must be settled (`probe.with_ending`).

    Raises AlignerProbeError where there are no off-domain items, and where answers are not generated.
    """
    own = FrontierBench(**{one.name: getattr(bench, one.name) for one in fields(bench) if one.init})
    own._models.update(bench._models)
    off_domain = bench.off_domain
    if off_domain is None:
        off_domain = off_domain_of(bench.model, bench.parts.train, n_items=plan.budget.n_off_domain)
    if off_domain is None:
        raise AlignerProbeError(
            f"{bench.base} has no questions of its own of another domain than the task's, so no knowledge to keep; "
            "give some that it answers: --off-domain FILE"
        )
    if not isinstance(bench.scorer, TextScorer):
        raise AlignerProbeError(
            f"{bench.scorer!r} reads no answers, so no form is reached or missed; give a scorer of answers, for "
            "instance --scorer exact"
        )
    asked = asked_like(off_domain, bench.parts.train)
    return FrontierStudy(plan, own.changed(off_domain=asked, budget=plan.budget, n_form=plan.n_form))


def carry_out_frontier(
    frontier: FrontierStudy,
    out: str | Path,
    *,
    backend: Backend | None = None,
    resume: bool = False,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Make the cells and write OUT/frontier.json; its content.

    Raises AlignerProbeError where the folder has something already and `resume` is off, or as `Study.make` does.
    """
    out = Path(out)
    check_folder(out, resume)
    study_of(frontier).make(out, backend or Processes(1), show_progress=show_progress)
    content = report(frontier, out)
    write_text(out / REPORT, as_text(content))
    return content


def frontier_in_probe(
    bench: ProbeBench, out: Path, backend: Backend, *, show_progress: bool = True
) -> tuple[dict[str, Any], Frontier] | None:
    """Make the small frontier of a probe into OUT/frontier: its report, and the frontier itself.

    None where it would say nothing: there are no off-domain items, or the base model is right on few of them; answers
    are not generated; the budget lacks an arm that it needs; or no run of LoRA came as far as a reading.

    Raises AlignerProbeError as `Study.make` does.
    """
    prompts = read_result(out, PROMPTS)
    assert prompts is not None  # a probe makes it first
    right = prompts["off_domain"].get("content", [])
    if not right or np.mean(right) < THRESHOLDS.known_before or not isinstance(bench.scorer, TextScorer):
        return None
    form_kind = "format" if "format" in prompts["chosen"] else "strict"
    plan = plan_in_probe(bench.budget, bench.model.cfg.d_model, prompts["chosen"][form_kind])
    if plan is None:
        return None
    made = new_frontier(bench, plan)
    study = study_of(made)
    study.make(out / FOLDER, backend, show_progress=show_progress)
    results = [read_result(out / FOLDER, cell.id) for cell in plan.cells]
    if not any(run["readings"] for one in results if one and one["arm"] == LORA_8 for run in one["runs"]):
        return None
    content = report(made, out / FOLDER)
    write_text(out / FOLDER / REPORT, as_text(content))
    return read_frontier(out / FOLDER / REPORT)


def planned_in_probe(bench: ProbeBench, processes: int = 1) -> str:
    """What the small frontier of a probe will train and how long it takes, in words, or why there is none."""
    plan = plan_in_probe(bench.budget, bench.model.cfg.d_model, "zero-shot")
    if bench.off_domain is None or plan is None or not isinstance(bench.scorer, TextScorer):
        return "K will not be measured: it takes --off-domain items, answers that are generated, Aligner-1 and LoRA r=8"
    said = plan.described(new_frontier(bench, plan).seconds(), processes)
    return (
        f"for K, where the base model is right on {THRESHOLDS.known_before:g} of the off-domain items or more:\n{said}"
    )


def study_of(frontier: FrontierStudy) -> Study[FrontierCell]:
    """The study that makes a frontier's cells."""
    return Study(
        cells=frontier.plan.cells,
        carry_out=carry_out,
        bench=frontier.bench,
        files={PLAN: frontier.plan.to_json(format=FORMAT, **depends_on(frontier.bench))},
        differs="another task, base or plan than this frontier's",
        unit="frontier",
    )


def gathered(results: Sequence[dict[str, Any]]) -> Frontier:
    """The frontier from the results of its cells: runs that were read, and ways to ask."""
    readings, base = [], None
    for one in results:
        if one["arm"] == PROMPT:
            base = one["base"]
            ways = [Reading(PROMPT, None, None, 0, *_scores(read), way=name) for name, read in one["ways"].items()]
            readings += ways
            continue
        for run in one["runs"]:
            readings += [
                Reading(one["arm"], run["lr"], int(steps), one["seed"], *_scores(read))
                for steps, read in sorted(run["readings"].items(), key=lambda item: int(item[0]))
            ]
    assert base is not None  # every plan has the cell
    form, kept, _ = _scores(base)
    return Frontier(tuple(readings), kept, form_before=form)


def report(frontier: FrontierStudy, out: Path) -> dict[str, Any]:
    """All results, ready for JSON: K of every arm, the differences of pairs, the curve, and every reading."""
    results = [result for cell in frontier.plan.cells if (result := read_result(out, cell.id)) is not None]
    if len(results) < len(frontier.plan.cells):
        raise AlignerProbeError(
            f"{len(results)} of {len(frontier.plan.cells)} cells in {out} are finished; go on: --resume"
        )
    made, bench = gathered(results), frontier.bench
    [asked] = [one for one in results if one["id"] == ASKED]
    trained = [one for one in results if one["id"] != ASKED]
    return {
        "format": FORMAT,
        "base": bench.base,
        "task": {"name": bench.parts.test.name, "kind": bench.parts.kind, "sha256": bench.parts.train.sha256},
        "form": {"kind": asked["form_kind"], "items": len(made.readings[0].form), "level": made.level},
        "off_domain": {"name": bench.off_domain and bench.off_domain.name, "items": len(made.before)},
        "reference": made.reference,
        "rates": {arm: sorted({run["lr"] for one in trained if one["arm"] == arm for run in one["runs"]})
                  for arm in frontier.plan.budget.arms},
        "lengths": frontier.plan.cells[-1].lengths,
        "seeds": len(frontier.plan.budget.seeds),
        "batch_size": frontier.plan.budget.batch_size,
        "n_parameters": {one["arm"]: one["n_parameters"] for one in trained},
        **measured(made),
        "failed": {
            f"{one['id']}, lr {run['lr']:g}": run["failed"] for one in trained for run in one["runs"] if run["failed"]
        },
        "ways_left_out": asked["left_out"],
        "before": {"form": _text(made.form_before), "kept": _text(made.before)},
        "readings": [
            {"arm": one.arm, "setting": one.setting, "rate": one.rate, "steps": one.steps, "seed": one.seed,
             "form": _text(one.form), "kept": _text(one.kept), "plain": _text(one.plain)}
            for one in made.readings
        ],
        "seconds": round(sum(one["seconds"] for one in results), 1),
        "provenance": asked["provenance"],
    }  # fmt: skip


def as_text(content: dict[str, Any]) -> str:
    """A report of a frontier as JSON, with one line for each reading and each point of the curve."""
    apart = {name: content[name] for name in ("curve", "differences", "readings")}
    text = json.dumps(content | dict.fromkeys(apart), indent=1, allow_nan=False)
    for name, rows in apart.items():
        lines = ",\n  ".join(json.dumps(row, allow_nan=False) for row in rows)
        text = text.replace(f'"{name}": null', f'"{name}": [\n  {lines}\n ]')
    return text + "\n"


def measured(made: Frontier) -> dict[str, Any]:
    """K of every arm at several shares of the reference's form, the differences of pairs, and the curve, as data."""
    pairs = [(share, a, b) for share in SHARES for a, b in PAIRS if {a, b} <= set(made.arms)]
    most = {share: [made.most_kept(arm, share) for arm in made.arms] for share in SHARES}
    differences = {pair: made.difference(*pair[1:], pair[0]) for pair in pairs}
    return {
        "before_form": None if made.form_before is None else float(made.form_before.mean()),
        "before_right": float(made.before.mean()),
        "K": {f"{share:g}": {one.arm: asdict(one) | {"said": one.said} for one in its} for share, its in most.items()},
        "differences": [
            {"share": share, "a": a, "b": b, "difference": None if one is None else asdict(one)}
            for (share, a, b), one in differences.items()
        ],
        "curve": [_rounded(asdict(point)) for arm in made.arms for point in made.curve(arm)],
    }


def read_frontier(file: Path) -> tuple[dict[str, Any], Frontier]:
    """A report of a frontier by its file, and the frontier of the readings in it.

    Raises AlignerProbeError for a file that is none.
    """
    expected = "one that aligner-probe probe frontier wrote"
    content = read_own_json(file, FORMAT, what="frontier", expected=expected)
    named = ("arm", "rate", "steps", "seed")
    readings = [
        Reading(
            *(one[name] for name in named),
            *(_values(one[which]) for which in ("form", "kept", "plain")),
            way="" if one["steps"] is not None else one["setting"],
        )
        for one in content["readings"]
    ]
    before = content["before"]
    return content, Frontier(
        tuple(readings), _values(before["kept"]), content["reference"], form_before=_values(before["form"])
    )


def _scores(read: dict[str, list[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    form, kept, plain = (np.array(read[which], dtype=np.float64) for which in ("form", "kept", "plain"))
    return form, kept, plain


def _rounded(values: Any) -> Any:
    """The same with numbers of four digits after the point, which is more than they are certain to."""
    if isinstance(values, dict):
        return {name: value if name == "rate" else _rounded(value) for name, value in values.items()}
    return round(values, 4) if isinstance(values, float) else values


def _text(scores: np.ndarray | None) -> str | list[float] | None:
    """Scores of 0 and 1 as a text of these digits, which is short; others as numbers."""
    if scores is None:
        return None
    if np.isin(scores, (0.0, 1.0)).all():
        return "".join("1" if score else "0" for score in scores)
    return [round(float(score), 6) for score in scores]


def _values(scores: str | list[float]) -> np.ndarray:
    return np.array([float(score) for score in scores])
