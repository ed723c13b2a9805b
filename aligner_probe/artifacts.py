"""The folder of the micro-world and of everything that was trained on it.

In a source tree it is at the top; an installed package has it inside.
"""

from pathlib import Path

from aligner_probe.errors import AlignerProbeError

_PACKAGE = Path(__file__).resolve().parent
#: The two folders that are tried, in this order.
PLACES = (_PACKAGE / "artifacts", _PACKAGE.parent / "artifacts")
MICROWORLD = "microworld"
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "provenance.json")
REBUILD = {
    MICROWORLD: "aligner-probe microworld pretrain",
    "frontier": "aligner-probe probe frontier --task panel:TASK --json artifacts/frontier/TASK.json",
    "panel": "aligner-probe probe panel --budget BUDGET --json artifacts/panel/BUDGET.json",
    "real": "the commands are in artifacts/README.md",
}


def artifacts_folder() -> Path:
    """The folder of artifacts. In a source tree it may not exist yet."""
    return next((place for place in PLACES if place.is_dir()), PLACES[-1])


def artifact(name: str, files: tuple[str, ...] = ()) -> Path:
    """The path of an artifact.

    Args:
        name: A file or folder among the artifacts, for instance "microworld".
        files: Names of the files that the folder must hold.

    Raises:
        AlignerProbeError: Something is missing; the message names it and the command that rebuilds it.
    """
    place = artifacts_folder() / name
    missing = [place / file for file in files if not (place / file).is_file()] if place.exists() else [place]
    if missing:
        command = REBUILD.get(name.split("/")[0], "aligner-probe reproduce")
        raise AlignerProbeError(f"{missing[0]} is missing; expected it among the artifacts. Rebuild it: {command}")
    return place


def microworld_folder() -> Path:
    """The micro-world's base model, in plain Hugging Face files. Raises AlignerProbeError where it is incomplete."""
    return artifact(MICROWORLD, MODEL_FILES)
