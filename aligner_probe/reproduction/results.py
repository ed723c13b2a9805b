"""All results of a reproduction, for figures and tables.

    results = load_results(artifact("reproduction"))
    results.scores("math", "aligner-10")                       # (seeds, items) of the strict score
    results.to_frame()                                         # one row a run and set of items
    results.one("instructions", "lora-8", seed=0).responses    # to `results.questions`

A folder holds plan.json, items.json (what was asked) and runs/ID/ with result.json and adapter/.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.files import read_json
from aligner_probe.reproduction.items import KINDS, Item

PLAN, ITEMS, RUNS, RESULT, ADAPTER = "plan.json", "items.json", "runs", "result.json", "adapter"
#: The set of mixed questions in items.json.
QUESTIONS = "questions"
#: Sets of scores that are of another set's items.
ASKED_AGAIN = {"after_sft": "test"}


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run.

    `experiment`: instructions, math or safety. `method`: one of `REPRODUCED_ARMS`, or "base" (untrained: no recipe,
    seed, adapter; 0 parameters). `recipe`: corrected or as-published. `arm`: main; "gates" and "tokens" (only these of
    Aligner-1 are trained); "other-seed" (as published, from another start); "float32" (as published, but for the
    precision); "tenth-rate" (as published, at a tenth of the learning rate). `precision`: float32 or bf16-true, of
    adapter and optimiser. `seeds`: of "start" and "order".
    `steps`, `lr` (at its peak) and `validation_loss` (pairs of step and loss, step 0 before training) by stage: "sft",
    for safety also "dpo". `seconds` is training's wall time.

    `scores[set][kind]` is one number (0 or 1) an item. Sets: "test"; of instructions also "sums" and "requests", which
    were not trained (knowledge kept off-domain); of safety also "after_sft", the same items before DPO. Kinds:
    "strict", "content", "form". `responses` are to `Results.questions`. `adapter` is the folder `load_adapter` and
    `load_checkpoint` read; it has the numbers training began from (of safety: DPO began from).
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

    @property
    def seed(self) -> int | None:
        return self.seeds.get("start")

    def mean(self, kind: str = "strict", of: str = "test") -> float:
        """Share of items that are right."""
        return float(self.scores[of][kind].mean())


@dataclass(frozen=True, eq=False)
class Results:
    """Runs in the plan's order, and what was asked: `items[experiment][set]`, and the mixed `questions`."""

    folder: Path
    runs: tuple[Run, ...]
    items: dict[str, dict[str, tuple[Item, ...]]]
    questions: tuple[Item, ...]

    def select(self, experiment: str, method: str | None = None, **fields: Any) -> list[Run]:
        """Runs whose fields are as given; recipe "corrected" and arm "main" unless said (None: any)."""
        wanted = {"recipe": None if method == "base" else "corrected", "arm": "main"} | fields
        wanted |= {"experiment": experiment, "method": method}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        return [run for run in self.runs if all(getattr(run, name) == value for name, value in wanted.items())]

    def one(self, experiment: str, method: str, **fields: Any) -> Run:
        """The only run that `select` finds; raises AlignerProbeError where there is none, or several."""
        found = self.select(experiment, method, **fields)
        if len(found) != 1:
            raise AlignerProbeError(
                f"{self.folder} has {len(found)} runs of {method} on {experiment} with {fields}; expected one. Make "
                "what is missing: aligner-probe reproduce"
            )
        return found[0]

    def scores(
        self, experiment: str, method: str, kind: str = "strict", of: str = "test", **fields: Any
    ) -> Float[np.ndarray, "seeds items"]:
        """Scores of all seeds of a method, for the bootstrap; raises AlignerProbeError where there is no run."""
        found = self.select(experiment, method, **fields)
        if not found:
            raise AlignerProbeError(
                f"{self.folder} has no run of {method} on {experiment}; make it: aligner-probe reproduce"
            )
        return np.stack([run.scores[of][kind] for run in found])

    def to_frame(self) -> pd.DataFrame:
        """One row a run and set of items, with the mean of each kind of score."""
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
                "n": len(found["strict"]),
                **{kind: float(found[kind].mean()) for kind in KINDS},
            }
            for run in self.runs
            for name, found in run.scores.items()
        ]
        return pd.DataFrame(rows).astype({"n_tokens": "Int64", "seed": "Int64"})


def load_results(folder: str | Path) -> Results:
    """Everything finished in a folder of `aligner-probe reproduce`.

    Raises AlignerProbeError, naming the file, where one is missing or damaged.
    """
    folder = Path(folder)
    planned = [row["id"] for row in _read(folder / PLAN)["runs"]]
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
    runs = tuple(_run(folder / RUNS / name, items, len(questions)) for name in here)
    return Results(folder, runs, items, questions)


def _run(folder: Path, items: dict[str, dict[str, tuple[Item, ...]]], n_questions: int) -> Run:
    row = _read(folder / RESULT)
    try:
        scores: dict[str, dict[str, Float[np.ndarray, " items"]]] = {
            of: {kind: np.array([digit == "1" for digit in digits], np.float64) for kind, digits in kinds.items()}
            for of, kinds in row.pop("scores").items()
        }
        losses = {s: tuple((int(a), float(b)) for a, b in rows) for s, rows in row.pop("validation_loss").items()}
        responses = tuple(row.pop("responses"))
        adapter = folder / ADAPTER if (folder / ADAPTER).is_dir() else None
        run = Run(scores=scores, validation_loss=losses, responses=responses, adapter=adapter, **row)
        expected = {of: {len(items[run.experiment][ASKED_AGAIN.get(of, of)])} for of in scores}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise _damaged(folder / RESULT, error) from error
    lengths = {of: {len(digits) for digits in kinds.values()} for of, kinds in scores.items()}
    if len(responses) != n_questions or lengths != expected:
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
