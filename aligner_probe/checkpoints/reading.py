"""Read a checkpoint in any registered format. The format is recognised from the content, never from the file name."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from aligner_probe.arguments import accepts, is_several, refuse
from aligner_probe.checkpoints import naming, native, peft, published
from aligner_probe.checkpoints.containers import looks_like_weights, read_tensors
from aligner_probe.checkpoints.format import StoredCheckpoint
from aligner_probe.checkpoints.prefix import GateFunction, PrefixCheckpoint, PrefixParts, UnfitTensors, check
from aligner_probe.checkpoints.registry import readable_formats
from aligner_probe.errors import AlignerProbeError, CheckpointError, one_of
from aligner_probe.files import sha256

PUBLISHED = "published:"
#: Weights of a checkpoint folder, ours and PEFT's.
WEIGHTS = (native.WEIGHTS, "adapter_model.bin")


@dataclass(frozen=True)
class Skipped:
    """A file met in a scanned folder that is no readable checkpoint, and why."""

    path: str
    reason: str


def _path(value: Any, where: str) -> str | Path:
    if isinstance(value, str | Path):
        return value
    hint = "one path: [ap.load_checkpoint(path) for path in paths], or ap.scan_checkpoints(FOLDER)"
    raise refuse(value, where, hint if is_several(value) else 'a path, or "published:NAME"')


@accepts(path=_path)
def load_checkpoint(
    path: str | Path, *, gate: GateFunction | str | None = None, adapter_length: int | None = None
) -> PrefixCheckpoint:
    """Read an Aligner or LLaMA-Adapter from a file or folder of any known checkpoint format.

    Args:
        path: A file or folder, or "published:NAME" for one of the authors' (see `list_published`), which is read from
            the data folder or downloaded.
        gate: The gate function, for OpenGVLab's files, which do not record it; by default "tanh".
        adapter_length: Tokens per layer, for OpenGVLab's files, which do not record it.

    Returns:
        The checkpoint. Values keep the precision in which they are stored.

    Raises:
        CheckpointError: The file is in no known format, or damaged; the message says how to go on.
    """
    one_of(gate, (None, *get_args(GateFunction)), "gate")
    function: Any = gate  # one of GateFunction by now
    if str(path).startswith(PUBLISHED):
        path = published.find_published(str(path).removeprefix(PUBLISHED))
    path = Path(path)
    try:
        config, weights = _find(path)
    except OSError as error:
        raise CheckpointError(
            path, f"cannot be read ({error.strerror}); expected a checkpoint file or folder"
        ) from error
    stored = StoredCheckpoint(path, read_tensors(weights), config, function, adapter_length)
    try:
        format_name, parts = _import(stored)
        check(parts)
    except UnfitTensors as error:
        raise CheckpointError(path, str(error)) from error
    digest = sha256(weights)
    named = naming.describe(path) | published.known_by_hash(digest)
    named.pop("n_tokens", None)
    return PrefixCheckpoint(
        method=parts.method,
        prefix=parts.prefix,
        gates=parts.gates,
        start_layer=parts.start_layer,
        gate_function=parts.gate_function,
        format=format_name,
        source=str(path),
        sha256=digest,
        initial_prefix=parts.initial_prefix,
        initial_gates=parts.initial_gates,
        metadata={**named, **parts.metadata},
    )


def config_of(path: str | Path) -> dict[str, Any]:
    """A folder's adapter_config.json; empty for other sources."""
    return {} if str(path).startswith(PUBLISHED) else native.read_config(Path(path)) or {}


def _find(path: Path) -> tuple[dict[str, Any] | None, Path]:
    """The configuration, where there is one, and the file of tensors."""
    if path.is_file():
        return None, path
    if not path.exists():
        raise CheckpointError(path, "does not exist; expected a checkpoint file or folder (check the spelling)")
    if not path.is_dir():
        raise CheckpointError(path, "is neither a file nor a folder (a pipe or a device?); expected a checkpoint")
    config = native.read_config(path)
    weights = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if config is None or weights is None:
        raise CheckpointError(path, _not_a_checkpoint_folder(path))
    return config, weights


def _import(stored: StoredCheckpoint) -> tuple[str, PrefixParts]:
    """The name of the format that recognises the tensors, and what it reads from them."""
    for declared in readable_formats():
        if declared.read is not None and declared.recognises(stored):
            return declared.name, declared.read(stored)
    if stored.config is not None and "peft_type" in stored.config:
        raise UnfitTensors(
            f"is a PEFT {stored.config['peft_type']} adapter, {peft.what_it_is(stored.config)}. Expected "
            "ADAPTION_PROMPT, which is PEFT's name for LLaMA-Adapter"
        )
    names = sorted(stored.tensors)
    if set(names) >= native.TENSORS:
        raise UnfitTensors(
            "holds the tensors of an aligner_probe checkpoint without its configuration; name its folder"
        )
    raise UnfitTensors(
        f"holds {len(names)} tensors of no known prefix adapter ({', '.join(names[:3])}{', …' * (len(names) > 3)}); "
        f"expected one of: {_known_formats()}"
    )


def _known_formats() -> str:
    return ", ".join(declared.name for declared in readable_formats())


@accepts(folder=_path)
def scan_checkpoints(
    folder: str | Path, *, gate: GateFunction | str | None = None, adapter_length: int | None = None
) -> tuple[list[PrefixCheckpoint], list[Skipped]]:
    """Read every checkpoint below a folder.

    Args:
        folder: The folder; a single checkpoint may be named, too.
        gate: As in `load_checkpoint`.
        adapter_length: As in `load_checkpoint`.

    Returns:
        The checkpoints in the order of their paths, and the files that were skipped with the reason. Files that do not
        look like weights (README.md) are not mentioned.

    Raises:
        AlignerProbeError: The folder is missing, or holds no readable checkpoint.
    """
    folder = Path(folder)
    if folder.is_file():
        return [load_checkpoint(folder, gate=gate, adapter_length=adapter_length)], []
    if not folder.is_dir():
        raise AlignerProbeError(f"{folder}: no such folder; expected one with checkpoints in it")
    checkpoints: list[PrefixCheckpoint] = []
    candidates, skipped = _candidates(folder)
    for path in candidates:
        try:
            checkpoints.append(load_checkpoint(path, gate=gate, adapter_length=adapter_length))
        except CheckpointError as error:
            skipped.append(Skipped(str(path), error.reason))
    if not checkpoints:
        why = f"; passed over: {'; '.join(f'{s.path} {s.reason}' for s in skipped[:3])}" if skipped else ""
        raise AlignerProbeError(
            f"{folder}: no readable checkpoint in it ({len(skipped)} broken); expected {_known_formats()}{why}"
        )
    return checkpoints, skipped


def _candidates(folder: Path) -> tuple[list[Path], list[Skipped]]:
    """Checkpoint folders, each as a whole, and files elsewhere that look like weights; what cannot be looked into."""
    candidates: list[Path] = []
    skipped: list[Skipped] = []

    def unreadable(error: OSError) -> None:
        skipped.append(Skipped(str(error.filename), f"cannot be read ({error.strerror})"))

    for here, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [name for name in folders if Path(here, name).is_symlink()]:
            skipped.append(
                Skipped(str(Path(here, name)), "is a link to a folder, which is not followed; name it itself")
            )
        is_checkpoint = native.CONFIG in files
        if is_checkpoint:
            candidates.append(Path(here))
        for name in sorted(files):
            path = Path(here, name)
            if name.startswith(".") or (is_checkpoint and name in WEIGHTS):
                continue
            if looks_like_weights(path):
                candidates.append(path)
    return sorted(candidates), skipped


def _not_a_checkpoint_folder(folder: Path) -> str:
    inside = sorted(entry.name for entry in folder.iterdir())
    checkpoints = [folder / name for name in inside if (folder / name / native.CONFIG).is_file()]
    if len(checkpoints) == 1:
        return f"is no checkpoint folder itself (a run's?). Name {checkpoints[0]}, the checkpoint inside it"
    content = f"holds {', '.join(inside[:4])}{', …' * (len(inside) > 4)}" if inside else "is empty"
    return (
        f"is no checkpoint folder: it {content}; expected {native.WEIGHTS} with {native.CONFIG}. Name a checkpoint "
        "inside it, or use `aligner-probe figures --checkpoints` for a folder of several"
    )
