"""Check the name of a base model: report typing errors and missing folders before the network is asked."""

import codecs
from pathlib import Path

from aligner_probe.artifacts import MICROWORLD
from aligner_probe.errors import AlignerProbeError, did_you_mean, nearest


def check_model_name(place: str) -> None:
    """Raises AlignerProbeError for a path without a folder, and for a name that differs little from a known one.

    Known names are "microworld", the folders beside the named one, and the models in the hub's cache. Any other name
    without a slash, such as gpt2, can be a hub id, and so can OWNER/NAME.
    """
    path = Path(place)
    if path.is_dir():
        config = path / "config.json"
        if config.is_file() and _begins_with_a_mark(config):
            raise _refused(
                place,
                "its config.json begins with a byte order mark, which transformers does not read; save it as "
                "UTF-8 without one",
            )
        return
    if path.is_file():
        raise _refused(place, "it is a file; expected a folder with config.json and weights, or a hub id")
    folder = path.expanduser()
    beside = [str(path.parent / one.name) for one in _folders(folder.parent)]
    if place.startswith((".", "/", "~")) or place.count("/") > 1 or "\\" in place:
        hint = f"did you mean {folder}? " if folder.is_dir() else did_you_mean(place, beside)
        raise _refused(place, f"there is no such folder; {hint}expected one with config.json and weights, or a hub id")
    near = nearest(place, [MICROWORLD, *beside])
    if near is not None and "/" not in place and not _in_cache(place):
        raise _refused(place, f"did you mean {near}? Expected {MICROWORLD}, a local folder, or a hub id (OWNER/NAME)")


def _refused(place: str, why: str) -> AlignerProbeError:
    return AlignerProbeError(f"cannot load a model from {place!r}: {why}")


def _begins_with_a_mark(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(3) == codecs.BOM_UTF8


def _folders(parent: Path) -> list[Path]:
    try:
        return [one for one in parent.iterdir() if (one / "config.json").is_file()]
    except OSError:
        return []


def _in_cache(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)
