"""Check that a model is the base model that a PEFT folder was trained on.

The folder only names its base model, and one model has several names: a hub id, a local folder, a snapshot in the hub's
cache. So names are compared by their last part. Where the named model is on this machine, its fingerprint decides.
"""

import re
import warnings
from pathlib import Path
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.errors import AlignerProbeError, AlignerProbeWarning
from aligner_probe.fingerprints import base_record, fingerprint, same_source
from aligner_probe.models import architecture_of, load_model, place_of

#: A snapshot of the hub's cache: .../models--OWNER--NAME/snapshots/COMMIT.
SNAPSHOT = re.compile(r"models--(?P<name>[^/]+?)/snapshots/[^/]+/?$")
#: A named base model of more bytes than this is not loaded for the comparison.
CHEAP_BYTES = 2**31


def check_named_base(
    path: str | Path, config: dict[str, Any], model: TransformerBridge, *, force: bool = False
) -> str | None:
    """Compare a model with the base model that a PEFT folder names in its adapter_config.json.

    Args:
        path: The folder, for messages.
        config: The content of its adapter_config.json.
        model: The model that the adapter is loaded onto.
        force: Accept a model with other weights than the named one.

    Returns:
        The text of the AlignerProbeWarning that was given, where the two may differ. None where they are the same, and
        where the folder names no base model.

    Raises:
        AlignerProbeError: The named base model is on this machine and has other weights than the model.
    """
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        return None
    own = _names_of(model)
    if named in own or _folder(named) in {_folder(name) for name in own} - {None}:
        return None
    there = _at_hand(named, config.get("revision"))
    if there is not None:
        same = _same_weights(there, model)
        if same:
            return None
        if same is False and not force:
            raise AlignerProbeError(
                f"{path} was trained on another base: it names {named}, whose weights differ from this "
                f"{_said(model, own)}'s; load that base, or pass force=True to attach it all the same"
            )
    if not own:
        message = f"{path} names {named} as its base, and this {architecture_of(model)} has no name to compare with it"
    elif there is None and {_last(named)} & {_last(name) for name in own}:
        return None
    else:
        message = f"{path} names {named} as its base, and this model is {_said(model, own)}; its sizes fit"
    message = f"{message}. On another base it means something else: load {named}, if this is not the same model"
    warnings.warn(message, AlignerProbeWarning, stacklevel=3)
    return message


def _names_of(model: TransformerBridge) -> list[str]:
    """All names of a model; none for a model object that was made in memory."""
    names = [model.cfg.model_name, getattr(model.original_model.config, "_name_or_path", "")]
    if model.cfg.model_name != architecture_of(model):
        names.append(place_of(model.cfg.model_name))
    return list(dict.fromkeys(name for name in names if name and name != architecture_of(model)))


def _said(model: TransformerBridge, own: list[str]) -> str:
    return own[0] if own else architecture_of(model)


def _folder(name: str) -> Path | None:
    path = Path(name).expanduser()
    return path.resolve() if path.is_dir() else None


def _last(name: str) -> str:
    """The last part of a hub id or path, in small letters. For a snapshot in the hub's cache, that of its hub id."""
    name = name.replace("\\", "/").rstrip("/")
    match = SNAPSHOT.search(name)
    return (match["name"].split("--")[-1] if match else name.rsplit("/", 1)[-1]).lower()


def _at_hand(named: str, revision: Any) -> Path | None:
    """The folder of a base model that is on this machine and has a config.json; None for any other."""
    folder = _folder(named)
    if folder is None and not named.startswith((".", "/", "~")) and named.count("/") <= 1:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(named, "config.json", revision=revision if isinstance(revision, str) else None)
        folder = Path(cached).parent if isinstance(cached, str) else None
    return folder if folder is not None and (folder / "config.json").is_file() else None


def _same_weights(folder: Path, model: TransformerBridge) -> bool | None:
    """Whether a stored base model has the fingerprint of the model; None if it is too large, or cannot be read."""
    n_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
    if not 0 < n_bytes <= CHEAP_BYTES:
        return None
    try:
        there = load_model(folder)
        return fingerprint(there) == fingerprint(model) or same_source(base_record(there), model)
    except AlignerProbeError:
        return None
