"""Many adapters of one shape as stacked tensors, one or a million, each row of a batch with its own.

    pool = AdapterPool([one, other, third])
    with pool.attached(), pool.rows([2, 0, None]):
        model(tokens)

The parameters of all adapters stand in a few blocks: by name, one tensor whose first axis is the adapters. A block may
be a file that is mapped into memory (`checkpoints/pools.py`), of which only the adapters that are asked for are read.
What a batch needs is gathered once, and again when rows leave it. `rows.py` says how rows get their adapters.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from aligner_probe.adapters.adapter import Adapter, HookFunction, RowParameters
from aligner_probe.adapters.config import AdapterConfig, require
from aligner_probe.adapters.registry import is_registered, new_adapter
from aligner_probe.adapters.rows import RowAdapters, RowIndices
from aligner_probe.adapters.side_by_side import SideBySide
from aligner_probe.arguments import accepts, several_of

#: Adapters for which memory is taken when the first one is added; then the memory for added adapters is doubled.
FIRST_BLOCK = 16


@dataclass(frozen=True)
class _Block:
    """Adapters with the indices from `first` on; each tensor is (adapters, *shape of the parameter)."""

    first: int
    tensors: Mapping[str, Tensor]

    @property
    def n(self) -> int:
        return len(next(iter(self.tensors.values())))


def why_not_pooled(adapters: Sequence[Adapter]) -> str:
    """Why these adapters cannot be in one pool, as a sentence; empty where they can."""
    if not adapters:
        return "no adapters for a pool; expected one or more"
    first, dtype = adapters[0], dtype_of(adapters[0])
    for other in adapters:
        if reason := type(other).not_pooled(other.config.to_dict()):
            return reason
        if not is_registered(type(other)):
            return f"{type(other).__name__} is not registered, so it cannot be in a pool; see ap.register_adapter"
        if other.model is not first.model:
            return "adapters of different models share no pool; load them on one model"
        if type(other) is not type(first):
            return f"{first.method} and {other.method} share no pool; expected adapters of one method"
        its, here = _computed(other), _computed(first)
        if unlike := next((name for name in here if its[name] != here[name]), None):
            return (
                f"{first.method} with {unlike} {here[unlike]} and with {its[unlike]} share no pool; expected the same "
                "options"
            )
        if dtype_of(other) != dtype:
            return f"adapters in {dtype} and in {dtype_of(other)} share no pool; expected one data type"
    return ""


def together(adapters: Sequence[Adapter]) -> RowAdapters:
    """Adapters for the rows of a batch: as a pool where they are of one shape, else side by side.

    Raises AlignerProbeError as `SideBySide` does.
    """
    return SideBySide(adapters) if why_not_pooled(adapters) else AdapterPool(adapters)


def dtype_of(adapter: Adapter) -> torch.dtype:
    """The data type of an adapter's parameters."""
    return next(adapter.parameters()).dtype


def _computed(adapter: Adapter) -> dict[str, Any]:
    """The options that say what is computed."""
    return {name: value for name, value in adapter.config.to_dict().items() if name not in adapter.start_options}


@accepts(adapters=several_of(Adapter, "adapters of one method on one model, for instance [ap.Aligner(model, 1), ...]"))
class AdapterPool(RowAdapters):
    """Many adapters of one shape on one base model, each row of a batch with its own adapter or none.

    The parameters are copied. `ap.generate(model, prompts, adapters=pool, which=[...])` uses a pool, and so do
    `pool.attached()` and `pool.rows([...])`. An adapter keeps its index as long as it is in the pool. `ap.open_pool`
    maps a saved pool into memory, so that opening a large one takes no time. Aligner, LLaMA-Adapter, LoRA and the
    output bias can be in a pool.

    Args:
        adapters: One or more adapters of one method with the same options (the start seed may differ), on one base
            model. Their indices count from 0.

    Raises:
        AlignerProbeError: The adapters differ in what they compute, or their method cannot be in a pool.
    """

    method = "pool"
    _like: Adapter

    def __init__(self, adapters: Sequence[Adapter]):
        reason = why_not_pooled(adapters)
        require(not reason, reason)
        states = [one.state_dict() for one in adapters]
        self._set_up(adapters[0], {name: torch.stack([one[name].cpu() for one in states]) for name in states[0]}, ())

    @classmethod
    def of_tensors(cls, like: Adapter, tensors: Mapping[str, Tensor], removed: Sequence[int] = ()) -> "AdapterPool":
        """A pool of stacked tensors, which are used as they are.

        Args:
            like: An adapter of the method, with the options of all adapters in the pool.
            tensors: By the name of a parameter, stacked to the shape (adapters, ...), on the CPU.
            removed: Indices that name no adapter.

        Raises:
            AlignerProbeError: The method cannot be in a pool, or names, shapes or data types are not those of `like`.
        """
        reason = why_not_pooled([like])
        require(not reason, reason)
        own = like.state_dict()
        require(set(tensors) == set(own), f"tensors {', '.join(sorted(tensors))}; expected {', '.join(sorted(own))}")
        n = len(next(iter(tensors.values())))
        for name, tensor in tensors.items():
            wanted = (n, *own[name].shape)
            require(
                tensor.shape == wanted and tensor.dtype == own[name].dtype,
                f"{name} is {tuple(tensor.shape)} in {tensor.dtype}; expected {wanted} in {own[name].dtype}",
            )
        pool = cls.__new__(cls)
        pool._set_up(like, tensors, removed)
        return pool

    def _set_up(self, like: Adapter, tensors: Mapping[str, Tensor], removed: Sequence[int]) -> None:
        # `Adapter.__init__` reads `layers`, and nn.Module sets no module before that. An adapter of its own, since an
        # adapter that is attached elsewhere keeps what its hooks read until they have used it.
        own = new_adapter(like.method, like.model, like.config.to_dict(), dtype_of(like))
        object.__setattr__(self, "_like", own)
        super().__init__(like.model, AdapterConfig())
        self._blocks = [_Block(0, tensors)]
        self._removed = set(removed)
        #: Indices that an added adapter takes, and what the rows that were met last need.
        self._free = sorted(removed, reverse=True)
        self._gathered: tuple[RowIndices | int, RowParameters] | None = None

    @property
    def like(self) -> Adapter:
        """An adapter with the method and the options of those in the pool, and the parameters of a start."""
        return self._like

    @property
    def layers(self) -> range:
        return self._like.layers

    @property
    def n_parameters(self) -> int:
        """How many parameters each adapter in the pool has."""
        return sum(tensor.numel() for tensor in self._like.state_dict().values())

    @property
    def n_indices(self) -> int:
        """How many indices there are, with those that name no adapter."""
        return self._blocks[-1].first + self._blocks[-1].n

    @property
    def removed(self) -> tuple[int, ...]:
        """Indices that name no adapter, in order."""
        return tuple(sorted(self._removed))

    def __len__(self) -> int:
        return self.n_indices - len(self._removed)

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and 0 <= index < self.n_indices and index not in self._removed

    def wrong_index(self, which: Sequence[int | None]) -> str:
        wrong = next((index for index in which if index is not None and index not in self), None)
        if wrong is None:
            return ""
        return (
            f"a row belongs to adapter {wrong}, which is not among the {len(self):,} of the pool; expected one or None"
        )

    def add(self, adapter: Adapter) -> int:
        """Take in a copy of an adapter; the index that it has from now on. No other adapter is moved.

        Raises AlignerProbeError as the constructor does.
        """
        reason = why_not_pooled([self._like, adapter])
        require(not reason, reason)
        if not self._free:
            self._grow()
        index = self._free.pop()
        self._removed.discard(index)
        block = self._block_of(index)
        for name, tensor in adapter.state_dict().items():
            block.tensors[name][index - block.first] = tensor
        self._gathered = None
        return index

    def remove(self, index: int) -> None:
        """Take an adapter out. Its index may later be that of an adapter that is added.

        Raises AlignerProbeError if there is no such adapter.
        """
        wrong = self.wrong_index([index])
        require(not wrong, wrong)
        self._removed.add(index)
        self._free.append(index)
        self._gathered = None

    def adapter(self, index: int) -> Adapter:
        """A copy of one adapter, on its own.

        Raises AlignerProbeError if there is no such adapter.
        """
        wrong = self.wrong_index([index])
        require(not wrong, wrong)
        block = self._block_of(index)
        one = new_adapter(self._like.method, self.model, self._like.config.to_dict(), dtype_of(self._like))
        one.load_state_dict({name: tensor[index - block.first] for name, tensor in block.tensors.items()})
        return one

    def tensors(self) -> dict[str, Tensor]:
        """The parameters of all adapters by name, of shape (indices, ...); those of a removed adapter mean nothing.

        They are the pool's own tensors where it has one block, else a copy.
        """
        if len(self._blocks) == 1:
            return dict(self._blocks[0].tensors)
        names = self._blocks[0].tensors
        return {name: torch.cat([block.tensors[name] for block in self._blocks]) for name in names}

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        for name, function in self._like.hook_functions_by_row(self._of_rows):
            yield name, self._unless_alone(function)

    def shown(self) -> dict[str, Any]:
        sizes = {"method": self._like.method, "adapters": len(self), "n_parameters": self.n_parameters}
        return sizes | _computed(self._like) | {"base": self.model.cfg.model_name, "attached": self.is_attached}

    def _unless_alone(self, function: HookFunction) -> HookFunction:
        """The function, but where no row has an adapter it does nothing."""

        def call(tensor: Tensor, hook: HookPoint) -> Tensor | None:
            whose = self.whose(tensor, hook)
            if isinstance(whose, tuple) and all(index is None for index in whose):
                return None
            return function(tensor, hook=hook)

        return call

    def _of_rows(self) -> RowParameters:
        rows = self.rows_now
        if self._gathered is None or self._gathered[0] != rows:
            self._gathered = rows, RowParameters(self._gather(rows))
        return self._gathered[1]

    def _gather(self, whose: RowIndices | int) -> dict[str, Tensor]:
        """The parameters of each row; of one row, where all rows have the same adapter."""
        of_row = (whose,) if isinstance(whose, int) else whose
        if len(set(of_row)) == 1:
            of_row = of_row[:1]
        indices = torch.tensor([-1 if index is None else index for index in of_row])
        rows = {
            name: tensor.new_zeros(len(of_row), *tensor.shape[1:]) for name, tensor in self._blocks[0].tensors.items()
        }
        for block in self._blocks:
            its = ((indices >= block.first) & (indices < block.first + block.n)).nonzero()[:, 0]
            if len(its):
                for name, tensor in block.tensors.items():
                    rows[name][its] = tensor[indices[its] - block.first]
        return {name: tensor.to(self.device) for name, tensor in rows.items()}

    def _block_of(self, index: int) -> _Block:
        return self._blocks[bisect_right([block.first for block in self._blocks], index) - 1]

    def _grow(self) -> None:
        """Take memory for as many adapters as were added so far; what there is stays where it is."""
        first = self.n_indices
        n = max(FIRST_BLOCK, sum(block.n for block in self._blocks[1:]))
        tensors = {name: tensor.new_zeros(n, *tensor.shape[1:]) for name, tensor in self._blocks[0].tensors.items()}
        self._blocks.append(_Block(first, tensors))
        self._removed.update(range(first, first + n))
        self._free.extend(range(first + n - 1, first - 1, -1))
