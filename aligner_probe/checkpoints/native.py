"""The project's own format: a folder of three files with fixed names.

- `adapter_model.safetensors`: `prefix`, `gates`, and `initial.prefix`, `initial.gates` where the start is known, all in
  the precision of training, never cast.
- `adapter_config.json`: `method` and the sizes that a loader needs.
- `provenance.json`: where the parameters come from: source and hash, versions, and whatever is known of the run.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from aligner_probe import files
from aligner_probe.arguments import accepts, refuse
from aligner_probe.checkpoints import naming
from aligner_probe.checkpoints.containers import StateDict
from aligner_probe.checkpoints.format import CheckpointFormat
from aligner_probe.checkpoints.prefix import (
    MAX_LAYER,
    METHOD_NAMES,
    GateFunction,
    PrefixCheckpoint,
    PrefixParts,
    UnfitTensors,
    dtype_name,
)
from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.files import staging_folder, writing_to
from aligner_probe.versions import versions

WEIGHTS, CONFIG, PROVENANCE = "adapter_model.safetensors", "adapter_config.json", "provenance.json"
TENSORS = {"prefix", "gates"}
INITIAL = {"initial.prefix", "initial.gates"}
FORMAT_VERSION = 1
MAX_CONFIG_BYTES = 2**20


def _checkpoint(value: Any, where: str) -> PrefixCheckpoint:
    if isinstance(value, PrefixCheckpoint):
        return value
    raise refuse(
        value, where, "a checkpoint that ap.load_checkpoint read; ap.save_adapter(adapter, folder) saves an adapter"
    )


@accepts(checkpoint=_checkpoint)
def save_checkpoint(checkpoint: PrefixCheckpoint, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a checkpoint as this project's folder. The folder appears complete or not at all.

    Args:
        checkpoint: The checkpoint.
        folder: The new folder.
        overwrite: Replace a folder that exists already.

    Returns:
        The folder.

    Raises:
        AlignerProbeError: The folder exists already (without `overwrite`), or it cannot be written.
    """
    tensors = {"prefix": checkpoint.prefix, "gates": checkpoint.gates}
    if checkpoint.initial_prefix is not None:
        tensors["initial.prefix"] = checkpoint.initial_prefix
    if checkpoint.initial_gates is not None:
        tensors["initial.gates"] = checkpoint.initial_gates
    sizes = prefix_config(checkpoint.prefix, checkpoint.gates, checkpoint.start_layer, checkpoint.gate_function)
    config = {"method": checkpoint.method, **sizes}
    return write_folder(folder, tensors, config, _provenance(checkpoint), overwrite=overwrite)


def write_folder(
    folder: str | Path,
    tensors: StateDict,
    config: dict[str, Any],
    provenance: dict[str, Any],
    *,
    overwrite: bool = False,
) -> Path:
    """Write the three files of a checkpoint, any method's; the folder appears whole or not at all.

    Adds the format's version, the date and the versions of what made it. Raises AlignerProbeError as `save_checkpoint`.
    """
    from safetensors.torch import save

    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise AlignerProbeError(f"{folder} exists already; name another folder, or pass overwrite=True to replace it")
    if folder.exists() and not (folder / CONFIG).is_file():
        raise AlignerProbeError(f"{folder} is no checkpoint, so overwrite=True will not remove it; name another folder")
    written = {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(["torch", "safetensors", "transformers", "transformer-lens"]),
    }
    contents = {CONFIG: {"format_version": FORMAT_VERSION} | config, PROVENANCE: provenance | written}
    with writing_to(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(folder.parent) as stage:
            new = stage / "new"
            new.mkdir()
            # Tied tensors would be one storage, which safetensors does not take.
            content = save({name: tensor.contiguous().clone() for name, tensor in tensors.items()})
            (new / WEIGHTS).write_bytes(content)  # not by safetensors, whose error on a full disk is one of its own
            for name, content in contents.items():
                (new / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            if folder.exists():
                folder.replace(stage / "old")
            new.replace(folder)
    return folder


def prefix_config(prefix: Tensor, gates: Tensor, start_layer: int, gate_function: GateFunction) -> dict[str, Any]:
    """What `read` holds the tensors of a prefix adapter against, in `adapter_config.json`."""
    return {
        "gate_function": gate_function,
        "start_layer": start_layer,
        "n_tokens": prefix.shape[1],
        "n_layers": gates.shape[0],
        "d_model": prefix.shape[2],
        "gates_per_layer": gates.shape[1],
        "dtype": dtype_name(prefix.dtype),
    }


def _provenance(checkpoint: PrefixCheckpoint) -> dict[str, Any]:
    return {
        "source": checkpoint.source,
        "source_format": checkpoint.format,
        "source_sha256": checkpoint.sha256,
        "metadata": checkpoint.metadata,
    }


def recognises(config: dict[str, Any]) -> bool:
    """By the method key of adapter_config.json."""
    return "method" in config


def read(tensors: StateDict, config: dict[str, Any], provenance: dict[str, Any]) -> PrefixParts:
    """Raises UnfitTensors where configuration and tensors contradict each other."""
    if not isinstance(config["method"], str) or config["method"] not in METHOD_NAMES:
        raise UnfitTensors(f"has method {config['method']!r}; expected one of {', '.join(METHOD_NAMES)}")
    if config.get("format_version") != FORMAT_VERSION:
        raise UnfitTensors(
            f"has format_version {config.get('format_version')!r}; this release reads {FORMAT_VERSION}: "
            "upgrade aligner_probe if the file is newer"
        )
    if config.get("gate_function") not in ("linear", "tanh"):
        raise UnfitTensors(f"has gate_function {config.get('gate_function')!r}; expected linear or tanh")
    if not set(tensors) >= TENSORS or set(tensors) - TENSORS - INITIAL:
        raise UnfitTensors(
            f"{WEIGHTS} holds {', '.join(sorted(tensors))}; expected {', '.join(sorted(TENSORS))}, "
            f"and perhaps {', '.join(sorted(INITIAL))}"
        )
    prefix, gates = tensors["prefix"], tensors["gates"]
    from_tensors = {
        "n_tokens": prefix.shape[1] if prefix.dim() == 3 else None,
        "d_model": prefix.shape[-1] if prefix.dim() else None,
        "n_layers": gates.shape[0] if gates.dim() else None,
        "gates_per_layer": gates.shape[-1] if gates.dim() else None,
        "dtype": dtype_name(prefix.dtype),
    }
    for key, value in from_tensors.items():
        if config.get(key) != value:
            raise UnfitTensors(f"{CONFIG} says {key} {config.get(key)!r}, but the tensors say {value!r}")
    start_layer = config.get("start_layer")
    if not isinstance(start_layer, int) or isinstance(start_layer, bool) or start_layer > MAX_LAYER:
        raise UnfitTensors(f"{CONFIG} has start_layer {start_layer!r}; expected a whole number")
    metadata = provenance.get("metadata")
    metadata = naming.trained_on(provenance) | (metadata if isinstance(metadata, dict) else {})
    for key in ("data_set", "base_model", "stage"):
        if not isinstance(metadata.get(key, ""), str):
            raise UnfitTensors(f"{PROVENANCE} has {key} {metadata[key]!r}; expected a name")
    if "base_model" in metadata:
        metadata["base_model"] = naming.base_label(metadata["base_model"])
    return PrefixParts(
        config["method"],
        prefix,
        gates,
        config["start_layer"],
        config["gate_function"],
        tensors.get("initial.prefix"),
        tensors.get("initial.gates"),
        metadata,
    )


def read_config(folder: Path) -> dict[str, Any] | None:
    """The folder's adapter_config.json; None where it has none."""
    return read_json(folder / CONFIG)


def read_provenance(folder: Path) -> dict[str, Any]:
    """The folder's provenance.json; empty where it has none."""
    return read_json(folder / PROVENANCE) or {}


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a small JSON file; None where there is no such file. Raises CheckpointError for any other file."""
    if not path.is_file():
        return None
    content = files.read_json(path, max_bytes=MAX_CONFIG_BYTES)
    if not isinstance(content, dict):
        raise CheckpointError(path, f"holds a JSON {type(content).__name__}; expected an object")
    return content


FORMAT = CheckpointFormat(
    name="aligner_probe folder",
    holds=PrefixCheckpoint,
    recognises=lambda stored: stored.config is not None and recognises(stored.config),
    read=lambda stored: read(stored.tensors, stored.config or {}, read_provenance(stored.path)),
    export_name="native",
    write=lambda checkpoint, path, base: save_checkpoint(checkpoint, path),
    gate_functions=("linear", "tanh"),
    stores_start=True,
)
