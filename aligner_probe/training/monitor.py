"""The lost-update monitor: how many updates round to nothing.

In bfloat16, an update smaller than half a ULP of a parameter leaves the parameter unchanged. The second moments of the
optimiser never decay, because .999 v rounds back to v. The monitor counts both in every step, where an update was due.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True)
class LostUpdates:
    """Shares over an epoch, or over the part of it that there was. None if no update was due.

    Attributes:
        updates: The share of the updates that were due (a gradient other than zero) and left the parameter as it was.
        numbers: The share of the parameters that never changed, though an update was due.
        second_moments: The share of the changes of AdamW's second moments that were due and lost.
    """

    updates: float | None
    numbers: float | None
    second_moments: float | None


class LostUpdateMonitor:
    """Call `before()` and `after()` around each optimiser step. `epoch()` reports the shares and starts again.

    All parameters are compared as one long row, which is far cheaper than one parameter after another.
    """

    def __init__(self, optimizer: torch.optim.AdamW):
        self.optimizer = optimizer
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._numbers = self._row(lambda p: p)
        #: AdamW's second moments before the step; None before the first step.
        self._moments: Shaped[Tensor, " numbers"] | None = None
        self._ever_due, self._changed = self._none(), self._none()
        # Due, lost; moments due, lost. Counted on the parameters' device, so that a step need not wait for the counts.
        self._counts = torch.zeros(4, dtype=torch.int64, device=self._numbers.device)
        #: Steps since the last report.
        self.n_steps = 0

    def _none(self) -> Shaped[Tensor, " numbers"]:
        """False for every parameter."""
        return torch.zeros_like(self._numbers, dtype=torch.bool)

    def _reset(self) -> None:
        self._ever_due, self._changed = self._none(), self._none()
        self._counts = torch.zeros_like(self._counts)
        self.n_steps = 0

    def before(self) -> None:
        """Keep the parameters and the second moments as they are before the step."""
        self._numbers = self._row(lambda p: p)
        self._moments = self._second_moments()

    def after(self) -> None:
        """Count what the step left unchanged though an update was due."""
        gradients = self._row(lambda p: torch.zeros_like(p) if p.grad is None else p.grad)
        due = gradients != 0
        moved = self._row(lambda p: p) != self._numbers
        self._ever_due |= due
        self._changed |= moved
        counted = [due, due & ~moved]
        then, now = self._moments, self._second_moments()
        if then is not None and now is not None:
            # A second moment v must change unless v = g^2, because it moves by (1 - b2) (g^2 - v).
            moment_due = (then != 0) & (then.double() != gradients.double().square())
            counted += [moment_due, moment_due & (now == then)]
        self._counts[: len(counted)] += torch.stack([which.sum() for which in counted])
        self.n_steps += 1

    def last_numbers(self) -> list[Tensor]:
        """Each parameter as it was before the last step."""
        sizes = [p.numel() for p in self.parameters]
        return [row.view_as(p) for row, p in zip(self._numbers.split(sizes), self.parameters, strict=True)]

    def epoch(self) -> LostUpdates:
        """The shares since the last report."""
        due, lost, moments_due, moments_lost = self._counts.tolist()
        ever, never = int(self._ever_due.sum()), int((self._ever_due & ~self._changed).sum())
        self._reset()
        return LostUpdates(
            lost / due if due else None,
            never / ever if ever else None,
            moments_lost / moments_due if moments_due else None,
        )

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs, so that a training that is resumed in the middle of an epoch reports on all of it."""
        steps = torch.tensor(self.n_steps)
        return {"ever_due": self._ever_due, "changed": self._changed, "counts": self._counts, "n_steps": steps}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        device = self._counts.device
        self._ever_due, self._changed = state["ever_due"].to(device), state["changed"].to(device)
        self._counts, self.n_steps = state["counts"].to(device), int(state["n_steps"])

    def _row(self, of: Callable[[Tensor], Tensor]) -> Shaped[Tensor, " numbers"]:
        return torch.cat([of(p).detach().reshape(-1) for p in self.parameters])

    def _second_moments(self) -> Shaped[Tensor, " numbers"] | None:
        if not self.optimizer.state:
            return None

        def of(p: Tensor) -> Tensor:
            state = {} if p.grad is None else self.optimizer.state.get(p, {})
            return state.get("exp_avg_sq", torch.zeros_like(p))

        return self._row(of)
