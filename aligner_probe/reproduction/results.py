"""Reads all results of a reproduction, for figures and tables.

    results = load_results(artifact("reproduction"))
    results.scores("math", "aligner-10")                       # (seeds, items) of the strict score
    results.to_frame()                                         # one row a run and set of items
    results.one("instructions", "lora-8", seed=0).responses    # to `results.questions`

A folder holds plan.json, items.json (what was asked) and runs/ID/ with result.json and adapter/.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.files import read_json
from aligner_probe.reproduction.items import KINDS, Item

PLAN, ITEMS, RUNS, RESULT, ADAPTER = "plan.json", "items.json", "runs", "result.json", "adapter"
#: What a judge said of the answers, where one was asked.
JUDGED = "judged.json"
#: The set of mixed questions in items.json.
QUESTIONS = "questions"
#: Sets of scores whose items are those of another set.
ASKED_AGAIN = {"after_sft": "test"}


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """The result of one cell: a finished run, or the answers of the untrained base model.

    Args:
        id: the cell's id.
        experiment: "instructions", "math" or "safety".
        method: one of `REPRODUCED_ARMS`, or "base" for the base model, which has no recipe, seeds, adapter or
            parameters.
        label: the name in figures.
        n_tokens: prefix tokens; None for a method without.
        n_parameters: trained parameters.
        recipe: "corrected" or "as-published".
        arm: "main"; "gates" or "tokens" (only these parameters of Aligner-1 are trained); "other-seed" (as published,
            from another seed); "float32" (as published except for the precision); "tenth-rate" (as published, at a
            tenth of the learning rate).
        precision: of adapter and optimiser, "float32" or "bf16-true".
        seeds: the seed of the "start" and of the "order" of examples.
        steps: by stage ("sft", in the safety experiment also "dpo"), the number of steps.
        lr: by stage, the highest learning rate.
        validation_loss: by stage, pairs of step and loss; step 0 is before training.
        seconds: the wall time of training.
        scores: by set and kind of score, 0 or 1 for each item. The kinds are "strict", "content" and "form". The sets
            on the micro-world are "test"; in the instructions experiment also "sums" and "requests", which are off the
            trained domain; in the safety experiment also "after_sft", the test items before DPO. On other base models
            (`real_data.py`) there are also "mmlu", "harmful", "harmless", and "questions" with the form of the answers
            to the mixed questions, and a set has only the kinds that can be told there.
        responses: the answers to `Results.questions`; none where the experiment does not ask them.
        provenance: versions, commit, and fingerprint of the base model.
        values: by set and name, measures that are no shares: on other base models than the micro-world the "loss" of
            held-out examples in nats a token, the "margin" of pairs in nats, and the "words" of answers.
        answers: by set, the answers to its items, on other base models than the micro-world.
        adapter: the folder of the adapter, for `load_adapter` and `load_checkpoint`. It also has the values from which
            training (in the safety experiment: DPO) began.
    """

    id: str
    experiment: str
    method: str
    label: str
    n_tokens: int | None
    n_parameters: int
    recipe: str | None
    arm: str
    precision: str | None
    seeds: dict[str, int]
    steps: dict[str, int]
    lr: dict[str, float]
    validation_loss: dict[str, tuple[tuple[int, float], ...]]
    seconds: float
    scores: dict[str, dict[str, Float[np.ndarray, " items"]]]
    responses: tuple[str, ...]
    provenance: dict[str, Any]
    adapter: Path | None
    values: dict[str, dict[str, Float[np.ndarray, " _items"]]] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        """The start seed; None for the base model."""
        return self.seeds.get("start")

    @property
    def unchanged(self) -> tuple[str, ...]:
        """The stages that left the adapter as it was, because no step had a lower validation loss than the start."""
        return tuple(
            stage
            for stage, losses in self.validation_loss.items()
            if losses and min(losses, key=lambda pair: pair[1])[0] == 0
        )

    def mean(self, kind: str = "strict", of: str = "test") -> float:
        """The share of items of a set that are right, by a kind of score."""
        return float(self.scores[of][kind].mean())


@dataclass(frozen=True, eq=False)
class Results:
    """The results in the order of the plan, and what was asked: `items[experiment][set]`, and the mixed `questions`.

    `plan` is the content of plan.json.
    """

    folder: Path
    runs: tuple[FinishedRun, ...]
    items: dict[str, dict[str, tuple[Item, ...]]]
    questions: tuple[Item, ...]
    plan: dict[str, Any] = field(default_factory=dict)

    @property
    def is_real(self) -> bool:
        """Whether the base model is another one than the micro-world's."""
        return "sizes" in self.plan

    @property
    def base_name(self) -> str:
        """How figures name the base model."""
        return self.plan["sizes"]["name"] if self.is_real else "micro-world"

    def select(self, experiment: str, method: str | None = None, **fields: Any) -> list[FinishedRun]:
        """The runs with the given fields, by default of recipe "corrected" and arm "main"; None means any value."""
        wanted = {"recipe": None if method == "base" else "corrected", "arm": "main"} | fields
        wanted |= {"experiment": experiment, "method": method}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        return [run for run in self.runs if all(getattr(run, name) == value for name, value in wanted.items())]

    def one(self, experiment: str, method: str, **fields: Any) -> FinishedRun:
        """The one run that `select` gives. Raises AlignerProbeError where there is none, or more than one."""
        runs = self.select(experiment, method, **fields)
        if len(runs) != 1:
            raise AlignerProbeError(
                f"{self.folder} has {len(runs)} runs of {method} on {experiment} with {fields}; expected one. Make "
                "what is missing: aligner-probe reproduce"
            )
        return runs[0]

    def scores(
        self, experiment: str, method: str, kind: str = "strict", of: str = "test", **fields: Any
    ) -> Float[np.ndarray, "seeds items"]:
        """The scores of all seeds of a method. Raises AlignerProbeError where there is no run."""
        runs = self.select(experiment, method, **fields)
        if not runs:
            raise AlignerProbeError(
                f"{self.folder} has no run of {method} on {experiment}; make it: aligner-probe reproduce"
            )
        return np.stack([run.scores[of][kind] for run in runs])

    def to_frame(self) -> pd.DataFrame:
        """A table with one row for each run and set of items, and the mean of each kind of score."""
        rows = [
            {
                "id": run.id,
                "experiment": run.experiment,
                "method": run.method,
                "n_tokens": run.n_tokens,
                "n_parameters": run.n_parameters,
                "recipe": run.recipe,
                "arm": run.arm,
                "precision": run.precision,
                "seed": run.seed,
                "seconds": run.seconds,
                "set": name,
                "n": len(next(iter(by_kind.values()))),
                **{kind: float(by_kind[kind].mean()) if kind in by_kind else np.nan for kind in KINDS},
            }
            for run in self.runs
            for name, by_kind in run.scores.items()
        ]
        return pd.DataFrame(rows).astype({"n_tokens": "Int64", "seed": "Int64"})


def load_results(folder: str | Path) -> Results:
    """Everything finished in a folder of `aligner-probe reproduce`.

    Raises AlignerProbeError, naming the file, where one is missing or damaged.
    """
    folder = Path(folder)
    plan = _read(folder / PLAN)
    try:
        planned = [row["id"] for row in plan["runs"]]
    except (TypeError, KeyError) as error:
        raise AlignerProbeError(
            f"{folder / PLAN} is no plan of the paper's experiments (it has no {error}); expected a folder that "
            "aligner-probe reproduce made"
        ) from error
    asked = _read(folder / ITEMS)
    try:
        items = {
            experiment: {name: tuple(Item(**row) for row in rows) for name, rows in sets.items()}
            for experiment, sets in asked.items()
            if experiment != QUESTIONS
        }
        questions = tuple(Item(**row) for row in asked[QUESTIONS])
    except (TypeError, KeyError, AttributeError) as error:
        raise _damaged(folder / ITEMS, error) from error
    here = [name for name in planned if (folder / RUNS / name / RESULT).is_file()]
    asking = plan.get("asks_questions", list(items))
    runs = tuple(_run(folder / RUNS / name, items, len(questions), asking) for name in here)
    return Results(folder, runs, items, questions, plan)


def _run(
    folder: Path, items: dict[str, dict[str, tuple[Item, ...]]], n_questions: int, asking: Sequence[str]
) -> FinishedRun:
    row = _read(folder / RESULT)
    try:
        scores: dict[str, dict[str, Float[np.ndarray, " items"]]] = {
            of: {kind: np.array([digit == "1" for digit in digits], np.float64) for kind, digits in kinds.items()}
            for of, kinds in row.pop("scores").items()
        }
        values = {
            of: {name: np.array(each, np.float64) for name, each in named.items()}
            for of, named in row.pop("values", {}).items()
        }
        losses = {s: tuple((int(a), float(b)) for a, b in rows) for s, rows in row.pop("validation_loss").items()}
        responses = tuple(row.pop("responses"))
        adapter = folder / ADAPTER if (folder / ADAPTER).is_dir() else None
        run = FinishedRun(
            scores=scores, validation_loss=losses, responses=responses, adapter=adapter, values=values, **row
        )
        sizes = {name: len(each) for name, each in items[run.experiment].items()} | {QUESTIONS: n_questions}
        expected = {of: {sizes[ASKED_AGAIN.get(of, of)]} for of in (*scores, *values)}
        expected |= {of: {sizes[of]} for of in run.answers}
        n_asked = n_questions if run.experiment in asking else 0
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise _damaged(folder / RESULT, error) from error
    lengths = {
        of: {len(each) for each in (*scores.get(of, {}).values(), *values.get(of, {}).values())}
        for of in (*scores, *values)
    }
    lengths |= {of: lengths.get(of, set()) | {len(each)} for of, each in run.answers.items()}
    if len(responses) != n_asked or lengths != expected:
        raise _damaged(folder / RESULT, f"scores of {lengths} items, expected {expected}")
    return run


def _read(path: Path) -> Any:
    if not path.is_file():
        raise AlignerProbeError(
            f"{path} is missing; expected the results of the paper's experiments. Make them: aligner-probe reproduce"
        )
    try:
        return read_json(path)
    except CheckpointError as error:
        raise _damaged(path, f"it {error.reason}") from error


def _damaged(path: Path, why: object) -> AlignerProbeError:
    return AlignerProbeError(
        f"{path} is damaged ({why}); remove it (with its folder, if it is a run's) and make it again: "
        "aligner-probe reproduce"
    )
