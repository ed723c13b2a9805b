"""The lost-update monitor: how many updates round to nothing.

In bfloat16 an update smaller than half a ULP of the number it is added to leaves it unchanged, and the optimiser's
second moments never decay, since .999 v rounds back to v. Both are counted, step by step, where an update was due.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LostUpdates:
    """Shares over an epoch. None where nothing was due.

    `updates`: updates that were due (a gradient other than zero) and left the number as it was. `numbers`: numbers
    that never changed though an update was due. `second_moments`: due changes of AdamW's second moments that were lost.
    """

    updates: float | None
    numbers: float | None
    second_moments: float | None


class LostUpdateMonitor:
    """Call `before()` and `after()` around each optimiser step; `epoch()` reports and starts anew."""

    def __init__(self, optimizer: torch.optim.AdamW):
        self.optimizer = optimizer
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._reset()

    def _reset(self) -> None:
        self._due = self._lost = self._moments_due = self._moments_lost = 0
        self._ever_due = [torch.zeros_like(p, dtype=torch.bool) for p in self.parameters]
        self._changed = [torch.zeros_like(p, dtype=torch.bool) for p in self.parameters]

    def before(self) -> None:
        self.last_numbers = [p.detach().clone() for p in self.parameters]
        self._moments = [self._moment(p) for p in self.parameters]

    def after(self) -> None:
        for i, p in enumerate(self.parameters):
            due = p.grad != 0 if p.grad is not None else torch.zeros_like(p, dtype=torch.bool)
            moved = p.detach() != self.last_numbers[i]
            self._due += int(due.sum())
            self._lost += int((due & ~moved).sum())
            self._ever_due[i] |= due
            self._changed[i] |= moved
            then, now = self._moments[i], self._moment(p)
            if then is not None and now is not None:
                # A moment that is not where it was bound to stay: v (1 - b2) != g^2 (1 - b2).
                moment_due = (then != 0) & (then.double() != p.grad.double() ** 2)
                self._moments_due += int(moment_due.sum())
                self._moments_lost += int((moment_due & (now == then)).sum())

    def epoch(self) -> LostUpdates:
        ever = sum(int(due.sum()) for due in self._ever_due)
        never = sum(int((due & ~moved).sum()) for due, moved in zip(self._ever_due, self._changed, strict=True))
        found = LostUpdates(
            self._lost / self._due if self._due else None,
            never / ever if ever else None,
            self._moments_lost / self._moments_due if self._moments_due else None,
        )
        self._reset()
        return found

    def _moment(self, parameter: Tensor) -> Tensor | None:
        state = self.optimizer.state.get(parameter, {})
        return state["exp_avg_sq"].clone() if "exp_avg_sq" in state else None
