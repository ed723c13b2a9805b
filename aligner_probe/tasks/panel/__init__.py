"""The known-answer panel, as `python -m aligner_probe.microworld panel` writes it: a folder a task, and panel.json."""

from pathlib import Path

from aligner_probe.errors import AlignerProbeError

PANEL = Path(__file__).parent


def panel_task(name: str) -> Path:
    """The folder of a task of the panel. Raises AlignerProbeError, naming those there are, for any other name."""
    there = sorted(file.parent.name for file in PANEL.glob("*/train.jsonl"))
    if name not in there:
        raise AlignerProbeError(f"the panel has no task {name!r}; expected one of {', '.join(there)}")
    return PANEL / name
