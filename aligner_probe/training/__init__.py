"""Training: one loop (`loop.py`), two named recipes, and a monitor of updates that round to nothing."""

from aligner_probe.training.loop import Run, fit
from aligner_probe.training.recipe import Recipe, recipe

__all__ = ["Recipe", "Run", "fit", "recipe"]
