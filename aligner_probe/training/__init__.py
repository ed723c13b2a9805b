"""Training of adapters: `fit` and `fit_together`, two named recipes, and what a training reports and records."""

from aligner_probe.training.callbacks import Callback
from aligner_probe.training.fit import fit, fit_together
from aligner_probe.training.inputs import Training
from aligner_probe.training.opening import open_gate
from aligner_probe.training.recipe import Recipe, recipe
from aligner_probe.training.run import Run

__all__ = ["Callback", "Recipe", "Run", "Training", "fit", "fit_together", "open_gate", "recipe"]
