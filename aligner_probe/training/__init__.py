"""Training: one loop (`loop.py`), two named recipes, lower layers computed once, and what a run tells and records."""

from aligner_probe.training.callbacks import Callback
from aligner_probe.training.loop import fit, fit_together
from aligner_probe.training.member import Training
from aligner_probe.training.opening import open_gate
from aligner_probe.training.recipe import Recipe, recipe
from aligner_probe.training.run import Run

__all__ = ["Callback", "Recipe", "Run", "Training", "fit", "fit_together", "open_gate", "recipe"]
