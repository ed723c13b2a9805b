"""The result of a probe: its verdict, and the scores and answers behind it as tables.

result = ap.probe_task(model, task)
result.scores()          # one row for each arm and kind of score
result.scores("item")    # one row for each test item of each run
result.samples()         # every test item with the answer of every arm
result.plot()
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from aligner_probe.errors import one_of
from aligner_probe.evaluation.guessing import sft_examples
from aligner_probe.html import Shown, text_of
from aligner_probe.plotting import plot
from aligner_probe.probing.gathering import Gathered
from aligner_probe.probing.splitting import Parts
from aligner_probe.probing.verdicts.verdict import Verdict

By = Literal["arm", "run", "item"]
KINDS = ("strict", "content", "format", "likelihood")


@dataclass(frozen=True, eq=False)
class ProbeResult(Shown):
    """What a probe found out about a task.

    Attributes:
        verdict: the outcome, its reason, and notes.
        gathered: the evidence for it, and the result of every run.
        report: the same as JSON data, as report.json has it.
        parts: the task's training, validation and test examples.
    """

    verdict: Verdict
    gathered: Gathered
    report: dict[str, Any]
    parts: Parts

    def shown(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict.outcome,
            "reason": self.verdict.reason,
            "notes": self.verdict.notes,
        }

    def __repr__(self) -> str:
        return f"ProbeResult({self.verdict.outcome!r}: {text_of(self.verdict.reason, 600)})"

    def scores(self, by: By | str = "arm") -> pd.DataFrame:
        """The scores of all arms on the test items, as a table.

        Kinds of score are strict, content, format (where an answer's form can be told from its content) and likelihood
        (mean log-likelihood of the expected answer in nats a token).

        Args:
            by: what a row is. "arm" has one row for each arm and kind of score, "run" one for each trained run (an arm
                with one start seed and one order seed), "item" one for each test item of each run. Arms that train
                nothing (base, prompt, constant) count as one run.

        Returns:
            With "arm": `arm`, `kind`; `score` with its 95 % interval `low` to `high`, over seeds and test items; and
            `recovered` with `recovered_low` to `recovered_high`, the share of the gap between floor and reference
            that the arm recovers (NaN for arms without one).
            With "run": `arm`, `start_seed`, `order_seed`, `n_parameters`, `lr` (these four are missing where nothing
            is trained), and a column for each kind of score with the mean over the test items.
            With "item": `arm`, `start_seed`, `order_seed`, `item` (index of the test item, from 0), `group`, and a
            column for each kind of score.

        Raises AlignerProbeError for another `by`.
        """
        one_of(by, ("arm", "run", "item"), "by")
        if by == "arm":
            return pd.DataFrame([row for kind in KINDS for row in self._of_arms(kind)])
        rows = self._runs()
        if by == "run":
            means = [run | {kind: float(np.mean(values)) for kind, values in its.items()} for run, its in rows]
            return _table(means, ["arm", "start_seed", "order_seed", "n_parameters", "lr"])
        examples = sft_examples(self.parts.test)
        items = [
            {"arm": run["arm"], "start_seed": run["start_seed"], "order_seed": run["order_seed"], "item": item}
            | {"group": examples[item].group}
            | {kind: values[item] for kind, values in its.items()}
            for run, its in rows
            for item in range(len(examples))
        ]
        return _table(items, ["arm", "start_seed", "order_seed", "item", "group"])

    def samples(self) -> pd.DataFrame:
        """All test items with the answers of all arms, as a table: `samples()["aligner-1", "answer"]`.

        Returns:
            One row for each test item, with its index from 0, and columns of two levels: ("item", "prompt") and
            ("item", "reference"), the expected answer; and for each arm that answered (ARM, "answer") and (ARM,
            "right"): whether the strict score of that answer is that of a right answer. Of a trained arm it is the
            first run. There is no "right" for scorers without right and wrong (likelihoods).
        """
        prompts, marks = self.gathered.prompts, self.gathered.prompts["full_marks"]
        answers = {arm: (texts, prompts["scores"][arm]["strict"]) for arm, texts in prompts["completions"].items()}
        for run in self.gathered.runs.values():
            answers.setdefault(run["arm"], (run["completions"], run["scores"]["strict"]))
        examples = sft_examples(self.parts.test)
        columns: dict[tuple[str, str], Any] = {
            ("item", "prompt"): [str(example.prompt) for example in examples],
            ("item", "reference"): [example.completion for example in examples],
        }
        for arm, (texts, scores) in answers.items():
            if texts:
                columns[arm, "answer"] = list(texts)
                if marks is not None:
                    columns[arm, "right"] = np.asarray(scores) >= np.asarray(marks) - 1e-9
        return pd.DataFrame(columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the strict score of every arm against its number of trained parameters, with 95 % intervals.

        Base, best prompt and floors are lines. `ax` is the axis to draw on, by default that of a new figure; it is
        returned.
        """
        return plot("probe", self.report, ax)

    def _of_arms(self, kind: str) -> list[dict[str, Any]]:
        measures = getattr(self.gathered.evidence, kind)
        if measures is None:
            return []
        rows = []
        for arm, score in measures.scores.items():
            share = measures.recovered.get(arm)
            rows.append(
                {
                    "arm": arm,
                    "kind": kind,
                    "score": score.value,
                    "low": score.low,
                    "high": score.high,
                    "recovered": np.nan if share is None else share.value,
                    "recovered_low": np.nan if share is None else share.low,
                    "recovered_high": np.nan if share is None else share.high,
                }
            )
        return rows

    def _runs(self) -> list[tuple[dict[str, Any], dict[str, list[float]]]]:
        """Every run with what it is, and its scores of the test items by kind."""
        untrained = {"start_seed": None, "order_seed": None, "n_parameters": None, "lr": None}
        rows = [({"arm": arm} | untrained, scores) for arm, scores in self.gathered.prompts["scores"].items() if scores]
        named = ("arm", "start_seed", "order_seed", "n_parameters", "lr")
        return rows + [({name: run[name] for name in named}, run["scores"]) for run in self.gathered.runs.values()]


def _table(rows: list[dict[str, Any]], first: list[str]) -> pd.DataFrame:
    """Rows as a table, these columns first, then the kinds of score there are; seeds and sizes as whole numbers."""
    kinds = [kind for kind in KINDS if any(kind in row for row in rows)]
    whole = {name: "Int64" for name in ("start_seed", "order_seed", "n_parameters") if name in first}
    return pd.DataFrame(rows, columns=[*first, *kinds]).astype(whole)
