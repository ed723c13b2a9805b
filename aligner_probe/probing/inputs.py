"""Reads the files of a probe: the training, validation and test examples, and the kind of a task of the panel."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.files import read_json
from aligner_probe.probing.verdicts.measures import TaskKind
from aligner_probe.tasks.loading import load_splits, load_task, refuse_mixed
from aligner_probe.tasks.sources import beside
from aligner_probe.tasks.task import Task

#: The file beside the folders of a panel that lists its tasks.
PANEL = "panel.json"


@dataclass(frozen=True)
class Given:
    """The parts of a task that files have; None for a part that is to be split off."""

    train: Task
    test: Task | None
    validation: Task | None
    kind: TaskKind


def load_parts(
    task: str | Path,
    test: Path | None = None,
    validation: Path | None = None,
    kind: TaskKind | None = None,
    **reading: Any,
) -> Given:
    """Read a file, a folder with train.jsonl (and test.jsonl, validation.jsonl), "panel:NAME" or "hub:NAME".

    Raises AlignerProbeError as `load_task` does, where training and test share a prompt, and where
    some parts hold conversations and others texts.
    """
    train, held_out = load_splits(task, test, **reading)
    folder = Path(train.source).parent
    other = beside(task, "validation") if validation is None else validation
    asked = None if other is None else load_task(other, **reading)
    if asked is not None:
        refuse_mixed(train, asked)
    return Given(train, held_out, asked, kind or _kind_said(folder) or "general")


def _kind_said(folder: Path) -> TaskKind | None:
    """The kind that a panel's list gives a task. The nature of the task, which is in the same list, is not read."""
    file = folder.parent / PANEL
    if not file.is_file():
        return None
    try:
        kind = read_json(file).get(folder.name, {}).get("kind")
    except (CheckpointError, AttributeError) as error:
        reason = error.reason if isinstance(error, CheckpointError) else "lists no tasks"
        raise AlignerProbeError(f"{file}: {reason}; expected a panel's list of tasks, or give --kind") from error
    if kind is not None and kind not in get_args(TaskKind):
        raise AlignerProbeError(f"{file}: kind {kind!r}; expected {' or '.join(get_args(TaskKind))}, or give --kind")
    return kind
