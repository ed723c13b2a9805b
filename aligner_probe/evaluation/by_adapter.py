"""Which adapter answers which prompt, as users say it: adapters, and for each prompt the index of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.adapters.pool import together
from aligner_probe.adapters.rows import RowAdapters
from aligner_probe.arguments import is_several, refuse, several
from aligner_probe.checkpoints.given import trained
from aligner_probe.errors import AlignerProbeError

EXPECTED = "adapters on the model, for instance [ap.load_adapter(PATH, model), ...], or an ap.AdapterPool"


def adapters_given(value: Any, where: str) -> list[Adapter] | RowAdapters | None:
    """The adapters that were given: a pool, adapters, trainings' runs, or one of these; None as it is."""
    if value is None or isinstance(value, RowAdapters):
        return value
    items = [trained(one) for one in (several(value) if is_several(value) else [value])]
    if not items or not all(isinstance(one, Adapter) and not isinstance(one, RowAdapters) for one in items):
        raise refuse(value, where, EXPECTED)
    return items


def which_given(value: Any, where: str) -> list[int | None] | None:
    """Indices of adapters, None for the base model alone; None as it is."""
    if value is None:
        return None
    items = list(value.tolist()) if hasattr(value, "tolist") else several(value) if is_several(value) else [value]
    for index in items:
        if index is not None and (isinstance(index, bool) or not hasattr(index, "__index__")):
            raise refuse(value, where, "for each prompt the index of its adapter, from 0, or None")
    return items


@contextmanager
def each_its_adapter(
    model: TransformerBridge,
    adapters: Sequence[Adapter] | RowAdapters | None,
    which: Sequence[int | None] | None,
    n_prompts: int,
) -> Iterator[None]:
    """Inside, prompt i is answered with adapter `which[i]`. Without adapters, nothing is attached.

    Raises AlignerProbeError where `which` does not name one adapter, or None, for each prompt; where an adapter is on
    another model, or one of the list is attached already; and where adapters cannot share a batch.
    """
    if adapters is None:
        if which is not None:
            raise AlignerProbeError("which names adapters, and there are none; give them as adapters=[...]")
        yield
        return
    if any(one.model is not model for one in ([adapters] if isinstance(adapters, RowAdapters) else adapters)):
        raise AlignerProbeError("an adapter is on another model object than the one that is asked; load it on this one")
    of_prompt = _of_prompts(len(adapters) if isinstance(adapters, list) else None, which, n_prompts)
    if isinstance(adapters, RowAdapters):
        shared = adapters
    else:
        # The same adapter may stand in the list twice.
        once = list({id(one): one for one in adapters}.values())
        position = {id(one): index for index, one in enumerate(once)}
        n = len(adapters)
        wrong = next((index for index in of_prompt if index is not None and not 0 <= index < n), None)
        if wrong is not None:
            raise AlignerProbeError(f"which names adapter {wrong}, and there are {n}; expected 0 to {n - 1}, or None")
        of_prompt = [None if index is None else position[id(adapters[index])] for index in of_prompt]
        attached = next((one.method for one in once if one.is_attached), None)
        if attached is not None:
            raise AlignerProbeError(
                f"this {attached} is attached already, so its rows would have it twice; leave its `with` block first"
            )
        shared = together(once)
    with shared.rows(of_prompt):
        if shared.is_attached:
            yield
            return
        with shared.attached():
            yield


def _of_prompts(n_adapters: int | None, which: Sequence[int | None] | None, n_prompts: int) -> list[int | None]:
    """For each prompt its adapter. `n_adapters` is None for a pool, whose rows must be named."""
    if which is None:
        if n_adapters == 1:
            return [0] * n_prompts
        if n_adapters == n_prompts:
            return list(range(n_prompts))
        named = "a pool" if n_adapters is None else f"{n_adapters} adapters"
        raise AlignerProbeError(
            f"{n_prompts} prompts and {named}, and it is not said which answers which; give which=[...] with an index, "
            "or None, for each prompt"
        )
    if len(which) != n_prompts:
        raise AlignerProbeError(
            f"{n_prompts} prompts, and which has {len(which)} indices; expected one for each prompt"
        )
    return list(which)
