"""Several adapters on one batch, each on rows of its own: what makes runs train together.

    both = SideBySide([one, other])
    with both.attached():
        with both.on([8, 8]):       # the first 8 rows are `one`'s, the next 8 `other`'s
            model(tokens)
        with both.only(1):          # all rows are `other`'s
            model(tokens)

The base treats every row by itself and so does each adapter, so a row comes out as with its adapter alone, but for
rounding: a matrix product may round differently where the batch has another shape.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from aligner_probe.adapters.adapter import Adapter, AdapterConfig, HookFunction, require


class SideBySide(Adapter):
    """SideBySide(adapters): attached, each member adapts its block of rows, in order.

    Raises AlignerProbeError where members are of different models, or one does not work row by row (`stacks`), as
    prompt tuning, which lengthens every row, and full fine-tuning, whose numbers are the base's own.
    """

    method = "side_by_side"

    def __init__(self, members: Sequence[Adapter]):
        require(len(members) > 0, "no adapters to attach side by side; expected one or more")
        require(all(one.model is members[0].model for one in members), "adapters of different models share no batch")
        whole = [one.method for one in members if not one.stacks]
        require(not whole, f"{''.join(whole[:1])} does not work row by row, so it shares no batch; train it alone")
        require(len(set(map(id, members))) == len(members), "one adapter twice in a batch; make another of its kind")
        # The first adapted layer of all, read by `layers` when the contract is checked.
        self.__dict__["_start"] = min(one.layers.start for one in members)
        super().__init__(members[0].model, AdapterConfig())
        self.members = nn.ModuleList(members)
        #: Members with their numbers of rows, in order; a number of None is all rows there are.
        self._blocks: list[tuple[int, int | None]] = []

    @property
    def layers(self) -> range:
        return range(self._start, self.shape.n_layers)

    @contextmanager
    def on(self, rows: Sequence[int]) -> Iterator[None]:
        """Inside, a batch is so many rows of each member, one after another; a member may have none."""
        with self._with([(place, n) for place, n in enumerate(rows) if n]):
            yield

    @contextmanager
    def only(self, place: int) -> Iterator[None]:
        """Inside, every batch is one member's."""
        with self._with([(place, None)]):
            yield

    @contextmanager
    def _with(self, blocks: list[tuple[int, int | None]]) -> Iterator[None]:
        before, self._blocks = self._blocks, blocks
        try:
            yield
        finally:
            self._blocks = before

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        at: dict[str, dict[int, HookFunction]] = {}
        for place, member in enumerate(self.members):
            for name, function in member.hook_functions():
                require(place not in at.setdefault(name, {}), f"{member.method} hooks {name} twice")
                at[name][place] = function
        for name, functions in at.items():
            yield name, self._dispatched(functions)

    def _dispatched(self, functions: dict[int, HookFunction]) -> HookFunction:
        def dispatch(tensor: Tensor, hook: HookPoint) -> Tensor | None:
            require(bool(self._blocks), "adapters side by side, and whose rows these are is not said: on() or only()")
            places, sizes = zip(*self._blocks, strict=True)
            called = [functions.get(place, _nothing) for place in places]
            if len(sizes) == 1:
                return called[0](tensor, hook=hook)
            # What all rows have in common (rotary's cosines) comes as one row.
            parts = tensor.split(sizes) if len(tensor) == sum(sizes) else [tensor] * len(sizes)
            found = [function(part, hook=hook) for function, part in zip(called, parts, strict=True)]
            if all(one is None for one in found):
                return None
            return torch.cat([part if one is None else one for part, one in zip(parts, found, strict=True)])

        return dispatch


def _nothing(tensor: Tensor, hook: HookPoint) -> None:
    """Of a member that has no hook where another has one."""
