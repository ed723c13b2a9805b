"""Draw figures into a folder: pictures, the data drawn, a manifest, and a page that shows them all.

Everything is made in a hidden folder first and renamed into place at the end, so that nobody finds half a set.
"""

import importlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from aligner_probe.arguments import accepts, refuse
from aligner_probe.checkpoints import PrefixCheckpoint, Skipped
from aligner_probe.checkpoints.given import many_checkpoints
from aligner_probe.errors import AlignerProbeError, CheckpointError, one_of
from aligner_probe.figures.catalogue import CATALOGUE, IMAGE_TYPES, Entry, find
from aligner_probe.figures.claims import without_verdict
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.drawing import Drawing, Input, MissingInputs, style
from aligner_probe.files import new_folder, read_json, sha256, staging_folder, writing_to
from aligner_probe.html import Shown
from aligner_probe.jobs.pool import workers
from aligner_probe.versions import versions

MANIFEST, INDEX = "manifest.json", "index.html"
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "umap-learn", "matplotlib", "seaborn", "pandas")
DOTS_PER_INCH = 150
IDS = [entry.id for entry in CATALOGUE]


@dataclass(frozen=True, repr=False)
class Gallery(Shown):
    """What a run left behind: one record a figure, and the files of the inputs that could not be read.

    `kept` are the ids of figures whose pictures are those of an earlier run from the same inputs (`Entry.varies`).
    """

    folder: Path
    records: tuple[dict[str, Any], ...]
    skipped: tuple[Skipped, ...]
    kept: tuple[str, ...] = ()

    def shown(self) -> dict[str, Any]:
        return {
            "folder": self.folder,
            "figures": [record["id"] for record in self.records if record["files"]],
            "missing": [record["id"] for record in self.records if not record["files"]],
            "files not read": len(self.skipped),
        }


def _collection(value: Any, where: str) -> Collection:
    return value if isinstance(value, Collection) else Collection(many_checkpoints(value, where))


def _name(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    raise refuse(value, where, 'the name of a figure: draw("fig07", [checkpoint, ...])')


@accepts(name=_name, collection=_collection)
def draw(name: str, collection: Collection) -> Drawing:
    """Draw one figure of the catalogue, for a notebook: `draw("fig07", [checkpoint, ...]).figure`.

    Args:
        name: The id of a figure, for instance "fig07".
        collection: Checkpoints: one, a list, or a `Collection`. A path or a prefix adapter does as well.

    Returns:
        The figure, the data in it as a table, its caption, and what is missing from it.

    Raises:
        AlignerProbeError: The figure is unknown, or inputs are missing.
    """
    [entry] = find([name])
    try:
        return _titled(entry, collection)
    except MissingInputs as error:
        raise AlignerProbeError(f"{entry.id} ({entry.title}) needs {error}") from error


def draw_gallery(
    entries: Sequence[Entry],
    collection: Collection,
    folder: Path,
    *,
    formats: Sequence[str] = ("png",),
    skipped: Sequence[Skipped] = (),
    strict: bool = False,
    partial: bool = False,
    jobs: int = 1,
    show_progress: bool = True,
) -> Gallery:
    """Draw several figures into a folder, with manifest.json and index.html.

    Args:
        entries: The figures of the catalogue to draw.
        collection: The checkpoints, and the micro-world's runs where they are at hand.
        folder: The folder to write into. It is made where there is none.
        formats: Image types of each picture: "png", "svg" or "pdf".
        skipped: Files that could not be read; the page and the manifest name them.
        strict: Whether a missing input or a skipped file is an error.
        partial: Whether figures of an earlier run that are not drawn now are kept. Without it they are removed.
        jobs: Number of processes that draw.
        show_progress: Whether a progress bar is shown.

    Returns:
        The folder, one record for each of its figures, and the skipped files.

    Raises:
        AlignerProbeError: The folder cannot be written; or, with `strict`, an input is missing or a file was skipped.
            Then nothing in the folder changes.
    """
    for ending in formats:
        one_of(ending, IMAGE_TYPES, "format")
    if strict and skipped:
        raise AlignerProbeError(
            f"--strict: {len(skipped)} files could not be read, the first {skipped[0].path}: {skipped[0].reason}"
        )
    with writing_to(folder), new_folder(folder), staging_folder(folder) as stage:
        with tqdm(total=len(entries), desc="figures", unit="figure", disable=not show_progress) as bar:
            records = list(_draw_all(entries, collection, stage, formats, jobs, bar))
        if strict:
            _refuse_missing(records)
        earlier = _earlier_records(folder)
        records, kept = _with_kept(records, earlier, folder, stage)
        if partial:
            drawn = {record["id"] for record in records}
            records += [record for record in earlier if record["id"] not in drawn]
        records.sort(key=_in_catalogue_order)
        _write_manifest(stage / MANIFEST, records, skipped, before=folder / MANIFEST)
        _write_index(stage / INDEX, records, skipped)
        keep = {name for record in records for name in record["files"]}
        for path in sorted(stage.iterdir(), key=lambda path: path.name in (MANIFEST, INDEX)):
            path.replace(folder / path.name)
        for record in earlier:
            for name in set(record["files"]) - keep:
                (folder / name).unlink(missing_ok=True)
    return Gallery(folder, tuple(records), tuple(skipped), kept)


def _draw_all(
    entries: Sequence[Entry], collection: Collection, stage: Path, formats: Sequence[str], jobs: int, bar: tqdm
) -> Iterator[dict[str, Any]]:
    if min(jobs, len(entries)) <= 1:
        for entry in entries:
            yield _draw_one(entry, collection, stage, formats)
            bar.update()
        return
    # Fresh processes: torch's threads do not survive a fork. UMAP, last in the catalogue, takes longest and goes first.
    # One thread each: processes that all use all cores get in each other's way.
    with _environment(OMP_NUM_THREADS="1"), workers(min(jobs, len(entries))) as submit:
        running = [submit(_draw_one, entry, collection, stage, formats) for entry in reversed(entries)]
        for future in as_completed(running):
            yield future.result()
            bar.update()


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment variables for processes started meanwhile; the caller's own come back."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _draw_one(entry: Entry, collection: Collection, stage: Path, formats: Sequence[str]) -> dict[str, Any]:
    record: dict[str, Any] = {"id": entry.id, "title": entry.title, "paper": entry.paper, "stem": entry.stem}
    try:
        # Without the title that `draw` writes: the page and whoever shows the picture elsewhere have one of their own.
        drawing = _drawn(entry, collection)
    except (MissingInputs, AlignerProbeError) as error:
        # One figure that cannot be drawn from these inputs does not keep the others from being drawn.
        needs = list(error.needs) if isinstance(error, MissingInputs) else [str(error)]
        return record | {"status": "missing", "missing": needs, "files": [], "inputs": []}
    files = [f"{entry.stem}.{ending}" for ending in formats]
    for ending, name in zip(formats, files, strict=True):
        # Dates would make two runs on the same inputs differ.
        metadata = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[ending]
        # Through memory, for matplotlib's PDF writer turns a full disk into an error of another kind.
        picture = io.BytesIO()
        with style():  # its hash salt, too, for SVG files that do not differ from run to run
            drawing.figure.savefig(picture, format=ending, dpi=DOTS_PER_INCH, metadata=metadata)
        (stage / name).write_bytes(_smaller(picture) if ending == "png" else picture.getvalue())
    files.append(f"{entry.stem}.csv")
    drawing.frame.to_csv(stage / files[-1], index=False, float_format="%.7g")
    return record | {
        "status": "partial" if drawing.missing else "drawn",
        "missing": list(drawing.missing),
        "files": files,
        "sha256": {name: sha256(stage / name) for name in files},
        "caption": drawing.caption,
        "settings": drawing.settings,
        "inputs": [_described(c) for c in drawing.inputs],
        "comparisons": [asdict(comparison) for comparison in drawing.comparisons],
        "versions": versions(PACKAGES),
    }


def _smaller(picture: io.BytesIO) -> bytes:
    """A PNG of at most 256 colours, a third of the size: more than a figure has, but for the shades of its edges."""
    from PIL import Image

    with Image.open(picture) as image:
        reduced = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    smaller = io.BytesIO()
    reduced.save(smaller, format="png", optimize=True, dpi=(DOTS_PER_INCH, DOTS_PER_INCH))
    return smaller.getvalue()


def _drawn(entry: Entry, collection: Collection) -> Drawing:
    module, function = entry.draw.split(":")
    with style():
        return getattr(importlib.import_module(f"aligner_probe.figures.{module}"), function)(collection)


def _titled(entry: Entry, collection: Collection) -> Drawing:
    drawing = _drawn(entry, collection)
    with style():
        drawing.figure.suptitle(f"{entry.title} ({entry.paper})", fontweight="bold")
    return drawing


def _described(source: PrefixCheckpoint | Input) -> dict[str, str]:
    said = {"label": source.label, "source": source.source, "sha256": source.sha256}
    if isinstance(source, PrefixCheckpoint):
        said |= {"format": source.format, "gate_function": source.gate_function}
    return said


def _refuse_missing(records: Sequence[dict[str, Any]]) -> None:
    lacking = [record for record in records if record["missing"]]
    if lacking:
        first = lacking[0]
        raise AlignerProbeError(
            f"--strict: {len(lacking)} of {len(records)} figures lack inputs "
            f"({', '.join(record['id'] for record in lacking)}); {first['id']} needs {'; '.join(first['missing'])}"
        )


def _earlier_records(folder: Path) -> list[dict[str, Any]]:
    """Records of the folder's last run whose files are all there; none where its manifest is not ours to read."""
    try:
        records = read_json(folder / MANIFEST)["figures"]
        return [record for record in records if _is_ours(record, folder)]
    except (CheckpointError, KeyError, TypeError):
        return []


def _is_ours(record: dict[str, Any], folder: Path) -> bool:
    """A record of a figure of the catalogue that names its own files and nothing else: others may not be touched."""
    stem = next(entry.stem for entry in CATALOGUE if entry.id == record["id"]) if record["id"] in IDS else None
    allowed = {f"{stem}.{ending}" for ending in (*IMAGE_TYPES, "csv")}
    return stem is not None and set(record["files"]) <= allowed and all((folder / n).is_file() for n in record["files"])


def _with_kept(
    records: Sequence[dict[str, Any]], earlier: Sequence[dict[str, Any]], folder: Path, stage: Path
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The records, and the ids of the figures whose earlier pictures stay; their new pictures leave the stage.

    A picture stays where it varies with the processor, and an earlier run drew the same files from the same inputs with
    the same versions, and nobody has changed these files since.
    """
    varying = {entry.id for entry in CATALOGUE if entry.varies}
    before = {record["id"]: record for record in earlier if record["id"] in varying}
    same = ("stem", "files", "inputs", "missing", "versions")
    chosen, kept = [], []
    for record in records:
        old = before.get(record["id"])
        if (
            old is not None
            and all(record.get(key) == old.get(key) for key in same)
            and all(sha256(folder / name) == old.get("sha256", {}).get(name) for name in old["files"])
        ):
            for name in old["files"]:
                (stage / name).unlink()
            record = old
            kept.append(old["id"])
        chosen.append(record)
    return chosen, tuple(kept)


def _write_manifest(path: Path, records: Sequence[dict[str, Any]], skipped: Sequence[Skipped], *, before: Path) -> None:
    """The date is that of the last change: the same figures drawn again leave the file as it is."""
    content = {"figures": list(records), "skipped": [asdict(file) for file in skipped]}
    written = {"written": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        old = read_json(before)
        if old == json.loads(json.dumps(content)) | {"written": old["written"]}:
            written = {"written": old["written"]}
    except (CheckpointError, KeyError, TypeError):
        pass
    path.write_text(json.dumps(written | content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _write_index(path: Path, records: Sequence[dict[str, Any]], skipped: Sequence[Skipped]) -> None:
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("aligner_probe.figures", "."), autoescape=True, trim_blocks=True)
    environment.filters["without_verdict"] = without_verdict
    page = environment.get_template("index.html.jinja").render(
        records=records, skipped=skipped, versions=versions(PACKAGES)
    )
    # File names of other encodings hold surrogates.
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def _in_catalogue_order(record: dict[str, Any]) -> int:
    return IDS.index(record["id"])
