"""Several adapters on one batch, each with its own hooks on its own rows, so that several runs train together.

    both = SideBySide([one, other])
    with both.attached(), both.on([8, 8]):      # the first 8 rows belong to `one`, the next 8 to `other`
        model(tokens)

`rows.py` says how rows get their adapters. The rows of a batch are brought together by adapter, and each adapter is
called with its own rows. So adapters of different methods share a batch, and each has its own gradients.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from aligner_probe.adapters.adapter import Adapter, HookFunction
from aligner_probe.adapters.config import AdapterConfig, require
from aligner_probe.adapters.rows import RowAdapters, RowIndices, is_shared


@dataclass(frozen=True)
class _Groups:
    """How the rows of each adapter of a batch are brought together.

    Args:
        of_row: for each row the index of its adapter, None for the base model alone.
        members: the adapters that have rows, in the order of their first rows.
        sizes: how many rows each of `members` has.
        order: row indices that bring the rows of each member together; None where they are together already.
        back: row indices that undo `order`; None with it.
    """

    of_row: RowIndices
    members: tuple[int | None, ...]
    sizes: tuple[int, ...]
    order: Tensor | None
    back: Tensor | None
    #: The same for other devices.
    copies: dict[torch.device, "_Groups"] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, of_row: RowIndices) -> "_Groups":
        rows: dict[int | None, list[int]] = {}  # in order of their first rows
        for row, member in enumerate(of_row):
            rows.setdefault(member, []).append(row)
        order = [row for its in rows.values() for row in its]
        is_sorted = order == list(range(len(order)))
        grouped = None if is_sorted else torch.tensor(order)
        back = None if grouped is None else grouped.argsort()
        return cls(of_row, tuple(rows), tuple(map(len, rows.values())), grouped, back)

    def to(self, device: torch.device) -> "_Groups":
        """The same with its indices on a device, copied there once."""
        if self.order is None or self.back is None or self.order.device == device:
            return self
        if device not in self.copies:
            self.copies[device] = replace(self, order=self.order.to(device), back=self.back.to(device))
        return self.copies[device]


class SideBySide(RowAdapters):
    """Several adapters on one base model. While it is attached, each member adapts the rows of a batch that belong to
    it.

    Raises AlignerProbeError if members are on different models, or if a member does not work row by row (`stacks`):
    prompt tuning lengthens every row, and full fine-tuning trains the parameters of the base model itself.
    """

    method = "side_by_side"
    _start: int

    def __init__(self, members: Sequence[Adapter]):
        require(len(members) > 0, "no adapters to attach side by side; expected one or more")
        require(all(one.model is members[0].model for one in members), "adapters of different models share no batch")
        whole = [one.method for one in members if not one.stacks]
        require(not whole, f"{''.join(whole[:1])} does not work row by row, so it shares no batch; train it alone")
        require(len(set(map(id, members))) == len(members), "one adapter twice in a batch; make another of its kind")
        # The lowest adapted layer. Adapter.__init__ reads it (`layers`), and nn.Module sets no attribute before that.
        object.__setattr__(self, "_start", min(one.layers.start for one in members))
        super().__init__(members[0].model, AdapterConfig())
        self.members = nn.ModuleList(members)
        self._adapters = tuple(members)
        #: Of the rows that were met last; all hooks of a forward pass use it.
        self._groups: _Groups | None = None

    @property
    def layers(self) -> range:
        return range(self._start, self.shape.n_layers)

    def wrong_index(self, which: Sequence[int | None]) -> str:
        n = len(self._adapters)
        wrong = next((index for index in which if index is not None and not 0 <= index < n), None)
        if wrong is None:
            return ""
        return f"a row belongs to adapter {wrong}, and there are {n} side by side; expected 0 to {n - 1}, or None"

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        at: dict[str, dict[int, HookFunction]] = {}
        for index, member in enumerate(self._adapters):
            for name, function in member.hook_functions():
                require(index not in at.setdefault(name, {}), f"{member.method} hooks {name} twice")
                at[name][index] = function
        for name, functions in at.items():
            yield name, self._dispatched(functions)

    def _dispatched(self, functions: dict[int, HookFunction]) -> HookFunction:
        def dispatch(tensor: Tensor, hook: HookPoint) -> Tensor | None:
            whose = self.whose(tensor, hook)
            if isinstance(whose, int):
                return functions.get(whose, _nothing)(tensor, hook=hook)
            groups = self._grouped(whose)
            called = [_nothing if member is None else functions.get(member, _nothing) for member in groups.members]
            if len(called) == 1:
                return called[0](tensor, hook=hook)
            if is_shared(tensor, hook):
                tensor = tensor.expand(len(whose), *tensor.shape[1:])
            groups = groups.to(tensor.device)
            parts = (tensor if groups.order is None else tensor[groups.order]).split(groups.sizes)
            results = [function(part, hook=hook) for function, part in zip(called, parts, strict=True)]
            if all(result is None for result in results):
                return None
            together = torch.cat([part if new is None else new for part, new in zip(parts, results, strict=True)])
            return together if groups.back is None else together[groups.back]

        return dispatch

    def _grouped(self, whose: RowIndices) -> _Groups:
        if self._groups is None or self._groups.of_row != whose:
            self._groups = _Groups.of(whose)
        return self._groups


def _nothing(tensor: Tensor, hook: HookPoint) -> None:
    """The function of a member that has no hook where another member has one."""
