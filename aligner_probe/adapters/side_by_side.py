"""Several adapters on one batch, each on its own rows, so that several runs train, or answer prompts, together.

    both = SideBySide([one, other])
    with both.attached():
        with both.on([8, 8]):                   # the first 8 rows belong to `one`, the next 8 to `other`
            model(tokens)
        with both.rows([1, 0, None, 1]):        # for each row the index of its adapter, None for the base model alone
            generate(model, four_prompts)
        with both.only(1):                      # all rows belong to `other`
            model(tokens)

Generation sorts prompts, splits them into batches and drops rows that are finished; each row keeps its adapter.

The base model treats every row by itself, and so does each adapter. So a row has the result that it has with its
adapter alone, up to rounding: a matrix product may round in another way where the batch has another shape.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from aligner_probe.adapters.adapter import Adapter, HookFunction
from aligner_probe.adapters.config import AdapterConfig, require
from aligner_probe.errors import AlignerProbeError

#: Hook points whose tensor may have one row for the whole batch: the angles of rotary embeddings.
SHARED = ("hook_cos", "hook_sin")


@dataclass(frozen=True)
class _Rows:
    """Which adapter each row of a batch belongs to, and how the rows of each adapter are brought together.

    Args:
        of_row: for each row the index of its adapter, None for the base model alone.
        members: the adapters that have rows, in the order of their first rows.
        sizes: how many rows each of `members` has.
        order: row indices that bring the rows of each member together; None where they are together already.
        back: row indices that undo `order`; None with it.
    """

    of_row: tuple[int | None, ...]
    members: tuple[int | None, ...]
    sizes: tuple[int, ...]
    order: Tensor | None
    back: Tensor | None
    #: The same for other devices.
    copies: dict[torch.device, "_Rows"] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, of_row: Sequence[int | None]) -> "_Rows":
        members = tuple(dict.fromkeys(of_row))  # in order of their first rows
        rows = {member: [row for row, its in enumerate(of_row) if its == member] for member in members}
        order = [row for member in members for row in rows[member]]
        is_sorted = order == list(range(len(order)))
        grouped = None if is_sorted else torch.tensor(order)
        back = None if grouped is None else grouped.argsort()
        return cls(tuple(of_row), members, tuple(len(rows[member]) for member in members), grouped, back)

    def to(self, device: torch.device) -> "_Rows":
        """The same with its indices on a device, copied there once."""
        if self.order is None or self.back is None or self.order.device == device:
            return self
        if device not in self.copies:
            self.copies[device] = replace(self, order=self.order.to(device), back=self.back.to(device))
        return self.copies[device]


class SideBySide(Adapter):
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
        #: Which rows belong to which member; an index where all rows belong to one member; None outside the blocks.
        self._rows: _Rows | int | None = None

    @property
    def layers(self) -> range:
        return range(self._start, self.shape.n_layers)

    @contextmanager
    def on(self, rows: Sequence[int]) -> Iterator[None]:
        """Inside, a batch has `rows[i]` rows of member i, one member after another. A member may have no rows.

        Raises AlignerProbeError if there are more entries in `rows` than members.
        """
        with self.rows([index for index, n in enumerate(rows) for _ in range(n)]):
            yield

    @contextmanager
    def rows(self, which: Sequence[int | None]) -> Iterator[None]:
        """Inside, row i of a batch belongs to member `which[i]` (an index from 0), or to the base model if that is
        None.

        Raises AlignerProbeError if there is no such member.
        """
        n = len(self.members)
        wrong = next((index for index in which if index is not None and not 0 <= index < n), None)
        require(
            wrong is None,
            f"a row belongs to adapter {wrong}, and there are {n} side by side; expected 0 to {n - 1}, or None",
        )
        with self._with(_Rows.of(which)):
            yield

    @contextmanager
    def only(self, member: int) -> Iterator[None]:
        """Inside the block, all rows belong to the member of this index."""
        with self._with(member):
            yield

    @property
    def n_rows(self) -> int | None:
        return len(self._rows.of_row) if isinstance(self._rows, _Rows) else None

    @contextmanager
    def selected(self, rows: Sequence[int]) -> Iterator[None]:
        now = self._rows
        with self._with(_Rows.of([now.of_row[row] for row in rows]) if isinstance(now, _Rows) else now):
            yield

    @contextmanager
    def _with(self, rows: _Rows | int | None) -> Iterator[None]:
        before, self._rows = self._rows, rows
        try:
            yield
        finally:
            self._rows = before

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
            rows = self._rows
            if rows is None:
                raise AlignerProbeError(
                    "adapters are attached side by side, and it is not said whose rows these are; call the model "
                    "inside on(), rows() or only()"
                )
            if isinstance(rows, int):
                return functions.get(rows, _nothing)(tensor, hook=hook)
            n = len(rows.of_row)
            # A tensor that all rows share has one row.
            is_shared = len(tensor) == 1 and str(hook.name).endswith(SHARED)
            require(
                len(tensor) == n or is_shared,
                f"a batch of {len(tensor)} rows inside a block for {n} rows; expected the same number: on(), rows()",
            )
            called = [_nothing if member is None else functions.get(member, _nothing) for member in rows.members]
            if len(called) == 1:
                return called[0](tensor, hook=hook)
            if is_shared:
                tensor = tensor.expand(n, *tensor.shape[1:])
            rows = rows.to(tensor.device)
            parts = (tensor if rows.order is None else tensor[rows.order]).split(rows.sizes)
            results = [function(part, hook=hook) for function, part in zip(called, parts, strict=True)]
            if all(result is None for result in results):
                return None
            together = torch.cat([part if new is None else new for part, new in zip(parts, results, strict=True)])
            return together if rows.back is None else together[rows.back]

        return dispatch


def _nothing(tensor: Tensor, hook: HookPoint) -> None:
    """The function of a member that has no hook where another member has one."""
