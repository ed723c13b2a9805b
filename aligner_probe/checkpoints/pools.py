"""Save a pool of adapters, and map a saved one into memory.

The folder has two files. `pool.safetensors` holds the parameters of all adapters by name, (indices, *shape).
`pool.json` holds the method and its options, the indices that name no adapter, and the fingerprint of the base model,
which opening compares. Opening reads the two headers and maps the file; the parameters of an adapter are read when a
row asks for them.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.pool import AdapterPool, dtype_of
from aligner_probe.adapters.registry import new_adapter
from aligner_probe.arguments import a_model, accepts, refuse
from aligner_probe.checkpoints.adapters import check_base, known_method
from aligner_probe.checkpoints.prefix import dtype_name
from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.files import read_json, whole
from aligner_probe.fingerprints import base_record

TENSORS, RECORD = "pool.safetensors", "pool.json"
FORMAT_VERSION = 1
DTYPES = ("float32", "bfloat16", "float16", "float64")


def _a_pool(value: Any, where: str) -> AdapterPool:
    if isinstance(value, AdapterPool):
        return value
    raise refuse(value, where, "a pool: ap.AdapterPool([adapter, ...]); ap.save_adapter saves one adapter")


@accepts(pool=_a_pool)
def save_pool(pool: AdapterPool, folder: str | Path) -> Path:
    """Write a pool's folder, whole or not at all. Adapters keep their indices.

    Args:
        pool: The pool.
        folder: A new folder.

    Returns:
        The folder.

    Raises:
        AlignerProbeError: The pool is empty, the folder exists already, or it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    n = next((index + 1 for index in range(pool.n_indices - 1, -1, -1) if index in pool), 0)
    if not n:
        raise AlignerProbeError("the pool has no adapters; add one before it is saved: pool.add(adapter)")
    tensors = {name: tensor[:n].contiguous() for name, tensor in pool.tensors().items()}
    record = {
        "format_version": FORMAT_VERSION,
        "method": pool.like.method,
        "options": pool.like.config.to_dict(),
        "dtype": dtype_name(dtype_of(pool.like)),
        "indices": n,
        "removed": [index for index in pool.removed if index < n],
        "base": base_record(pool.model),
    }
    with whole(folder) as new:
        new.mkdir()
        try:
            save_file(tensors, new / TENSORS)
        except SafetensorError as error:
            raise AlignerProbeError(f"cannot write to {folder}: {error}; name another folder, or make room") from error
        (new / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return folder


@accepts(model=a_model)
def open_pool(folder: str | Path, model: TransformerBridge, *, force: bool = False) -> AdapterPool:
    """Map a saved pool into memory, for a base model.

    Args:
        folder: A folder of `save_pool`.
        model: The base model.
        force: Open it even if it was saved with another base model.

    Returns:
        The pool, not attached. Adapters that are added or removed change the pool in memory, and never the file.

    Raises:
        AlignerProbeError: The folder holds no pool, its tensors do not fit its record or the model, or it was saved
            with another base model (another fingerprint) and `force` is off.
    """
    folder = Path(folder)
    record = read_json(folder / RECORD)
    method, options, n = _checked(record, folder)
    base = record["base"]
    check_base(folder, base | {"fingerprint": str(base.get("fingerprint"))}, model, force)
    try:
        like = new_adapter(method, model, options, getattr(torch, record["dtype"]))
    except TypeError as error:
        raise CheckpointError(folder, f"has options that {method} does not take ({error})") from error
    removed = record["removed"]
    tensors = _mapped(folder / TENSORS, {name: (n, *one.shape) for name, one in like.state_dict().items()})
    try:
        return AdapterPool.of_tensors(like, tensors, removed)
    except AlignerProbeError as error:
        raise CheckpointError(folder, f"holds no pool for this model: {error}") from error


def _checked(record: Any, folder: Path) -> tuple[str, dict[str, Any], int]:
    """Method, options and number of indices. Raises CheckpointError for a record that is not one of `save_pool`."""
    if not isinstance(record, dict) or record.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(folder, f"{RECORD} is of no pool that this version reads; save it again: ap.save_pool")
    removed = record.get("removed")
    is_right = {
        "options": isinstance(record.get("options"), dict),
        "base": isinstance(record.get("base"), dict),
        "dtype": record.get("dtype") in DTYPES,
        "indices": isinstance(record.get("indices"), int) and record["indices"] > 0,
    }
    is_right["removed"] = (
        is_right["indices"]
        and isinstance(removed, list)
        and all(isinstance(one, int) and 0 <= one < record["indices"] for one in removed)
    )
    if wrong := next((name for name, right in is_right.items() if not right), None):
        raise CheckpointError(folder, f"{RECORD} has a wrong {wrong}; save the pool again: ap.save_pool")
    return known_method(record.get("method"), folder), record["options"], record["indices"]


def _mapped(file: Path, wanted: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The tensors of a file, mapped. Their sizes are compared before."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
            if shapes != wanted:
                raise CheckpointError(file, f"holds {shapes}; expected {wanted}, which fit this model")
            return {name: opened.get_tensor(name) for name in wanted}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(file, f"cannot be read ({error}); copy it again") from error
