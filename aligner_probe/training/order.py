"""Which examples are in which step. This follows from the recipe's seed and the step alone, so a resumed run has the
same steps.
"""

import torch

from aligner_probe.training.recipe import Recipe


class Order:
    """`order(step)` is the batch of step 1, 2, ... as indices of examples."""

    def __init__(self, recipe: Recipe, n_examples: int):
        self.recipe, self.n_examples = recipe, n_examples
        self.per_epoch = recipe.steps_per_epoch(n_examples)
        self._epoch: tuple[int, list[int]] = (-1, [])

    def __call__(self, step: int) -> list[int]:
        size, seed = self.recipe.batch_size, self.recipe.seed
        assert size is not None, "the recipe is settled"
        if self.recipe.replacement:
            generator = torch.Generator().manual_seed(_mixed(seed, step))
            return torch.randint(self.n_examples, (size,), generator=generator).tolist()
        epoch, place = divmod(step - 1, self.per_epoch)
        if self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed(_mixed(seed, epoch))
            self._epoch = (epoch, torch.randperm(self.n_examples, generator=generator).tolist())
        return self._epoch[1][place * size : (place + 1) * size]


def _mixed(seed: int, place: int) -> int:
    """A seed for each use, far from the seeds that belong to other seeds."""
    return (seed * 1_000_003 + place * 7_919 + 12_345) % 2**63
