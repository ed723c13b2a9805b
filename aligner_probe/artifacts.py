"""Where the micro-world and what was trained on it lie: beside a source tree, or inside an installed package."""

from pathlib import Path

from aligner_probe.errors import AlignerProbeError

_PACKAGE = Path(__file__).resolve().parent
#: In a source tree the folder is at the top; a wheel carries it inside the package.
PLACES = (_PACKAGE / "artifacts", _PACKAGE.parent / "artifacts")
MICROWORLD = "microworld"
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "provenance.json")
REBUILD = {
    MICROWORLD: "aligner-probe microworld pretrain",
    "panel": "aligner-probe probe panel --budget BUDGET --json artifacts/panel/BUDGET.json",
}


def artifacts_folder() -> Path:
    """The folder of artifacts; in a source tree also before anything is in it."""
    return next((place for place in PLACES if place.is_dir()), PLACES[-1])


def artifact(name: str, files: tuple[str, ...] = ()) -> Path:
    """A file or folder of the artifacts, for instance "microworld", with the files it must have.

    Raises AlignerProbeError, naming what is missing and the command that rebuilds it.
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
