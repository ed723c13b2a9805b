"""The known-answer panel, as `python -m aligner_probe.microworld panel` writes it: a folder a task, and panel.json."""

from pathlib import Path

PANEL = Path(__file__).parent
