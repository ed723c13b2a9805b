"""Tasks as users give them: loaded, by path or name, or as rows in memory."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aligner_probe.arguments import described, refuse
from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks.task import Example, Preference, Task

EXPECTED = (
    'a task: ap.load_task(PATH), "panel:NAME", "hub:NAME", a path, or a list of rows such as [{"prompt": …, '
    '"completion": …}]'
)
#: What stands for a file's name in messages about rows that are in memory.
IN_MEMORY = "rows in memory"


def one_task(value: Any, where: str) -> Task:
    """Read the task that was given. Raises ArgumentError if it is not a task, and AlignerProbeError as `load_task`
    does.
    """
    from aligner_probe.tasks.loading import load_task

    if isinstance(value, Task):
        return value
    # A generator is read once.
    rows = rows_of(value)
    if isinstance(value, str | Path) or rows is not None:
        return load_task(value if rows is None else rows)
    if isinstance(value, tuple) and value and all(isinstance(part, Task) for part in value):
        raise refuse(
            value, where, "one task; a split has two: train, held_out = task.split(0.1, seed=0), then task=train"
        )
    raise refuse(value, where, EXPECTED)


def task_or_name(value: Any, where: str) -> Task | str | Path:
    """The task that was given, or its name or path as it is, to be read later with the files beside it."""
    return value if isinstance(value, str | Path) else one_task(value, where)


def rows_of(value: Any) -> list[Any] | None:
    """The rows of a list of dicts, a data frame or a data set of Hugging Face; None for anything else."""
    if isinstance(value, str | bytes | Path | Mapping | Task) or value is None:
        return None
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # pandas
        return [{name: cell for name, cell in row.items() if not _is_missing(cell)} for row in value.to_dict("records")]
    if hasattr(value, "to_list"):  # datasets.Dataset
        return [{name: cell for name, cell in row.items() if cell is not None} for row in value.to_list()]
    if isinstance(value, list | tuple) or (isinstance(value, Iterable) and not hasattr(value, "shape")):
        rows = list(value)
        return rows if all(isinstance(row, Mapping | Example | Preference) for row in rows) else None
    return None


def as_jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows in memory as a file would have them, so that both are read by the same rules.

    Raises AlignerProbeError, with the index of the row, for a value that JSON does not have.
    """
    lines = []
    for place, row in enumerate(rows, start=1):
        try:
            lines.append(json.dumps(dict(row), allow_nan=False, default=_plain))
        except (TypeError, ValueError) as error:
            wrong = next((f"{k!r} is {described(v)}" for k, v in row.items() if not _is_json(v)), str(error))
            raise AlignerProbeError(
                f"{IN_MEMORY}, line {place}: {wrong}; expected texts, as a line of a JSONL file has them"
            ) from error
    return "".join(line + "\n" for line in lines).encode("utf-8", errors="surrogatepass")


def _plain(value: Any) -> Any:
    """Python's own number or text for one of numpy's."""
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError):
        return False
    return True


def _is_missing(cell: Any) -> bool:
    return (
        cell is None or (isinstance(cell, float) and math.isnan(cell)) or type(cell).__name__ in ("NAType", "NaTType")
    )
