"""Which adapter each row of a batch belongs to: the one record of it, for training and for generation.

    with several.attached():
        with several.on([8, 8]):                # the first 8 rows belong to adapter 0, the next 8 to adapter 1
            model(tokens)
        with several.rows([1, 0, None, 1]):     # for each row the index of its adapter, None for the base model alone
            generate(model, four_prompts)
        with several.only(1):                   # all rows belong to adapter 1
            model(tokens)

Generation sorts prompts, splits them into batches and drops rows that are finished; each row keeps its adapter. The
base model treats every row by itself, and so does each adapter. So a row has the result that it has with its adapter
alone, up to rounding: a matrix product may round in another way where the batch has another shape.

There are two ways to compute such a batch. `side_by_side.py` splits the rows by adapter and calls the hooks of each
one, which serves training (each adapter has its own parameters and gradients) and adapters of different methods.
`pool.py` holds many adapters of one shape as stacked tensors, and adapts all rows in one operation.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor
from transformer_lens.hook_points import HookPoint

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.adapters.config import require
from aligner_probe.errors import AlignerProbeError

#: Hook points whose tensor may have one row for the whole batch: the angles of rotary embeddings.
SHARED = ("hook_cos", "hook_sin")
#: For each row the index of its adapter, None for the base model alone.
RowIndices = tuple[int | None, ...]


class RowAdapters(Adapter):
    """Several adapters on one base model. While it is attached, each row of a batch belongs to one of them or to none.

    A subclass says which indices there are (`wrong_index`), and asks `whose` in its hook functions.
    """

    #: An index where all rows belong to one adapter; None outside the blocks.
    _rows: RowIndices | int | None = None

    @abstractmethod
    def wrong_index(self, which: Sequence[int | None]) -> str:
        """An empty text if each index but None names an adapter, else a sentence about one that does not."""

    @contextmanager
    def on(self, rows: Sequence[int]) -> Iterator[None]:
        """Inside, a batch has `rows[i]` rows of adapter i, one adapter after another. An adapter may have no rows.

        Raises AlignerProbeError if there are more entries in `rows` than adapters.
        """
        with self.rows([index for index, n in enumerate(rows) for _ in range(n)]):
            yield

    @contextmanager
    def rows(self, which: Sequence[int | None]) -> Iterator[None]:
        """Inside, row i of a batch belongs to adapter `which[i]` (an index from 0), or to the base model if that is
        None.

        Raises AlignerProbeError if there is no such adapter.
        """
        given = tuple(None if index is None else int(index) for index in which)
        wrong = self.wrong_index(given)
        require(not wrong, wrong)
        with self._with(given):
            yield

    @contextmanager
    def only(self, index: int) -> Iterator[None]:
        """Inside the block, all rows belong to the adapter of this index.

        Raises AlignerProbeError if there is no such adapter.
        """
        wrong = self.wrong_index([index])
        require(not wrong, wrong)
        with self._with(index):
            yield

    @property
    def n_rows(self) -> int | None:
        return len(self._rows) if isinstance(self._rows, tuple) else None

    @contextmanager
    def selected(self, rows: Sequence[int]) -> Iterator[None]:
        now = self._rows
        with self._with(tuple(now[row] for row in rows) if isinstance(now, tuple) else now):
            yield

    def whose(self, tensor: Tensor, hook: HookPoint) -> RowIndices | int:
        """Whose the rows of a tensor at a hook point are; one index where all belong to one adapter.

        Raises AlignerProbeError outside the blocks, and where the tensor has another number of rows.
        """
        rows = self.rows_now
        require(
            isinstance(rows, int) or len(tensor) == len(rows) or is_shared(tensor, hook),
            f"a batch of {len(tensor)} rows inside a block for {self.n_rows} rows; expected the same number: on(), "
            "rows()",
        )
        return rows

    @property
    def rows_now(self) -> RowIndices | int:
        """Whose the rows of a batch are in this block. Raises AlignerProbeError outside the blocks."""
        if self._rows is None:
            raise AlignerProbeError(
                "several adapters are attached, and it is not said whose rows these are; call the model inside on(), "
                "rows() or only()"
            )
        return self._rows

    @contextmanager
    def _with(self, rows: RowIndices | int | None) -> Iterator[None]:
        before, self._rows = self._rows, rows
        try:
            yield
        finally:
            self._rows = before


def is_shared(tensor: Tensor, hook: HookPoint) -> bool:
    """Whether a tensor has one row for the whole batch."""
    return len(tensor) == 1 and str(hook.name).endswith(SHARED)
