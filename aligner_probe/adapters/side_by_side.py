"""Several adapters on one batch, each on rows of its own: what makes runs train, and prompts be answered, together.

    both = SideBySide([one, other])
    with both.attached():
        with both.on([8, 8]):                   # the first 8 rows are `one`'s, the next 8 `other`'s
            model(tokens)
        with both.rows([1, 0, None, 1]):        # row by row: the place of an adapter, or None for the base alone
            generate(model, four_prompts)
        with both.only(1):                      # all rows are `other`'s
            model(tokens)

Generation sorts prompts, splits them into batches and drops rows that are finished; the rows' adapters go along.

The base treats every row by itself and so does each adapter, so a row comes out as with its adapter alone, but for
rounding: a matrix product may round differently where the batch has another shape.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from aligner_probe.adapters.adapter import Adapter, HookFunction
from aligner_probe.adapters.config import AdapterConfig, require

#: Hook points whose tensor may be one row for the whole batch: rotary's angles.
SHARED = ("hook_cos", "hook_sin")


@dataclass(frozen=True)
class _Rows:
    """Which member each row of a batch belongs to, and how to bring each member's rows together.

    `members` are the places of those that have rows, None for the base alone, with their numbers of rows in `sizes`;
    a batch taken at `order` has them one member after the other, and taken at `back` again it is as it was. Both are
    None where the batch has them so already.
    """

    of_row: tuple[int | None, ...]
    members: tuple[int | None, ...]
    sizes: tuple[int, ...]
    order: Tensor | None
    back: Tensor | None

    @classmethod
    def of(cls, of_row: Sequence[int | None]) -> "_Rows":
        members = tuple(dict.fromkeys(of_row))  # in order of their first rows
        rows = {member: [row for row, its in enumerate(of_row) if its == member] for member in members}
        order = [row for member in members for row in rows[member]]
        is_sorted = order == list(range(len(order)))
        grouped = None if is_sorted else torch.tensor(order)
        back = None if grouped is None else grouped.argsort()
        return cls(tuple(of_row), members, tuple(len(rows[member]) for member in members), grouped, back)


class SideBySide(Adapter):
    """SideBySide(adapters): attached, each member adapts the rows that are its own.

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
        #: Whose the rows are: of each, or one member's place for however many there are; None where it is not said.
        self._rows: _Rows | int | None = None

    @property
    def layers(self) -> range:
        return range(self._start, self.shape.n_layers)

    @contextmanager
    def on(self, rows: Sequence[int]) -> Iterator[None]:
        """Inside, a batch is so many rows of each member, one after another; a member may have none.

        Raises AlignerProbeError where there are more numbers than members.
        """
        with self.rows([place for place, n in enumerate(rows) for _ in range(n)]):
            yield

    @contextmanager
    def rows(self, which: Sequence[int | None]) -> Iterator[None]:
        """Inside, a batch has one row for each of `which`: the place of the member it belongs to, None for the base.

        Raises AlignerProbeError where there is no such member.
        """
        n = len(self.members)
        wrong = next((place for place in which if place is not None and not 0 <= place < n), None)
        require(
            wrong is None,
            f"a row belongs to adapter {wrong}, and there are {n} side by side; expected 0 to {n - 1}, or None",
        )
        with self._with(_Rows.of(which)):
            yield

    @contextmanager
    def only(self, place: int) -> Iterator[None]:
        """Inside, every batch is one member's."""
        with self._with(place):
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
        for place, member in enumerate(self.members):
            for name, function in member.hook_functions():
                require(place not in at.setdefault(name, {}), f"{member.method} hooks {name} twice")
                at[name][place] = function
        for name, functions in at.items():
            yield name, self._dispatched(functions)

    def _dispatched(self, functions: dict[int, HookFunction]) -> HookFunction:
        def dispatch(tensor: Tensor, hook: HookPoint) -> Tensor | None:
            rows = self._rows
            require(rows is not None, "adapters side by side, and whose rows these are is not said: on() or only()")
            if isinstance(rows, int):
                return functions.get(rows, _nothing)(tensor, hook=hook)
            n = len(rows.of_row)
            # What all rows have in common comes as one row.
            is_shared = len(tensor) == 1 and str(hook.name).endswith(SHARED)
            require(
                len(tensor) == n or is_shared,
                f"a batch of {len(tensor)} rows, and whose rows they are was said of {n}; expected the same number: "
                "on(), rows()",
            )
            called = [functions.get(member, _nothing) for member in rows.members]
            if len(called) == 1:
                return called[0](tensor, hook=hook)
            if is_shared:
                tensor = tensor.expand(n, *tensor.shape[1:])
            parts = (tensor if rows.order is None else tensor[rows.order.to(tensor.device)]).split(rows.sizes)
            found = [function(part, hook=hook) for function, part in zip(called, parts, strict=True)]
            if all(one is None for one in found):
                return None
            together = torch.cat([part if one is None else one for part, one in zip(parts, found, strict=True)])
            return together if rows.back is None else together[rows.back.to(tensor.device)]

        return dispatch


def _nothing(tensor: Tensor, hook: HookPoint) -> None:
    """Of a member that has no hook where another has one."""
