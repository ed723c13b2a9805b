"""What is learned: tasks read from JSONL in the field names data sets are published with, and their token ids."""

from aligner_probe.tasks.encoding import Encoded, Tokens, collate, encode
from aligner_probe.tasks.loading import load_splits, load_task
from aligner_probe.tasks.task import Example, Preference, Task

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
