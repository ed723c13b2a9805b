"""The weights that the authors published: a list of the files, and how to get them.

The list (`published.tsv`) has every file of `aligner_weights/` in github.com/mytemporalaccount/Aligner with its
SHA-256. A file with another SHA-256 is refused. One of the published files is JSON text and no checkpoint.
"""

import csv
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from aligner_probe.arguments import accepts, texts
from aligner_probe.checkpoints import naming
from aligner_probe.data import VARIABLE, data_folder
from aligner_probe.errors import AlignerProbeError, did_you_mean
from aligner_probe.files import sha256

SOURCE = "https://raw.githubusercontent.com/mytemporalaccount/Aligner"
#: The authors' 7B Alpaca file for ten tokens holds answers to MMLU questions instead of weights.
NOT_A_CHECKPOINT = "de066276f20cf6ebad8198046c43ab987028db4edf61a1149f41a703f474e121"


@dataclass(frozen=True)
class PublishedFile:
    """One file of the authors' repository. `n_tokens`, `validation_loss` and the like are read from its name."""

    path: str
    n_bytes: int
    sha256: str
    commit: str
    method: str
    n_tokens: int
    base_model: str
    data_set: str
    stage: str
    validation_loss: float | None
    is_checkpoint: bool

    @property
    def name(self) -> str:
        """A short, unique name, for instance `metamath-100-7b` or `beaver-dpo-1-7b`."""
        stage = "-dpo" if self.stage == "DPO" else ""
        return f"{self.data_set.lower()}{stage}-{self.n_tokens}-{self.base_model.split()[-1].lower()}"


@cache
@accepts()
def list_published() -> tuple[PublishedFile, ...]:
    """Every file that the authors published, in the order of their paths.

    Returns:
        One entry per file, with its name, data set, base model, number of tokens and hash.
    """
    text = resources.files("aligner_probe.checkpoints").joinpath("published.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader((line for line in text.splitlines() if not line.startswith("#")), delimiter="\t")
    return tuple(_published_file(row) for row in rows)


def _published_file(row: dict[str, str]) -> PublishedFile:
    named: dict[str, Any] = naming.describe(row["path"])
    return PublishedFile(
        path=row["path"],
        n_bytes=int(row["bytes"]),
        sha256=row["sha256"],
        commit=row["commit"],
        method="aligner",
        n_tokens=named["n_tokens"],
        base_model=named["base_model"],
        data_set=named["data_set"],
        stage=named.get("stage", "SFT"),
        validation_loss=named.get("validation_loss"),
        is_checkpoint=row["sha256"] != NOT_A_CHECKPOINT,
    )


@accepts(names=texts)
def download_published(
    names: Iterable[str] | None = None, *, folder: Path | None = None, source: str = SOURCE
) -> list[Path]:
    """Download published files into the user's cache, each once, and check their SHA-256.

    Args:
        names: Names of the files, as `list_published` has them; None for all.
        folder: The cache; None for the user's own.
        source: The address of the repository.

    Returns:
        The local paths, in the order of the names.

    Raises:
        AlignerProbeError: A name is unknown, a download fails, or a file is not the published one.
    """
    import pooch

    folder = Path(folder or pooch.os_cache("aligner_probe"))
    by_name = {file.name: file for file in list_published()}
    wanted = list(by_name) if names is None else list(names)
    for name in wanted:
        if name not in by_name:
            hint = did_you_mean(name, by_name)
            raise AlignerProbeError(f"no published checkpoint is named {name!r}; {hint}there are {', '.join(by_name)}")
    pooch.get_logger().setLevel("WARNING")
    paths = []
    for name in wanted:
        file = by_name[name]
        url = f"{source}/{file.commit}/aligner_weights/{urllib.parse.quote(file.path)}"
        target = folder / "aligner_weights" / file.path
        try:
            fetched = pooch.retrieve(url, f"sha256:{file.sha256}", fname=target.name, path=target.parent)
        except (OSError, ValueError) as error:
            # requests' errors are OSErrors; pooch raises ValueError where the hash differs.
            raise AlignerProbeError(
                f"could not download the authors' {name} ({_root_cause(error)}) from {url}; set {VARIABLE} to a "
                "folder with a published/ in it, or give --published DIR, a local copy of their aligner_weights/"
            ) from error
        paths.append(Path(fetched))
    return paths


def _root_cause(error: BaseException) -> str:
    """The message of the innermost error, without those that a network library wraps around it."""
    while inner := getattr(error, "reason", None) or (error.args[0] if error.args else None):
        if not isinstance(inner, BaseException):
            break
        error = inner
    text = str(error).split(": ", 1)[-1] if "object at 0x" in str(error) else str(error)
    return text.splitlines()[0][:200] if text else type(error).__name__


def find_published(name: str) -> Path:
    """The path of one published file. It is in the data folder if that has the file, and downloaded otherwise.

    Raises AlignerProbeError as `download_published` does.
    """
    folder = data_folder("published")
    for file in list_published():
        if folder and file.name == name and (folder / file.path).is_file():
            if sha256(folder / file.path) != file.sha256:
                raise AlignerProbeError(
                    f"{folder / file.path} is not the file the authors published (its SHA-256 differs); replace it, or "
                    "name the path itself to read it as what it is"
                )
            return folder / file.path
    return download_published([name])[0]


def known_by_hash(digest: str) -> dict[str, Any]:
    """Labels of the published file with this SHA-256 (`data_set`, `base_model`, ...); empty for any other file."""
    return next((naming.describe(file.path) for file in list_published() if file.sha256 == digest), {})
