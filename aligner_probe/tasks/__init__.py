"""Tasks: examples that are read from files in the field names of published data sets, and their token ids."""

from typing import TYPE_CHECKING

from aligner_probe.lazy import names_of

if TYPE_CHECKING:
    from aligner_probe.tasks.encoding import Encoded, Tokens, collate, encode
    from aligner_probe.tasks.loading import load_splits, load_task
    from aligner_probe.tasks.task import Example, Preference, Task

_HOMES = {
    "Encoded": "encoding",
    "Example": "task",
    "Preference": "task",
    "Task": "task",
    "Tokens": "encoding",
    "collate": "encoding",
    "encode": "encoding",
    "load_splits": "loading",
    "load_task": "loading",
}

__all__ = [
    "Encoded",
    "Example",
    "Preference",
    "Task",
    "Tokens",
    "collate",
    "encode",
    "load_splits",
    "load_task",
]

__getattr__ = names_of(__name__, _HOMES)
