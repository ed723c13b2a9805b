"""What a model answered to the items of a benchmark, on disk, a row an item and filter.

The rows are in OUT/items/MODEL/BENCHMARK.jsonl. Beside them, BENCHMARK.json says to which adapter and prompts they
belong. It is written last, so a benchmark without it is not finished.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import for_json, read_own_json, storable, write_text

FOLDER = "items"
FORMAT = "aligner_probe.benchmark/1"


@dataclass(frozen=True)
class Item:
    """An item as one filter of lm-eval read its answer.

    Attributes:
        task: lm-eval's task; a benchmark such as MMLU consists of several.
        doc_id: The index of the item in the test part of its task.
        filter: How the answer was read ("strict-match"); "none" where there is one way only.
        scores: The item's score by metric, 0 or 1 in most; None where lm-eval gives no number.
        answer: What was read: a choice, or a part of the text.
        target: The expected answer, as lm-eval gives it.
        prompt: The whole prompt.
        said: What the model gave: texts, or the log-likelihood of each choice in nats.
    """

    task: str
    doc_id: int
    filter: str
    scores: dict[str, float | None]
    answer: str
    target: str
    prompt: str
    said: list[Any]


@dataclass(frozen=True)
class Metric:
    """A metric of a task: lm-eval's own value, and whether it is the mean of the items' scores."""

    task: str
    metric: str
    filter: str
    value: float | None
    is_mean: bool


@dataclass(frozen=True)
class BatchCheck:
    """How many of the first `n` items came out otherwise with batches of another size."""

    n: int
    batch_size: int
    other_batch_size: int
    answers: int
    scores: int


@dataclass(frozen=True)
class Answered:
    """All that one model answered to a benchmark.

    `adapter` is the hash of the adapter's file (None for the base model), `prompts` that of all prompts, and `seconds`
    how long the answers took.
    """

    adapter: str | None
    prompts: str
    seconds: float
    metrics: list[Metric]
    check: BatchCheck | None
    items: list[Item]


def write_answered(out: Path, model: str, benchmark: str, answered: Answered) -> None:
    """Write the items of a benchmark and, when they are there, what they are of."""
    rows = "".join(json.dumps(for_json(asdict(item)), ensure_ascii=False) + "\n" for item in answered.items)
    write_text(file_of(out, model, benchmark, "jsonl"), storable(rows))
    about = {name: value for name, value in asdict(answered).items() if name != "items"}
    text = json.dumps(for_json({"format": FORMAT, "n_rows": len(answered.items)} | about), indent=1, allow_nan=False)
    write_text(file_of(out, model, benchmark, "json"), text + "\n")


def read_answered(out: Path, model: str, benchmark: str, *, adapter: str | None, prompts: str) -> Answered | None:
    """What a model has answered to a benchmark; None where that is not finished.

    Raises AlignerProbeError where the answers are of another adapter or to other prompts, or a file is damaged.
    """
    file = file_of(out, model, benchmark, "json")
    if not file.is_file():
        return None
    about = read_own_json(file, FORMAT, what="answers", expected="what `evaluate benchmark` wrote")
    for member, wanted, what in (("adapter", adapter, "of another adapter"), ("prompts", prompts, "to other prompts")):
        if about.get(member) != wanted:
            raise AlignerProbeError(f"{file} is {what} than this; name another folder: --out DIR, or remove {file}")
    rows = file_of(out, model, benchmark, "jsonl")
    try:
        items = [Item(**json.loads(line)) for line in rows.read_text(encoding="utf-8").split("\n")[:-1]]
        if len(items) != about["n_rows"]:
            raise ValueError(f"{len(items)} rows of {about['n_rows']}")
        check = None if about["check"] is None else BatchCheck(**about["check"])
        return Answered(
            adapter, prompts, about["seconds"], [Metric(**metric) for metric in about["metrics"]], check, items
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AlignerProbeError(f"{rows}: is damaged ({error}); remove {file}, and the same command goes on") from error


def file_of(out: Path, model: str, benchmark: str, ending: str) -> Path:
    name = re.sub(r"[^\w.+-]", "-", benchmark)
    return out / FOLDER / model / f"{name}.{ending}"
